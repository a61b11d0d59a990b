//! The cross-tenant matrix: every declared operation that takes an id is asked, with one tenant's
//! credential, for another tenant's things; the answer must be the one for a random id of the same
//! shape, byte for byte but for what names the request itself.
//!
//! The operations come from the document, so that a new route is in at once; what its parameters
//! stand for is told in [`Matrix`]. A path or query parameter that is in no list fails the test,
//! and so does a field of a body whose name ends as an id's does.
//!
//! Limits: a body has what the schema requires and one id at a time; what is refused for another
//! reason before the id is looked at is compared all the same, and tells nothing.

use std::collections::BTreeMap;

use journeys::{Answer, PASSWORD, text};
use serde_json::Map;

use super::*;

/// Parameters that name no thing of anybody's.
const NO_IDS: &[&str] = &[
    "Idempotency-Key",
    "action",
    "action_type",
    "actor",
    "at",
    "before",
    "cascade",
    "category",
    "code",
    "collection",
    "cursor",
    "days",
    "error",
    "format",
    "from",
    "function",
    "include_inactive",
    "is_active",
    "kind",
    "limit",
    "number",
    "offset",
    "owner",
    "page",
    "path",
    "per_page",
    "permanent",
    "prefix",
    "provider",
    "resource",
    "role",
    "scope",
    "search",
    "section",
    "since",
    "sort",
    "source",
    "state",
    "status",
    "target_type",
    "timezone",
    "to",
    "until",
    "window",
];
/// Whoever holds these may use them: they are secrets, not ids.
const SECRETS: &[&str] = &["token", "refresh_token"];
/// Names that are unique over the installation, so that taking one tells whether it is taken.
const CLAIMED: &[(&str, &str)] = &[
    ("POST /v1/developer/apps", "app_id"),
    ("POST /v1/apps", "app_id"),
    ("POST /extensions", "id"),
    ("POST /v1/agencies", "agency_id"),
    // Services alone say it, of any agency: it is none of a tenant's things.
    ("POST /v1/users", "agency_id"),
    ("PATCH /v1/users/{user_id}", "agency_id"),
];
/// Headers that name the request.
const OF_THE_REQUEST: &[&str] = &["date", "x-request-id", "retry-after"];
/// Fewer requests than this answered 404 would mean that the matrix has lost its teeth.
const NOT_FOUND_MIN: usize = 70;

/// What a parameter stands for.
struct Id {
    /// Only under paths that begin so.
    under: &'static str,
    name: &'static str,
    /// The asker's own.
    own: String,
    /// The other tenant's.
    theirs: String,
}

/// An id of the same shape that is nobody's.
fn random(id: &str) -> String {
    if id.bytes().all(|byte| byte.is_ascii_digit()) {
        // As long, so that what repeats it is as long; no tenant here has so many of anything.
        return "9".repeat(id.len());
    }
    let (start, end) = id.split_at(id.len() - 4);
    let other = if id.contains('_') { ["2222", "3333"] } else { ["zzzz", "yyyy"] };
    format!("{start}{}", if end == other[0] { other[1] } else { other[0] })
}

/// Everything that one tenant has.
struct Things {
    user: User,
    hold: String,
    trace: String,
    app: String,
    role: String,
    invitation: String,
    key: String,
    session: String,
    factor: String,
    document: String,
    /// What a spending limit is on: the user.
    subject: String,
    install_key: [String; 2],
    confirmation: String,
    task: String,
    scope: String,
    agency: String,
    card: String,
    intent: String,
    rule: String,
    execution: String,
    agent: String,
}

/// A card at the sandbox payment provider, of another sort for each, and an intent.
async fn paying(api: &Api, user: &User, name: &str) -> (String, String) {
    let card = if name == "bob" { "pm_sandbox_action" } else { "pm_sandbox_visa" };
    let setup = api.post("/v1/billing/payment-methods/setup", &json!({})).as_user(user);
    let secret = text(&setup.send().await.ok(200)["client_secret"]);
    let page = api.request(Method::POST, &format!("/sandbox/checkout/{secret}"));
    let page = page.body("application/x-www-form-urlencoded", format!("method={card}"));
    assert_eq!(page.send().await.status, 200);
    let order = json!({"tokens": 5_000, "price_cents": 500});
    let begun = api.post("/v1/billing/topup", &order).as_user(user).send().await.ok(200);
    (card.to_owned(), text(&begun["payment_intent_id"]))
}

