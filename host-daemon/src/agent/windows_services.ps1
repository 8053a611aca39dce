# Prints the services of a Windows guest as JSON in base64.
$ErrorActionPreference = 'Stop'
$ProgressPreference = 'SilentlyContinue'
$services = @(Get-CimInstance Win32_Service | Select-Object -First 512 | ForEach-Object {
    , @([string]$_.Name, [string]$_.State, [string]$_.StartMode)
})
$json = ConvertTo-Json -InputObject @{ services = $services } -Depth 4 -Compress
[Console]::Out.Write([Convert]::ToBase64String([Text.Encoding]::UTF8.GetBytes($json)))
