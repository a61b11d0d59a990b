#!/bin/sh
# Reads the test vectors of agent tokens with another language and another library: every token is
# taken apart by the layout that actors/agents/src/token.rs describes, its signatures are checked
# with Python's `cryptography`, from PyPI, what it says is compared, a narrower token is made again
# byte for byte, and every flipped bit is refused.
#
# usage: agent_token_vectors.sh
# Needs python3 with venv. Everything it makes is in a folder of its own and is removed at the end.
# Output: "ok <what>" a line; exit 0 when all is well.
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
trap 'exit 1' INT TERM

python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet install 'cryptography>=44' || {
    echo "agent_token_vectors: cryptography cannot be installed" >&2
    exit 1
}

cat > "$folder/check.py" <<'PYTHON'
"""A reader of agent tokens that knows nothing but their description."""
import base64, hashlib, json, sys
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

CONTEXT = b"agent-token-v1"
PREFIX = "rai_live_"


class Refused(Exception):
    pass


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, length):
        if self.at + length > len(self.data):
            raise Refused("too short")
        self.at += length
        return self.data[self.at - length:self.at]

    def number(self, length):
        return int.from_bytes(self.take(length), "big")

    def text(self, length):
        try:
            return self.take(self.number(length)).decode("utf-8")
        except UnicodeDecodeError:
            raise Refused("no text")

    def end(self):
        if self.at != len(self.data):
            raise Refused("too long")


def scopes(reader):
    found = [reader.text(1) for _ in range(reader.number(1))]
    if not 1 <= len(found) <= 32 or found != sorted(set(found)) or "" in found:
        raise Refused("scopes")
    return found


def covers(held, wanted):
    held, wanted = held.replace(".", ":"), wanted.replace(".", ":")
    if held == "*" or held == wanted:
        return True
    return held.endswith(":*") and wanted.startswith(held[:-1]) and len(wanted) > len(held) - 1


def signed(public, kind, before, payload, signature):
    try:
        key = Ed25519PublicKey.from_public_bytes(public)
        key.verify(signature, CONTEXT + bytes([kind]) + before + payload)
    except (InvalidSignature, ValueError):
        raise Refused("signature")


def identity(signature):
    return hashlib.sha256(signature).digest()[:16].hex()


def read(token, issuers):
    reader = Reader(token)
    if reader.number(1) != 1:
        raise Refused("version")
    payload = reader.take(reader.number(2))
    before = reader.take(64)
    root = Reader(payload)
    issuer = issuers.get(root.take(32).hex())
    if issuer is None:
        raise Refused("key")
    says = {name: root.take(16).hex() for name in ("token_id", "agent_id", "tenant_id")}
    for name in ("epoch", "issued_at", "expires_at"):
        says[name] = root.number(8)
    key = root.take(32)
    says["scopes"] = scopes(root)
    says["target"] = root.text(1) or None
    flag = root.number(1)
    if flag > 1:
        raise Refused("allowance")
    says["allowance"] = root.number(8) if flag else None
    says["intent"] = root.text(2)
    says["actors"] = [root.text(1) for _ in range(root.number(1))]
    root.end()
    signed(issuer, 0, b"", payload, before)
    says["revocation_ids"] = [says["token_id"]]
    count = reader.number(1)
    if count > 8:
        raise Refused("blocks")
    for _ in range(count):
        payload = reader.take(reader.number(2))
        signature = reader.take(64)
        signed(key, 1, before, payload, signature)
        block = Reader(payload)
        flags = block.number(1)
        if flags > 31:
            raise Refused("flags")
        key = block.take(32)
        if flags & 1:
            wanted = scopes(block)
            if not all(any(covers(held, it) for held in says["scopes"]) for it in wanted):
                raise Refused("wider")
            says["scopes"] = wanted
        if flags & 2:
            until = block.number(8)
            if until > says["expires_at"]:
                raise Refused("wider")
            says["expires_at"] = until
        if flags & 4:
            target = block.text(1)
            if not target or says["target"] not in (None, target):
                raise Refused("wider")
            says["target"] = target
        if flags & 8:
            allowance = block.number(8)
            if says["allowance"] is not None and allowance > says["allowance"]:
                raise Refused("wider")
            says["allowance"] = allowance
        if flags & 16:
            says["actors"].append(block.text(1))
        block.end()
        says["revocation_ids"].append(identity(signature))
        before = signature
    kind = reader.number(1)
    if kind == 0:
        secret = Ed25519PrivateKey.from_private_bytes(reader.take(32))
        if secret.public_key().public_bytes_raw() != key:
            raise Refused("proof")
    elif kind == 1:
        signed(key, 2, before, b"", reader.take(64))
    else:
        raise Refused("proof")
    reader.end()
    return says


