# Sets the vcpus that the threads of processes may run on. Arguments, five for each process: pid, start time, vcpus now, vcpus
# wanted, and these as a mask. A process that is another one by now, or whose vcpus are not what was expected, is left alone.
# All of its threads with the expected vcpus follow; one that has its own keeps them.
cd /proc || exit 1

# Sets $start from a stat file. The name in it may hold anything, newlines too; no ")" comes after it.
look() {
    line= start=
    [ -e "$1" ] || return 1
    while IFS= read -r part || [ "$part" ]; do
        line="$line $part"
    done 2>/dev/null <"$1"
    set -- ${line##*) }
    start=${20}
    [ "$start" ]
}

# Sets $vcpus from a status file, in which a name is one line.
look_at() {
    vcpus=
    while read -r word rest; do
        [ "$word" != Cpus_allowed_list: ] || vcpus=$rest
    done 2>/dev/null <"$1"
}

while [ $# -ge 5 ]; do
    if ! look "$1/stat" || [ "$start" != "$2" ]; then
        echo "$1 gone"
    elif look_at "$1/status" && [ "$vcpus" != "$3" ]; then
        echo "$1 is $vcpus"
    else
        # Twice, for threads that were born meanwhile.
        for round in 1 2; do
            for task in $1/task/*; do
                look_at "$task/status"
                [ "$vcpus" != "$3" ] || taskset -p "$5" "${task##*/}" >/dev/null
            done
        done
        look_at "$1/status"
        echo "$1 now $vcpus"
    fi
    shift 5
done
