#!/usr/bin/env python3
"""Measures a server with very many tenants: how long it takes to bring them in, what an idle server
holds of them in memory, and how long the first request to a tenant takes that nobody has used.
# ci: no

usage: many_tenants.py [TENANTS] [PATH-OF-BAILIWICK]      (100000 target/release/bailiwick)
Needs Python 3 alone, on Linux. Everything it makes is in a folder of its own in TMPDIR, on
127.0.0.1, and is removed at the end. It measures and judges nothing.
"""

import concurrent.futures
import http.client
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time

USERS_A_REQUEST = 1_000
TOGETHER = 2
COLD_REQUESTS = 2_000
IDLE_SECONDS = 150
# Of an unknown password: nobody is to log in.
HASH = ("$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA"
        "$mF1p1YtIKIhDGyCxJ9C3wZ5XbLQGdQ8f1tY2m7m1bqk")
SECRETS = {
    "BAILIWICK_OPERATOR_EMAIL": "operator@example.com",
    "BAILIWICK_OPERATOR_PASSWORD": "correct horse battery staple",
    "BAILIWICK_SERVICE_TOKEN": "many-tenants-service-token",
}


class Client:
    """One connection."""

    def __init__(self, port):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)

    def ask(self, method, path, body=None, headers=None):
        headers = {"content-type": "application/json", **(headers or {})}
        text = None if body is None else json.dumps(body)
        self.connection.request(method, path, text, headers)
        response = self.connection.getresponse()
        answer = response.read()
        if response.status >= 300:
            sys.exit(f"{method} {path}: {response.status} {answer[:500]!r}")
        return answer


def operator(port):
    login = {"email": SECRETS["BAILIWICK_OPERATOR_EMAIL"],
             "password": SECRETS["BAILIWICK_OPERATOR_PASSWORD"]}
    token = json.loads(Client(port).ask("POST", "/v1/auth/login", login))["access_token"]
    return {"authorization": f"Bearer {token}"}


def bring_in(port, batch):
    users = [{"email": f"user-{batch}-{n}@example.com", "password_hash": HASH}
             for n in range(USERS_A_REQUEST)]
    answer = Client(port).ask("POST", "/v1/operator/users/import", {"users": users},
                              operator(port))
    answer = json.loads(answer)
    if answer["failed"]:
        sys.exit(f"not created: {next(it for it in answer['items'] if it['error'])}")
    return [item["user_id"] for item in answer["items"]]


def resident_mb(pid):
    with open(f"/proc/{pid}/status", encoding="utf-8") as status:
        return int(re.search(r"VmRSS:\s+(\d+)", status.read()).group(1)) / 1024


def measure(port, server, tenants):
    print(f"after the start: {resident_mb(server.pid):.0f} MB")
    begun, ids = time.monotonic(), []
    with concurrent.futures.ThreadPoolExecutor(TOGETHER) as pool:
        for users in pool.map(lambda n: bring_in(port, n), range(tenants // USERS_A_REQUEST)):
            ids += users
            print(f"\r{len(ids)} of {tenants}", end="", file=sys.stderr, flush=True)
    took = time.monotonic() - begun
    print(f"\n{len(ids)} tenants in {took:.0f} s: {len(ids) / took:.0f} a second")
    print(f"then: {resident_mb(server.pid):.0f} MB")
    time.sleep(IDLE_SECONDS)
    print(f"idle for {IDLE_SECONDS} s: {resident_mb(server.pid):.0f} MB")

    client, times = Client(port), []
    for user in random.sample(ids, min(COLD_REQUESTS, len(ids))):
        headers = {"x-service-token": SECRETS["BAILIWICK_SERVICE_TOKEN"], "x-tenant-id": user}
        begun = time.monotonic()
        client.ask("GET", "/v1/billing/balance", headers=headers)
        times.append((time.monotonic() - begun) * 1000)
    times.sort()
    at = lambda quantile: times[min(int(len(times) * quantile), len(times) - 1)]
    print(f"first request to a tenant: p50 {at(0.5):.2f} ms, p99 {at(0.99):.2f} ms, "
          f"max {times[-1]:.2f} ms")


def main():
    tenants = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    binary = sys.argv[2] if len(sys.argv) > 2 else "target/release/bailiwick"
    with tempfile.TemporaryDirectory() as folder:
        command = [binary, "--listen", "127.0.0.1:0", "--data-dir", f"{folder}/data"]
        server = subprocess.Popen(command, env={**os.environ, **SECRETS}, text=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        try:
            serves = re.search(r"serves http://[^:]+:(\d+)", server.stdout.readline())
            measure(int(serves.group(1)), server, tenants)
        finally:
            server.terminate()
            server.wait(60)


main()