/// An agency that the user belongs to.
async fn agency_of(api: &Api, user: &User, name: &str) -> String {
    let agency = format!("agency-of-{name}");
    let body = json!({"agency_id": agency, "display_name": name});
    api.post("/v1/agencies", &body).service().send().await.ok(201);
    let belongs = json!({"agency_id": agency}).to_string();
    let belongs = api.request(Method::PATCH, &format!("/v1/users/{}", user.id)).json(belongs);
    belongs.service().header("x-tenant-id", &user.id).send().await.ok(200);
    agency
}

async fn things(server: &Server, name: &str) -> Things {
    let api = &server.api;
    let user = api.user(name).await;
    let app = format!("{name}-shelf");
    api.shelf(&user, &app).await;
    let hold = json!({"amount": 5, "ttl_seconds": 600, "reason": "mine"});
    let hold = api.post("/v1/billing/holds", &hold).as_user(&user).send().await;
    let trace = hold.headers["x-request-id"].to_str().unwrap().to_owned();
    let role = json!({"name": "clerk", "default_scopes": ["wallet:read"]});
    let role = api.post("/v1/roles", &role).as_user(&user).send().await.ok(201);
    let invite = json!({"email": format!("guest-of-{name}@example.com")});
    let path = format!("/v1/tenants/{}/invitations", user.id);
    let invitation = api.post(&path, &invite).as_user(&user).send().await.ok(201);
    let key = json!({"name": "mine", "scopes": "wallet:read"});
    let key = api.post("/v1/keys", &key).as_user(&user).send().await.ok(201);
    let sessions = api.get("/v1/auth/sessions").as_user(&user).send().await.ok(200);
    let factor = api.post("/v1/auth/me/factors/totp", &json!({})).as_user(&user).send().await;
    let factor = factor.ok(201)["factor_id"].as_str().unwrap().to_owned();
    let call = json!({"function": "add_book", "params": {"title": "Emma", "pages": 474}});
    let path = format!("/v1/extensions/{app}/call");
    let added = api.post(&path, &call).as_user(&user).send().await.ok(200);
    let document = added["data"]["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/extensions/{app}/install-keys");
    let install_key = api.post(&path, &json!({})).as_user(&user).send().await.ok(201);
    let install_key = [text(&install_key["id"]), text(&install_key["key"])];
    let press = format!("{name}-press");
    api.deploy(&user, &press, &journeys::background_document(&press)).await;
    let stock = json!({"function": "stock", "params": {"title": "mine"}});
    let call = format!("/v1/extensions/{press}/call");
    let begun = api.post(&call, &stock).as_user(&user).send().await.ok(200);
    let task = text(&begun["data"]["task_id"]);
    let scope = json!({"resource": format!("reports-of-{name}"), "action": "export"});
    let scope = api.post("/v1/scopes", &scope).as_user(&user).send().await.ok(201);
    let agency = agency_of(api, &user, name).await;
    let (card, intent) = paying(api, &user, name).await;
    let id = |value: &Value| value["id"].as_str().unwrap().to_owned();
    let scope = id(&scope);
    let (hold, role, invitation) = (id(&hold.ok(201)), id(&role), id(&invitation));
    let (key, session) = (id(&key), id(&sessions["sessions"][0]));
    let subject = format!("user:{}", user.id);
    let agent = json!({"name": "mine", "owner": "me", "scopes": ["wallet:read"]});
    let agent = api.post("/v1/agents", &agent).as_user(&user).send().await.ok(201);
    let agent = text(&agent["id"]);
    let confirmation = waiting(api, &user, &app).await;
    let [rule, execution] = automation_of(api, &user).await;
    Things {
        user,
        hold,
        trace,
        app,
        role,
        invitation,
        key,
        session,
        factor,
        document,
        subject,
        install_key,
        confirmation,
        task,
        scope,
        agency,
        card,
        intent,
        rule,
        execution,
        agent,
    }
}

