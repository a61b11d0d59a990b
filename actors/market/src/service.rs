//! The developer portal: what the gateway calls. A port.
//!
//! Each method that makes something unique goes reserve, create, confirm; each step may be
//! repeated, so that a request that was cut off goes on when it is sent again.
//!
//! Invariant: whoever changes an app through this port makes the catalogue forget it before the
//! answer leaves.
//!
//! Deliberate limit: who registers with a tier that the wallet does not cover is registered as
//! `explorer`, and told so (402).

use std::sync::Arc;

use control::app::{App, Create, Details, Listing, SetStatus, Status, Update};
use control::pricing::{Prices, PricingModel};
use extensions::{Apps, Outside};
use identity::claim::{
    Claim, ClaimKey, ClaimTarget, Confirm, Namespace, Release, Reserve, claim_address,
};
use identity::user::{EMAIL_LABEL, User};
use persistence::record::sha256;
use serde::Deserialize;
use serde_json::Value;
use supervision::idempotency::Ticketed;
use supervision::{
    Address, Begin, Class, Command, Entity, Handle, IdempotencyKey, Origin, Refusal, System,
};
use types::{AppId, JsonBytes, SharePercent, TenantId, UserId};

use crate::checks::checks;
use crate::developer::{
    AddApp, Developer, NICKNAME, Profile, Register, RemoveApp, Tier, already_registered,
    no_developer,
};
use crate::listing::{self, SetTags, check_tags};
use crate::marketplace::not_from_a_sandbox;
use crate::ownership::{check_still_there, is_theirs};
use crate::policy::{MarketSettings, Rates};
use crate::portal::{balances, deploy_notes};
use crate::storefront::Storefront;
use crate::tier;
use crate::view::{
    AppDetailResponse, AppResponse, AppSubmitResponse, DeployResponse, DeveloperProfileResponse,
    ToolResponse,
};

/// App ids, unique over the installation.
pub const APP: Namespace = Namespace::new("app");
/// Nicknames that nobody gets.
const NICKNAMES_RESERVED: [&str; 12] = [
    "admin",
    "administrator",
    "api",
    "bailiwick",
    "developer",
    "imperal",
    "official",
    "operator",
    "root",
    "staff",
    "support",
    "system",
];
/// App ids of what is part of the server, or will be.
const APPS_RESERVED: [&str; 12] = [
    "admin",
    "automations",
    "billing",
    "developer",
    "extensions",
    "file-reader",
    "imperal",
    "marketplace",
    "operator",
    "secrets",
    "settings",
    "system",
];

/// For whom something is done. The gateway has checked it against the credential.
#[derive(Clone, Debug)]
pub struct Principal {
    /// The user.
    pub user: UserId,
    /// The tenant.
    pub tenant: TenantId,
    /// The request, for the records.
    pub origin: Origin,
}

/// A request to become a developer.
#[derive(Clone, Debug, Deserialize, utoipa::ToSchema)]
pub struct DeveloperRegister {
    /// The tier: explorer, indie, studio or partner.
    #[serde(default = "explorer")]
    pub tier: String,
    /// 3 to 30 characters a-z, 0-9, `_` and `-`, first and last a letter or digit.
    pub nickname: String,
}

/// A request to create an app.
#[derive(Clone, Debug, Deserialize, utoipa::ToSchema)]
pub struct AppCreate {
    /// The id: 2 to 64 characters a-z, 0-9 and `-`.
    pub app_id: String,
    /// 1 to 200 characters.
    pub display_name: String,
    /// Up to 2,000 characters.
    #[serde(default)]
    pub description: String,
    /// Up to 50 characters.
    #[serde(default = "general")]
    pub category: String,
    /// Up to 200 characters.
    #[serde(default)]
    pub icon: String,
    /// 10 to 500 characters.
    pub git_url: String,
    /// free, per_action or subscription.
    #[serde(default = "free")]
    pub pricing_model: String,
    /// `{"default": 1, "functions": {"add_book": 2}}`, in credits.
    #[serde(default)]
    pub pricing_config: Option<JsonBytes>,
}

