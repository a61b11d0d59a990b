#!/usr/bin/env python3
"""An app's own host, with Python's standard library alone: it checks the signature of each request
and carries out two functions, `word_count` and `shout`.

usage: app_host.py SECRET [PORT]     (SECRET as the server showed it: whsec_...; several, between
                                      commas, while one key follows another)

The signature is that of the Standard Webhooks specification: HMAC-SHA256 over ID.TIMESTAMP.BODY.
A host that can be reached from the internet stands behind HTTPS; this one listens on 127.0.0.1,
which a server started with --dev may call.
"""

import base64
import hashlib
import hmac
import http.server
import json
import sys
import time

# A request that is older or newer than this is refused, in seconds.
AGE_MAX = 300
# The longest body that is read, in bytes.
BODY_MAX = 64 * 1024 * 1024
# How many answers are remembered, so that a call that is sent again is not done again.
REMEMBERED_MAX = 1_000


def word_count(params):
    text = str(params.get("text", ""))
    return {"words": len(text.split()), "characters": len(text)}


def shout(params):
    text = str(params.get("text", ""))
    if not text:
        raise ValueError("there is nothing to shout")
    return {"text": text.upper() + "!"}


FUNCTIONS = {("text", "word_count"): word_count, ("text", "shout"): shout}


def is_signed(keys, headers, body, now):
    """Whether one of the keys has signed this request, and just now."""
    message_id = headers.get("webhook-id", "")
    timestamp = headers.get("webhook-timestamp", "")
    if not message_id or not timestamp.isdigit() or abs(now - int(timestamp)) > AGE_MAX:
        return False
    content = f"{message_id}.{timestamp}.".encode() + body
    given = [part[3:] for part in headers.get("webhook-signature", "").split() if part[:3] == "v1,"]
    for key in keys:
        right = base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
        if any(hmac.compare_digest(right, signature) for signature in given):
            return True
    return False


def carry_out(call):
    function = FUNCTIONS.get((call.get("module"), call.get("entry")))
    if function is None:
        return {"error": f"there is no {call.get('module')}.{call.get('entry')} here"}
    try:
        return {"result": function(call.get("params") or {})}
    except ValueError as error:
        return {"error": str(error)}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    keys = []
    answers = {}

    def do_POST(self):
        length = self.headers.get("content-length", "")
        if not length.isdigit() or int(length) > BODY_MAX:
            self.close_connection = True
            return self.reply(413, {"error": "the body is too long"})
        body = self.rfile.read(int(length))
        if not is_signed(self.keys, self.headers, body, time.time()):
            return self.reply(401, {"error": "the signature is not right"})
        message_id = self.headers["webhook-id"]
        if message_id not in self.answers:
            while len(self.answers) >= REMEMBERED_MAX:
                self.answers.pop(next(iter(self.answers)), None)
            self.answers[message_id] = carry_out(json.loads(body))
        self.reply(200, self.answers[message_id])

    def reply(self, status, answer):
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, form, *values):
        print(form % values, file=sys.stderr, flush=True)


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    secrets = sys.argv[1].split(",")
    Handler.keys = [base64.b64decode(secret.removeprefix("whsec_")) for secret in secrets]
    port = int(sys.argv[2]) if len(sys.argv) == 3 else 8080
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
    print(f"serves http://127.0.0.1:{server.server_port}/", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