/// A rule, and a time that it was set off.
async fn automation_of(api: &Api, user: &User) -> [String; 2] {
    let rule = json!({"prompt": "Say hello"});
    let rule = api.post("/v1/automations", &rule).as_user(user).send().await.ok(200);
    let run = format!("/v1/automations/{}/run", rule["id"]);
    let run = api.post(&run, &json!({})).as_user(user).send().await.ok(202);
    [rule["id"].to_string(), text(&run["execution_id"])]
}

/// A call that waits for its user.
async fn waiting(api: &Api, user: &User, app: &str) -> String {
    let set = async |is_on: bool| {
        let body = json!({"confirmation_enabled": is_on}).to_string();
        let patch = api.request(Method::PATCH, "/v1/me/settings").json(body).as_user(user);
        patch.send().await.ok(200);
    };
    set(true).await;
    let call = json!({"function": "add_book", "params": {"title": "Emma"}});
    let path = format!("/v1/extensions/{app}/call");
    let held = api.post(&path, &call).as_user(user).send().await.ok(200);
    set(false).await;
    text(&held["data"]["confirmation_id"])
}

struct Matrix {
    server: Server,
    asker: User,
    ids: Vec<Id>,
}

impl Matrix {
    async fn start() -> Self {
        let server = Server::start().await;
        let (own, theirs) = (things(&server, "ada").await, things(&server, "bob").await);
        let mut ids = Vec::new();
        let mut id = |under, name, pick: fn(&Things) -> &String| {
            let (own, theirs) = (pick(&own).clone(), pick(&theirs).clone());
            ids.push(Id { under, name, own, theirs });
        };
        id("", "tenant_id", |it| &it.user.id);
        id("", "parent_tenant_id", |it| &it.user.id);
        id("", "user_id", |it| &it.user.id);
        id("", "app_id", |it| &it.app);
        id("", "ext_id", |it| &it.app);
        id("", "extension_id", |it| &it.app);
        id("", "doc_id", |it| &it.document);
        id("/v1/secrets/", "name", |it| &it.app);
        id("", "trace_id", |it| &it.trace);
        id("", "role_id", |it| &it.role);
        id("", "invitation_id", |it| &it.invitation);
        id("", "key_id", |it| &it.key);
        id("", "install_key", |it| &it.install_key[1]);
        id("/v1/extensions/", "key_id", |it| &it.install_key[0]);
        id("", "confirmation_id", |it| &it.confirmation);
        id("", "scope_id", |it| &it.scope);
        id("", "agency_id", |it| &it.agency);
        id("", "pm_id", |it| &it.card);
        id("", "payment_method_id", |it| &it.card);
        id("", "payment_intent_id", |it| &it.intent);
        id("", "uid", |it| &it.user.id);
        id("", "rule_id", |it| &it.rule);
        id("", "execution_id", |it| &it.execution);
        id("", "parent_execution_id", |it| &it.execution);
        id("", "agent_id", |it| &it.agent);
        id("/v1/operator/agents/", "id", |it| &it.agent);
        id("/v1/api-keys/", "id", |it| &it.key);
        id("/v1/auth/me/factors/", "id", |it| &it.factor);
        id("/v1/auth/sessions/", "id", |it| &it.session);
        id("/v1/tenants/", "after", |it| &it.invitation);
        id("/v1/billing/holds/", "id", |it| &it.hold);
        id("/v1/internal/events/", "id", |it| &it.hold);
        id("", "task_id", |it| &it.task);
        // What reports name is kept as it is said, but for the user and the app.
        id("", "actor_id", |it| &it.user.id);
        id("", "target_id", |it| &it.hold);
        id("", "chain_id", |it| &it.trace);
        id("", "parent_task_id", |it| &it.task);
        id("", "worker_id", |it| &it.hold);
        id("/v1/internal/config/", "scope_id", |it| &it.user.id);
        id("/v1/operator/flights/", "id", |it| &it.task);
        id("/v1/operator/tenants/", "id", |it| &it.user.id);
        id("/v1/operator/actors/", "id", |it| &it.user.id);
        id("/v1/operator/users/", "id", |it| &it.user.id);
        id("/v1/operator/apps/", "id", |it| &it.app);
        id("/v1/operator/frozen/", "id", |it| &it.user.id);
        id("", "subject", |it| &it.subject);
        id("/v1/audit", "actor_id", |it| &it.user.id);
        id("/v1/audit", "target_id", |it| &it.user.id);
        id("/v1/apps", "owner_id", |it| &it.user.id);
        id("", "extension_id", |it| &it.app);
        id("", "developer_id", |it| &it.user.id);
        // Reviews are for everybody to read, and payouts for who keeps the marketplace to decide.
        id("", "review_id", |it| &it.user.id);
        id("", "payout_id", |it| &it.user.id);
        // Plans are the same for everybody: no id of a tenant's is one.
        id("", "plan_id", |it| &it.user.id);
        Self { server, asker: own.user, ids }
    }

