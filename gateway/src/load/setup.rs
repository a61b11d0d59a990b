//! Prepares what a scenario needs on the server, through its public API: users, filled wallets.
//!
//! Every run uses names of its own, so runs do not meet. Nothing is removed afterwards: what a
//! server has recorded stays. Deliberate limit: set-up requests are not retried; the first refusal
//! ends the scenario with the server's own words.

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use aws_lc_rs::rand;
use data_encoding::HEXLOWER;
use futures::future::try_join_all;
use hyper::Method;
use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, HeaderName, HeaderValue};
use identity::password::{Hasher, Password, PasswordHash, PasswordPolicy};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::client::{Connection, Failure, Prepared, Target};
use super::{LoadArgs, LoadError, progress};

/// How long one set-up request may take, in seconds.
const REQUEST_SECONDS_MAX: u64 = 60;

/// Users that are registered at the same time.
const LANES: usize = 16;

/// Users that are brought in by one request.
const IMPORTED_AT_ONCE: usize = 250;

/// Registrations a second and core that are promised at least and at most: each hashes a password.
const REGISTRATIONS_PER_SECOND: (usize, usize) = (20, 50);

/// An operator's token is renewed when it is this old, in seconds; it lives longer.
const OPERATOR_TOKEN_SECONDS: u64 = 300;

/// The tokens read from a file; each costs about 2 KB of memory.
const TOKENS_MAX: usize = 200_000;

const SERVICE_TOKEN: HeaderName = HeaderName::from_static("x-service-token");
const TENANT_ID: HeaderName = HeaderName::from_static("x-tenant-id");

/// A password or token; its debug form shows nothing of it.
#[derive(Clone)]
pub(crate) struct Secret(String);

impl From<String> for Secret {
    fn from(value: String) -> Self {
        Self(value)
    }
}

impl From<&str> for Secret {
    fn from(value: &str) -> Self {
        Self(value.to_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret")
    }
}

impl Secret {
    fn random() -> Result<Self, LoadError> {
        let mut bytes = [0; 16];
        rand::fill(&mut bytes).map_err(|_| LoadError::Random)?;
        Ok(Self(HEXLOWER.encode(&bytes)))
    }

    /// A header value that holds `prefix` and this; marked, so that no log shows it.
    fn header(&self, prefix: &str, what: &'static str) -> Result<HeaderValue, LoadError> {
        let mut value = HeaderValue::from_str(&format!("{prefix}{}", self.0))
            .map_err(|_| LoadError::Header { what })?;
        value.set_sensitive(true);
        Ok(value)
    }

    fn bearer(&self) -> Result<(HeaderName, HeaderValue), LoadError> {
        Ok((AUTHORIZATION, self.header("Bearer ", "a user token")?))
    }
}

/// A user whom this run registered, in a tenant of its own.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) user_id: String,
    pub(crate) tenant_id: String,
    pub(crate) token: Secret,
}

/// What preparing a scenario may use.
#[derive(Debug)]
pub(crate) struct Setup {
    args: LoadArgs,
    target: Target,
    /// How long a user token must live.
    span: Duration,
    /// In every name of this run.
    run: String,
    named: AtomicUsize,
    password: Secret,
    operator: Mutex<Option<(Instant, Secret)>>,
}

impl Setup {
    /// Nothing is sent yet.
    pub(crate) fn new(args: LoadArgs, target: Target, span: Duration) -> Result<Self, LoadError> {
        let mut run = [0; 8];
        rand::fill(&mut run).map_err(|_| LoadError::Random)?;
        Ok(Self {
            args,
            target,
            span,
            run: HEXLOWER.encode(&run),
            named: AtomicUsize::new(0),
            password: Secret::random()?,
            operator: Mutex::new(None),
        })
    }

    /// A name that no other run uses, nor this one again: lower case, at most 18 characters and a
    /// number longer than `prefix`.
    pub(crate) fn unique(&self, prefix: &str) -> String {
        let number = self.named.fetch_add(1, Ordering::Relaxed);
        format!("{prefix}-{}-{number}", self.run)
    }

    /// The user token given on the command line.
    pub(crate) fn token(&self) -> Option<&Secret> {
        self.args.token.as_ref()
    }

    /// The calls of one batch.
    pub(crate) fn batch_size(&self) -> usize {
        usize::from(self.args.batch_size)
    }

    /// How many apps are put into the marketplace.
    pub(crate) fn apps(&self) -> usize {
        self.args.apps as usize
    }

    /// How many tasks run at once.
    pub(crate) fn tasks(&self) -> usize {
        usize::from(self.args.tasks)
    }