/// A request to change an app; what is absent stays.
#[derive(Clone, Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct AppUpdate {
    /// 1 to 200 characters.
    pub display_name: Option<String>,
    /// Up to 2,000 characters.
    pub description: Option<String>,
    /// Up to 50 characters.
    pub category: Option<String>,
    /// Up to 200 characters.
    pub icon: Option<String>,
    /// 10 to 500 characters.
    pub git_url: Option<String>,
    /// free, per_action or subscription; only in a draft or a suspended app, as what follows.
    pub pricing_model: Option<String>,
    /// As on creation.
    pub pricing_config: Option<JsonBytes>,
    /// 50 to the share of the developer's tier.
    pub revenue_split_dev: Option<u8>,
    /// At most 10, of at most 30 characters.
    pub tags: Option<Vec<String>>,
}

fn explorer() -> String {
    Tier::Explorer.name().to_owned()
}

fn general() -> String {
    "general".to_owned()
}

fn free() -> String {
    PricingModel::Free.name().to_owned()
}

/// The developer portal.
pub struct Market {
    pub(crate) apps: Arc<Apps>,
    pub(crate) settings: MarketSettings,
    pub(crate) outside: Option<Arc<Outside>>,
}

impl Market {
    /// The portal of the apps of a catalogue.
    pub fn new(apps: Arc<Apps>) -> Arc<Self> {
        Self::with(apps, MarketSettings::default(), None)
    }

    /// As [`Market::new`], as an operator has set it, where apps may have hosts of their own.
    pub fn with(
        apps: Arc<Apps>,
        settings: MarketSettings,
        outside: Option<Arc<Outside>>,
    ) -> Arc<Self> {
        Arc::new(Self { apps, settings, outside })
    }

    /// Shows a change of an app to everybody: before its answer leaves.
    pub(crate) async fn show(
        &self,
        system: &Arc<System>,
        id: &AppId,
        origin: &Origin,
    ) -> Result<(), Refusal> {
        self.apps.forget(id);
        Storefront::refresh(system, id, origin).await
    }

    /// Makes a user a developer. Refused (400) with `already_registered`, `nickname_taken`,
    /// `nickname_reserved` or `invalid_nickname`; 402 when the wallet does not cover the tier.
    pub async fn register_developer(
        &self,
        system: &Arc<System>,
        principal: &Principal,
        request: DeveloperRegister,
        idempotency: Option<&IdempotencyKey>,
    ) -> Result<Value, Refusal> {
        not_from_a_sandbox(system, principal)?;
        let DeveloperRegister { tier, nickname } = request;
        let wanted = tier::named(&tier)?;
        check_nickname(&nickname)?;
        let Principal { user, tenant, origin } = principal.clone();
        let found = system.locate(Developer::KIND, &user.to_string());
        let address = found.and_then(Address::from_place);
        let address = address.unwrap_or_else(|| Developer::address(user, tenant));
        let ticket = match begin(system, &address, idempotency).await? {
            Begun::Recorded(body) => return self.upgraded(system, principal, wanted, body).await,
            Begun::New(ticket) => ticket,
        };
        let developers = system.directory::<Developer>();
        let is_one = |developer: &Developer| developer.profile().is_some();
        if developers.look(&address, origin.clone(), is_one).await? {
            return Err(already_registered());
        }
        let claims = system.directory::<Claim>();
        let claim = claim_address(NICKNAME, &nickname, &system.port::<ClaimKey>());
        let holder = user.0;
        let reserved = claims.ask(&claim, Reserve { holder }, origin.clone()).await;
        reserved.map_err(|refusal| match refusal.code.as_str() {
            "already_claimed" => bad_request("nickname_taken", "this nickname is taken"),
            _ => refusal,
        })?;
        let email = email_of(system, principal).await;
        let render = move |profile: &Profile| DeveloperProfileResponse::of(profile, email, 0);
        let command = Register { user, tenant, tier: Tier::Explorer, nickname };
        let registered = ask(system, &address, command, origin, ticket, render).await?;
        self.upgraded(system, principal, wanted, registered).await
    }

    /// Pays for the tier that somebody registers with.
    async fn upgraded(
        &self,
        system: &Arc<System>,
        principal: &Principal,
        wanted: Tier,
        registered: Value,
    ) -> Result<Value, Refusal> {
        if wanted == Tier::Explorer {
            return Ok(registered);
        }
        self.set_tier(system, principal, wanted.name()).await?;
        let profile = self.profile(system, principal).await?;
        serde_json::to_value(profile).map_err(|_| Refusal::crashed())
    }

