# Prints the SHA-256 of each file named by an argument: its number, what was found, and the sum. Not more than 1 MiB of a file
# is read, and nothing but regular files.
most=1048576
n=0
for path; do
    n=$((n + 1))
    if [ ! -e "$path" ]; then
        echo "$n missing"
    elif [ ! -f "$path" ]; then
        echo "$n irregular"
    elif ! { : <"$path"; } 2>/dev/null; then
        echo "$n unreadable"
    elif [ "$(head -c $((most + 1)) <"$path" | wc -c)" -gt $most ]; then
        echo "$n large"
    else
        sum=$(head -c $most <"$path" | sha256sum) || exit 1
        echo "$n sum ${sum%% *}"
    fi
done