    /// How many readers there are, and how many tenants they are spread over.
    pub(crate) fn readers(&self) -> (usize, usize) {
        let readers = self.args.readers as usize;
        (readers, readers.min(self.args.tenants as usize))
    }

    /// Registers users, each in a tenant of its own, some at a time.
    pub(crate) async fn register_members(&self, count: usize) -> Result<Vec<Member>, LoadError> {
        let taken = AtomicUsize::new(0);
        let lanes = (0..LANES.min(count)).map(|_| async {
            let (mut lane, mut members) = (self.lane(), Vec::new());
            while taken.fetch_add(1, Ordering::Relaxed) < count {
                members.push(lane.register().await?.0);
            }
            Ok::<_, LoadError>(members)
        });
        Ok(try_join_all(lanes).await?.into_iter().flatten().collect())
    }

    /// The tokens of the token file, one a line.
    pub(crate) async fn read_tokens(&self) -> Result<Vec<Secret>, LoadError> {
        let options = "--token-file";
        let path = self.args.token_file.as_ref().ok_or(LoadError::Missing { options })?;
        let failed = |source| LoadError::File { path: PathBuf::clone(path), source };
        let text = tokio::fs::read_to_string(path).await.map_err(failed)?;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let tokens: Vec<_> = lines.take(TOKENS_MAX).map(Secret::from).collect();
        if tokens.is_empty() {
            let empty = std::io::Error::new(std::io::ErrorKind::InvalidData, "it holds no token");
            return Err(failed(empty));
        }
        Ok(tokens)
    }

    /// Registers a user whose token outlives the run.
    pub(crate) async fn register_member(&self) -> Result<Member, LoadError> {
        let (member, life) = self.lane().register().await?;
        if life < self.span {
            return Err(LoadError::TokenLife { life, needed: self.span });
        }
        Ok(member)
    }

    /// Registers a tenant and fills its wallet; answers the tenant's id.
    pub(crate) async fn register_wallet(&self, credits: u64) -> Result<String, LoadError> {
        let mut lane = self.lane();
        let (member, _) = lane.register().await?;
        lane.grant(&member.tenant_id, credits).await?;
        Ok(member.tenant_id)
    }

