//! Connecting a user's account at an OAuth provider to an app: the authorization code grant
//! (RFC 6749, section 4.1) with PKCE (RFC 7636, S256), carried out by this server for the app.
//!
//! [`Extensions::start_oauth`] answers where the browser goes; the provider sends it back with a
//! code and the state. Where no browser of this server's pages began it, [`Extensions::look_oauth`]
//! says who has to agree. [`Extensions::take_oauth`] takes the state, once; then
//! [`Extensions::connect_oauth`] exchanges the code and hands the tokens to the app's handler, a
//! call like any other of that user's, paid by the user's tenant.
//!
//! Invariants
//! - Tokens pass through memory only: params of calls are in no record, and what the exchange
//!   answered is neither logged nor told.
//! - The code verifier follows from the state and a key of the server's, and is stored nowhere.
//! - The exchange goes through the guard of outgoing requests, with a limit of size and time.
//!
//! Deliberate limits: no refresh of tokens (the app has them); the client authenticates in the body
//! (`client_secret_post`); a sandbox connects to nobody.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::{hmac, rand};
use broker::Desk;
use broker::app_secrets::Holder;
use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use identity::claim::{
    Claim, ClaimKey, ClaimTarget, Confirm, Namespace, Reserve, Retire, claim_address,
};
use persistence::record::sha256;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use supervision::{Address, Class, Origin, Refusal, System};
use types::{AppId, Caller, CallerKind, Scopes, TenantId, UserId, home_of};
use zeroize::Zeroizing;

use crate::catalogue::CompiledApp;
use crate::ir::{Callable, Provider};
use crate::outgoing::Post;
use crate::runtime::{Call, Extensions, Request};

mod flow;

pub use flow::{
    Back, Begin, Bound, End, LIFE_MS, OAuthBegan, OAuthEnded, OAuthExpired, OAuthFlow,
    OAuthFlowEvent, OAuthTaken, RetireState, Shown, Take,
};

/// How long a provider has to exchange a code.
pub const EXCHANGE_TIME_MAX: Duration = Duration::from_secs(15);
/// Bytes of what it answers.
pub const EXCHANGE_BYTES_MAX: usize = 64 * 1024;
/// Bytes of a code.
pub const CODE_BYTES_MAX: usize = 4_096;
/// The states on their way, unique over the installation.
const STATE: Namespace = Namespace::new("oauth_state");
/// The strength of a state.
const SECRET_BYTES: usize = 32;
/// Characters of a state as base64url.
const STATE_CHARS: usize = 43;

/// The SHA-256 of a state.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateHash(pub [u8; 32]);

impl StateHash {
    fn of(state: &str) -> Option<Self> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        let is_state = state.len() == STATE_CHARS && state.bytes().all(fits);
        is_state.then(|| Self(sha256(&[state.as_bytes()])))
    }

    fn claim(&self, key: &ClaimKey) -> Address<Claim> {
        claim_address(STATE, &HEXLOWER.encode(&self.0), key)
    }
}

impl fmt::Debug for StateHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("StateHash(…)")
    }
}

/// What this server needs of its own to connect accounts. A port.
pub struct OAuth {
    verifiers: hmac::Key,
}

impl OAuth {
    /// With a key for verifiers that the master key gave.
    pub fn new(verifiers: &[u8; 32]) -> Self {
        Self { verifiers: hmac::Key::new(hmac::HMAC_SHA256, verifiers) }
    }

    /// The code verifier of a state (RFC 7636, section 4.1): 43 characters.
    fn verifier(&self, state: &str) -> Zeroizing<String> {
        let tag = hmac::sign(&self.verifiers, state.as_bytes());
        Zeroizing::new(BASE64URL_NOPAD.encode(tag.as_ref()))
    }
}

/// The challenge of a verifier, by S256 (RFC 7636, section 4.2).
fn challenge(verifier: &str) -> String {
    BASE64URL_NOPAD.encode(&sha256(&[verifier.as_bytes()]))
}

