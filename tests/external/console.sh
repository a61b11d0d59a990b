#!/bin/sh
# The console in a real browser: logs in, walks from the tree to an entity and through its history,
# acts on it, and looks at the documentation; at the width of a desk and of a phone.
#
# Fails on whatever the browser says on its console, on a violated content security policy, on a
# request that leaves the server or fails, and on a page that is wider than its window. Starts a
# server of its own on a free port of 127.0.0.1 with a throw-away data folder, and removes it. When
# chromium or puppeteer-core are missing they are installed: chromium from Debian's archive, which
# needs root, puppeteer-core from npm into a folder that is thrown away.
#
# usage: console.sh [FOLDER]      (screenshots are kept in FOLDER)
# BAILIWICK names the server's program, else target/debug/bailiwick is built; CHROMIUM the browser;
# NODE_PATH may hold puppeteer-core.
# Output lines: "ok <what>".
set -eu

fail() {
    echo "console: $*" >&2
    exit 1
}

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
shots=${1:-}
[ -z "$shots" ] || { mkdir -p "$shots" && shots=$(cd "$shots" && pwd); }

browser=${CHROMIUM:-$(command -v chromium || command -v chromium-browser || true)}
if [ -z "$browser" ]; then
    [ "$(id -u)" -eq 0 ] || fail "chromium is not installed, and only root can install it"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q >&2
    apt-get install -q -y --no-install-recommends chromium >&2
    browser=$(command -v chromium) || fail "the package holds no chromium"
fi
command -v node >/dev/null || fail "node is not installed"

work=$(mktemp -d)
server=
clean() {
    [ -z "$server" ] || kill "$server" 2>/dev/null || true
    [ -z "$server" ] || wait "$server" 2>/dev/null || true
    rm -rf "$work"
}
trap clean EXIT
trap 'exit 130' INT TERM

if ! node -e 'require.resolve("puppeteer-core")' 2>/dev/null; then
    npm install --silent --no-audit --no-fund --prefix "$work" puppeteer-core >&2
    NODE_PATH=$work/node_modules
    export NODE_PATH
fi

program=${BAILIWICK:-}
if [ -z "$program" ]; then
    (cd "$root" && cargo build -q -p gateway) || fail "the server does not build"
    program=${CARGO_TARGET_DIR:-$root/target}/debug/bailiwick
fi
[ -x "$program" ] || fail "$program is no program"

BAILIWICK_OPERATOR_EMAIL=operator@example.com
BAILIWICK_OPERATOR_PASSWORD=$(od -An -N12 -tx1 /dev/urandom | tr -d ' \n')
BAILIWICK_SERVICE_TOKEN=$(od -An -N12 -tx1 /dev/urandom | tr -d ' \n')
export BAILIWICK_OPERATOR_EMAIL BAILIWICK_OPERATOR_PASSWORD BAILIWICK_SERVICE_TOKEN
: >"$work/said"
"$program" --listen 127.0.0.1:0 --data-dir "$work/data" >"$work/said" 2>"$work/log" &
server=$!
url=
tries=0
while [ -z "$url" ]; do
    kill -0 "$server" 2>/dev/null || { cat "$work/log" >&2; fail "the server did not start"; }
    url=$(sed -n 's/^ *console *\(http.*\)\/console$/\1/p' "$work/said")
    tries=$((tries + 1))
    [ "$tries" -lt 300 ] || fail "the server does not say where it is"
    sleep 0.1
done

node "$here/console.cjs" "$url" "$browser" "$shots"
