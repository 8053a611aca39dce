# Looks at CPUWeight of systemd units, or sets it at run time. Arguments, five for each unit: its name, the weight expected
# and whether it was set at run time (1 or 0), and both as wanted. "-" is a weight that is not set. "?" as the weight
# expected only looks. A unit whose values are not those expected is left alone.
# What was not set at run time before is not left behind in /run: the file that set-property writes is taken away, and with
# the property unset, or set to what the unit's own files say, nothing is different from before. No daemon-reload: that would
# put in force what the guest's administrator has edited and not reloaded.
set -f

look() {
    loaded= weight=-
    for word in $(systemctl show -p LoadState -p CPUWeight -- "$1"); do
        case $word in
        LoadState=loaded) loaded=1 ;;
        CPUWeight=idle | CPUWeight=0) weight=idle ;;
        CPUWeight=18446744073709551615 | CPUWeight=*[!0-9]*) ;;
        CPUWeight=*) weight=${word#*=} ;;
        esac
    done
    set=0
    # systemd keeps it elsewhere for transient units: scopes, and what systemd-run and container managers start.
    for file in /run/systemd/transient /run/systemd/system.control; do
        file=$file/$1.d/50-CPUWeight.conf
        [ ! -e "$file" ] || { set=1 && break; }
    done
}

count=0
while [ $# -ge 5 ]; do
    look "$1"
    if [ -z "$loaded" ]; then
        # Of a unit that is gone nothing is left but the file.
        [ "$2" = '?' ] || [ "$5" = 1 ] || rm -f "$file"
        echo "$count gone"
    elif [ "$2" = '?' ] || [ "$weight $set" != "$2 $3" ]; then
        echo "$count is $weight $set"
    else
        [ "$4" != - ] && value=$4 || value=
        systemctl set-property --runtime -- "$1" "CPUWeight=$value" >&2
        look "$1"
        if [ "$5" = 0 ]; then
            rm -f "$file"
            rmdir "${file%/*}" 2>/dev/null
            look "$1"
        fi
        echo "$count now $weight $set"
    fi
    count=$((count + 1))
    shift 5
done