/// 256 random bits as text.
pub fn random_text() -> Result<Zeroizing<String>, Refusal> {
    let mut bytes = Zeroizing::new([0; SECRET_BYTES]);
    rand::fill(bytes.as_mut_slice()).map_err(|_| Refusal::crashed())?;
    Ok(Zeroizing::new(BASE64URL_NOPAD.encode(bytes.as_slice())))
}

/// The client secret of a provider: one of the app's own secrets.
async fn client_secret(
    system: &Arc<System>,
    app: &CompiledApp,
    name: &str,
    origin: &Origin,
) -> Result<Option<Zeroizing<String>>, Refusal> {
    let holder = Holder { tenant: app.tenant, user: None, app: app.id.clone() };
    system.port::<Desk>().held(system, &holder, name, origin).await
}

/// Who connects an account, and where.
pub struct Start<'a> {
    /// A user, in a tenant.
    pub caller: &'a Caller,
    /// The app.
    pub app: &'a str,
    /// The provider.
    pub provider: &'a str,
    /// Where the provider sends the browser back to.
    pub redirect_uri: &'a str,
    /// What the browser keeps meanwhile, if it can.
    pub browser: Option<&'a str>,
    /// The request, for the records.
    pub origin: Origin,
}

pub(crate) async fn retire(system: &Arc<System>, bound: &Bound, origin: Origin) {
    let claim = bound.hash.claim(&system.port::<ClaimKey>());
    let retire = Retire { holder: bound.id };
    // Should this fail, the claim leads to a flow that is over.
    if let Err(refusal) = system.directory::<Claim>().ask(&claim, retire, origin).await {
        tracing::debug!(%refusal, "the claim of a state that is over stays");
    }
}

fn no_provider() -> Refusal {
    Refusal::not_found("provider")
}

impl Extensions {
    /// A provider of an app that is there for a user of a tenant; 404 otherwise.
    async fn provider(
        &self,
        system: &Arc<System>,
        (app, provider): (&str, &str),
        (tenant, user): (TenantId, UserId),
        origin: &Origin,
    ) -> Result<(Arc<CompiledApp>, Provider), Refusal> {
        let id = AppId::new(app).map_err(|_| no_provider())?;
        let found = self.apps().find(system, &id, origin).await;
        let found =
            found.map_err(|it| if it.class == Class::NotFound { no_provider() } else { it })?;
        let is_visible = found.is_visible_to(system, tenant, Some(user), origin).await?;
        let provider = found.ir.as_ref().and_then(|ir| ir.provider(provider)).cloned();
        let provider = provider.filter(|_| is_visible).ok_or_else(no_provider)?;
        self.settings().frozen.check_app(&id)?;
        Ok((found, provider))
    }

    /// Where the browser of a user goes to connect an account. 403 without the scope that the
    /// handler needs, 404 for a provider that there is not, 409 `oauth_not_available` where nothing
    /// may go out, `oauth_secret_missing` while the developer has not set the client secret.
    pub async fn start_oauth(
        &self,
        system: &Arc<System>,
        start: Start<'_>,
    ) -> Result<String, Refusal> {
        let Start { caller, app, provider, redirect_uri, browser, origin } = start;
        let user = caller.user.ok_or_else(|| Refusal::forbidden("this needs a user"))?;
        let who = (caller.tenant, user);
        let (app, provider) = self.provider(system, (app, provider), who, &origin).await?;
        check_scope(caller, &app, &provider)?;
        let away = || Refusal::conflict("oauth_not_available", "nothing may go out from here");
        let is_real = system.own_time(home_of(caller.tenant)).is_none();
        let outside = self.outside().filter(|_| is_real).ok_or_else(away)?;
        for url in [&provider.authorize_url, &provider.token_url] {
            let unfit = |why: String| Refusal::conflict("oauth_url_refused", why);
            outside.hosts.check(url).map_err(unfit)?;
        }
        if let Some(name) = &provider.secret {
            let secret = client_secret(system, &app, name, &origin).await?;
            let message = "the app's developer has not set the client secret yet";
            secret.ok_or_else(|| Refusal::conflict("oauth_secret_missing", message))?;
        }
        let state = random_text()?;
        let hash = StateHash::of(&state).ok_or_else(Refusal::crashed)?;
        let bound = Bound {
            id: system.new_id(),
            tenant: caller.tenant,
            user,
            app: app.id.clone(),
            provider: provider.name.clone(),
            hash,
            browser: browser.map(|kept| sha256(&[kept.as_bytes()])),
        };
        let (claims, claim) = (system.directory::<Claim>(), hash.claim(&system.port::<ClaimKey>()));
        let (holder, target) = (bound.id, ClaimTarget { user, tenant: caller.tenant });
        claims.ask(&claim, Reserve { holder }, origin.clone()).await?;
        claims.ask(&claim, Confirm { holder, target }, origin.clone()).await?;
        let address = OAuthFlow::address(bound.id, bound.tenant);
        system.directory::<OAuthFlow>().ask(&address, Begin { bound }, origin).await?;
        let challenge = challenge(&system.port::<OAuth>().verifier(&state));
        Ok(authorization_url(&provider, redirect_uri, &state, &challenge))
    }