def decode(text):
    encoded = text.removeprefix(PREFIX)
    assert encoded != text and "=" not in encoded
    token = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
    assert base64.urlsafe_b64encode(token).rstrip(b"=").decode() == encoded
    return token


def narrowed(root, secret, next_public, payload):
    """The root token with one more block, without its proof."""
    before = root[-33 - 1 - 64:-33 - 1]
    key = Ed25519PrivateKey.from_private_bytes(secret)
    payload = payload[:1] + next_public + payload[1:]
    signature = key.sign(CONTEXT + b"\x01" + before + payload)
    return root[:-34] + b"\x01" + len(payload).to_bytes(2, "big") + payload + signature


document = json.load(open(sys.argv[1]))
public = bytes.fromhex(document["issuing_key"]["public"])
secret = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(document["issuing_key"]["seed"]))
assert secret.public_key().public_bytes_raw() == public
assert hashlib.sha256(public).hexdigest() == document["key_id"]
issuers = {document["key_id"]: public}
tokens = {case["name"]: decode(case["token"]) for case in document["tokens"]}

for case in document["tokens"]:
    token = tokens[case["name"]]
    assert token.hex() == case["bytes"], case["name"]
    says = read(token, issuers)
    assert says == case["says"], (case["name"], says)
    print("ok", case["name"], "is genuine and says what it should")
    refused = 0
    for bit in range(len(token) * 8):
        other = bytearray(token)
        other[bit // 8] ^= 1 << (bit % 8)
        try:
            read(bytes(other), issuers)
        except Refused:
            refused += 1
    assert refused == len(token) * 8, (case["name"], refused)
    for length in range(len(token)):
        try:
            read(token[:length], issuers)
            raise AssertionError(length)
        except Refused:
            pass
    print("ok", case["name"], "is refused with any bit flipped and at any length")

first, one, two = (
    {name: bytes.fromhex(value) for name, value in key.items()} for key in document["next_keys"]
)
actor = b"agent/worker"
block = bytes([1 | 16]) + b"\x01" + b"\x08ledger:*" + bytes([len(actor)]) + actor
made = narrowed(tokens["root"], first["seed"], one["public"], block)
theirs = tokens["two_blocks"]
# All but the count of blocks, which is two there.
count = 1 + 2 + int.from_bytes(made[1:3], "big") + 64
assert theirs[:count] == made[:count] and theirs[count + 1:len(made)] == made[count + 1:]
says = read(made + b"\x00" + one["seed"], issuers)
assert says["scopes"] == ["ledger:*"] and says["actors"] == [actor.decode()]
print("ok a block that was made here is byte for byte the one in the vectors")
for wider in (b"\x01\x01\x0cwallet:spend", b"\x02" + (2**40).to_bytes(8, "big")):
    made = narrowed(tokens["root"], first["seed"], one["public"], wider)
    try:
        read(made + b"\x00" + one["seed"], issuers)
        raise AssertionError("a wider block was taken")
    except Refused as why:
        assert str(why) == "wider", why
print("ok a wider block is refused, rightly signed as it is")
PYTHON
"$folder/venv/bin/python" "$folder/check.py" "$root/actors/agents/testdata/token_vectors.json"
