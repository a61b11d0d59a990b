#!/usr/bin/env bash
# A slow disk and one that hangs: answers come later, nothing is lost, and readiness says so.
#
# Slow: the journal's writer, eight clients at once, with 100 ms before each fdatasync. Its p99 must
# rise to at least that, its queue may never hold more than its clients have sent, and what it noted
# must be there.
#
# Hung: the file system under a server is frozen (fsfreeze), so that its writer stands in the
# kernel, where not even SIGKILL ends it. While it is frozen, liveness is answered at once, debits
# are sent that nobody may acknowledge, and readiness must come to say 503 within 6 seconds. After
# it is thawed every one of those debits is answered with success, readiness is back, and so is
# the balance after a restart. A watchdog thaws the file system whatever happens to this script.
#
# usage: slow_disk.sh [ENGINE]         (redb)
# BAILIWICK    the server; otherwise the newest build
# What it needs: strace; root, loop devices, fsfreeze, curl, python3 for the rest. See _faults.sh.
source "$(dirname "${BASH_SOURCE[0]}")/_faults.sh"

engine=${1:-redb}
clients=8
delay_ms=100
frozen_seconds_max=40
debits=16

need_strace
build_writer

# The number after a word in what the writer said.
figure() {
    sed -n "s/.*\<$1 \([0-9]*\).*/\1/p" "$work/out"
}

slow() {
    local quick_us slow_us depth why=
    : >"$work/notes"
    "$writer" write "$engine" "$work/data" "$work/notes" clients=$clients events=100 >"$work/out"
    quick_us=$(figure p99_us)
    timeout 300 strace -f -qq -o /dev/null -e trace=fdatasync \
        -e inject=fdatasync:delay_enter=$((delay_ms * 1000)) "$writer" write "$engine" \
        "$work/data" "$work/notes" clients=$clients events=30 >"$work/out" 2>&1 ||
        why="ended: $(<"$work/out")"
    slow_us=$(figure p99_us)
    depth=$(figure queue_depth_max)
    ((${slow_us:-0} >= delay_ms * 1000)) || why="$why; p99 is $slow_us us"
    ((${depth:-999} <= clients)) || why="$why; $depth works were queued"
    verify "$work/data" "$work/notes" || why="$why; $said"
    said="p99 $quick_us us, then $slow_us us; at most $depth works queued; $said"
    [[ -z "$why" ]] || { said="$why; $said" && return 1; }
}

# ask PATH CURL-OPTION...: sets $status; the answer is in $work/answer.
ask() {
    local path=$1
    shift
    status=$(curl -sS --max-time 20 -o "$work/answer" -w '%{http_code}' \
        -H 'content-type: application/json' "$@" "$url$path" 2>"$work/asked") || status=000
}

field() {
    python3 -c 'import json,sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1" <"$work/answer"
}

start_server() {
    begin "$server" --listen 127.0.0.1:0 --data-dir "$disk/data" --engine "$engine" \
        >"$work/served" 2>&1
    wait_for 60 grep -q 'serves http' "$work/served" || return 1
    url=$(sed -n 's/.*serves \(http[^ ]*\).*/\1/p' "$work/served")
}

is_ready() {
    ask /readyz
    [[ $status == 200 ]]
}

freeze() {
    # The watchdog first.
    begin python3 -c 'import subprocess, sys, time
time.sleep(float(sys.argv[1]))
subprocess.run(["fsfreeze", "-u", sys.argv[2]])' $frozen_seconds_max "$disk"
    watchdog=$began
    frozen+=("$disk")
    fsfreeze -f "$disk"
}

# send_debits: in the background, each with a key of its own.
send_debits() {
    local n
    for ((n = 0; n < debits; n++)); do
        begin curl -sS --max-time $((frozen_seconds_max + 20)) -o /dev/null -w '%{http_code}\n' \
            -H 'content-type: application/json' -H "authorization: Bearer $token" \
            -H "idempotency-key: debit-$n" -d '{"amount":1,"reason":"frozen"}' \
            "$url/v1/billing/debits" >"$work/debit-$n" 2>&1
    done
}

hung() {
    local why= began_s unready_s answered served
    export BAILIWICK_SERVICE_TOKEN=the-service-token-of-the-tests
    start_server || { said=$(<"$work/served") && return 1; }
    served=$began
    ask /v1/auth/register -H "x-service-token: $BAILIWICK_SERVICE_TOKEN" \
        -d '{"email":"ada@example.com","password":"a-long-enough-password"}'
    token=$(field access_token) || { said="no user: $(<"$work/answer")" && return 1; }
    is_ready || why="not ready before it was frozen: $status"
    freeze
    send_debits
    began_s=$SECONDS
    ask /healthz
    [[ $status == 200 ]] && ((SECONDS - began_s <= 1)) || why="$why; liveness says $status"
    # A writer that got on a moment ago is ready still: asked until it is not.
    until ask /readyz && [[ $status == 503 ]] || ((SECONDS - began_s > 6)); do
        sleep 0.2
    done
    unready_s=$((SECONDS - began_s))
    [[ $status == 503 ]] && ((unready_s <= 6)) ||
        why="$why; readiness says $status after $unready_s s"
    answered=$(cat "$work"/debit-* | wc -l)
    ((answered == 0)) || why="$why; $answered debits were answered on a frozen disk"
    fsfreeze -u "$disk"
    frozen=()
    end 9 "$watchdog"
    wait_for 10 is_ready || why="$why; readiness does not come back: $status"
    wait_for 30 all_answered || true
    answered=$(cat "$work"/debit-* | grep -c '^201$') || true
    ((answered == debits)) || why="$why; $answered of $debits answered: $(cat "$work"/debit-*)"
    end 9 "$served"
    start_server || why="$why; it does not start again: $(<"$work/served")"
    ask /v1/billing/balance -H "authorization: Bearer $token"
    [[ $(field balance 2>/dev/null) == $((5000 - debits)) ]] ||
        why="$why; balance: $(<"$work/answer")"
    end TERM "$began"
    said="unready after $unready_s s; $answered debits answered once it was thawed"
    [[ -z "$why" ]] || { said="$why; $said" && return 1; }
}

all_answered() {
    (($(cat "$work"/debit-* | wc -l) == debits))
}

if slow; then pass "a slow disk: $said"; else fail "a slow disk: $said"; fi
need_disks
need fsfreeze util-linux
need python3 python3
find_server || skip "no server is built; the journal alone was slowed"
need curl curl
new_disk ext4 256
if hung; then pass "a disk that hangs: $said"; else fail "a disk that hangs: $said"; fi
drop_disk