    fn id(&self, path: &str, name: &str) -> &Id {
        let fits = |id: &&Id| id.name == name && path.starts_with(id.under);
        let found = self.ids.iter().filter(fits).max_by_key(|id| id.under.len());
        found.unwrap_or_else(|| {
            panic!("{path} has `{name}`: say in this file whose thing it names, or that it is none")
        })
    }

    /// The request with an id for each parameter.
    fn request(&self, case: &Case, value: impl Fn(&str) -> String, as_service: bool) -> Call {
        let part = |part: &str| match part.strip_prefix('{').and_then(|it| it.strip_suffix('}')) {
            Some("kind") => "wallet".to_owned(),
            Some("collection") => "book".to_owned(),
            Some("window") => "month".to_owned(),
            Some("number") => "1".to_owned(),
            Some("scope") => "tenant".to_owned(),
            Some("section") => "inbox".to_owned(),
            Some("path" | "provider") => "probe".to_owned(),
            Some(name) => value(name),
            None => part.to_owned(),
        };
        let mut path = case.path.split('/').map(part).collect::<Vec<_>>().join("/");
        if let Some(name) = &case.query {
            path = format!("{path}?{name}={}", value(name));
        }
        let request = self.server.api.request(case.method.clone(), &path);
        let request = match &case.body {
            Some(body) => request.json(fill(body, &value).to_string()),
            None => request,
        };
        if as_service {
            let request = request.service().header("x-tenant-id", &self.asker.id);
            return request.header("x-acting-user", &self.asker.id);
        }
        request.as_user(&self.asker)
    }

    /// Compares the answer for the other tenant's thing with the one for nobody's. Says the status.
    async fn compare(&self, case: &Case, varied: &[&str], as_service: bool) -> u16 {
        let theirs = |name: &str| {
            let id = self.id(&case.path, name);
            if varied.contains(&name) { id.theirs.clone() } else { id.own.clone() }
        };
        let nobodys = |name: &str| {
            let id = self.id(&case.path, name);
            if varied.contains(&name) { random(&id.theirs) } else { id.own.clone() }
        };
        let foreign = self.request(case, theirs, as_service).send().await;
        let nothing = self.request(case, nobodys, as_service).send().await;
        let what = format!("{} {} with foreign {varied:?}", case.method, case.path);
        let ids: Vec<_> = varied.iter().map(|name| (theirs(name), nobodys(name))).collect();
        let shown = |answer: &Answer| shown(answer, &ids);
        assert_eq!(shown(&foreign), shown(&nothing), "{what}");
        foreign.status
    }
}

