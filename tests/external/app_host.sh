#!/bin/sh
# Calls functions of an app that its own host carries out: examples/app_host.py. The app is deployed
# with its host's URL, the host gets the key that the server showed, and checks each request. With a
# key that the server did not make the host refuses, and the call costs nothing. Then the key is
# rotated: the old one still fits, until a rotation without an overlap.
#
# usage: app_host.sh [PATH-OF-BAILIWICK]      (target/debug/bailiwick)
# Needs python3 and curl. Everything it makes is in a folder of its own, on 127.0.0.1, and is
# removed at the end, also when interrupted.
# Output: "ok <what>" a line; exit 0 when all is well.
set -eu

. "$(dirname "$0")/_server.sh"
host=''
need_bailiwick "${1:-}"
BAILIWICK_SERVICE_TOKEN=the-service-token
export BAILIWICK_SERVICE_TOKEN
start_server --dev

# The value at a path of a JSON text: field NAME NAME …
field() {
    python3 -c 'import functools, json, sys
found = functools.reduce(lambda it, name: it[name], sys.argv[1:], json.load(sys.stdin))
print(found if isinstance(found, str) else json.dumps(found))' "$@"
}

# ask METHOD PATH [BODY]
ask() {
    curl --silent --show-error --fail-with-body --max-time 60 -X "$1" \
        -H "authorization: Bearer ${token:-none}" -H 'content-type: application/json' \
        ${3:+-d "$3"} "$url$2"
}

curl --silent --fail --max-time 60 -H 'X-Service-Token: the-service-token' \
    -H 'content-type: application/json' "$url/v1/auth/register" \
    -d '{"email": "ada@example.com", "password": "a long enough password"}' \
    > "$folder/tokens.json" || fail "registering was refused"
token=$(field access_token < "$folder/tokens.json")

# start_host SECRETS: on a free port the first time, then on the same one.
start_host() {
    [ -z "$host" ] || { kill "$host" && wait "$host" 2>/dev/null || true; }
    : > "$folder/host.out"
    python3 "$root/examples/app_host.py" "$1" "${port:-0}" > "$folder/host.out" \
        2>> "$folder/host.log" &
    host=$!
    tries=0
    until port=$(sed -n 's,serves http://127.0.0.1:\([0-9]*\)/,\1,p' "$folder/host.out") &&
        [ -n "$port" ]; do
        tries=$((tries + 1))
        [ "$tries" -le 100 ] || fail "the host does not start"
        sleep 0.1
    done
}

start_host whsec_bm90IHRoZSBzZXJ2ZXIncyBrZXk=
ask POST /v1/developer/register '{"nickname": "ada-writes"}' > /dev/null
ask POST /v1/developer/apps '{"app_id": "wording", "display_name": "Wording",
    "git_url": "https://example.com/wording.git", "pricing_model": "per_action",
    "pricing_config": {"default": 4}}' > /dev/null
code() {
    echo "{\"name\": \"$1\", \"action_type\": \"write\",
        \"params_schema\": {\"text\": {\"type\": \"string\"}},
        \"impl\": {\"kind\": \"code\", \"module\": \"text\", \"entry\": \"$1\"}}"
}
ask POST /v1/extensions/developer/call "{\"function\": \"deploy_ir\", \"params\": {
    \"app_id\": \"wording\", \"host_url\": \"http://127.0.0.1:$port/\", \"ir_dict\": {
    \"ir_version\": \"1.0\", \"app\": {\"id\": \"wording\", \"version\": \"1.0.0\",
    \"title\": \"Wording\", \"functions\": [$(code word_count), $(code shout)]}}}}" \
    > "$folder/deployed.json"
[ "$(field status < "$folder/deployed.json")" = success ] || fail "$(cat "$folder/deployed.json")"

call() {
    ask POST /v1/extensions/wording/call \
        "{\"function\": \"$1\", \"params\": {\"text\": \"$2\"}}"
}
balance() {
    ask GET /v1/billing/balance | field balance
}
before=$(balance)

answer=$(call shout hello)
[ "$(echo "$answer" | field status)" = error ] || fail "a wrong key was taken: $answer"
grep -q '" 401 ' "$folder/host.log" || fail "the host did not refuse the signature"
echo "ok a host refuses what is signed with another key"

secret=$(ask POST /v1/developer/apps/wording/host/keys '{}' | field secret)
start_host "$secret"
answer=$(call shout hello)
[ "$(echo "$answer" | field data text)" = 'HELLO!' ] || fail "$answer"
answer=$(call word_count 'two words')
[ "$(echo "$answer" | field data words)" = 2 ] || fail "$answer"
answer=$(call shout '')
[ "$(echo "$answer" | field error)" = 'there is nothing to shout' ] || fail "$answer"
tries=0
until [ "$(balance)" = $((before - 10)) ]; do
    tries=$((tries + 1))
    [ "$tries" -le 100 ] || fail "two calls cost $((before - $(balance))) and not 10"
    sleep 0.1
done
echo "ok two functions are carried out and paid for, and a failed one is not"

ask POST /v1/developer/apps/wording/host/keys '{}' > "$folder/rotated.json"
[ "$(call shout again | field data text)" = 'AGAIN!' ] || fail "the older key does not fit"
ask POST /v1/developer/apps/wording/host/keys '{"overlap_seconds": 0}' > "$folder/rotated.json"
[ "$(call shout again | field status)" = error ] || fail "a key that is over still fits"
start_host "$(field secret < "$folder/rotated.json")"
[ "$(call shout again | field data text)" = 'AGAIN!' ] || fail "the newest key does not fit"
ask GET /v1/developer/apps/wording/host > "$folder/host.json"
[ "$(field secret < "$folder/host.json")" = null ] || fail "a secret was shown again"
echo "ok a key is rotated with an overlap and without"
! grep -q whsec_ "$folder"/server.log "$folder"/errors.log || fail "the log holds a secret"
echo "ok the log holds no secret"
