# What %sysusers_create and %systemd_post do: the distribution's presets say whether the unit is enabled.
if [ -x /usr/bin/systemd-sysusers ]; then
    systemd-sysusers kvmpilot.conf || :
fi
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || :
fi
if [ "$1" -eq 1 ] && [ -x /usr/bin/systemctl ]; then
    systemctl --no-reload preset kvmpilotd.service >/dev/null 2>&1 || :
fi
