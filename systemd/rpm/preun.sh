# What %systemd_preun does, and on removal every changed value goes back, also if the daemon was dead.
if [ "$1" -eq 0 ]; then
    if [ -d /run/systemd/system ]; then
        systemctl --no-reload disable --now kvmpilotd.service >/dev/null 2>&1 || :
    elif [ -x /usr/bin/systemctl ]; then
        systemctl --no-reload disable kvmpilotd.service >/dev/null 2>&1 || :
    fi
    if ! said=$(timeout --kill-after=5 60 /usr/bin/kvmpilot restore 2>&1); then
        cat >&2 <<END
kvmpilot: not every value that it has changed could be put back:
$said
kvmpilot: the original values stay in its ledger (/var/lib/kvmpilot). Start libvirt, install kvmpilot again and run
kvmpilot: \`kvmpilot restore\`. Without, changed values last until their domains are stopped.
END
    fi
fi
