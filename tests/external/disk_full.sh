#!/usr/bin/env bash
# A full disk: the process ends with a clear reason, and once there is room again nothing is lost.
#
# The journal's writer fills a small file system (small records, then ones of 400 kB, which ask for
# large growth at once). It must end with 74 and name the reason within a second of its last note.
# While the disk is full, opening either succeeds or names the reason; after some ballast is
# removed everything noted must be there and the journal must go on.
#
# Then a server: a disk is left with little room, and debits are sent until one is not answered
# with success. It must refuse with 507 `low_space`, go on answering reads, and take debits again
# once there is room, all in one life. With EXPECT_LOW_SPACE=0 a build without a watermark is tried:
# it must go over the edge, end with 74 and say why. After a restart with room the balance must be
# what the answers said.
#
# usage: disk_full.sh [ENGINE]         (redb)
# FILESYSTEMS        "ext4", or "ext4 xfs" for a full run
# EXPECT_LOW_SPACE   0 for a build that does not watch the room that is left
# BAILIWICK          the server; otherwise the newest build
# What it needs: root, loop devices; curl and python3 for the server. See _faults.sh.
source "$(dirname "${BASH_SOURCE[0]}")/_faults.sh"

engine=${1:-redb}
disk_mib=320
room_kib=30000

need_disks
for kind in ${FILESYSTEMS:-ext4}; do
    [[ $kind != xfs ]] || need mkfs.xfs xfsprogs
done
build_writer

# Takes all room but so many KiB; the rest of the ballast is in a file of its own.
leave_room() {
    local free
    free=$(df -k --output=avail "$disk" | tail -n 1)
    fallocate -l 8M "$disk/reserve"
    fallocate -l $((free - 8192 - $1))K "$disk/ballast"
    sync -f "$disk"
}

fill() {
    local kind=$1 payload_bytes=$2 why= reopened
    new_disk "$kind" $disk_mib
    : >"$work/notes"
    "$writer" write "$engine" "$disk/data" "$work/notes" events=20 >"$work/out"
    leave_room $room_kib
    code=0
    timeout 120 "$writer" write "$engine" "$disk/data" "$work/notes" events=1000000 \
        payload_bytes="$payload_bytes" table_bytes=2000000 >"$work/out" 2>&1 || code=$?
    local ended_s
    ended_s=$(date +%s%N)
    ended_s=$(((ended_s - $(date -r "$work/notes" +%s%N)) / 1000000))
    ((code == 74)) || why="ended with $code: $(<"$work/out")"
    grep -qi 'no space' "$work/out" || why="$why; it does not say why: $(<"$work/out")"
    ((ended_s < 3000)) || why="$why; it ended $ended_s ms after its last note"
    # While it is full.
    code=0
    verify "$disk/data" "$work/notes" || code=$?
    case $code in
    0) reopened="opens while full" ;;
    3) reopened="names the reason while full" && grep -qi 'no space' <<<"$said" ||
        why="$why; while full: $said" ;;
    *) why="$why; while full ($code): $said" ;;
    esac
    rm "$disk/reserve"
    verify "$disk/data" "$work/notes" || why="$why; with room: $said"
    "$writer" write "$engine" "$disk/data" "$work/notes" events=50 >"$work/out" 2>&1 ||
        why="$why; does not go on: $(<"$work/out")"
    verify "$disk/data" "$work/notes" || why="$why; later: $said"
    drop_disk
    said="ended after $ended_s ms, ${reopened:-}; $said"
    [[ -z "$why" ]] || { said=$why && return 1; }
}

start_server() {
    begin "$server" --listen 127.0.0.1:0 --data-dir "$disk/data" --engine "$engine" \
        >"$work/served" 2>&1
    wait_for 60 grep -q 'serves http' "$work/served" || return 1
    url=$(sed -n 's/.*serves \(http[^ ]*\).*/\1/p' "$work/served")
}

# ask PATH [BODY]: sets $status and leaves the answer in $work/answer.
ask() {
    local body=() who="authorization: Bearer ${token:-}"
    [[ -z "${2:-}" ]] || body=(-d "$2")
    [[ -n "${token:-}" ]] || who="x-service-token: $BAILIWICK_SERVICE_TOKEN"
    status=$(curl -sS --max-time 30 -o "$work/answer" -w '%{http_code}' \
        -H 'content-type: application/json' -H "$who" "$url$1" "${body[@]}" \
        2>"$work/asked") || status=000
}

field() {
    python3 -c 'import json,sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1" <"$work/answer"
}

# Sends debits until one does not succeed; $spent counts those that did.
debit_until_refused() {
    local reason
    # A reason of some hundred bytes, so that it takes fewer requests.
    reason=$(printf 'x%.0s' {1..400})
    local n
    for ((n = 0; n < 4000; n++)); do
        ask /v1/billing/debits "{\"amount\":1,\"reason\":\"$reason\"}"
        [[ $status == 201 ]] || return 0
        spent=$((spent + 1))
    done
    return 1
}

serve_until_full() {
    local why= balance
    export BAILIWICK_SERVICE_TOKEN=the-service-token-of-the-tests
    new_disk ext4 $disk_mib
    start_server || { said=$(<"$work/served") && return 1; }
    token=
    ask /v1/auth/register '{"email":"ada@example.com","password":"a-long-enough-password"}'
    token=$(field access_token)
    spent=0
    ask /v1/billing/debits '{"amount":1,"reason":"first"}'
    [[ $status == 201 ]] && spent=1
    leave_room 300
    debit_until_refused || why="the disk was not full after $spent debits"
    if [[ "${EXPECT_LOW_SPACE:-1}" == 1 ]]; then
        [[ $status == 507 && $(field error) == low_space ]] ||
            why="refused with $status, not 507 low_space: $(<"$work/answer")"
        ask /v1/billing/balance
        [[ $status == 200 ]] || why="$why; reads are refused too, with $status"
        rm "$disk/reserve" "$disk/ballast"
        wait_for 30 debit_once || why="$why; with room it still refuses with $status"
        end TERM "$began"
    else
        wait_for 10 is_gone "$began" || why="the server did not end: $status"
        end 9 "$began"
        ((code == 74)) || why="$why; the server ended with $code"
        grep -qi 'no space' "$work/served" || why="$why; it does not say why"
        rm "$disk/reserve" "$disk/ballast"
    fi
    start_server || why="$why; it does not start again: $(tail -n 3 "$work/served")"
    ask /v1/billing/balance
    balance=$(field balance 2>/dev/null || echo 0)
    # The debit that was not answered may have been made.
    ((balance == 5000 - spent || balance == 5000 - spent - 1)) ||
        why="$why; the balance is $balance after $spent debits"
    end TERM "$began"
    drop_disk
    said="$spent debits answered, balance $balance, last status $status"
    [[ -z "$why" ]] || { said=$why && return 1; }
}

debit_once() {
    ask /v1/billing/debits '{"amount":1,"reason":"again"}'
    [[ $status == 201 ]] && spent=$((spent + 1))
}

for kind in ${FILESYSTEMS:-ext4}; do
    for payload_bytes in 200 400000; do
        what="$kind fills up with records of $payload_bytes bytes"
        if fill "$kind" $payload_bytes; then pass "$what: $said"; else fail "$what: $said"; fi
    done
done
find_server || skip "no server is built; the journal alone was filled"
need curl curl
need python3 python3
if serve_until_full; then pass "a server: $said"; else fail "a server: $said"; fi