    /// Registers as many tenants as were asked for and fills their wallets, some at a time.
    pub(crate) async fn register_wallets(&self, credits: u64) -> Result<Vec<String>, LoadError> {
        self.service()?;
        self.login()?;
        let count = self.args.wallets as usize;
        let (slow, fast) = REGISTRATIONS_PER_SECOND;
        progress::say(&format!(
            "registering {count} wallets: {} to {} s a core, as each hashes a password",
            count.div_ceil(fast),
            count.div_ceil(slow),
        ));
        let begin = Instant::now();
        let (taken, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let lanes = (0..LANES.min(count)).map(|_| async {
            let mut lane = self.lane();
            let mut tenants = Vec::new();
            while taken.fetch_add(1, Ordering::Relaxed) < count {
                let (member, _) = lane.register().await?;
                lane.grant(&member.tenant_id, credits).await?;
                tenants.push(member.tenant_id);
                let done = done.fetch_add(1, Ordering::Relaxed) + 1;
                let left = begin.elapsed().as_secs() as usize * (count - done) / done;
                progress::show(&format!("registered {done} of {count}, {left} s left"));
            }
            Ok::<_, LoadError>(tenants)
        });
        let tenants = try_join_all(lanes).await?.concat();
        progress::say(&format!("registered {count} wallets in {:.1?}", begin.elapsed()));
        Ok(tenants)
    }

    /// Makes as many users as are to log in; answers their logins. With the operator's login all
    /// are brought in with the same hash; otherwise each is registered, and hashes one.
    pub(crate) async fn register_logins(&self) -> Result<Vec<Prepared>, LoadError> {
        match self.import_logins().await {
            Err(LoadError::Missing { .. }) => self.register_each_login().await,
            other => other,
        }
    }

    async fn import_logins(&self) -> Result<Vec<Prepared>, LoadError> {
        let (mut lane, mut logins) = (self.lane(), Vec::new());
        let operator = lane.operator().await?;
        let hash = self.hash().await?;
        let count = usize::from(self.args.logins);
        while logins.len() < count {
            let accounts: Vec<_> = (logins.len()..count).take(IMPORTED_AT_ONCE).collect();
            let accounts: Vec<_> = accounts.iter().map(|_| self.account()).collect();
            let user = |it: &Value| json!({ "email": it["email"], "password_hash": hash.as_str() });
            let users = json!({ "users": accounts.iter().map(user).collect::<Vec<_>>() });
            let path = "/v1/operator/users/import";
            let answer = lane.post(path, &[operator.bearer()?], &users).await?;
            if answer["failed"] != 0 {
                return Err(LoadError::Answer { path: path.to_owned(), field: "failed: 0" });
            }
            for account in accounts {
                let body = Some(Bytes::from(account.to_string()));
                logins.push(self.target.prepare(Method::POST, "/v1/auth/login", &[], body)?);
            }
            progress::show(&format!("imported {} of {count}", logins.len()));
        }
        Ok(logins)
    }

    /// The hash of the password that all users of this run have, as a server of this kind makes it.
    async fn hash(&self) -> Result<PasswordHash, LoadError> {
        let hasher =
            Hasher::start_with(PasswordPolicy::default(), 1, 1).map_err(LoadError::Hash)?;
        let password = Password::for_login(self.password.0.clone());
        let password = password.map_err(|_| LoadError::Random)?;
        hasher.hash(password).await.map_err(LoadError::Hash)
    }

    async fn register_each_login(&self) -> Result<Vec<Prepared>, LoadError> {
        let count = usize::from(self.args.logins);
        let taken = AtomicUsize::new(0);
        let lanes = (0..LANES.min(count)).map(|_| async {
            let (mut lane, mut logins) = (self.lane(), Vec::new());
            while taken.fetch_add(1, Ordering::Relaxed) < count {
                let account = self.account();
                lane.post("/v1/auth/register", &[self.service()?], &account).await?;
                let body = Some(Bytes::from(account.to_string()));
                logins.push(self.target.prepare(Method::POST, "/v1/auth/login", &[], body)?);
                progress::show(&format!("registered {} of {count}", taken.load(Ordering::Relaxed)));
            }
            Ok::<_, LoadError>(logins)
        });
        Ok(try_join_all(lanes).await?.concat())
    }

    /// A new user's address and password.
    fn account(&self) -> Value {
        json!({
            "email": format!("{}@example.com", self.unique("load")),
            "password": self.password.0,
        })
    }

    /// Fills a wallet if the operator's login is known: calls may cost nothing.
    pub(crate) async fn grant_if_possible(
        &self,
        tenant: &str,
        credits: u64,
    ) -> Result<(), LoadError> {
        match self.lane().grant(tenant, credits).await {
            Err(LoadError::Missing { .. }) => Ok(()),
            other => other,
        }
    }

    /// Posts as `member` and answers the JSON of a 2xx answer.
    pub(crate) async fn post(
        &self,
        member: &Member,
        path: &str,
        body: &Value,
    ) -> Result<Value, LoadError> {
        self.lane().post(path, &[member.token.bearer()?], body).await
    }

    /// Asks as `member` and answers the JSON of a 2xx answer.
    pub(crate) async fn ask(
        &self,
        method: Method,
        member: &Member,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, LoadError> {
        let body = body.map(|body| Bytes::from(body.to_string()));
        let request = self.member_request(method, path, &member.token, body)?;
        self.lane().send(path, request).await
    }

    /// Posts with the service token, for nobody, and answers the JSON of a 2xx answer.
    pub(crate) async fn post_as_service(
        &self,
        path: &str,
        body: &Value,
    ) -> Result<Value, LoadError> {
        self.lane().post(path, &[self.service()?], body).await
    }

    /// Who am I?
    pub(crate) fn me_request(&self, token: &Secret) -> Result<Prepared, LoadError> {
        self.member_request(Method::GET, "/v1/auth/me", token, None)
    }

    /// A request with a user's token.
    pub(crate) fn member_request(
        &self,
        method: Method,
        path: &str,
        token: &Secret,
        body: Option<Bytes>,
    ) -> Result<Prepared, LoadError> {
        self.target.prepare(method, path, &[token.bearer()?], body)
    }

    /// A request without a credential.
    pub(crate) fn public_request(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Prepared, LoadError> {
        self.target.prepare(method, path, &[], Some(body))
    }

    /// A POST with the service token, for `tenant`.
    pub(crate) fn service_request(
        &self,
        path: &str,
        tenant: &str,
        body: &Value,
    ) -> Result<Prepared, LoadError> {
        let id = HeaderValue::from_str(tenant)
            .map_err(|_| LoadError::Header { what: "a tenant's id" })?;
        let headers = [self.service()?, (TENANT_ID, id)];
        self.target.prepare(Method::POST, path, &headers, Some(Bytes::from(body.to_string())))
    }

    fn service(&self) -> Result<(HeaderName, HeaderValue), LoadError> {
        let missing = LoadError::Missing { options: "--service-token" };
        let token = self.args.service_token.as_ref().ok_or(missing)?;
        Ok((SERVICE_TOKEN, token.header("", "the service token")?))
    }

    /// The operator's login, as the body of a request.
    fn login(&self) -> Result<Value, LoadError> {
        let (Some(email), Some(password)) =
            (&self.args.operator_email, &self.args.operator_password)
        else {
            let options = "--operator-email and --operator-password";
            return Err(LoadError::Missing { options });
        };
        Ok(json!({ "email": email, "password": password.0 }))
    }

    fn lane(&self) -> Lane<'_> {
        Lane { setup: self, connection: None }
    }
}

/// One connection of the set-up, one request at a time.
struct Lane<'a> {
    setup: &'a Setup,
    connection: Option<Connection>,
}

impl Lane<'_> {
    /// Registers a user in a tenant of its own; answers how long its token lives, too.
    async fn register(&mut self) -> Result<(Member, Duration), LoadError> {
        let setup = self.setup;
        let path = "/v1/auth/register";
        let account = setup.account();
        let session = self.post(path, &[setup.service()?], &account).await?;
        let token = Secret(text(&session, path, "access_token")?);
        let life = session["expires_in"].as_u64().map_or(Duration::MAX, Duration::from_secs);

        let path = "/v1/auth/me";
        let user = self.send(path, setup.me_request(&token)?).await?;
        let user_id = text(&user, path, "imperal_id")?;
        let tenant_id = text(&user, path, "tenant_id")?;
        Ok((Member { user_id, tenant_id, token }, life))
    }