    /// A developer's profile; 403 for other users.
    pub async fn profile(
        &self,
        system: &Arc<System>,
        principal: &Principal,
    ) -> Result<DeveloperProfileResponse, Refusal> {
        let (_, profile) = developer(system, principal).await?;
        let earned = balances(system, &profile, &principal.origin).await?.total;
        Ok(DeveloperProfileResponse::of(&profile, email_of(system, principal).await, earned))
    }

    /// Creates an app as a draft. Refused: 403 for users who are no developer, who have left the
    /// tenant that they became one in (`developer_left`), and beyond what the tier allows; 409
    /// `app_id_taken`, 422.
    pub async fn create_app(
        &self,
        system: &Arc<System>,
        principal: &Principal,
        request: AppCreate,
        idempotency: Option<&IdempotencyKey>,
    ) -> Result<Value, Refusal> {
        let (address, profile) = developer(system, principal).await?;
        check_still_there(system, principal, &profile).await?;
        let id = AppId::new(&request.app_id);
        let id = id.map_err(|error| Refusal::invalid("app_id", error.to_string()))?;
        let listing = listing(request, profile.tier.share())?;
        if APPS_RESERVED.contains(&id.as_str()) {
            return Err(app_id_taken());
        }
        let place = Apps::locate(system, &id);
        let app = place.clone().unwrap_or_else(|| App::address(&id, profile.tenant));
        let ticket = match begin(system, &app, idempotency).await? {
            Begun::Recorded(body) => return Ok(body),
            Begun::New(ticket) => ticket,
        };
        // What was created before is taken, by its own developer too.
        if place.is_some() {
            return Err(app_id_taken());
        }
        let (user, tenant, origin) = (profile.user, profile.tenant, principal.origin.clone());
        let developers = system.directory::<Developer>();
        let explorer_apps_max = self.settings.explorer_apps_max;
        let add = AddApp { app: id.clone(), explorer_apps_max };
        let is_new = developers.ask(&address, add, origin.clone()).await?;
        let create = Create { id: id.clone(), developer: user, tenant, listing };
        let created = reserve_and_create(system, principal, &app, create, ticket).await;
        if is_new && created.as_ref().is_err_and(|refusal| refusal.class != Class::InDoubt) {
            // What is left in the list if this fails too only counts; creating it again goes on.
            let _ = developers.ask(&address, RemoveApp { app: id.clone() }, origin).await;
        }
        self.show(system, &id, &principal.origin).await?;
        created
    }

    /// A developer's apps, the oldest first; 403 for other users.
    pub async fn list_apps(
        &self,
        system: &Arc<System>,
        principal: &Principal,
    ) -> Result<Vec<AppResponse>, Refusal> {
        let (_, profile) = developer(system, principal).await?;
        let mut apps = Vec::with_capacity(profile.apps.len());
        for id in &profile.apps {
            match look(system, id, &principal.origin).await {
                Ok((_, app)) if is_theirs(system, principal, &app).await? => {
                    apps.push(AppResponse::from(&app));
                }
                // About to be created, or of a tenant that they have left.
                Ok(_) => {}
                Err(refusal) if refusal.class == Class::NotFound => {}
                Err(refusal) => return Err(refusal),
            }
        }
        Ok(apps)
    }

    /// One of a developer's apps, with its functions; 403 for other users, 404 for other apps.
    pub async fn get_app(
        &self,
        system: &Arc<System>,
        principal: &Principal,
        app_id: &str,
    ) -> Result<AppDetailResponse, Refusal> {
        let (_, app) = owned(system, principal, app_id).await?;
        let compiled = self.apps.find(system, &app.id, &principal.origin).await?;
        let functions = compiled.ir.iter().flat_map(|ir| &ir.functions);
        let tools_json = functions.map(ToolResponse::from).collect();
        Ok(AppDetailResponse { app: AppResponse::from(&app), tools_json })
    }

    /// Changes an app; as [`Market::get_app`], and 409 `pricing_locked`.
    pub async fn update_app(
        &self,
        system: &Arc<System>,
        principal: &Principal,
        app_id: &str,
        request: AppUpdate,
        idempotency: Option<&IdempotencyKey>,
    ) -> Result<Value, Refusal> {
        let (_, profile) = developer_of(system, principal).await?;
        let (address, app) = owned(system, principal, app_id).await?;
        let tags = request.tags.clone();
        tags.as_deref().map_or(Ok(()), check_tags)?;
        let update = update(request, profile.tier.share())?;
        let ticket = match begin(system, &address, idempotency).await? {
            Begun::Recorded(body) => return Ok(body),
            Begun::New(ticket) => ticket,
        };
        let origin = principal.origin.clone();
        let updated = ask(system, &address, update, origin, ticket, app_response).await;
        self.show(system, &app.id, &principal.origin).await?;
        if let (Ok(_), Some(tags)) = (&updated, tags) {
            let listing = listing::Listing::address(&app.id, address.place().home);
            let command = SetTags { app: app.id.clone(), tags };
            let listings = system.directory::<listing::Listing>();
            let told = listings.ask(&listing, command, principal.origin.clone()).await?;
            Storefront::hear(system, &app.id, told);
        }
        updated
    }

