# Sets nice values of autogroups. Arguments, three for each: number of the group, nice now, nice wanted. A group is reached
# through any of its processes; one without processes is gone.
cd /proc || exit 1

# Sets $id and $nice from "/autogroup-7 nice 0".
look() {
    line= id= nice=
    read -r line <$1 || return
    id=${line%% *} nice=${line##* }
    id=${id#/autogroup-}
} 2>/dev/null

members=' '
for pid in [0-9]*; do
    look $pid/autogroup
    case $members in
    *" $id:"*) ;;
    *) [ -z "$id" ] || members="$members$id:$pid " ;;
    esac
done
while [ $# -ge 3 ]; do
    case $members in
    *" $1:"*)
        pid=${members#*" $1:"}
        pid=${pid%% *}
        look $pid/autogroup
        if [ "$id" != "$1" ]; then
            echo "$1 gone"
        elif [ "$nice" != "$2" ]; then
            echo "$1 is $nice"
        else
            echo "$3" >$pid/autogroup
            look $pid/autogroup
            echo "$1 now $nice"
        fi
        ;;
    *) echo "$1 gone" ;;
    esac
    shift 3
done