    /// What a state that came back is bound to, if it is good; it stays so. Any other is 400
    /// `oauth_state_invalid`.
    pub async fn look_oauth(
        &self,
        system: &Arc<System>,
        names: (&str, &str),
        state: &str,
        origin: &Origin,
    ) -> Result<Bound, Refusal> {
        let (address, back) = self.find_oauth(system, names, state, origin).await?;
        let now = system.now_in(address.place().home);
        let look = move |flow: &OAuthFlow| flow.open(&back, now).cloned();
        let found = system.directory::<OAuthFlow>().look(&address, origin.clone(), look).await;
        let found = found.or_else(|it| if it.is_erased() { Ok(None) } else { Err(it) })?;
        found.ok_or_else(flow::invalid_state)
    }

    /// Takes the state that came back, once, if what was shown with it is enough. Any other is 400
    /// `oauth_state_invalid`.
    pub async fn take_oauth(
        &self,
        system: &Arc<System>,
        names: (&str, &str),
        (state, shown): (&str, Shown),
        origin: &Origin,
    ) -> Result<Bound, Refusal> {
        let (address, back) = self.find_oauth(system, names, state, origin).await?;
        let flows = system.directory::<OAuthFlow>();
        let taken = flows.ask(&address, Take { back, shown }, origin.clone()).await;
        taken.map_err(|it| if it.is_erased() { flow::invalid_state() } else { it })
    }

    async fn find_oauth(
        &self,
        system: &Arc<System>,
        (app, provider): (&str, &str),
        state: &str,
        origin: &Origin,
    ) -> Result<(Address<OAuthFlow>, Back), Refusal> {
        let hash = StateHash::of(state).ok_or_else(flow::invalid_state)?;
        let claim = hash.claim(&system.port::<ClaimKey>());
        // What nobody has claimed wakes no actor.
        system
            .locate(<Claim as supervision::Entity>::KIND, claim.id())
            .ok_or_else(flow::invalid_state)?;
        let claims = system.directory::<Claim>();
        let confirmed = claims.look(&claim, origin.clone(), Claim::confirmed).await?;
        let (id, ClaimTarget { tenant, .. }) = confirmed.ok_or_else(flow::invalid_state)?;
        let (app, provider) = (app.to_owned(), provider.to_owned());
        Ok((OAuthFlow::address(id, tenant), Back { hash, app, provider }))
    }

    /// Exchanges the code and hands the tokens to the app. What came of it is on record: an error
    /// has the code `oauth_exchange_failed` or `oauth_handler_failed`.
    pub async fn connect_oauth(
        &self,
        system: &Arc<System>,
        bound: &Bound,
        (code, state, redirect_uri): (&str, &str, &str),
        origin: &Origin,
    ) -> Result<(), Refusal> {
        let outcome = self.connect(system, bound, (code, state, redirect_uri), origin).await;
        let told = outcome.as_ref().map_or_else(|it| it.code.clone(), |()| "connected".to_owned());
        self.end_oauth(system, bound, &told, origin).await;
        outcome
    }

