#!/bin/sh
# kvmpilot's libvirt hook: /etc/libvirt/hooks/qemu.d/kvmpilot
#
# Tells kvmpilotd that a guest starts, stops or moves. Whatever happens, it succeeds: a hook that fails keeps its guest from
# starting. Delete this file if you do not want it; an update does not bring it back.
#
# A script, because the program's place is not in /etc, and libvirtd's AppArmor profile lets it run what is in
# /etc/libvirt/hooks and in /usr/sbin, but not what a link there points to elsewhere.
if [ -x /usr/sbin/kvmpilot-hook ]; then
    /usr/sbin/kvmpilot-hook "$@" || :
fi
exit 0
