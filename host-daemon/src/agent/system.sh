# Prints what changes rarely in a Linux guest and its agent does not tell. Runs in any POSIX sh with head, df and grep of
# coreutils or busybox. $1: the sections that are wanted, as words; $K is as in inventory.sh.
want() {
    case " $words " in
    *" $1 "*)
        # What came before may have ended in the middle of a line.
        echo
        echo "$K $1"
        ;;
    *) return 1 ;;
    esac
}

# What might hang is ended, where there is a program for that.
limited() {
    if command -v timeout >/dev/null; then
        timeout 2 "$@"
    else
        "$@"
    fi
}

services() {
    if [ -d /run/systemd/system ]; then
        echo "$K systemd"
        limited systemctl list-units --type=service --all --no-legend --plain --no-pager | head -n 512
    elif command -v rc-status >/dev/null; then
        echo "$K openrc"
        limited rc-status --nocolor --servicelist | head -n 512
    elif [ -d /etc/init.d ]; then
        echo "$K scripts"
        cd /etc/init.d && for script in *; do
            [ ! -f "$script" ] || [ ! -x "$script" ] || echo "$script"
        done | head -n 512
    fi
}

system() {
    want users && head -c 65536 /etc/passwd
    want services && services
    want release && head -c 4096 /etc/os-release
    if want kernel; then
        read -r line </proc/sys/kernel/osrelease && echo "kernel $line"
        read -r line </proc/sys/kernel/hostname && echo "host $line"
    fi
    if want mounts; then
        # Devices only: a network's file system may hang whoever asks for it.
        set -f
        mounts=
        while read -r device mount type rest; do
            case $device:$mount in
            *\\*) ;;
            /dev/*) mounts="$mounts $mount" ;;
            esac
        done </proc/mounts
        [ -z "$mounts" ] || limited df -P -k $mounts | head -n 128
    fi
    want net && head -n 130 /proc/net/dev
    echo
    echo "$K end"
}

words=$1
system 2>/dev/null | head -c "$2"
