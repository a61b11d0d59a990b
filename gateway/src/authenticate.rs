//! Identity comes from the credential: who a request is from, before anything else is looked at.
//!
//! Handlers name what they accept: [`Member`] (a user's token or API key, or an agent's
//! credential), [`Service`] (the service token), [`Either`], [`Someone`], [`Operator`]. A
//! credential that is present but does not hold is 401, never "anonymous".
//!
//! A service names the tenant that it acts in, and may name a user that it acts for: both must be
//! there, be on and belong together, and the records of what it does name the user beside it.

use axum::extract::{FromRequestParts, MatchedPath};
use axum::http::request::Parts;
use identity::api_key::is_api_key;
use identity::sessions::Whence;
use persistence::record::sha256;
use subtle::ConstantTimeEq as _;
use supervision::{Refusal, RequestRef};
use types::{Caller, CallerKind, Scopes, TenantId, UserId};

use crate::agent_callers;
use crate::api_keys;
use crate::app::App;
use crate::front::Peer;
use crate::named_user::NamedUser;
use crate::places;
use crate::problem::Problem;
use crate::turnstile::Place;

/// Routes that take the service token as a bearer token, too.
const BEARER_SERVICE_ROUTES: &[&str] = &[
    "/v1/secrets/",
    "/v1/internal/notify",
    "/v1/internal/skeleton/",
    "/v1/internal/storage",
    "/v1/internal/ai/",
];

/// The service token's digest; the token itself is not kept.
pub struct ServiceToken([u8; 32]);

impl ServiceToken {
    /// Of the token.
    pub fn new(token: &str) -> Self {
        Self(sha256(&[token.as_bytes()]))
    }

    /// Whether `shown` is the token. Takes as long for every text of a length.
    pub fn is(&self, shown: &str) -> bool {
        sha256(&[shown.as_bytes()]).ct_eq(&self.0).into()
    }
}

/// Who sees `/metrics` without a credential; everybody else shows the service token, as a bearer
/// token or in `X-Service-Token`, or an operator's token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MetricsFor {
    /// Who is on this machine and does not speak for somebody else
    #[default]
    Loopback,
    /// Everybody
    Everyone,
    /// Nobody
    Nobody,
}

impl MetricsFor {
    fn is_open_to(self, parts: &Parts) -> bool {
        let peer = parts.extensions.get::<Peer>().map(|peer| peer.0.ip().to_canonical());
        // A proxy on this machine passes strangers on, and says so (RFC 7239).
        let is_passed_on = ["forwarded", "x-forwarded-for", "x-real-ip", "via"]
            .iter()
            .any(|name| parts.headers.contains_key(*name));
        match self {
            Self::Loopback => peer.is_some_and(|peer| peer.is_loopback()) && !is_passed_on,
            Self::Everyone => true,
            Self::Nobody => false,
        }
    }
}

/// A caller who was let in. Holds the tenant's place in flight.
pub struct Entered {
    /// Who.
    pub caller: Caller,
    /// The request's id.
    pub request: RequestRef,
    _place: Option<Place>,
}

impl Entered {
    /// The user, or 403 for callers that are none.
    pub fn user(&self) -> Result<UserId, Refusal> {
        self.caller.user.ok_or_else(|| Refusal::forbidden("this needs a user"))
    }

    /// 403 unless a scope covers `wanted`.
    pub fn require(&self, wanted: &str) -> Result<(), Refusal> {
        let covered = self.caller.scopes.covers(wanted);
        let message = format!("this needs the scope {wanted}");
        covered.then_some(()).ok_or_else(|| Refusal::forbidden(message))
    }

    /// The tenant that a body names: `default` is the caller's own, another is 403.
    pub fn tenant_named(&self, named: &str) -> Result<TenantId, Refusal> {
        let own = self.caller.tenant;
        if named.is_empty() || named == "default" || named.parse() == Ok(own) {
            return Ok(own);
        }
        Err(Refusal::forbidden("tenant_id is not the credential's own tenant"))
    }

