# Sets nice values. Arguments, four for each process, ordered by the last: pid, start time, nice now, nice wanted.
# A process that is another one by now, or whose nice value is not what was expected, is left alone. All of its threads
# at the expected value follow; one that has a value of its own keeps it.
# "renice N -p" is absolute both in util-linux and in busybox; "renice -n N" is relative in busybox.
cd /proc || exit 1

# Sets $nice and $start from a stat file. The name in it may hold anything, newlines too; no ")" comes after it.
look() {
    line=
    [ -e "$1" ] || return 1
    while IFS= read -r part || [ "$part" ]; do
        line="$line $part"
    done 2>/dev/null <"$1"
    set -- ${line##*) }
    nice=${17} start=${20}
    [ "$start" ]
}

threads_at() {
    for task in $1/task/*; do
        look "$task/stat" && [ "$nice" = "$2" ] && tids="$tids ${task##*/}"
    done
}

apply() {
    [ -z "$tids" ] || renice "$level" -p $tids >/dev/null
    tids=
}

tids= level= accepted=
while [ $# -ge 4 ]; do
    [ "$4" = "$level" ] || apply
    level=$4
    if ! look "$1/stat" || [ "$start" != "$2" ]; then
        echo "$1 $2 gone"
    elif [ "$nice" != "$3" ]; then
        echo "$1 $2 drift $nice"
    else
        threads_at "$1" "$3"
        accepted="$accepted $1 $2 $3 $4"
    fi
    shift 4
done
apply

set -- $accepted
while [ $# -ge 4 ]; do
    # Threads that were born meanwhile.
    level=$4
    threads_at "$1" "$3"
    apply
    if look "$1/stat" && [ "$start" = "$2" ]; then
        echo "$1 $2 now $nice"
    else
        echo "$1 $2 gone"
    fi
    shift 4
done