    /// Submits an app for review. What is not as it should be is told in the answer.
    pub async fn submit_app(
        &self,
        system: &Arc<System>,
        principal: &Principal,
        app_id: &str,
    ) -> Result<AppSubmitResponse, Refusal> {
        let (_, app) = owned(system, principal, app_id).await?;
        let compiled = self.apps.find(system, &app.id, &principal.origin).await.ok();
        let checks = checks(&app, compiled.as_deref(), self.outside.as_deref());
        if checks.iter().any(|check| !check.ok) {
            return Ok(AppSubmitResponse { status: "failed".to_owned(), checks });
        }
        let origin = &principal.origin;
        let app = self.set_status(system, &app.id, Status::PendingReview, None, origin).await?;
        Ok(AppSubmitResponse { status: app.status, checks })
    }

    /// Where one of a developer's apps lives, and what is known of it; as [`Market::get_app`].
    pub async fn own_app(
        &self,
        system: &Arc<System>,
        principal: &Principal,
        app_id: &str,
    ) -> Result<(Address<App>, Details), Refusal> {
        owned(system, principal, app_id).await
    }

    /// The versions of an app that are remembered, the newest first.
    pub async fn deploys(
        &self,
        system: &Arc<System>,
        principal: &Principal,
        app_id: &str,
    ) -> Result<Vec<DeployResponse>, Refusal> {
        let (_, app) = owned(system, principal, app_id).await?;
        let notes = deploy_notes(system, &app.id).into_iter().map(DeployResponse::from);
        let versions = app.versions.iter().rev().map(DeployResponse::from);
        let mut all: Vec<_> = versions.chain(notes).collect();
        all.sort_by(|one, other| other.deployed_at.cmp(&one.deployed_at));
        Ok(all)
    }

    /// Moves an app to another state: for reviews and suspensions. The caller has checked who asks.
    pub async fn set_status(
        &self,
        system: &Arc<System>,
        id: &AppId,
        status: Status,
        reason: Option<String>,
        origin: &Origin,
    ) -> Result<AppResponse, Refusal> {
        let address = Apps::locate(system, id).ok_or_else(|| Refusal::not_found("app"))?;
        let apps = system.directory::<App>();
        let set = apps.ask(&address, SetStatus { status, reason }, origin.clone()).await;
        self.show(system, id, origin).await?;
        set.map(|app| AppResponse::from(&app))
    }
}

/// What a key has led to so far.
pub(crate) enum Begun {
    Recorded(Value),
    New(Option<Ticketed>),
}

pub(crate) async fn begin<E: Entity>(
    system: &Arc<System>,
    address: &Address<E>,
    key: Option<&IdempotencyKey>,
) -> Result<Begun, Refusal> {
    let Some(key) = key else { return Ok(Begun::New(None)) };
    match system.begin(address.place(), key.clone()).await? {
        Begin::Fresh(ticket) => Ok(Begun::New(Some(ticket))),
        Begin::Recorded(body) => {
            serde_json::from_slice(&body).map(Begun::Recorded).map_err(|_| Refusal::crashed())
        }
    }
}

/// Asks, and renders the answer; with a ticket the rendered answer is recorded.
pub(crate) async fn ask<E, C, V: serde::Serialize>(
    system: &Arc<System>,
    address: &Address<E>,
    command: C,
    origin: Origin,
    ticket: Option<Ticketed>,
    render: impl FnOnce(&<E as Handle<C>>::Reply) -> V + Send + 'static,
) -> Result<Value, Refusal>
where
    C: Command,
    E: Handle<C>,
{
    let directory = system.directory::<E>();
    let Some(ticket) = ticket else {
        let reply = directory.ask(address, command, origin).await?;
        return serde_json::to_value(render(&reply)).map_err(|_| Refusal::crashed());
    };
    // What callers see holds nothing that JSON cannot say.
    let bytes = move |reply| serde_json::to_vec(&render(&reply)).unwrap_or_default();
    let body = directory.ask_once(address, command, origin, ticket, bytes).await?;
    serde_json::from_slice(&body).map_err(|_| Refusal::crashed())
}