    /// The user that a body names: must be the caller's own.
    pub fn user_named(&self, named: &str) -> Result<UserId, Refusal> {
        let own = self.user()?;
        if named.is_empty() || named.parse() == Ok(own) {
            return Ok(own);
        }
        Err(Refusal::forbidden("user_id is not the credential's own user"))
    }
}

pub(crate) fn header<'a>(parts: &'a Parts, name: &str) -> Result<Option<&'a str>, Problem> {
    let mut values = parts.headers.get_all(name).iter();
    let value = values.next().map(|value| value.to_str());
    if values.next().is_some() {
        return Err(Problem::unauthenticated(&format!("{name} was sent more than once")));
    }
    value.transpose().map_err(|_| Problem::unauthenticated("the credential is not text"))
}

/// The bearer token, if there is one.
pub(crate) fn bearer(parts: &Parts) -> Result<Option<&str>, Problem> {
    let Some(value) = header(parts, "authorization")? else { return Ok(None) };
    let unfit = || Problem::unauthenticated("Authorization must be `Bearer TOKEN`");
    let (scheme, token) = value.split_once(' ').ok_or_else(unfit)?;
    if !scheme.eq_ignore_ascii_case("bearer") || token.trim().is_empty() {
        return Err(unfit());
    }
    Ok(Some(token.trim()))
}

/// The bearer token, or the API key that some routes take in a header of its own.
fn credential(parts: &Parts) -> Result<Option<&str>, Problem> {
    let Some(key) = header(parts, "x-api-key")? else { return bearer(parts) };
    let unfit = |message| Err(Problem::unauthenticated(message));
    match key.trim() {
        _ if parts.headers.contains_key("authorization") => {
            unfit("send the API key as x-api-key or as a bearer token, not both")
        }
        _ if !api_keys::takes_header(route(parts)) => {
            unfit("this route takes an API key as `Authorization: Bearer KEY`")
        }
        key if !is_api_key(key) => unfit("x-api-key takes an API key"),
        key => Ok(Some(key)),
    }
}

/// The route as it is declared.
pub(crate) fn route(parts: &Parts) -> &str {
    let matched = parts.extensions.get::<MatchedPath>().map(MatchedPath::as_str);
    matched.unwrap_or_else(|| parts.uri.path())
}

async fn user_caller(parts: &Parts, app: &App) -> Result<Option<Caller>, Problem> {
    if let Some(agent) = agent_callers::caller(parts, app).await? {
        return Ok(Some(agent));
    }
    let Some(token) = credential(parts)? else { return Ok(None) };
    if is_api_key(token) {
        let key = app.identity.authenticate_key(token, app.system.clock().now()).await?;
        api_keys::check(route(parts), &parts.method, &key.made_for)?;
        return Ok(Some(key.caller.clone()));
    }
    let verified = app.identity.authenticate(token, app.system.clock().now()).await?;
    Ok(Some(verified.caller.clone()))
}

/// The service, and the tenant and user that it acts for.
async fn service_caller(parts: &Parts, app: &App) -> Result<Option<Caller>, Problem> {
    let Some(caller) = service_named(parts, app)? else { return Ok(None) };
    // Nobody's tenant is named when a service speaks for itself.
    if caller.tenant != TenantId::SYSTEM || caller.user.is_some() {
        app.identity.admit_service(caller.tenant, caller.user).await?;
    }
    Ok(Some(caller))
}

/// The service as its headers name it.
fn service_named(parts: &Parts, app: &App) -> Result<Option<Caller>, Problem> {
    let Some(token) = header(parts, "x-service-token")? else {
        return bearer_service(parts, app);
    };
    let others = ["authorization", "x-api-key", "x-agent-secret"];
    if others.iter().any(|name| parts.headers.contains_key(*name)) {
        let message = "send the service token or another credential, not both";
        return Err(Problem::unauthenticated(message));
    }
    if !app.service_token.is(token) {
        return Err(Problem::unauthenticated("the service token is not valid"));
    }
    service_of(parts).map(Some)
}