    /// Fills a tenant's wallet, as the operator.
    async fn grant(&mut self, tenant: &str, credits: u64) -> Result<(), LoadError> {
        let operator = self.operator().await?;
        let path = format!("/v1/operator/tenants/{tenant}/grants");
        let grant = json!({ "credits": credits, "kind": "paid", "reason": "load" });
        self.post(&path, &[operator.bearer()?], &grant).await.map(drop)
    }

    /// The operator's token; one login serves all lanes, as logins are limited.
    async fn operator(&mut self) -> Result<Secret, LoadError> {
        let setup = self.setup;
        let login = setup.login()?;
        let mut known = setup.operator.lock().await;
        if let Some((since, token)) = &*known
            && since.elapsed() < Duration::from_secs(OPERATOR_TOKEN_SECONDS)
        {
            return Ok(token.clone());
        }
        let path = "/v1/auth/login";
        let session = self.post(path, &[], &login).await?;
        let token = Secret(text(&session, path, "access_token")?);
        *known = Some((Instant::now(), token.clone()));
        Ok(token)
    }

    async fn post(
        &mut self,
        path: &str,
        headers: &[(HeaderName, HeaderValue)],
        body: &Value,
    ) -> Result<Value, LoadError> {
        let body = Some(Bytes::from(body.to_string()));
        let request = self.setup.target.prepare(Method::POST, path, headers, body)?;
        self.send(path, request).await
    }

    /// Sends a request and answers the JSON of a 2xx answer (null if its body is not JSON).
    async fn send(&mut self, path: &str, request: Prepared) -> Result<Value, LoadError> {
        let limit = Duration::from_secs(REQUEST_SECONDS_MAX);
        let wire = |reason: String| LoadError::Wire { path: path.to_owned(), reason };
        let answer = loop {
            let fresh = self.connection.is_none();
            let mut connection = match self.connection.take() {
                Some(connection) => connection,
                None => Connection::open(&self.setup.target)
                    .await
                    .map_err(|error| wire(error.to_string()))?,
            };
            let exchange = connection.exchange(request.clone(), true);
            match tokio::time::timeout(limit, exchange).await {
                Ok(Ok(answer)) => {
                    self.connection = Some(connection);
                    break answer;
                }
                // The server closed a connection that was idle: once more, on a new one.
                Ok(Err(Failure::Unsent)) if !fresh => {}
                Ok(Err(Failure::Unsent)) => return Err(wire("connection closed".to_owned())),
                Ok(Err(Failure::Broken(error))) => return Err(wire(error.to_string())),
                Err(_) => return Err(wire(format!("no answer within {limit:?}"))),
            }
        };
        if answer.status.is_success() {
            return Ok(serde_json::from_slice(&answer.body).unwrap_or(Value::Null));
        }
        Err(LoadError::Refused {
            path: path.to_owned(),
            status: answer.status.as_u16(),
            problem: String::from_utf8_lossy(&answer.body).into_owned(),
        })
    }
}

fn text(answer: &Value, path: &str, field: &'static str) -> Result<String, LoadError> {
    let missing = || LoadError::Answer { path: path.to_owned(), field };
    answer[field].as_str().map(ToOwned::to_owned).ok_or_else(missing)
}