fn app_response(app: &Details) -> AppResponse {
    AppResponse::from(app)
}

async fn reserve_and_create(
    system: &Arc<System>,
    principal: &Principal,
    app: &Address<App>,
    create: Create,
    ticket: Option<Ticketed>,
) -> Result<Value, Refusal> {
    let origin = &principal.origin;
    let claims = system.directory::<Claim>();
    let claim = claim_address(APP, create.id.as_str(), &system.port::<ClaimKey>());
    let parts: [&[u8]; 2] = [&create.developer.0.to_be_bytes(), create.id.as_str().as_bytes()];
    let holder = sha256(&parts).first_chunk().map_or(0, |bytes| u128::from_be_bytes(*bytes));
    let target = ClaimTarget { user: create.developer, tenant: create.tenant };
    let reserved = claims.ask(&claim, Reserve { holder }, origin.clone()).await;
    reserved.map_err(|refusal| match refusal.code.as_str() {
        "already_claimed" => app_id_taken(),
        _ => refusal,
    })?;
    let created = ask(system, app, create, origin.clone(), ticket, app_response).await;
    match &created {
        // Should this fail, the app itself still keeps its id from others.
        Ok(_) => drop(claims.ask(&claim, Confirm { holder, target }, origin.clone()).await),
        Err(refusal) if refusal.class == Class::InDoubt => {}
        Err(_) => drop(claims.ask(&claim, Release { holder }, origin.clone()).await),
    }
    created
}

/// The developer that a user is; 403 when none, 429 beyond the rate of the tier.
pub(crate) async fn developer(
    system: &Arc<System>,
    principal: &Principal,
) -> Result<(Address<Developer>, Profile), Refusal> {
    let (address, profile) = developer_of(system, principal).await?;
    let rates = system.port::<Rates>();
    rates.admit(principal.user, profile.tier, system.clock().now())?;
    Ok((address, profile))
}

/// As [`developer`], uncounted.
async fn developer_of(
    system: &Arc<System>,
    principal: &Principal,
) -> Result<(Address<Developer>, Profile), Refusal> {
    not_from_a_sandbox(system, principal)?;
    let place = system.locate(Developer::KIND, &principal.user.to_string());
    let address: Address<Developer> =
        place.and_then(Address::from_place).ok_or_else(no_developer)?;
    let look = |developer: &Developer| developer.profile().cloned();
    let developers = system.directory::<Developer>();
    let profile = developers.look(&address, principal.origin.clone(), look).await?;
    Ok((address, profile.ok_or_else(no_developer)?))
}

/// An app and where it lives; 404 when there is none.
async fn look(
    system: &Arc<System>,
    id: &AppId,
    origin: &Origin,
) -> Result<(Address<App>, Details), Refusal> {
    let missing = || Refusal::not_found("app");
    let address = Apps::locate(system, id).ok_or_else(missing)?;
    let apps = system.directory::<App>();
    let app = apps.look(&address, origin.clone(), |app| app.details().cloned()).await;
    // What was erased is not there.
    let app = app.or_else(|it| if it.is_erased() { Ok(None) } else { Err(it) })?;
    Ok((address, app.ok_or_else(missing)?))
}

/// An app of a developer's own: 403 when the user is no developer, 404 when the app is not theirs,
/// or not any more.
pub(crate) async fn owned(
    system: &Arc<System>,
    principal: &Principal,
    app_id: &str,
) -> Result<(Address<App>, Details), Refusal> {
    developer(system, principal).await?;
    app_of(system, principal, app_id).await
}

/// As [`owned`], of somebody who is known to be a developer and was counted.
pub(crate) async fn app_of(
    system: &Arc<System>,
    principal: &Principal,
    app_id: &str,
) -> Result<(Address<App>, Details), Refusal> {
    let missing = || Refusal::not_found("app");
    let id = AppId::new(app_id).map_err(|_| missing())?;
    let (address, app) = look(system, &id, &principal.origin).await?;
    if !is_theirs(system, principal, &app).await? {
        return Err(missing());
    }
    Ok((address, app))
}