/// The service token as a bearer token, on the routes whose clients send it so.
fn bearer_service(parts: &Parts, app: &App) -> Result<Option<Caller>, Problem> {
    if !BEARER_SERVICE_ROUTES.iter().any(|start| route(parts).starts_with(start)) {
        return Ok(None);
    }
    match bearer(parts)? {
        Some(token) if app.service_token.is(token) => service_of(parts).map(Some),
        _ => Ok(None),
    }
}

/// The service, whose token was shown, as the headers name it.
fn service_of(parts: &Parts) -> Result<Caller, Problem> {
    let id_error = |name: &str| Problem(Refusal::invalid_at("header", name, "is not an id"));
    let user = header(parts, "x-acting-user")?.filter(|text| !text.is_empty());
    let user = user.map(|text| text.parse::<UserId>().map_err(|_| id_error("X-Acting-User")));
    let user = user.transpose()?;
    let tenant = header(parts, "x-tenant-id")?.filter(|text| !matches!(*text, "" | "default"));
    let tenant = tenant.map(|text| text.parse::<TenantId>().map_err(|_| id_error("X-Tenant-ID")));
    let tenant = tenant.transpose()?.or(user.map(UserId::direct_tenant));
    let app_id = match header(parts, "x-extension-id")? {
        None => header(parts, "x-ext-id")?,
        some => some,
    };
    let app_id = app_id.filter(|text| !text.is_empty());
    let app_id = app_id.map(|text| text.parse().map_err(|_| id_error("X-Extension-ID")));
    Ok(Caller {
        kind: CallerKind::Service,
        credential: None,
        user,
        tenant: tenant.unwrap_or(TenantId::SYSTEM),
        session: None,
        role: String::new(),
        scopes: Scopes::all(),
        app: app_id.transpose()?,
    })
}

/// Lets a caller in, whoever found out who it is, when it is the turn of its tenant.
pub(crate) async fn enter(
    parts: &Parts,
    app: &App,
    caller: Option<Caller>,
) -> Result<Entered, Problem> {
    let request = request_of(parts);
    let caller = caller.ok_or_else(|| Problem::unauthenticated("this needs a credential"))?;
    if let Some(NamedUser(named)) = parts.extensions.get().copied()
        && caller.user != Some(named)
    {
        return Err(Refusal::forbidden("user_id is not the credential's own user").into());
    }
    let rises = app.identity.epochs().rises();
    let place = app.admission.enter(caller.tenant).await?;
    // Something was revoked while this waited: who it is from is found out again.
    if app.identity.epochs().rises() != rises {
        match caller.kind {
            CallerKind::Service => drop(service_caller(parts, app).await?),
            _ => drop(user_caller(parts, app).await?),
        }
    }
    // It may have been frozen while this waited: whoever freezes waits for those who are in.
    app.agents.check_frozen(&caller)?;
    Ok(Entered { caller, request, _place: Some(place) })
}

/// The request's id, given by the front.
pub fn request_of(parts: &Parts) -> RequestRef {
    parts.extensions.get::<RequestRef>().copied().unwrap_or(0.into())
}

/// A user's credential.
pub struct Member(pub Entered);
/// The service token.
pub struct Service(pub Entered);
/// A user's credential or the service token.
pub struct Either(pub Entered);
/// A user's credential or the service token, which need not name a tenant: for what is about
/// tenants themselves.
pub struct Someone(pub Entered);
/// A user's credential of an operator.
pub struct Operator(pub Entered);
/// Whoever may see the figures: see [`MetricsFor`].
pub struct Watcher;
/// Nobody in particular: counted by address.
pub struct Anyone {
    /// The request's id.
    pub request: RequestRef,
    /// The client's address, as throttling counts it.
    pub address: String,
    /// What the client calls itself and where it is, as sessions keep it.
    pub device: Option<String>,
    /// What tells a device that has logged in before.
    pub device_token: Option<String>,
}

