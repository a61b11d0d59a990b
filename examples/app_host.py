#!/usr/bin/env python3
"""An app's own host, with Python's standard library alone: it checks the signature of each request
and carries out three functions, `word_count`, `shout` and `copy`. The last takes its time, page by
page: declared as `background`, it goes on as a task, and says how far it is.

usage: app_host.py SECRET [PORT [SERVER]]   (SECRET as the server showed it: whsec_...; several,
                                             between commas, while one key follows another. SERVER
                                             is where progress is told: http://127.0.0.1:8787)

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
import urllib.request

# A request that is older or newer than this is refused, in seconds.
AGE_MAX = 300
# The longest body that is read, in bytes.
BODY_MAX = 64 * 1024 * 1024
# How many answers are remembered, so that a call that is sent again is not done again.
REMEMBERED_MAX = 1_000
# How many pages `copy` copies at most, and how long each takes, in seconds.
PAGES_MAX = 20
PAGE_SECONDS = 1.0


def word_count(params, progress):
    text = str(params.get("text", ""))
    return {"words": len(text.split()), "characters": len(text)}


def shout(params, progress):
    text = str(params.get("text", ""))
    if not text:
        raise ValueError("there is nothing to shout")
    return {"text": text.upper() + "!"}


def copy(params, progress):
    pages = min(int(params.get("pages", 3)), PAGES_MAX)
    for page in range(pages):
        time.sleep(PAGE_SECONDS)
        progress((page + 1) / pages, f"page {page + 1} of {pages}")
    return {"pages": pages}


FUNCTIONS = {
    ("text", "word_count"): word_count,
    ("text", "shout"): shout,
    ("text", "copy"): copy,
}


def sign(key, message_id, timestamp, body):
    """The value of `webhook-signature` under one key: the same for both directions."""
    content = f"{message_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()


def reporter(server, keys, call):
    """Tells the server how far a task is; a call that is no task, or a server that nobody has
    named, is told nothing. What does not arrive is no harm: the next report says more."""
    task = call.get("task_id")

    def report(fraction, message):
        if not task or not server:
            return
        body = json.dumps({"fraction": fraction, "message": message}).encode()
        message_id, timestamp = f"{call['call_id']}.{message}", str(int(time.time()))
        headers = {
            "content-type": "application/json",
            "webhook-id": message_id,
            "webhook-timestamp": timestamp,
            "webhook-signature": " ".join(sign(key, message_id, timestamp, body) for key in keys),
        }
        url = f"{server}/v1/tasks/{task}/progress"
        try:
            urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=5).close()
        except OSError as error:
            print(f"progress was not told: {error}", file=sys.stderr, flush=True)

    return report


def is_signed(keys, headers, body, now):
    """Whether one of the keys has signed this request, and just now."""
    message_id = headers.get("webhook-id", "")
    timestamp = headers.get("webhook-timestamp", "")
    if not message_id or not timestamp.isdigit() or abs(now - int(timestamp)) > AGE_MAX:
        return False
    given = headers.get("webhook-signature", "").split()
    for key in keys:
        right = sign(key, message_id, timestamp, body)
        if any(hmac.compare_digest(right, signature) for signature in given):
            return True
    return False


def carry_out(call, progress):
    function = FUNCTIONS.get((call.get("module"), call.get("entry")))
    if function is None:
        return {"error": f"there is no {call.get('module')}.{call.get('entry')} here"}
    try:
        return {"result": function(call.get("params") or {}, progress)}
    except ValueError as error:
        return {"error": str(error)}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    keys = []
    server_url = None
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
            call = json.loads(body)
            self.answers[message_id] = carry_out(call, reporter(self.server_url, self.keys, call))
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
    if len(sys.argv) not in (2, 3, 4):
        sys.exit(__doc__)
    secrets = sys.argv[1].split(",")
    Handler.keys = [base64.b64decode(secret.removeprefix("whsec_")) for secret in secrets]
    port = int(sys.argv[2]) if len(sys.argv) > 2 else 8080
    Handler.server_url = sys.argv[3].rstrip("/") if len(sys.argv) > 3 else None
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
    print(f"serves http://127.0.0.1:{server.server_port}/", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
