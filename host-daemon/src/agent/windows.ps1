# Prints the inside of a Windows guest as JSON in base64: no code page can spoil that. __PROCESSES__ and __SOCKETS__ are bounds.
$ErrorActionPreference = 'Stop'
$ProgressPreference = 'SilentlyContinue'
$epoch = [datetime]'1601-01-01'
$up = [math]::Floor([Diagnostics.Stopwatch]::GetTimestamp() * 100.0 / [Diagnostics.Stopwatch]::Frequency)
$processes = @(Get-CimInstance Win32_Process | Select-Object -First (__PROCESSES__ + 1) | ForEach-Object {
    $started = 0
    if ($_.CreationDate) { $started = [math]::Floor($_.CreationDate.ToFileTimeUtc() / 10000) }
    , @([long]$_.ProcessId, [long]$_.ParentProcessId, [long]$started,
        [long][math]::Floor(($_.KernelModeTime + $_.UserModeTime) / 10000),
        [long][math]::Floor($_.WorkingSetSize / 1024), [long]$_.ThreadCount, [long]$_.Priority,
        [string]$_.Name, [string]$_.ExecutablePath, ([string]$_.CommandLine -replace '^(.{1024}).*$', '$1'))
})
$tcp = @()
$udp = @()
try {
    $tcp = @(Get-NetTCPConnection | Select-Object -First (__SOCKETS__ + 1) | ForEach-Object {
        , @([int]$_.State, [string]$_.LocalAddress, [int]$_.LocalPort, [string]$_.RemoteAddress, [int]$_.RemotePort,
            [long]$_.OwningProcess)
    })
    $udp = @(Get-NetUDPEndpoint | Select-Object -First (__SOCKETS__ + 1) | ForEach-Object {
        , @([string]$_.LocalAddress, [int]$_.LocalPort, [long]$_.OwningProcess)
    })
} catch { }
$all = @{ up = [long]$up; vcpus = [int][Environment]::ProcessorCount; self = [long]$PID; processes = $processes; tcp = $tcp; udp = $udp }
$json = ConvertTo-Json -InputObject $all -Depth 4 -Compress
[Console]::Out.Write([Convert]::ToBase64String([Text.Encoding]::UTF8.GetBytes($json)))