/// The user's e-mail address; empty when it cannot be told.
pub(crate) async fn email_of(system: &Arc<System>, principal: &Principal) -> String {
    let place = system.locate(User::KIND, &principal.user.to_string());
    let Some(address) = place.and_then(Address::<User>::from_place) else { return String::new() };
    let look = |user: &User| user.profile.as_ref().map(|profile| profile.email.clone());
    let users = system.directory::<User>();
    let email = users.look(&address, principal.origin.clone(), look).await;
    let email = email.ok().flatten();
    let opened = email.and_then(|email| email.open(system.journal().keys(), EMAIL_LABEL));
    opened.unwrap_or_default()
}

fn bad_request(code: &str, message: &str) -> Refusal {
    Refusal::new(Class::BadRequest, code, message)
}

fn app_id_taken() -> Refusal {
    Refusal::conflict("app_id_taken", "this app id is already in use")
}

fn check_nickname(nickname: &str) -> Result<(), Refusal> {
    let is_letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = nickname.as_bytes();
    let fits = (3..=30).contains(&bytes.len())
        && bytes.iter().all(|&byte| is_letter(byte) || matches!(byte, b'-' | b'_'))
        && [bytes.first(), bytes.last()].into_iter().flatten().all(|&byte| is_letter(byte));
    if !fits {
        let message = "invalid nickname: 3 to 30 characters a-z, 0-9, _ and -, first and last a \
                       letter or digit";
        return Err(bad_request("invalid_nickname", message));
    }
    if NICKNAMES_RESERVED.contains(&nickname) {
        return Err(bad_request("nickname_reserved", "this nickname is reserved"));
    }
    Ok(())
}

fn check_characters(field: &str, text: &str, min: usize, max: usize) -> Result<(), Refusal> {
    // A description has paragraphs; everything else is one line.
    let plain = if field == "description" { types::check_lines } else { types::check_line };
    plain(text).map_err(|error| Refusal::invalid(field, error.to_string()))?;
    if (min..=max).contains(&text.chars().count()) {
        return Ok(());
    }
    Err(Refusal::invalid(field, format!("{min} to {max} characters")))
}

/// The bounds of an app's texts: field, least and most characters.
const TEXTS: [(&str, usize, usize); 5] = [
    ("display_name", 1, 200),
    ("description", 0, 2_000),
    ("category", 0, 50),
    ("icon", 0, 200),
    ("git_url", 10, 500),
];

fn pricing_model(name: &str) -> Result<PricingModel, Refusal> {
    let wrong = || Refusal::invalid("pricing_model", "free, per_action or subscription");
    PricingModel::named(name).ok_or_else(wrong)
}

fn listing(request: AppCreate, share: SharePercent) -> Result<Listing, Refusal> {
    let texts = [
        &request.display_name,
        &request.description,
        &request.category,
        &request.icon,
        &request.git_url,
    ];
    for ((field, min, max), text) in TEXTS.into_iter().zip(texts) {
        check_characters(field, text, min, max)?;
    }
    let pricing_model = pricing_model(&request.pricing_model)?;
    Prices::read(pricing_model, request.pricing_config.as_ref())?;
    Ok(Listing {
        display_name: request.display_name,
        description: request.description,
        category: request.category,
        icon: request.icon,
        git_url: request.git_url,
        pricing_model,
        pricing_config: request.pricing_config,
        revenue_split_dev: share,
    })
}

fn update(request: AppUpdate, share_max: SharePercent) -> Result<Update, Refusal> {
    let texts = [
        &request.display_name,
        &request.description,
        &request.category,
        &request.icon,
        &request.git_url,
    ];
    for ((field, min, max), text) in TEXTS.into_iter().zip(texts) {
        text.as_ref().map_or(Ok(()), |text| check_characters(field, text, min, max))?;
    }
    let share = |percent: u8| {
        let allowed = 50..=share_max.percent();
        let wrong = || format!("{} to {} percent", allowed.start(), allowed.end());
        let share = SharePercent::new(percent).ok().filter(|_| allowed.contains(&percent));
        share.ok_or_else(|| Refusal::invalid("revenue_split_dev", wrong()))
    };
    Ok(Update {
        pricing_model: request.pricing_model.as_deref().map(pricing_model).transpose()?,
        revenue_split_dev: request.revenue_split_dev.map(share).transpose()?,
        display_name: request.display_name,
        description: request.description,
        category: request.category,
        icon: request.icon,
        git_url: request.git_url,
        pricing_config: request.pricing_config,
    })
}