/// An answer without what names the request, and without the id that was asked for.
fn shown(answer: &Answer, ids: &[(String, String)]) -> (u16, BTreeMap<String, String>, String) {
    let mut body = answer.value();
    if let Some(members) = body.as_object_mut() {
        members.remove("instance");
        members.remove("trace_id");
        // When an export was made.
        members.remove("head");
    }
    let text = if body.is_null() { answer.text() } else { body.to_string() };
    let text = ids.iter().fold(text, |text, (theirs, nobodys)| {
        text.replace(theirs, "THE ID").replace(nobodys, "THE ID")
    });
    let headers = answer.headers.iter();
    let headers = headers.filter(|(name, _)| !OF_THE_REQUEST.contains(&name.as_str()));
    let headers = headers
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap_or_default().to_owned()));
    (answer.status, headers.collect(), text)
}

/// A request that takes an id.
struct Case {
    method: Method,
    path: String,
    query: Option<String>,
    body: Option<Value>,
    /// The ids that may be another's.
    names: Vec<String>,
    /// The one among them that stands in the body.
    in_body: Option<String>,
}

/// Where an id goes in a body.
const PLACE: &str = "the id of ";

fn fill(body: &Value, value: &impl Fn(&str) -> String) -> Value {
    match body {
        Value::String(text) => match text.strip_prefix(PLACE) {
            // An id that is a number is one in a body.
            Some(name) => value(name).parse().map_or_else(|_| value(name).into(), u64::into),
            None => body.clone(),
        },
        Value::Array(items) => items.iter().map(|item| fill(item, value)).collect(),
        Value::Object(members) => {
            let member = |(name, it): (&String, &Value)| (name.clone(), fill(it, value));
            Value::Object(members.iter().map(member).collect())
        }
        _ => body.clone(),
    }
}

fn is_id(name: &str) -> bool {
    name == "id" || name.ends_with("_id") || name.ends_with("_ids")
}

/// A value that a schema allows, with what it requires and `wanted` wherever that is a member.
fn sample(document: &Value, name: &str, schema: &Value, wanted: Option<&str>) -> Value {
    if let Some(reference) = schema["$ref"].as_str() {
        let found = document.pointer(reference.trim_start_matches('#')).unwrap();
        return sample(document, name, found, wanted);
    }
    if wanted == Some(name) {
        return format!("{PLACE}{name}").into();
    }
    for choice in ["oneOf", "anyOf", "allOf"] {
        if let Some(choices) = schema[choice].as_array() {
            let real = choices.iter().find(|it| it["type"] != "null").unwrap();
            return sample(document, name, real, wanted);
        }
    }
    if let Some(first) = schema["enum"].as_array().and_then(|all| all.first()) {
        return first.clone();
    }
    let kind = schema["type"].as_array().map_or(&schema["type"], |kinds| &kinds[0]);
    match kind.as_str().unwrap_or("object") {
        // Enough that no wallet here covers it, so that nothing changes between two answers.
        "integer" | "number" => schema.get("minimum").cloned().unwrap_or(json!(1_000_000)),
        "boolean" => json!(false),
        "array" => json!([sample(document, name, &schema["items"], wanted)]),
        "string" if name == "email" => json!("ada@example.com"),
        "string" if name == "password" => json!(PASSWORD),
        "string" if is_id(name) => format!("{PLACE}{name}").into(),
        "string" => json!("user"),
        _ => {
            let required = schema["required"].as_array();
            let is_required =
                |it: &str| required.is_some_and(|all| all.iter().any(|name| name == it));
            let mut members = Map::new();
            for (member, of) in schema["properties"].as_object().into_iter().flatten() {
                let holds = wanted.is_some_and(|it| names(document, of, member).contains(it));
                if is_required(member) || holds {
                    members.insert(member.clone(), sample(document, member, of, wanted));
                }
            }
            Value::Object(members)
        }
    }
}