    /// Says what came of a state that was taken.
    pub async fn end_oauth(
        &self,
        system: &Arc<System>,
        bound: &Bound,
        outcome: &str,
        origin: &Origin,
    ) {
        let address = OAuthFlow::address(bound.id, bound.tenant);
        let end = End { outcome: outcome.to_owned() };
        let ended = system.directory::<OAuthFlow>().ask(&address, end, origin.clone()).await;
        if let Err(refusal) = ended {
            tracing::debug!(%refusal, "what came of connecting an account is not on record");
        }
    }

    async fn connect(
        &self,
        system: &Arc<System>,
        bound: &Bound,
        (code, state, redirect_uri): (&str, &str, &str),
        origin: &Origin,
    ) -> Result<(), Refusal> {
        let (who, names) = ((bound.tenant, bound.user), (bound.app.as_str(), &*bound.provider));
        let (app, provider) = self.provider(system, names, who, origin).await?;
        let oauth = system.port::<OAuth>();
        let secret = match &provider.secret {
            None => None,
            Some(name) => client_secret(system, &app, name, origin).await?,
        };
        let form = exchange_form(
            &provider,
            (code, redirect_uri),
            &oauth.verifier(state),
            secret.as_ref().map(|secret| secret.as_str()),
        );
        let tokens = self.exchange(&provider, form).await?;
        let caller = Caller {
            kind: CallerKind::Service,
            credential: None,
            user: Some(bound.user),
            tenant: bound.tenant,
            session: None,
            role: String::new(),
            scopes: Scopes::from_iter([format!("{}:*", app.id)]),
            app: Some(app.id.clone()),
        };
        let request = Request {
            tenant: bound.tenant,
            user: Some(bound.user),
            app: app.id.to_string(),
            idempotency: None,
            origin: Origin { caller: caller.label(), ..origin.clone() },
            caller,
        };
        let params = json!({"provider": provider.name, "tokens": tokens});
        let call = Call { function: provider.handler.clone(), params };
        let answer = self.call(system, request, call).await?;
        let failed = || Refusal::conflict("oauth_handler_failed", "the app could not take it in");
        answer.is_success().then_some(()).ok_or_else(failed)
    }

    async fn exchange(&self, provider: &Provider, form: Vec<u8>) -> Result<Value, Refusal> {
        let failed = |why: &str| {
            tracing::debug!(provider = provider.name, why, "a code was not exchanged");
            Refusal::conflict("oauth_exchange_failed", "the provider did not give tokens")
        };
        let outside = self.outside().ok_or_else(|| failed("nothing may go out"))?;
        let form_kind = "application/x-www-form-urlencoded".to_owned();
        let post = Post {
            url: provider.token_url.clone(),
            headers: vec![("content-type", form_kind)],
            body: form,
            answer_bytes_max: EXCHANGE_BYTES_MAX,
            ends: Instant::now() + EXCHANGE_TIME_MAX,
        };
        let answered = outside.hosts.outgoing().post(post).await;
        let answered = answered.map_err(|error| failed(&error.to_string()))?;
        if answered.status != 200 {
            return Err(failed("its status is not 200"));
        }
        let tokens: Value =
            serde_json::from_slice(&answered.body).map_err(|_| failed("it is no JSON"))?;
        let has_token = tokens["access_token"].as_str().is_some_and(|token| !token.is_empty());
        has_token.then_some(tokens).ok_or_else(|| failed("there is no access token"))
    }
}

