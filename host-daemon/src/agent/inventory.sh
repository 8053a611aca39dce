# Prints the inside of a Linux guest: system, processes, units, sockets. Runs in any POSIX sh with awk, grep, head and ls of
# coreutils or busybox. Forks are what costs (3 ms each under TCG), so the loops are shell builtins, and each outside
# program serves many processes at once; fixed strings, because busybox takes three times as long for regular ones.
#
# $1 processes at most, $2 sockets at most, $3 bytes at most. $K is a random word that only root in the guest can see
# (it comes as environment): each section starts with it on a line of its own, and nothing that a process says about
# itself can look like it. The same holds for the start of each process: /proc/self/environ, which contains $K.
cd /proc || exit 1
most=$1 sockets=$2
self=/proc/self/environ

# Long strings grow in few steps: bash copies the whole of one each time, and that was a third of its cost.
collect() {
    procs=$procs$p status=$status$s exe=$exe$e fds=$fds$f
    p= s= e= f=
}

batch() {
    [ "$procs" ] || return
    echo "$K process"
    head -q -c 600 $procs
    echo
    echo "$K status"
    grep -H -F -e Uid: -e VmRSS: -e Cpus_allowed_list: -e 0:: -e :name=systemd: -e /autogroup- $status
    echo "$K exe"
    ls -ldn $exe
    echo "$K fd"
    [ -z "$fds" ] || ls -Lid $fds
    procs= status= exe= fds=
}

inventory() {
    echo "$K system"
    for file in uptime loadavg sys/kernel/sched_autogroup_enabled; do
        line=
        # A sysctl gives busybox, which reads single bytes, "1" without an end of line: read fails, $line is right.
        read -r line <$file
        [ -z "$line" ] || echo "$file $line"
    done
    while read -r line; do
        case $line in
        cpu*) echo "$line" ;;
        *) break ;;
        esac
    done <stat
    echo "self $$"
    wait=
    if [ -e self/schedstat ]; then
        wait=schedstat
        echo schedstat
    fi
    autogroup=
    [ ! -e self/autogroup ] || autogroup=autogroup
    cgroup=
    ! command -v taskset >/dev/null || echo taskset
    if [ -d /run/systemd/system ]; then
        cgroup=cgroup
        echo systemd
    fi
    # An agent without rights sees its own user's only.
    [ -e 1/exe ] || echo "$K blind"
    count=0 procs= status= exe= fds= p= s= e= f=
    for pid in [0-9]*; do
        # Kernel threads have no exe.
        [ -e $pid/exe ] || continue
        count=$((count + 1))
        if [ $count -gt $most ]; then
            echo "$K more processes"
            break
        fi
        p="$p $self $pid/stat${wait:+ $pid/$wait} $pid/cmdline"
        s="$s $pid/status${cgroup:+ $pid/cgroup}${autogroup:+ $pid/$autogroup}"
        e="$e $pid/exe"
        tested=0
        for fd in $pid/fd/*; do
            # Where a connection is standard output, it is standard input, too; the rest of these are the journal's.
            case $fd in
            */[12]) continue ;;
            esac
            [ -S $fd ] && f="$f $fd"
            tested=$((tested + 1))
            if [ $tested -ge 4096 ]; then
                echo "$K more descriptors of process $pid"
                break
            fi
        done
        [ $((count % 16)) -ne 0 ] || collect
        [ $((count % 512)) -ne 0 ] || batch
    done
    collect
    batch
    if [ "$cgroup" ] && [ -e /sys/fs/cgroup/cgroup.controllers ]; then
        echo "$K units"
        # Units of the system and of users' sessions, in slices and slices within them.
        cd /sys/fs/cgroup
        grep -H -s -F -m 1 -e usage_usec -e some */*.s*/cpu.stat */*.s*/cpu.pressure */*/*.s*/cpu.stat */*/*.s*/cpu.pressure
        grep -H -s '' */*.s*/cpu.weight */*/*.s*/cpu.weight
        cd /proc
    fi
    echo "$K net"
    # One pass: the kernel walks its whole hash table for each. TIME_WAIT (06) has no owner; some of it shows who was served lately.
    awk -v most="$sockets" '{ if ($4 == "06" ? waiting++ < 512 : ++n[FILENAME] <= most) print FILENAME ":" $0 }' \
        net/tcp net/tcp6 net/udp net/udp6 ||
        grep -H -F -m "$sockets" '' net/tcp net/tcp6 net/udp net/udp6
    echo "$K end"
}

inventory 2>/dev/null | head -c "$3"
