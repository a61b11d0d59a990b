#!/bin/sh
# The peer of the wallet: the same debit as two statements in a PostgreSQL transaction.
#
# Makes a throw-away cluster with PostgreSQL's default durability (fsync, synchronous commit) that
# listens on a unix socket only, runs pgbench against one hot wallet and against 1,000 wallets, and
# prints the transactions per second of both. Removes everything it made, also when interrupted.
# When PostgreSQL is missing and this runs as root, it is installed from Debian's archive; the
# package stays installed, but the cluster that it brings along does not.
#
# usage: postgres_peer.sh [CLIENTS [SECONDS]]      (256 clients, 10 seconds)
# TMPDIR chooses the file system that is measured; it must not be one in memory.
# Output lines: "<name>_tps <number>", "<name>_latency_ms <number>".
set -eu

clients=${1:-256}
seconds=${2:-10}
wallets=1000
connections_max=300

fail() {
    echo "postgres_peer: $*" >&2
    exit 1
}

case "$clients$seconds" in *[!0-9]*) fail "CLIENTS and SECONDS are numbers" ;; esac
[ "$clients" -ge 1 ] && [ "$clients" -le $((connections_max - 10)) ] ||
    fail "CLIENTS is 1 to $((connections_max - 10))"
[ "$seconds" -ge 1 ] || fail "SECONDS is at least 1"

newest_programs() {
    for folder in $(printf '%s\n' /usr/lib/postgresql/*/bin | sort -Vr); do
        if [ -x "$folder/initdb" ] && [ -x "$folder/pgbench" ]; then
            echo "$folder"
            return
        fi
    done
}

install_postgres() {
    [ "$(id -u)" -eq 0 ] || fail "PostgreSQL is not installed, and only root can install it"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q >&2
    apt-get install -q -y --no-install-recommends postgresql >&2
    # The package makes a cluster and starts it. Ours is the only one that shall run.
    pg_lsclusters -h | while read -r version name _; do
        pg_dropcluster --stop "$version" "$name" >&2
    done
}

programs=$(newest_programs)
if [ -z "$programs" ]; then
    install_postgres
    programs=$(newest_programs)
    [ -n "$programs" ] || fail "the package holds no initdb and pgbench"
fi

# PostgreSQL refuses to run as root. setpriv replaces itself, so the server is our own child, which
# we can signal and wait for.
owner=
[ "$(id -u)" -ne 0 ] || owner="setpriv --reuid postgres --regid postgres --init-groups"

folder=$(mktemp -d "${TMPDIR:-/tmp}/postgres-peer.XXXXXX")

server=
remove_all() {
    status=$?
    trap - EXIT
    if [ -n "$server" ]; then
        kill -INT "$server" 2>/dev/null || true
        wait "$server" 2>/dev/null || true
    fi
    rm -rf "$folder"
    exit "$status"
}
trap remove_all EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

if [ "$(id -u)" -eq 0 ]; then
    chown postgres "$folder"
fi
# A folder that the owner may not enter would fail below with a worse message.
cd "$folder"

kind=$(stat -f -c %T "$folder")
case "$kind" in
tmpfs | ramfs) fail "$folder is in memory, where a sync costs nothing: set TMPDIR to a disk" ;;
esac

$owner "$programs/initdb" -D "$folder/data" -U postgres -A trust -E UTF8 --locale=C >/dev/null
$owner "$programs/postgres" -D "$folder/data" -c listen_addresses= \
    -c unix_socket_directories="$folder" -c max_connections=$connections_max \
    >"$folder/log" 2>&1 &
server=$!

# The server has no way to tell that it accepts connections but to accept one.
tries_left=300
until "$programs/pg_isready" -q -h "$folder"; do
    tries_left=$((tries_left - 1))
    if [ "$tries_left" -eq 0 ] || ! kill -0 "$server" 2>/dev/null; then
        cat "$folder/log" >&2
        fail "the server did not start"
    fi
    sleep 0.1
done

query() {
    $owner "$programs/psql" -h "$folder" -U postgres -d postgres -qAtX -v ON_ERROR_STOP=1 "$@"
}

query <<SQL
CREATE TABLE wallet (id bigint PRIMARY KEY, balance bigint NOT NULL CHECK (balance >= 0));
CREATE TABLE ledger (
    id bigserial PRIMARY KEY,
    wallet bigint NOT NULL,
    amount bigint NOT NULL,
    at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO wallet SELECT n, 1000000000000 FROM generate_series(1, $wallets) AS n;
VACUUM ANALYZE wallet;
SQL

debit() {
    cat <<SQL
BEGIN;
UPDATE wallet SET balance = balance - 1 WHERE id = :wallet RETURNING balance;
INSERT INTO ledger (wallet, amount) VALUES (:wallet, -1);
COMMIT;
SQL
}
{ printf '\\set wallet 1\n'; debit; } >"$folder/hot.sql"
{ printf '\\set wallet random(1, %s)\n' "$wallets"; debit; } >"$folder/spread.sql"

threads=$(nproc)
[ "$threads" -le "$clients" ] || threads=$clients

# Runs one script and prints its figures; the ledger must hold each transaction that counted.
measure() {
    query -c 'TRUNCATE ledger' -c 'VACUUM wallet' -c 'CHECKPOINT'
    $owner "$programs/pgbench" -h "$folder" -U postgres -n -M prepared \
        -c "$clients" -j "$threads" -T "$seconds" -f "$folder/$2" postgres \
        >"$folder/result" 2>"$folder/errors" || {
        cat "$folder/errors" >&2
        fail "pgbench failed"
    }
    done=$(sed -n 's/^number of transactions actually processed: \([0-9]*\).*/\1/p' \
        "$folder/result")
    booked=$(query -c 'SELECT count(*) FROM ledger')
    [ "$booked" -ge "$done" ] || fail "$done transactions, but only $booked in the ledger"
    sed -n "s/^tps = \([0-9.]*\).*/$1_tps \1/p" "$folder/result"
    sed -n "s/^latency average = \([0-9.]*\) ms/$1_latency_ms \1/p" "$folder/result"
}

echo "server $("$programs/postgres" --version | sed 's/.*) //')"
for setting in fsync synchronous_commit wal_sync_method max_connections; do
    echo "$setting $(query -c "SHOW $setting")"
done
echo "file_system $kind"
echo "clients $clients"
echo "seconds $seconds"
measure hot hot.sql
measure spread_over_$wallets spread.sql