impl FromRequestParts<App> for Member {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let caller = user_caller(parts, app).await?;
        enter(parts, app, caller).await.map(Self)
    }
}

impl FromRequestParts<App> for Service {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        if let Some(caller) = service_caller(parts, app).await? {
            return enter(parts, app, Some(caller)).await.map(Self);
        }
        // A user is known here, and still may not.
        match user_caller(parts, app).await? {
            Some(_) => Err(Refusal::forbidden("this needs the service token").into()),
            None => Err(Problem::unauthenticated("this needs the service token")),
        }
    }
}

impl FromRequestParts<App> for Either {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let caller = match service_caller(parts, app).await? {
            Some(caller) => Some(caller),
            None => user_caller(parts, app).await?,
        };
        let entered = enter(parts, app, caller).await?;
        let acts =
            entered.caller.kind != CallerKind::Service || entered.caller.tenant != TenantId::SYSTEM;
        let message = "name the tenant that you act for";
        let refusal = || Refusal::invalid_at("header", "X-Tenant-ID", message).into();
        acts.then_some(Self(entered)).ok_or_else(refusal)
    }
}

impl FromRequestParts<App> for Someone {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let caller = match service_caller(parts, app).await? {
            Some(caller) => Some(caller),
            None => user_caller(parts, app).await?,
        };
        enter(parts, app, caller).await.map(Self)
    }
}

impl FromRequestParts<App> for Operator {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let caller = user_caller(parts, app).await?;
        let entered = enter(parts, app, caller).await?;
        let is_operator = entered.caller.is_operator();
        let refusal = || Refusal::forbidden("this needs an operator").into();
        is_operator.then_some(Self(entered)).ok_or_else(refusal)
    }
}

impl FromRequestParts<App> for Watcher {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        if app.metrics_for.is_open_to(parts) {
            return Ok(Self);
        }
        if let Some(shown) = header(parts, "x-service-token")?.or(bearer(parts)?)
            && app.service_token.is(shown)
        {
            return Ok(Self);
        }
        Operator::from_request_parts(parts, app).await.map(|_| Self)
    }
}

impl FromRequestParts<App> for Anyone {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let peer = parts.extensions.get::<Peer>().map(|peer| places::client(peer.0.ip()));
        if let Some(address) = peer {
            app.admission.enter_anonymous(address).await?;
        }
        let device = Whence::new(header(parts, "user-agent").ok().flatten(), peer).to_text();
        let address = peer.map(|address| address.to_string()).unwrap_or_default();
        let device_token = header(parts, "x-device-token").ok().flatten().map(str::to_owned);
        Ok(Self { request: request_of(parts), address, device, device_token })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::Request;

    fn parts(peer: &str, header: Option<&str>) -> Parts {
        let mut request = Request::builder();
        if let Some(name) = header {
            request = request.header(name, "192.0.2.1");
        }
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        parts.extensions.insert(Peer(peer.parse().unwrap()));
        parts
    }

    #[test]
    fn the_figures_are_open_to_whom_the_setting_says() {
        let local = ["127.0.0.1:5", "[::1]:5", "[::ffff:127.0.0.1]:5"];
        for peer in local {
            assert!(MetricsFor::Loopback.is_open_to(&parts(peer, None)), "{peer}");
            assert!(!MetricsFor::Nobody.is_open_to(&parts(peer, None)), "{peer}");
        }
        let passed_on = parts(local[0], Some("x-forwarded-for"));
        assert!(!MetricsFor::Loopback.is_open_to(&passed_on));
        let stranger = parts("192.0.2.1:5", None);
        assert!(!MetricsFor::Loopback.is_open_to(&stranger));
        assert!(MetricsFor::Everyone.is_open_to(&stranger));
    }
}
