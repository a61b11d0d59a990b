#!/bin/sh
# Tries every operation of the API document with values that the document allows and with such
# that it does not: schemathesis, from PyPI. No answer may be a server error; every status, media
# type and body must be one that the document declares for it; a method that it does not name must
# be refused. Passes over one server: a user, the same with the ids of things that are there, a
# service that acts for another user, and the operator. The values are the same on every run.
#
# usage: schemathesis.sh [PATH-OF-BAILIWICK]      (target/debug/bailiwick)
# Needs python3 with venv and curl. Everything it makes is in a folder of its own, on 127.0.0.1, and
# is removed at the end. About four minutes. EXAMPLES (6) is how many cases an operation gets beside
# the systematic ones; REPORTS names a folder for schemathesis' reports.
# Output: "ok <what>" a line; exit 0 when all is well.
set -eu

. "$(dirname "$0")/_server.sh"
need_bailiwick "${1:-}"
bailiwick=$(cd "$(dirname "$bailiwick")" && pwd)/$(basename "$bailiwick")
examples=${EXAMPLES:-6}
mkdir -p "${REPORTS:-$folder/reports}"
reports=$(cd "${REPORTS:-$folder/reports}" && pwd)
# It writes into the folder it runs in.
cd "$folder"

python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet install 'schemathesis==4.32.5' ||
    fail "schemathesis cannot be installed"

BAILIWICK_OPERATOR_EMAIL=operator@example.com
BAILIWICK_OPERATOR_PASSWORD=$(od -An -N12 -tx1 /dev/urandom | tr -d ' \n')
BAILIWICK_SERVICE_TOKEN=$(od -An -N12 -tx1 /dev/urandom | tr -d ' \n')
export BAILIWICK_OPERATOR_EMAIL BAILIWICK_OPERATOR_PASSWORD BAILIWICK_SERVICE_TOKEN
# Refusals for their number would hide the others.
start_server --sandbox-payments --tenant-rate 1000000 --anonymous-rate 1000000 \
    --login-address-rate 1000000

cat > "$folder/prepare.py" <<'PYTHON'
"""Makes two users, one of them with things of every sort, and writes what the passes need: their
headers, one file a pass, and the settings: what is left out, and the ids of what is there."""
import json, os, pathlib, sys, urllib.request

url, folder = sys.argv[1], pathlib.Path(sys.argv[2])
SERVICE = {"X-Service-Token": os.environ["BAILIWICK_SERVICE_TOKEN"]}

# What would end the pass or never ends, and why.
LEFT_OUT = {
    "GET /v1/events/stream": "it never ends",
    "GET /v1/operator/stream": "it never ends",
    "POST /v1/auth/logout": "ends the credential of the pass",
    "POST /v1/auth/sessions/revoke-others": "ends the sessions of the other passes",
    "POST /v1/auth/sessions/{id}/revoke": "ends the credential of the pass",
    "PUT /v1/auth/sign-in-policy": "asks the pass for a second factor",
    "DELETE /v1/auth/me": "erases the user of the pass",
    "POST /v1/users/{user_id}/erase": "erases the user of a pass",
    "DELETE /v1/users/{user_id}": "switches the user of a pass off",
    "PATCH /v1/users/{user_id}": "switches the user of a pass off",
    "DELETE /v1/tenants/{tenant_id}": "switches the tenant of the pass off",
    "PATCH /v1/tenants/{tenant_id}": "switches the tenant of the pass off",
    "POST /v1/tenants/{tenant_id}/erase": "erases the tenant of the pass",
    "DELETE /v1/tenants/{tenant_id}/members/{user_id}": "removes the user of the pass",
    "PATCH /v1/tenants/{tenant_id}/members/{user_id}": "takes the role of the user of the pass",
    "DELETE /v1/users/{user_id}/scopes": "takes the rights of the user of the pass",
    "POST /v1/operator/tenants/{id}/freeze": "freezes the tenant of a pass",
    "POST /v1/operator/users/{id}/freeze": "freezes the user of a pass",
    "POST /v1/operator/actors/{kind}/{id}": "stops entities that the passes need",
    "POST /v1/operator/backups": "copies the whole journal each time",
    "POST /v1/tenants/{tenant_id}/sandbox": "copies a whole tenant each time",
}


def ask(method, path, body=None, headers=None, expected=(200, 201)):
    headers = {"content-type": "application/json", **(headers or {})}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url + path, data, headers, method=method)
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.status in expected, (path, answer.status)
        return json.loads(answer.read() or b"null")


def user(name):
    body = {"email": f"{name}@example.com", "password": "a long enough password"}
    token = ask("POST", "/v1/auth/register", body, SERVICE)["access_token"]
    bearer = {"Authorization": f"Bearer {token}"}
    return bearer, ask("GET", "/v1/auth/me", None, bearer)["imperal_id"]


def shelf(app):
    step = {"id": "put", "op": "store.create",
            "args": {"kind": "book", "data": {"title": "{{args.title}}"}}}
    return {"ir_version": "1.0", "app": {
        "id": app, "version": "1.0.0", "title": "Reading shelf", "capabilities": ["store"],
        "functions": [{"name": "add_book", "action_type": "write",
                       "params_schema": {"title": {"type": "string"}},
                       "impl": {"kind": "declarative", "steps": [step]}}]}}


