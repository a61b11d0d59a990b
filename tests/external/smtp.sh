#!/bin/sh
# Signs up by a real mail server: aiosmtpd, from PyPI, takes the mail by SMTP with STARTTLS and a
# login, and the link in it verifies the address. Then the mail server is stopped, another sign-up
# has to wait, and its mail arrives once the mail server is back.
#
# usage: smtp.sh [PATH-OF-BAILIWICK]      (target/debug/bailiwick)
# Needs python3 with venv, openssl and curl. Everything it makes is in a folder of its own, on
# 127.0.0.1, and is removed at the end, also when interrupted.
# Output: "ok <what>" a line; exit 0 when all is well.
set -eu

. "$(dirname "$0")/_server.sh"
need_bailiwick "${1:-}"

python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet install 'aiosmtpd==1.4.6' || fail "aiosmtpd cannot be installed"
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost \
    -addext subjectAltName=DNS:localhost -addext basicConstraints=critical,CA:FALSE \
    -keyout "$folder/key.pem" -out "$folder/cert.pem" 2>/dev/null

cat > "$folder/mailer.py" <<'PYTHON'
"""Takes mail on a port of 127.0.0.1 and writes each message to a file, named by its Message-ID."""
import asyncio, pathlib, ssl, sys
from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword

folder, port = pathlib.Path(sys.argv[1]), int(sys.argv[2])
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(folder / "cert.pem", folder / "key.pem")


class Inbox:
    async def handle_DATA(self, server, session, envelope):
        lines = envelope.content.decode().splitlines()
        name = next(line for line in lines if line.lower().startswith("message-id:"))
        name = name.split("<")[1].split("@")[0]
        part = folder / "inbox" / f"{name}.part"
        part.write_bytes(envelope.content)
        part.rename(folder / "inbox" / f"{envelope.rcpt_tos[0]}.{name}.eml")
        return "250 taken"


def authenticate(server, session, envelope, mechanism, data):
    right = isinstance(data, LoginPassword) and (data.login, data.password) == (b"post", b"secret")
    return AuthResult(success=right)


async def main():
    make = lambda: SMTP(Inbox(), tls_context=context, require_starttls=True, auth_required=True,
                        authenticator=authenticate)
    server = await asyncio.get_running_loop().create_server(make, "127.0.0.1", port)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


asyncio.run(main())
PYTHON
mkdir "$folder/inbox"

start_mailer() {
    : > "$folder/port"
    "$folder/venv/bin/python" "$folder/mailer.py" "$folder" "$1" \
        > "$folder/port" 2>> "$folder/mailer.log" &
    mailer=$!
    tries=0
    until [ -s "$folder/port" ]; do
        tries=$((tries + 1))
        [ "$tries" -le 200 ] || fail "the mail server does not start"
        sleep 0.1
    done
}

start_mailer 0
port=$(cat "$folder/port")

SSL_CERT_FILE=$folder/cert.pem
BAILIWICK_SMTP_HOST=localhost BAILIWICK_SMTP_PORT=$port BAILIWICK_SMTP_USER=post
BAILIWICK_SMTP_PASSWORD=secret BAILIWICK_SMTP_TIMEOUT_S=5
BAILIWICK_MAIL_FROM='Post <post@example.com>'
export SSL_CERT_FILE BAILIWICK_SMTP_HOST BAILIWICK_SMTP_PORT BAILIWICK_SMTP_USER \
    BAILIWICK_SMTP_PASSWORD BAILIWICK_SMTP_TIMEOUT_S BAILIWICK_MAIL_FROM
start_server
grep -q "mail     smtp localhost:$port" "$folder/server.log" || fail "it does not say how it mails"
echo "ok the server says that it mails by smtp"

sign_up() {
    curl --silent --fail --max-time 20 -H 'content-type: application/json' \
        -d "{\"email\": \"$1\", \"password\": \"a long enough password\"}" \
        "$url/v1/auth/signup" > /dev/null || fail "signing up $1 was refused"
}

link_for() {
    tries=0
    until mail=$(ls "$folder/inbox/$1".*.eml 2>/dev/null); do
        tries=$((tries + 1))
        [ "$tries" -le 600 ] || fail "no mail came to $1"
        sleep 0.1
    done
    tr -d '\r' < "$mail" | sed -n "s,^$url/verify-email?token=,,p"
}

verify() {
    token=$(link_for "$1")
    [ -n "$token" ] || fail "there is no link in the mail to $1"
    curl --silent --fail --max-time 20 -H 'content-type: application/json' \
        -d "{\"token\": \"$token\"}" "$url/v1/auth/verify-email" |
        grep -q '"access_token"' || fail "the link in the mail to $1 does not verify"
}

sign_up ada@example.com
verify ada@example.com
echo "ok a mail was taken by STARTTLS and its link verifies the address"

kill "$mailer" && wait "$mailer" 2>/dev/null || true
mailer=''
sign_up bob@example.com
tries=0
until curl --silent "$url/readyz" | grep -q '"status":"failing"'; do
    tries=$((tries + 1))
    [ "$tries" -le 300 ] || fail "/readyz does not tell that mail is not taken"
    sleep 0.1
done
echo "ok a mail server that is gone is told in /readyz"
start_mailer "$port"
verify bob@example.com
echo "ok the mail came once the mail server was back"
! grep -q 'token=' "$folder/errors.log" || fail "the log holds a link"
! grep -q -E 'ada@|bob@' "$folder/errors.log" || fail "the log holds an address"
echo "ok the log holds no link and no address"
