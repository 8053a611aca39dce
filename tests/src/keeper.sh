#!/bin/sh
# The keeper of one lab: it makes the lab's mounts, bridge, cgroup partition and daemons, then waits. Whatever ends the
# owner (return, panic, Ctrl-C, kill -9) closes the keeper's stdin, and the keeper takes everything down again.
# It is a script because it must outlive its owner and work alike from xtask and from every test binary.
#
#   keeper.sh keep NAME STATE LOGS     inside `unshare --mount --net`; prints "up" when the daemons are started
#   keeper.sh end  NAME STATE NETNS    for a lab whose keeper itself was killed
set -u
mode=$1 name=$2 state=$3
cd /

cgroup_dirs() {
    while read -r _ dir type _; do
        case $type in cgroup | cgroup2) echo "$dir/$name.partition" ;; esac
    done </proc/self/mounts
}

# libvirt wants a partition to exist before the first domain. A new v1 cpuset is empty and lets no task in.
make_cgroups() {
    for dir in $(cgroup_dirs); do
        mkdir "$dir" 2>/dev/null || continue
        for file in cpuset.mems cpuset.cpus; do
            [ ! -e "${dir%/*}/$file" ] || cat "${dir%/*}/$file" >"$dir/$file"
        done
        for controller in cpu cpuset memory io; do
            [ ! -e "${dir%/*}/cgroup.subtree_control" ] || echo "+$controller" >"${dir%/*}/cgroup.subtree_control"
        done 2>/dev/null
    done
}

make_lab() {
    make_cgroups
    for dir in /run/libvirt /var/lib/libvirt /var/cache/libvirt /var/log/libvirt; do
        mkdir -p "$dir" && mount -t tmpfs -o mode=0755 kvmpilot-lab "$dir" || return 1
    done
    mkdir -p /etc/libvirt && mount --bind "$state/etc" /etc/libvirt || return 1
    # Without the system bus libvirt makes its cgroups itself instead of asking the host's machined.
    [ ! -d /run/dbus ] || mount -t tmpfs kvmpilot-lab /run/dbus || return 1
    # Tracepoint formats and the lockdown file, for the daemon under test; not mounted at boot on every host.
    mountpoint -q /sys/kernel/tracing || mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null
    mountpoint -q /sys/kernel/security || mount -t securityfs securityfs /sys/kernel/security 2>/dev/null

    ip link set lo up && ip link add br0 type bridge && ip addr add 10.77.0.1/24 dev br0 && ip link set br0 up ||
        return 1

    virtlogd --pid-file /run/libvirt/virtlogd-lab.pid 3<&- </dev/null >"$logs/virtlogd.log" 2>&1 &
    libvirtd --pid-file /run/libvirt/libvirtd-lab.pid 3<&- </dev/null >"$logs/libvirtd.log" 2>&1 &
}

# Everything that runs in the lab's network namespace was started by the lab: libvirt's daemons, QEMU, load generators,
# the daemon under test. A namespace number can be given out again once its last process is gone, so a late end also
# asks for the lab's name in the environment or the cgroup.
in_lab() {
    [ "$1" != "$$" ] && [ -d "/proc/$1" ] || return 1
    [ "$mode" = keep ] || grep -aqs "$name" "/proc/$1/environ" "/proc/$1/cgroup"
}

end_lab() {
    trap '' INT TERM HUP
    round=0 signal=TERM running=1
    while [ "$running" = 1 ] && [ "$round" -lt 100 ]; do
        running=0
        # To a file, not through a pipe: a pipe's own processes would be found and never run out.
        stat -Lc '%i %n' /proc/[0-9]*/ns/net >"$state/pids" 2>/dev/null
        while read -r inode path; do
            pid=${path#/proc/} pid=${pid%%/*}
            if [ "$inode" = "$netns" ] && in_lab "$pid"; then
                kill -s "$signal" "$pid" 2>/dev/null
                running=1
            fi
        done <"$state/pids"
        round=$((round + 1))
        [ "$round" -lt 30 ] || signal=KILL
        [ "$running" = 0 ] || sleep 0.1
    done
    # A v1 cgroup stays busy for a moment after its last task.
    for dir in $(cgroup_dirs); do
        round=0
        while [ -d "$dir" ] && [ "$round" -lt 20 ]; do
            find "$dir" -depth -type d -exec rmdir {} + 2>/dev/null || sleep 0.1
            round=$((round + 1))
        done
    done
    rm -rf "$state"
}

# Returns when the owner is gone, or, once it has detached, when somebody writes to the fifo.
wait_for_order() {
    word=
    read -r word
    if [ "$word" = detach ]; then
        mkfifo "$state/hold"
        exec <>"$state/hold"
        read -r word
    fi
}

case $mode in
keep)
    exec 3<&0
    logs=$4
    netns=$(stat -Lc %i /proc/self/ns/net)
    read -r stat </proc/$$/stat
    # shellcheck disable=SC2086
    set -- $stat
    echo "$$ ${22} $netns" >"$state/keeper.new" && mv "$state/keeper.new" "$state/keeper"
    trap 'end_lab; exit 0' INT TERM HUP
    if ! make_lab; then
        end_lab
        exit 1
    fi
    echo up
    # From here on stdout has no reader: a late message must not end the keeper with SIGPIPE.
    exec >>"$logs/keeper.log" 2>&1
    # Waiting, not reading: only `wait` reaps the orphans that end up here.
    wait_for_order <&3 &
    exec 3<&-
    wait "$!"
    end_lab
    ;;
end)
    netns=$4
    end_lab
    ;;
esac
