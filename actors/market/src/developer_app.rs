//! The app `developer`, which is built in: versions are deployed by `deploy_ir` and tried by
//! `smoke_ir`, called like any app's functions.
//!
//! `deploy_ir {app_id, ir_dict, dev_mode = false, host_url?}` checks, in this order, the form of
//! the id, whose app it is, the host's URL and the envelope; the first that fails is the answer. It
//! answers once the version is durable and the next call runs it, on that host where it has code.
//! `smoke_ir {ir_dict, function, args}` runs a function in a store of its own that is thrown away.
//!
//! Deliberate limit: neither costs anything; how many try-outs run at once is bounded.

use std::sync::Arc;
use std::time::{Duration, Instant};

use control::app::{App, Deploy, HOST_URL_BYTES_MAX, SetHost, Status};
use extensions::ir::{self, ActionType, Input, Issue};
use extensions::{Apps, BuiltIn, BuiltInCall, CallAnswer, Outside};
use futures::future::BoxFuture;
use persistence::record::sha256;
use serde_json::{Map, Value, json};
use supervision::{Class, Refusal};
use tokio::sync::Semaphore;
use types::{JsonBytes, rfc3339};

use crate::service::{Principal, owned};
use crate::storefront::Storefront;

/// The app's id.
pub const DEVELOPER_APP: &str = "developer";
/// How many envelopes are read or tried at once.
pub const READS_AT_ONCE_MAX: usize = 2;
/// How long a try-out waits for its turn before it is refused as busy.
pub const READ_WAIT_MAX: Duration = Duration::from_secs(10);
/// How long a try-out may run.
pub const SMOKE_TIME_MAX: Duration = Duration::from_secs(2);
/// Characters of an app id, as this function checks it first.
const APP_ID_CHARACTERS_MAX: usize = 64;
/// The panels that a deploy changes.
const PANELS_CHANGED: [&str; 2] = ["sidebar", "dashboard"];

/// The app `developer`.
pub struct DeveloperApp {
    apps: Arc<Apps>,
    outside: Option<Arc<Outside>>,
    reads: Arc<Semaphore>,
}

impl DeveloperApp {
    /// The app that deploys into a catalogue.
    pub fn new(apps: Arc<Apps>) -> Arc<Self> {
        Self::hosting(apps, None)
    }

    /// As [`DeveloperApp::new`], where apps may have hosts of their own.
    pub fn hosting(apps: Arc<Apps>, outside: Option<Arc<Outside>>) -> Arc<Self> {
        let reads = Arc::new(Semaphore::new(READS_AT_ONCE_MAX));
        Arc::new(Self { apps, outside, reads })
    }
}

impl BuiltIn for DeveloperApp {
    fn id(&self) -> &'static str {
        DEVELOPER_APP
    }

    fn action_type(&self, function: &str) -> Option<ActionType> {
        match function {
            "deploy_ir" => Some(ActionType::Write),
            "smoke_ir" => Some(ActionType::Read),
            _ => None,
        }
    }

    fn call<'a>(&'a self, call: BuiltInCall<'a>) -> BoxFuture<'a, Result<CallAnswer, Refusal>> {
        Box::pin(async move {
            match call.function {
                "deploy_ir" => self.deploy(call).await,
                _ => self.smoke(call).await,
            }
        })
    }
}

impl DeveloperApp {
    async fn deploy(&self, call: BuiltInCall<'_>) -> Result<CallAnswer, Refusal> {
        let app_id = call.params.get("app_id").and_then(Value::as_str).unwrap_or_default();
        if !is_app_id(app_id) {
            let message = "Invalid app_id: 1 to 64 letters, digits, _ and -";
            return Ok(CallAnswer::error("invalid_app_id", message));
        }
        let not_yours = || {
            let message = format!("App {app_id:?} was not found among your apps");
            CallAnswer::error("app_not_found", message)
        };
        let Some(user) = call.user else { return Ok(not_yours()) };
        let principal = Principal { user, tenant: call.tenant, origin: call.origin.clone() };
        let (address, app) = match owned(call.system, &principal, app_id).await {
            Ok(found) => found,
            Err(refusal) if matches!(refusal.class, Class::NotFound | Class::Forbidden) => {
                return Ok(not_yours());
            }
            Err(refusal) => return Err(refusal),
        };
        let dev_mode = match call.params.get("dev_mode") {
            None | Some(Value::Null) => false,
            Some(Value::Bool(dev_mode)) => *dev_mode,
            Some(_) => return Ok(CallAnswer::error("params_invalid", "dev_mode: true or false")),
        };
        let host = match self.host_url(call.params.get("host_url")) {
            Ok(host) => host,
            Err(why) => return Ok(CallAnswer::error("host_url_invalid", why)),
        };
        let envelope = call.params.get("ir_dict").cloned().unwrap_or(Value::Null);
        let id = app.id.clone();
        let read = self.blocking(move || read(envelope, Some(id.as_str()))).await?;
        let (ir, envelope) = match read {
            Ok(read) => read,
            Err(issues) => return Ok(invalid_ir(&issues)),
        };
        let digest = sha256(&[envelope.as_str().as_bytes()]);
        let deploy = Deploy { version: ir.version.clone(), ir: envelope, digest, dev_mode };
        let apps = call.system.directory::<App>();
        let deployed = apps.ask(&address, deploy, principal.origin.clone()).await;
        // Afterwards, so that the host names the digest of this version.
        let deployed = match (deployed, host) {
            (Ok(receipt), Some(url)) => {
                let set = SetHost { url: Some(url) };
                apps.ask(&address, set, principal.origin).await.map(|_| receipt)
            }
            (deployed, _) => deployed,
        };
        // Before the answer: the next call runs what was deployed.
        self.apps.forget(&app.id);
        Storefront::refresh(call.system, &app.id, call.origin).await?;
        match deployed {
            Ok(receipt) => Ok(deployed_answer(app_id, &receipt.version, receipt.status)),
            Err(refusal) if matches!(refusal.class, Class::Conflict | Class::Invalid) => {
                Ok(CallAnswer::error(&refusal.code, refusal.message))
            }
            Err(refusal) => Err(refusal),
        }
    }

