#!/bin/sh
# Buys credits by way of a payment provider that others have written: localstripe, from PyPI, speaks
# Stripe's interface, keeps customers, cards and intents, and signs what it tells. Its own notes name
# what it does not have: checkout sessions, the portal, disputes and idempotency keys are not tried.
#
# usage: stripe_peer.sh [PATH-OF-BAILIWICK]      (target/debug/bailiwick)
# Needs python3 with venv, and PyPI. Everything it makes is in a folder of its own, on 127.0.0.1, and
# is removed at the end, also when interrupted. What is asked is in stripe_peer.py.
# Output: "ok <what>" a line; exit 0 when all is well.
set -eu

. "$(dirname "$0")/_server.sh"
need_bailiwick "${1:-}"
here=$(cd "$(dirname "$0")" && pwd)

python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet install 'localstripe==1.15.10' || fail "localstripe cannot be installed"

"$folder/venv/bin/python" "$here/stripe_peer.py" serve > "$folder/port" 2> "$folder/peer.log" &
tries=0
until [ -s "$folder/port" ]; do
    tries=$((tries + 1))
    [ "$tries" -le 300 ] || fail "localstripe does not start"
    sleep 0.1
done
peer=http://127.0.0.1:$(cat "$folder/port")

BAILIWICK_STRIPE_SECRET_KEY=sk_test_of_the_peer BAILIWICK_STRIPE_PUBLISHABLE_KEY=pk_test_of_the_peer
BAILIWICK_STRIPE_WEBHOOK_SECRET=whsec_of_the_peer BAILIWICK_STRIPE_API_BASE=$peer
BAILIWICK_SERVICE_TOKEN=the-service-token-of-the-script
export BAILIWICK_STRIPE_SECRET_KEY BAILIWICK_STRIPE_PUBLISHABLE_KEY \
    BAILIWICK_STRIPE_WEBHOOK_SECRET BAILIWICK_STRIPE_API_BASE BAILIWICK_SERVICE_TOKEN
start_server --dev
grep -q 'payments stripe' "$folder/server.log" || fail "it does not say who moves the money"
echo "ok the server says that payments go to stripe"
"$folder/venv/bin/python" "$here/stripe_peer.py" check "$url" "$peer" || fail "see above"
! grep -q -E 'sk_test_of|whsec_of|_secret_' "$folder/errors.log" || fail "the log holds a secret"
echo "ok the log holds no key and no client secret"
