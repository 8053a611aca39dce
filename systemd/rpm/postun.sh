# What %systemd_postun_with_restart does: to stop is to put everything back, then the new version starts.
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || :
    if [ "$1" -ge 1 ]; then
        systemctl try-restart kvmpilotd.service >/dev/null 2>&1 || :
    fi
fi
