#!/usr/bin/env python3
"""Measures what the export of a long audit log takes: the server's memory before, during and after,
and the time, as JSON and as CSV. What comes is read as it comes, and its items are counted.
# ci: no

usage: export_memory.py [RECORDS] [PATH-OF-BAILIWICK]      (200000 target/release/bailiwick)
Needs Python 3 alone, on Linux. Everything it makes is in a folder of its own in TMPDIR, on
127.0.0.1, and is removed at the end. It measures and judges nothing but that nothing is missing.
"""

import concurrent.futures
import http.client
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time

TOGETHER = 16
SECRETS = {
    "BAILIWICK_OPERATOR_EMAIL": "operator@example.com",
    "BAILIWICK_OPERATOR_PASSWORD": "correct horse battery staple",
    "BAILIWICK_SERVICE_TOKEN": "export-memory-service-token",
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
        return json.loads(answer)


def memory_mib(process, name="VmRSS"):
    with open(f"/proc/{process}/status", encoding="ascii") as status:
        found = next(line for line in status if line.startswith(name))
    return int(found.split()[1]) / 1024


class Watch(threading.Thread):
    """Looks at the memory of a process every twentieth of a second."""

    def __init__(self, process):
        super().__init__(daemon=True)
        self.process, self.most, self.ends = process, 0.0, threading.Event()

    def run(self):
        while not self.ends.wait(0.05):
            self.most = max(self.most, memory_mib(self.process))


def debit(port, headers, count):
    client = Client(port)
    for _ in range(count):
        client.ask("POST", "/v1/billing/debits", {"amount": 1, "reason": "one of many"}, headers)


def export(process, port, headers, kind):
    watch = Watch(process)
    before = memory_mib(process)
    watch.start()
    began = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    connection.request("GET", f"/v1/audit/export?format={kind}", None, headers)
    response = connection.getresponse()
    size, lines = 0, 0
    while piece := response.read(1 << 16):
        size, lines = size + len(piece), lines + piece.count(b"\n")
    took = time.monotonic() - began
    watch.ends.set()
    watch.join()
    print(f"{kind}: {lines} lines, {size / 2**20:.0f} MiB in {took:.1f} s; memory "
          f"{before:.0f} MiB before, at most {watch.most:.0f} MiB during, "
          f"{memory_mib(process):.0f} MiB after", flush=True)
    return lines


def main():
    records = int(sys.argv[1]) if len(sys.argv) > 1 else 200_000
    program = sys.argv[2] if len(sys.argv) > 2 else "target/release/bailiwick"
    with tempfile.TemporaryDirectory() as folder:
        command = [program, "--listen", "127.0.0.1:0", "--data-dir", f"{folder}/data"]
        with open(f"{folder}/errors.log", "wb") as errors:
            server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors,
                                      env={**os.environ, **SECRETS}, text=True)
        try:
            port = int(re.search(r"serves http://127\.0\.0\.1:(\d+)", server.stdout.readline())[1])
            client = Client(port)
            service = {"X-Service-Token": SECRETS["BAILIWICK_SERVICE_TOKEN"]}
            account = {"email": "ada@example.com", "password": "a long enough password"}
            token = client.ask("POST", "/v1/auth/register", account, service)["access_token"]
            headers = {"authorization": f"Bearer {token}"}
            user = client.ask("GET", "/v1/auth/me", None, headers)["imperal_id"]
            login = {"email": SECRETS["BAILIWICK_OPERATOR_EMAIL"],
                     "password": SECRETS["BAILIWICK_OPERATOR_PASSWORD"]}
            operator = client.ask("POST", "/v1/auth/login", login)["access_token"]
            grant = {"credits": records, "kind": "paid", "reason": "to be measured with"}
            client.ask("POST", f"/v1/operator/tenants/{user}/grants", grant,
                       {"authorization": f"Bearer {operator}"})
            began = time.monotonic()
            with concurrent.futures.ThreadPoolExecutor(TOGETHER) as pool:
                share = [records // TOGETHER] * TOGETHER
                for done in [pool.submit(debit, port, headers, count) for count in share]:
                    done.result()
            print(f"{sum(share)} debits in {time.monotonic() - began:.0f} s", flush=True)
            # A token stands for a quarter of an hour: the last of many debits may be later.
            token = client.ask("POST", "/v1/auth/login", account)["access_token"]
            headers = {"authorization": f"Bearer {token}"}
            for kind in ["json", "csv", "ndjson"]:
                lines = export(server.pid, port, headers, kind)
                if lines < sum(share):
                    sys.exit(f"{kind}: {lines} lines for {sum(share)} records")
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