/// The names of all members within a schema, its own too.
fn names(document: &Value, schema: &Value, name: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::from([name.to_owned()]);
    if let Some(reference) = schema["$ref"].as_str() {
        let of = document.pointer(reference.trim_start_matches('#')).unwrap();
        found.extend(names(document, of, name));
    }
    for (member, of) in schema["properties"].as_object().into_iter().flatten() {
        found.extend(names(document, of, member));
    }
    if schema["items"].is_object() {
        found.extend(names(document, &schema["items"], name));
    }
    for choice in ["oneOf", "anyOf", "allOf"] {
        for of in schema[choice].as_array().into_iter().flatten() {
            found.extend(names(document, of, name));
        }
    }
    found
}

/// The cases of one operation: its path's ids, and each id of its query and body.
fn cases(document: &Value, path: &str, method: &str, operation: &Value) -> Vec<Case> {
    let place = |place: &str| -> Vec<String> {
        let all = operation["parameters"].as_array().into_iter().flatten();
        let named = all.filter(|it| it["in"] == place).map(|it| text(&it["name"]));
        let is_id = |name: &str| !NO_IDS.contains(&name) && !SECRETS.contains(&name);
        named.filter(|name| is_id(name)).collect()
    };
    let method: Method = method.to_uppercase().parse().unwrap();
    let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
    let takes_json = !schema.is_null();
    let of_path = place("path");
    let case = |query: Option<String>, wanted: Option<&str>, more: &[String]| Case {
        method: method.clone(),
        path: path.to_owned(),
        query,
        body: takes_json.then(|| sample(document, "", schema, wanted)),
        names: of_path.iter().chain(more).cloned().collect(),
        in_body: wanted.map(str::to_owned),
    };
    let mut cases = Vec::new();
    if !of_path.is_empty() {
        cases.push(case(None, None, &[]));
    }
    let of_query = place("query").into_iter();
    cases.extend(of_query.map(|it| case(Some(it.clone()), None, std::slice::from_ref(&it))));
    let in_body = if takes_json { names(document, schema, "") } else { BTreeSet::new() };
    let operation = format!("{method} {path}");
    for name in in_body.iter().filter(|name| is_id(name) || SECRETS.contains(&name.as_str())) {
        let is_claimed = CLAIMED.contains(&(operation.as_str(), name.as_str()));
        if !is_claimed && !SECRETS.contains(&name.as_str()) {
            cases.push(case(None, Some(name), std::slice::from_ref(name)));
        }
    }
    cases
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_another_tenants_is_answered_as_what_is_nobodys() {
    let matrix = Matrix::start().await;
    let document = document();
    let (mut compared, mut not_found) = (0, 0);
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            for case in cases(&document, path, method, operation) {
                let each = case.names.iter().map(|name| vec![name.as_str()]);
                let all: Vec<&str> = case.names.iter().map(String::as_str).collect();
                let several = (all.len() > 1).then_some(all.clone());
                for varied in each.chain(several) {
                    let acts_for = ["tenant_id", "user_id"];
                    let is_acting = case.in_body.iter().any(|it| acts_for.contains(&it.as_str()))
                        || path.starts_with("/v1/admin/");
                    // A service may act for anybody: it is asked about no other user or tenant.
                    for as_service in [false, true].into_iter().take(2 - usize::from(is_acting)) {
                        let status = matrix.compare(&case, &varied, as_service).await;
                        compared += 1;
                        not_found += usize::from(status == 404);
                    }
                }
            }
        }
    }
    assert!(not_found >= NOT_FOUND_MIN, "{not_found} of {compared} answers were 404");
    // And nothing of the other tenant's was changed on the way.
    let hold = matrix.id("/v1/billing/holds/", "id").theirs.clone();
    let login = json!({"email": "bob@example.com", "password": PASSWORD});
    let tokens = matrix.server.api.post("/v1/auth/login", &login).send().await.ok(200);
    let token = text(&tokens["access_token"]);
    let holds = matrix.server.api.get("/v1/billing/holds").bearer(&token).send().await.ok(200);
    assert_eq!(holds[0]["id"], hold);
    let roles = matrix.server.api.get("/v1/roles").bearer(&token).send().await.ok(200);
    assert!(roles.to_string().contains(&matrix.id("", "role_id").theirs));
    matrix.server.stop().await;
}
