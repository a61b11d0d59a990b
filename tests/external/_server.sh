# What the scripts share that try a server from outside: sourced, never run.
#
# It makes a work folder, finds the program, starts it and waits until it serves, and at the end,
# however that comes, ends what the script has begun and removes the folder.
#
# usage, in a script of its own: . "$(dirname "$0")/_server.sh"
#     need_bailiwick "${1:-}"           $bailiwick is the program, $folder the work folder
#     start_server OPTION …             $server is the process, $url where it serves
#
# What else the script has put into the background ends with it, too.
set -eu

name=$(basename "$0" .sh)
folder=$(mktemp -d)

fail() {
    echo "$name: $*" >&2
    tail -n 20 "$folder"/*.log >&2 || true
    exit 1
}

finish() {
    # By way of a file: in a substitution they would be another shell's.
    jobs -p > "$folder/jobs"
    while read -r process; do
        kill "$process" 2>/dev/null || true
    done < "$folder/jobs"
    wait 2>/dev/null || true
    rm -rf "$folder"
}
trap finish EXIT
trap 'exit 1' INT TERM

# need_bailiwick [PATH]: the program that is tried.
need_bailiwick() {
    root=$(cd "$(dirname "$0")/../.." && pwd)
    bailiwick=${1:-${CARGO_TARGET_DIR:-$root/target}/debug/bailiwick}
    [ -x "$bailiwick" ] || fail "$bailiwick is missing: cargo build -p gateway"
}

# start_server OPTION …: on a free port, in $folder/data.
start_server() {
    "$bailiwick" --listen 127.0.0.1:0 --data-dir "$folder/data" "$@" \
        > "$folder/server.log" 2> "$folder/errors.log" &
    server=$!
    tries=0
    until url=$(sed -n 's/.*serves \(http:[^ ]*\)$/\1/p' "$folder/server.log") && [ -n "$url" ]; do
        tries=$((tries + 1))
        [ "$tries" -le 300 ] || fail "the server does not start"
        sleep 0.1
    done
}