def things(bearer, tenant):
    """The ids of what the user has, by the names of parameters."""
    def make(path, body):
        return ask("POST", path, body, bearer)
    make("/v1/developer/register", {"nickname": "ada-dev"})
    make("/v1/developer/apps", {"app_id": "shelf", "display_name": "Reading shelf",
                                "git_url": "https://example.com/shelf.git"})
    make("/v1/extensions/developer/call", {"function": "deploy_ir", "params": {
        "app_id": "shelf", "ir_dict": shelf("shelf")}})
    called = make("/v1/extensions/shelf/call", {"function": "add_book",
                                                "params": {"title": "Emma"}})
    ask("POST", "/v1/admin/apps/shelf/approve", {}, SERVICE)
    hold = make("/v1/billing/holds", {"amount": 5, "ttl_seconds": 600, "reason": "mine"})["id"]
    role = make("/v1/roles", {"name": "clerk", "default_scopes": ["wallet:read"]})["id"]
    key = make("/v1/keys", {"name": "mine", "scopes": "wallet:read"})["id"]
    scope = make("/v1/scopes", {"resource": "reports", "action": "export"})["id"]
    invited = make(f"/v1/tenants/{tenant}/invitations", {"email": "guest@example.com"})["id"]
    action = ask("GET", "/v1/actions", None, bearer)["items"][0]["trace_id"]
    return {
        "path.app_id": ["shelf"], "path.ext_id": ["shelf"], "path.tenant_id": [tenant],
        "path.user_id": [tenant], "path.developer_id": [tenant], "path.role_id": [role],
        "path.key_id": [key], "path.scope_id": [scope], "path.invitation_id": [invited],
        "path.trace_id": [action], "path.collection": ["book"],
        "path.doc_id": [called["data"]["id"]], "path.id": [hold, key, tenant],
        "path.subject": [f"user:{tenant}"], "path.window": ["day", "month"],
        "path.kind": ["wallet", "user", "tenant"], "body.function": ["add_book"],
    }


def settings(known):
    lines = []
    for name, reason in LEFT_OUT.items():
        lines += [f"# {reason}", "[[operations]]", f'include-name = "{name}"', "enabled = false"]
    for number, (name, values) in enumerate(known.items()):
        lines += [f"[dictionaries.d{number}]", f"values = {json.dumps(values)}"]
    if known:
        lines.append("[parameters]")
    for number, name in enumerate(known):
        lines.append(f'"{name}" = {{ dictionary = "d{number}", probability = 0.8 }}')
    return "\n".join(lines) + "\n"


ada, ada_id = user("ada")
bob, bob_id = user("bob")
known = things(ada, ada_id)
login = {"email": os.environ["BAILIWICK_OPERATOR_EMAIL"],
         "password": os.environ["BAILIWICK_OPERATOR_PASSWORD"]}
operator = ask("POST", "/v1/auth/login", login)["access_token"]
passes = {
    "user": (ada, {}),
    "known": (ada, known),
    "service": ({**SERVICE, "X-Tenant-ID": bob_id, "X-Acting-User": bob_id}, {}),
    "operator": ({"Authorization": f"Bearer {operator}"}, known),
}
for name, (headers, values) in passes.items():
    (folder / f"{name}.toml").write_text(settings(values))
    lines = [f"{header}: {value}" for header, value in headers.items()]
    (folder / f"{name}.headers").write_text("\n".join(lines) + "\n")
PYTHON
"$folder/venv/bin/python" "$folder/prepare.py" "$url" "$folder" || fail "nothing to try it with"

checks=not_a_server_error,status_code_conformance,content_type_conformance
checks=$checks,response_schema_conformance,unsupported_method,allow_header_conformance
failed=0

# try_as PASS WHAT ARGUMENT …: a pass, and whether its credential still stands at its end.
try_as() {
    pass=$1 what=$2
    shift 2
    while read -r header; do
        set -- "$@" --header "$header"
    done < "$folder/$pass.headers"
    if "$folder/venv/bin/st" --config-file "$folder/$pass.toml" run "$url/v1/openapi.json" "$@" \
        --checks "$checks" --phases examples,coverage,fuzzing --max-examples "$examples" \
        --generation-deterministic --no-shrink --continue-on-failure --max-redirects 0 \
        --generation-with-security-parameters false --suppress-health-check all \
        --warnings off --no-color --request-timeout 30 \
        --report json --report-json-path "$reports/$pass.json" > "$reports/$pass.txt" 2>&1
    then
        echo "ok $what: $(sed -n 's/^ *\([0-9]* generated\).*/\1/p' "$reports/$pass.txt")"
    else
        sed -n '/= FAILURES =/,$p; /= ERRORS =/,$p' "$reports/$pass.txt" >&2
        echo "schemathesis: $what: not as the document says" >&2
        failed=1
    fi
    status=$(curl --silent --output /dev/null --write-out '%{http_code}' --max-time 20 \
        --header "@$folder/$pass.headers" "$url/v1/billing/balance")
    # The operator has no wallet to look at, and is known all the same.
    case $status in
        200 | 403) ;;
        *) fail "the credential of $what was ended on the way: $status" ;;
    esac
}

try_as user "a user" --exclude-tag operator
try_as known "a user, with the ids of what is there" --exclude-tag operator \
    --exclude-method DELETE --exclude-path '/v1/developer/apps/{app_id}/suspend'
# What is there is taken away only now.
cp "$folder/known.toml" "$folder/ends.toml"
cp "$folder/known.headers" "$folder/ends.headers"
try_as ends "the same, ending what is there" --exclude-tag operator --include-method DELETE
try_as service "a service that acts for a user" --exclude-tag operator
try_as operator "the operator" --include-tag operator
! grep -q -i panicked "$folder/errors.log" || fail "something has panicked"
echo "ok nothing has panicked"
exit "$failed"