    /// The host that a deploy names, if it may be called.
    fn host_url(&self, given: Option<&Value>) -> Result<Option<String>, String> {
        let url = match given {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::String(url)) => url,
            Some(_) => return Err("host_url: a text".to_owned()),
        };
        let nowhere = || "host_url: this server calls no hosts".to_owned();
        let outside = self.outside.as_ref().ok_or_else(nowhere)?;
        outside.hosts.check(url).map_err(|why| format!("host_url: {why}"))?;
        if url.len() > HOST_URL_BYTES_MAX {
            return Err(format!("host_url: at most {HOST_URL_BYTES_MAX} bytes"));
        }
        Ok(Some(url.clone()))
    }

    async fn smoke(&self, call: BuiltInCall<'_>) -> Result<CallAnswer, Refusal> {
        let param = |name: &str| call.params.get(name).cloned().unwrap_or(Value::Null);
        let Value::String(function) = param("function") else {
            return Ok(CallAnswer::error("params_invalid", "function: a text is required"));
        };
        let who = json!({"id": call.user, "imperal_id": call.user, "tenant_id": call.tenant});
        let tenant = json!({"id": call.tenant, "tenant_id": call.tenant});
        let input = Input {
            user: Arc::new(who),
            tenant: Arc::new(tenant),
            scopes: call.caller.scopes.as_slice().into(),
            ..Input::new(param("args"))
        };
        let (envelope, now) = (param("ir_dict"), rfc3339(call.system.clock().now()));
        let tried = self.blocking(move || {
            let (ir, _) = read(envelope, None)?;
            let started = Instant::now();
            let expired = || started.elapsed() >= SMOKE_TIME_MAX;
            let smoke = ir::smoke(&Arc::new(ir), &function, input, &now, &expired);
            Ok::<_, Vec<Issue>>(smoke)
        });
        let smoke = match tried.await? {
            Ok(smoke) => smoke,
            Err(issues) => return Ok(invalid_ir(&issues)),
        };
        let summary = if smoke.ok { "The function ran" } else { "The function failed" };
        let data = serde_json::to_value(&smoke).map_err(|_| Refusal::crashed())?;
        Ok(CallAnswer::success(data).with_summary(summary))
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let waited = tokio::time::timeout(READ_WAIT_MAX, self.reads.clone().acquire_owned());
        let Ok(Ok(permit)) = waited.await else { return Err(Refusal::busy()) };
        let done = tokio::task::spawn_blocking(move || {
            let done = work();
            drop(permit);
            done
        });
        done.await.map_err(|_| Refusal::crashed())
    }
}

/// Reads an envelope strictly; its id must be `app_id` where one is given.
fn read(envelope: Value, app_id: Option<&str>) -> Result<(ir::App, JsonBytes), Vec<Issue>> {
    let ir = ir::parse(&envelope)?;
    if let Some(app_id) = app_id.filter(|app_id| *app_id != ir.id) {
        let message = format!("must be {app_id:?}, the app_id it is deployed to");
        return Err(vec![Issue { path: "app.id".to_owned(), message }]);
    }
    Ok((ir, JsonBytes::from(envelope)))
}

fn is_app_id(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    (1..=APP_ID_CHARACTERS_MAX).contains(&text.len()) && text.bytes().all(fits)
}

fn invalid_ir(issues: &[Issue]) -> CallAnswer {
    CallAnswer::error("invalid_ir", format!("Invalid IR: {}", ir::join(issues)))
}

fn deployed_answer(app_id: &str, version: &str, status: Status) -> CallAnswer {
    let mut data = Map::new();
    let fields = [
        ("app_id", json!(app_id)),
        ("commit", json!(version)),
        ("status", json!("deployed")),
        ("validation", json!("ok")),
        ("tools_synced", json!(true)),
        ("panels_synced", json!(false)),
        ("icon_synced", json!(false)),
        ("manifest_synced", json!(true)),
        ("migrations_applied", Value::Null),
    ];
    data.extend(fields.map(|(key, value)| (key.to_owned(), value)));
    let summary = match status {
        Status::Draft => format!("Deployed {app_id} {version} as a private draft"),
        Status::PendingReview => format!("Deployed {app_id} {version}; it waits for review"),
        Status::Active => format!("Deployed {app_id} {version}; it is live"),
        Status::Suspended | Status::Deleted => {
            format!("Deployed {app_id} {version}; the app is suspended")
        }
    };
    let ui = json!({ "refresh_panels": PANELS_CHANGED });
    CallAnswer::success(Value::Object(data)).with_summary(summary).with_ui(ui)
}
