# Sets priority classes. __CHANGES__ is a list of pid, start time in ms since 1601, class now, class wanted; numbers and fixed
# words only. A process that is another one by now, or whose class is not what was expected, is left alone.
$ProgressPreference = 'SilentlyContinue'
foreach ($change in @(__CHANGES__)) {
    $id, $started, $expect, $to = $change -split ' '
    $said = 'gone'
    $process = Get-Process -Id $id -ErrorAction SilentlyContinue
    if ($process) {
        try {
            # The handle keeps the pid from being given to another one.
            $null = $process.Handle
            $now = [math]::Floor($process.StartTime.ToUniversalTime().ToFileTimeUtc() / 10000)
            if ([math]::Abs($now - [long]$started) -le 1) {
                if ([string]$process.PriorityClass -ne $expect) {
                    $said = 'drift ' + $process.PriorityClass
                } else {
                    $process.PriorityClass = $to
                    $process.Refresh()
                    $said = 'now ' + $process.PriorityClass
                }
            }
        } catch { $said = 'denied' }
    }
    [Console]::Out.Write("$id $started $said`n")
}
