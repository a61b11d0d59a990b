#!/usr/bin/env bash
# Syncs: between the last write of a commit and its acknowledgement stands a sync that succeeded.
#
# The system calls of the journal's writer are traced from its very first start on, one client, one
# append after the other, with a table so small that tables move into the store meanwhile. Shown
# are: the sync of the log before each note; the sync of the key file before the first commit under
# a new key; the sync of every new file's folder, and of a file before it is renamed, before the
# first note; the sync of the store before a segment of the log is removed. A second trace of the
# same under syncs that are left out must be found wrong. Then a server answers single debits, and
# the same is shown of its answers.
#
# usage: syncs.sh [ENGINE]        (redb)
# BAILIWICK    the server; otherwise the newest build, and without one that part is left out
# What it needs: strace, python3, curl for the server. See _faults.sh.
source "$(dirname "${BASH_SOURCE[0]}")/_faults.sh"

engine=${1:-redb}
calls=openat,mkdir,write,writev,pwrite64,pwritev,ftruncate,fsync,fdatasync,sync_file_range,msync
calls=$calls,/rename,/unlink,sendto,sendmsg,read,recvfrom

need_strace
need python3 python3
build_writer

traced=(strace -f -qq -y --decode-pids=comm -s 64 -o "$work/trace" -e "trace=$calls")

trace() {
    said=$(python3 "$external/_trace.py" "$@" 2>&1)
}

run_writer() {
    "${traced[@]}" "$@" "$writer" write "$engine" "$work/above/data" "$work/notes" \
        clients=1 events=700 table_bytes=100000 >"$work/out" 2>&1
}

if run_writer && trace syncs "$work/trace" "$work/above/data" "$work/notes"; then
    pass "the writer: $said"
else
    fail "the writer: $said $(<"$work/out")"
fi
rm -r "$work/above" "$work/notes"
if run_writer -e inject=fdatasync:retval=0:when=30+7; then
    if trace syncs "$work/trace" "$work/above/data" "$work/notes"; then
        fail "syncs that were left out were not noticed"
    else
        pass "syncs that were left out are noticed: $said"
    fi
else
    fail "the writer without syncs: $(<"$work/out")"
fi

find_server || skip "no server is built; the writer alone was traced"
need curl curl
export BAILIWICK_SERVICE_TOKEN=the-service-token-of-the-tests
begin "${traced[@]}" "$server" --listen 127.0.0.1:0 --data-dir "$work/data" \
    --engine "$engine" >"$work/out" 2>&1
wait_for 60 grep -q 'serves http' "$work/out" || fail "the server: $(<"$work/out")"
url=$(sed -n 's/.*serves \(http[^ ]*\).*/\1/p' "$work/out")
ask() {
    curl -sS --fail-with-body --max-time 30 -H 'content-type: application/json' \
        -H "x-service-token: $BAILIWICK_SERVICE_TOKEN" "$@"
}
tokens=$(ask "$url/v1/auth/register" \
    -d '{"email":"ada@example.com","password":"a-long-enough-password"}') || true
token=$(python3 -c 'import json,sys; print(json.load(sys.stdin)["access_token"])' <<<"$tokens")
for ((n = 0; n < 10; n++)); do
    curl -sS --fail-with-body --max-time 30 -H 'content-type: application/json' \
        -H "authorization: Bearer $token" "$url/v1/billing/debits" \
        -d '{"amount":1,"reason":"traced"}' >>"$work/answers" || fail "a debit: $(<"$work/answers")"
done
# The tracer hands no signal on: the server itself has to end, and the tracer ends with it.
kill -TERM "$(pgrep -P "$began")" || fail "the server is gone"
wait "$began" || true
if trace answers "$work/trace" "$work/data" /v1/billing/debits; then
    pass "the server: $said"
else
    fail "the server: $said"
fi