/// 403 unless the caller may call the handler by itself.
fn check_scope(caller: &Caller, app: &CompiledApp, provider: &Provider) -> Result<(), Refusal> {
    let callable = app.ir.as_ref().and_then(|ir| ir.callable(&provider.handler));
    let Some(Callable::Function(handler)) = callable else { return Err(no_provider()) };
    let action = handler.action_type.name();
    let wanted = [format!("{}:{action}", app.id), format!("extensions:{action}")];
    if wanted.iter().any(|scope| caller.scopes.covers(scope)) {
        return Ok(());
    }
    let message = format!("this needs the scope {} or {}", wanted[0], wanted[1]);
    Err(Refusal::new(Class::Forbidden, "scope_missing", message))
}

/// Where the browser goes (RFC 6749, section 4.1.1).
fn authorization_url(
    provider: &Provider,
    redirect_uri: &str,
    state: &str,
    challenge: &str,
) -> String {
    let url = &provider.authorize_url;
    let joint = if url.contains('?') { '&' } else { '?' };
    let query = form(&[
        ("response_type", "code"),
        ("client_id", &provider.client_id),
        ("redirect_uri", redirect_uri),
        ("scope", &provider.scopes.join(" ")),
        ("state", state),
        ("code_challenge", challenge),
        ("code_challenge_method", "S256"),
    ]);
    format!("{url}{joint}{query}")
}

/// The body of an exchange (RFC 6749, section 4.1.3; RFC 7636, section 4.5).
fn exchange_form(
    provider: &Provider,
    (code, redirect_uri): (&str, &str),
    verifier: &str,
    secret: Option<&str>,
) -> Vec<u8> {
    let mut pairs = vec![
        ("grant_type", "authorization_code"),
        ("code", code),
        ("redirect_uri", redirect_uri),
        ("client_id", &provider.client_id),
        ("code_verifier", verifier),
    ];
    pairs.extend(secret.map(|secret| ("client_secret", secret)));
    form(&pairs).into_bytes()
}

fn form(pairs: &[(&str, &str)]) -> String {
    let mut text = form_urlencoded::Serializer::new(String::new());
    let pairs = pairs.iter().filter(|(_, value)| !value.is_empty());
    text.extend_pairs(pairs).finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn provider() -> Provider {
        Provider {
            name: "hub".to_owned(),
            authorize_url: "https://id.example/authorize?x=1".to_owned(),
            token_url: "https://id.example/token".to_owned(),
            client_id: "a b".to_owned(),
            scopes: vec!["repo".to_owned(), "user".to_owned()],
            secret: None,
            handler: "connected".to_owned(),
        }
    }

    /// The example of RFC 7636, appendix B.
    #[test]
    fn a_challenge_is_the_one_of_the_standard() {
        let verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
        assert_eq!(challenge(verifier), "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM");
    }

    #[test]
    fn a_verifier_follows_from_its_state_and_the_servers_key() {
        let (one, two) = (OAuth::new(&[1; 32]), OAuth::new(&[3; 32]));
        let state = random_text().unwrap();
        assert!(StateHash::of(&state).is_some() && StateHash::of(&state[1..]).is_none());
        assert_eq!(one.verifier(&state), one.verifier(&state));
        assert_ne!(one.verifier(&state), two.verifier(&state));
        assert_eq!(one.verifier(&state).len(), 43);
    }

    #[test]
    fn addresses_and_forms_are_put_into_words_as_the_standard_says() {
        let url = authorization_url(&provider(), "https://here.example/back", "s", "c");
        let expected = "https://id.example/authorize?x=1&response_type=code&client_id=a+b&\
            redirect_uri=https%3A%2F%2Fhere.example%2Fback&scope=repo+user&state=s&\
            code_challenge=c&code_challenge_method=S256";
        assert_eq!(url, expected);
        let form = exchange_form(&provider(), ("c&d", "https://h/"), "v", Some("s="));
        let expected = "grant_type=authorization_code&code=c%26d&redirect_uri=https%3A%2F%2Fh%2F&\
            client_id=a+b&code_verifier=v&client_secret=s%3D";
        assert_eq!(String::from_utf8(form).unwrap(), expected);
    }
}
