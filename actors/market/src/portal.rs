//! The rest of the developer portal: tiers, giving an app up, deploys elsewhere, figures, earnings
//! and payouts; and what whoever keeps the marketplace decides.
//!
//! The gateway has checked that whoever decides may: the service token, or an operator.

use std::sync::Arc;

use billing::numbers::{Numbers, TakeNumbers, numbers_address};
use control::app::Status;
use extensions::Apps;
use persistence::record::SHARDS;
use persistence::{Shard, codec};
use serde::Serialize;
use serde_json::{Value, json};
use supervision::{Class, IdempotencyKey, Origin, Refusal, System};
use types::{AppId, Page, TenantId, UserId, owner_of_app, owner_of_tenant, rfc3339};

use crate::bookkeeper::range;
use crate::developer::{Developer, Profile, RemoveApp, Tier};
use crate::earnings::{
    APP_TOTAL_FAMILY, AppTotal, Balances, DAY_FAMILY, DAY_MS, DayTotal, Earnings, date_of,
    day_prefix, totals_prefix,
};
use crate::listing::{
    DEPLOY_NOTE_FAMILY, DeployNote, Feature, Listing, NoteDeploy, key as listing_key,
};
use crate::payout::{
    DecidePayout, NOTE_CHARACTERS_MAX, PAYOUT_BY_FAMILY, PAYOUT_FAMILY, PAYOUT_OPEN_FAMILY,
    PAYOUT_SERIES, Payout, PayoutStatus, RequestPayout, payouts_prefix,
};
use crate::service::{Begun, Market, Principal, app_of, ask, begin, developer, email_of, owned};
use crate::storefront::{Storefront, each_row};
use crate::tier::{self, OrderTier, Ordered};
use crate::view::{AppResponse, DeployResponse};

/// How many notes of deploys are shown.
const DEPLOY_NOTES_SHOWN: usize = 100;
/// How many payouts are shown.
const PAYOUTS_SHOWN: usize = 500;
/// The days of figures when not told, if the tier shows so many.
const DAYS_DEFAULT: u32 = 30;
/// The most days that figures go back.
pub const DAYS_MAX: u32 = 366;
/// Characters of the name of what was deployed elsewhere, and of why it failed.
const COMMIT_CHARACTERS_MAX: usize = 128;
const ERROR_CHARACTERS_MAX: usize = 2_000;

/// A developer's tier.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct TierResponse {
    /// explorer, indie, studio or partner.
    pub tier: &'static str,
    /// RFC 3339: until when it is paid for.
    pub paid_until: Option<String>,
    /// What it becomes then; null when it is paid for again.
    pub next_tier: Option<&'static str>,
    /// What it costs a year, in credits.
    pub price_credits: i64,
}

impl From<&Profile> for TierResponse {
    fn from(profile: &Profile) -> Self {
        Self {
            tier: profile.tier.name(),
            paid_until: profile.tier_until.map(rfc3339),
            next_tier: profile.tier_next.map(Tier::name),
            price_credits: profile.tier.price(),
        }
    }
}

/// What a developer has earned, in credits.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct EarningsResponse {
    /// All that was ever earned.
    pub total_earnings: i64,
    /// What the platform has kept.
    pub total_platform_share: i64,
    /// Was asked for and is not paid yet.
    pub pending_payout: i64,
    /// Has left.
    pub paid_out: i64,
    /// As `total_earnings`.
    pub total_earned: i64,
    /// May be asked for.
    pub available: i64,
}

impl From<Balances> for EarningsResponse {
    fn from(balances: Balances) -> Self {
        Self {
            total_earnings: balances.total,
            total_platform_share: balances.platform,
            pending_payout: balances.pending,
            paid_out: balances.paid,
            total_earned: balances.total,
            available: balances.earned,
        }
    }
}

/// What an app did and earned in a day.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct DayResponse {
    /// YYYY-MM-DD, UTC.
    pub period: String,
    /// Calls, failed ones too.
    pub calls: u64,
    /// Calls that failed.
    pub errors: u64,
    /// How many users called.
    pub users: u64,
    /// What callers paid, in credits.
    pub credits: i64,
    /// The developer's share, in credits.
    pub earnings: i64,
}

impl From<&DayTotal> for DayResponse {
    fn from(day: &DayTotal) -> Self {
        Self {
            period: date_of(day.day),
            calls: day.calls,
            errors: day.errors,
            users: day.users,
            credits: day.charged,
            earnings: day.earned,
        }
    }
}

/// What an app has earned.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct EarningsByAppResponse {
    /// The app.
    pub app_id: String,
    /// In credits.
    pub total_earnings: i64,
    /// Calls, failed ones too.
    pub action_count: u64,
    /// By day, the newest first; days without calls are left out.
    pub by_period: Vec<DayResponse>,
}

/// What an app did in the last days.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct AnalyticsResponse {
    /// The app.
    pub app_id: String,
    /// How many days.
    pub days: u32,
    /// Calls, failed ones too.
    pub total_calls: u64,
    /// Calls that failed.
    pub total_errors: u64,
    /// What callers paid, in credits.
    pub total_credits: i64,
    /// The developer's share, in credits.
    pub total_earnings: i64,
    /// By day, the newest first; days without calls are left out.
    pub by_day: Vec<DayResponse>,
}

/// A payout.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct PayoutResponse {
    /// Unique over the installation, below 2^53.
    pub id: u64,
    /// Who asked.
    pub developer_id: String,
    /// How much, in credits.
    pub amount_tokens: i64,
    /// How much in US dollars, at the rate when it was asked for.
    pub amount_usd: String,
    /// pending, approved, paid or rejected.
    pub status: &'static str,
    /// How it is paid.
    pub method: String,
    /// What was said when it was decided.
    pub admin_note: Option<String>,
    /// RFC 3339.
    pub requested_at: String,
    /// RFC 3339.
    pub processed_at: Option<String>,
}

impl From<&Payout> for PayoutResponse {
    fn from(payout: &Payout) -> Self {
        Self {
            id: payout.id,
            developer_id: payout.developer.to_string(),
            amount_tokens: payout.amount,
            amount_usd: dollars(payout.cents()),
            status: payout.status.name(),
            method: payout.method.clone(),
            admin_note: payout.note.clone(),
            requested_at: rfc3339(payout.requested_at),
            processed_at: payout.processed_at.map(rfc3339),
        }
    }
}

fn dollars(cents: i64) -> String {
    format!("{}.{:02}", cents / 100, cents % 100)
}

/// A payout that waits, as whoever decides on it sees it.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct PendingPayout {
    /// Its number.
    pub id: u64,
    /// The developer's nickname; the id when there is none.
    pub developer: String,
    /// Who asked.
    pub developer_id: String,
    /// The e-mail address; empty once it was erased.
    pub email: String,
    /// How much, in credits.
    pub tokens: i64,
    /// How much in US dollars.
    pub usd: String,
    /// pending or approved.
    pub status: &'static str,
    /// RFC 3339.
    pub requested_at: String,
}

/// What is in a developer's accounts; nothing for one who was never credited.
pub(crate) async fn balances(
    system: &Arc<System>,
    profile: &Profile,
    origin: &Origin,
) -> Result<Balances, Refusal> {
    let address = Earnings::address(profile.user, profile.tenant);
    let accounts = system.directory::<Earnings>();
    accounts.look(&address, origin.clone(), Earnings::balances).await
}

/// What developers have noted of an app's deploys elsewhere, the newest first.
pub(crate) fn deploy_notes(system: &System, app: &AppId) -> Vec<DeployNote> {
    let shard = owner_of_app(app).shard();
    let notes = range(shard, DEPLOY_NOTE_FAMILY, listing_key(app, &[]), true, DEPLOY_NOTES_SHOWN);
    system.rows(&notes).iter().filter_map(|(_, value)| codec::decode(value).ok()).collect()
}

/// What an app did by day, the newest first, at most so many.
fn days_of(system: &System, profile: &Profile, app: &AppId, limit: usize) -> Vec<DayTotal> {
    let shard = owner_of_tenant(profile.tenant).shard();
    let days = range(shard, DAY_FAMILY, day_prefix(profile.user, app), true, limit);
    system.rows(&days).iter().filter_map(|(_, value)| codec::decode(value).ok()).collect()
}

impl Market {
    /// Orders a tier: a higher one is paid for at once (402 when the wallet does not cover it), a
    /// lower one comes at the end of the year.
    pub async fn set_tier(
        &self,
        system: &Arc<System>,
        principal: &Principal,
        wanted: &str,
    ) -> Result<TierResponse, Refusal> {
        let wanted = tier::named(wanted)?;
        let (address, profile) = developer(system, principal).await?;
        if profile.tenant != principal.tenant {
            let message = "a tier is ordered in the tenant whose wallet pays for it";
            return Err(Refusal::new(Class::Forbidden, "other_tenant_pays", message));
        }
        let developers = system.directory::<Developer>();
        let order = OrderTier { tier: wanted };
        match developers.ask(&address, order, principal.origin.clone()).await? {
            Ordered::Stands(profile) => Ok(TierResponse::from(&profile)),
            Ordered::ToPay(order) => {
                let origin = principal.origin.clone();
                let paid = tier::pay(system, &address, profile.tenant, order, origin).await?;
                Ok(TierResponse::from(&paid))
            }
        }
    }

    /// Gives an app up for good. `confirm_name` must be its id or the name shown (422).
    pub async fn delete_app(
        &self,
        system: &Arc<System>,
        principal: &Principal,
        app_id: &str,
        confirm_name: &str,
    ) -> Result<Value, Refusal> {
        let (developer_at, _) = developer(system, principal).await?;
        let (_, app) = app_of(system, principal, app_id).await?;
        if ![app.id.as_str(), app.listing.display_name.as_str()].contains(&confirm_name) {
            let message = "must be the app's id or the name that it shows";
            return Err(Refusal::invalid("confirm_name", message));
        }
        let origin = &principal.origin;
        self.set_status(system, &app.id, Status::Deleted, None, origin).await?;
        let remove = RemoveApp { app: app.id.clone() };
        // An app that is left in the list counts, and shows as nothing.
        let _ = system.directory::<Developer>().ask(&developer_at, remove, origin.clone()).await;
        Ok(json!({"app_id": app.id, "status": "deleted"}))
    }

    /// Takes an active app back. Its developer submits it again.
    pub async fn suspend_app(
        &self,
        system: &Arc<System>,
        principal: &Principal,
        app_id: &str,
    ) -> Result<AppResponse, Refusal> {
        let (_, app) = owned(system, principal, app_id).await?;
        self.set_status(system, &app.id, Status::Suspended, None, &principal.origin).await
    }

    /// Notes a deploy elsewhere.
    pub async fn note_deploy(
        &self,
        system: &Arc<System>,
        principal: &Principal,
        app_id: &str,
        note: DeployNote,
        idempotency: Option<&IdempotencyKey>,
    ) -> Result<Value, Refusal> {
        let (address, app) = owned(system, principal, app_id).await?;
        let one_line = |field: &str, text: &str, max: usize| {
            let fits = types::check_lines(text).is_ok() && text.chars().count() <= max;
            let message = format!("at most {max} characters of plain text");
            fits.then_some(()).ok_or_else(|| Refusal::invalid(field, message))
        };
        one_line("commit_sha", &note.commit_sha, COMMIT_CHARACTERS_MAX)?;
        one_line("error_message", &note.error_message, ERROR_CHARACTERS_MAX)?;
        if note.commit_sha.is_empty() {
            return Err(Refusal::invalid("commit_sha", "must not be empty"));
        }
        if !["success", "warning", "failed"].contains(&note.status.as_str()) {
            return Err(Refusal::invalid("status", "success, warning or failed"));
        }
        let listing = Listing::address(&app.id, address.place().home);
        let ticket = match begin(system, &listing, idempotency).await? {
            Begun::Recorded(body) => return Ok(body),
            Begun::New(ticket) => ticket,
        };
        let command = NoteDeploy { app: app.id, note };
        let render = |note: &DeployNote| DeployResponse::from(note.clone());
        ask(system, &listing, command, principal.origin.clone(), ticket, render).await
    }

    /// What an app did in the last `days`, without them in the last [`DAYS_DEFAULT`] or as many as
    /// the tier shows; 400 `analytics_window` beyond the tier's.
    pub async fn analytics(
        &self,
        system: &Arc<System>,
        principal: &Principal,
        app_id: &str,
        days: Option<u32>,
    ) -> Result<AnalyticsResponse, Refusal> {
        let (_, profile) = developer(system, principal).await?;
        let (_, app) = app_of(system, principal, app_id).await?;
        let window = profile.tier.analytics_days();
        let days = days.unwrap_or_else(|| DAYS_DEFAULT.min(window));
        if days > window {
            let message = format!("the tier {} shows {window} days", profile.tier.name());
            let facts = json!({"days": days, "window": window});
            let refusal = Refusal::new(Class::BadRequest, "analytics_window", message);
            return Err(refusal.with_facts(&facts));
        }
        let today = system.clock().now().0.div_euclid(DAY_MS);
        let since = today - i64::from(days) + 1;
        let all = days_of(system, &profile, &app.id, DAYS_MAX as usize);
        let by_day: Vec<_> = all.iter().filter(|day| i64::from(day.day) >= since).collect();
        Ok(AnalyticsResponse {
            app_id: app.id.to_string(),
            days,
            total_calls: by_day.iter().map(|day| day.calls).sum(),
            total_errors: by_day.iter().map(|day| day.errors).sum(),
            total_credits: by_day.iter().map(|day| day.charged).sum(),
            total_earnings: by_day.iter().map(|day| day.earned).sum(),
            by_day: by_day.into_iter().map(DayResponse::from).collect(),
        })
    }

    /// What a developer has earned.
    pub async fn earnings(
        &self,
        system: &Arc<System>,
        principal: &Principal,
    ) -> Result<EarningsResponse, Refusal> {
        let (_, profile) = developer(system, principal).await?;
        balances(system, &profile, &principal.origin).await.map(EarningsResponse::from)
    }

    /// What one app has earned.
    pub async fn earnings_of(
        &self,
        system: &Arc<System>,
        principal: &Principal,
        app_id: &str,
    ) -> Result<EarningsByAppResponse, Refusal> {
        let (_, profile) = developer(system, principal).await?;
        let (_, app) = app_of(system, principal, app_id).await?;
        let shard = owner_of_tenant(profile.tenant).shard();
        let mut key = totals_prefix(profile.user);
        key.extend_from_slice(app.id.as_str().as_bytes());
        let total = system.row(shard, APP_TOTAL_FAMILY, &key);
        let total: Option<AppTotal> = total.and_then(|row| codec::decode(&row).ok());
        let days = days_of(system, &profile, &app.id, DAYS_MAX as usize);
        Ok(EarningsByAppResponse {
            app_id: app.id.to_string(),
            total_earnings: total.as_ref().map_or(0, |total| total.earned),
            action_count: total.as_ref().map_or(0, |total| total.calls),
            by_period: days.iter().map(DayResponse::from).collect(),
        })
    }

    /// Asks for a payout. Refused: 403 `tier_has_no_payouts`, 422 below the least that is paid, 409
    /// `insufficient_earnings`.
    pub async fn request_payout(
        &self,
        system: &Arc<System>,
        principal: &Principal,
        amount: i64,
        method: &str,
        idempotency: Option<&IdempotencyKey>,
    ) -> Result<Value, Refusal> {
        let (_, profile) = developer(system, principal).await?;
        if !profile.tier.has_payouts() {
            let message = format!("the tier {} has no payouts", profile.tier.name());
            return Err(Refusal::new(Class::Forbidden, "tier_has_no_payouts", message));
        }
        let minimum = self.settings.payout_minimum;
        if amount < minimum {
            return Err(Refusal::invalid("amount_tokens", format!("must be {minimum} or more")));
        }
        let fits = types::check_line(method).is_ok() && (1..=30).contains(&method.chars().count());
        fits.then_some(())
            .ok_or_else(|| Refusal::invalid("payout_method", "1 to 30 characters"))?;
        let address = Earnings::address(profile.user, profile.tenant);
        let ticket = match begin(system, &address, idempotency).await? {
            Begun::Recorded(body) => return Ok(body),
            Begun::New(ticket) => ticket,
        };
        let (numbers, origin) = (numbers_address(PAYOUT_SERIES), principal.origin.clone());
        let take = TakeNumbers { count: 1 };
        let id = system.directory::<Numbers>().ask(&numbers, take, origin.clone()).await?;
        let command = RequestPayout {
            id,
            developer: profile.user,
            tenant: profile.tenant,
            amount,
            rate_microdollars: self.settings.credit_microdollars,
            method: method.to_owned(),
        };
        let render = |payout: &Payout| PayoutResponse::from(payout);
        ask(system, &address, command, origin, ticket, render).await
    }

    /// A developer's payouts, the newest first.
    pub async fn payouts(
        &self,
        system: &Arc<System>,
        principal: &Principal,
    ) -> Result<Vec<PayoutResponse>, Refusal> {
        let (_, profile) = developer(system, principal).await?;
        let shard = owner_of_tenant(profile.tenant).shard();
        let prefix = payouts_prefix(profile.user);
        let rows = system.rows(&range(shard, PAYOUT_BY_FAMILY, prefix, true, PAYOUTS_SHOWN));
        let payouts = rows.iter().filter_map(|(_, value)| codec::decode::<Payout>(value).ok());
        Ok(payouts.map(|payout| PayoutResponse::from(&payout)).collect())
    }

    /// The payouts that wait, the oldest first.
    pub async fn open_payouts(
        &self,
        system: &Arc<System>,
        origin: &Origin,
    ) -> Result<Vec<PendingPayout>, Refusal> {
        let reading = Arc::clone(system);
        let open = blocking(move || {
            let mut open = Vec::new();
            each_row(&reading, PAYOUT_OPEN_FAMILY, |_, payout: Payout| open.push(payout));
            open.sort_unstable_by_key(|payout| payout.id);
            open.truncate(PAYOUTS_SHOWN);
            open
        });
        let mut all = Vec::new();
        for payout in open.await? {
            let origin = origin.clone();
            let (user, tenant) = (payout.developer, payout.tenant);
            let principal = Principal { user, tenant, origin: origin.clone() };
            let nickname = |developer: &Developer| {
                developer.profile().and_then(|profile| profile.nickname.clone())
            };
            let developers = system.directory::<Developer>();
            let address = Developer::address(user, tenant);
            // A developer who was erased has no nickname any more, and is still owed.
            let nickname = developers.look(&address, origin, nickname).await.ok().flatten();
            all.push(PendingPayout {
                id: payout.id,
                developer: nickname.unwrap_or_else(|| user.to_string()),
                developer_id: user.to_string(),
                email: email_of(system, &principal).await,
                tokens: payout.amount,
                usd: dollars(payout.cents()),
                status: payout.status.name(),
                requested_at: rfc3339(payout.requested_at),
            });
        }
        Ok(all)
    }

    /// Decides on a payout; 404 for a number that is none's, 409 when it ended or its state does
    /// not lead there.
    pub async fn decide_payout(
        &self,
        system: &Arc<System>,
        id: u64,
        status: PayoutStatus,
        note: &str,
        (origin, idempotency): (Origin, Option<&IdempotencyKey>),
    ) -> Result<Value, Refusal> {
        if types::check_lines(note).is_err() || note.chars().count() > NOTE_CHARACTERS_MAX {
            let message = format!("at most {NOTE_CHARACTERS_MAX} characters of plain text");
            return Err(Refusal::invalid("note", message));
        }
        let reading = Arc::clone(system);
        let found = blocking(move || {
            let shards = (0..SHARDS).map(|shard| Shard(shard as u8));
            let row = |shard| reading.row(shard, PAYOUT_FAMILY, &id.to_be_bytes());
            shards.filter_map(row).find_map(|row| codec::decode::<(UserId, TenantId)>(&row).ok())
        });
        let missing = || Refusal::not_found("payout");
        let (developer, tenant) = found.await?.ok_or_else(missing)?;
        let address = Earnings::address(developer, tenant);
        let ticket = match begin(system, &address, idempotency).await? {
            Begun::Recorded(body) => return Ok(body),
            Begun::New(ticket) => ticket,
        };
        let note = Some(note.to_owned()).filter(|note| !note.is_empty());
        let command = DecidePayout { id, status, note };
        let render = |payout: &Payout| PayoutResponse::from(payout);
        let decided = ask(system, &address, command, origin, ticket, render).await;
        decided.map_err(|refusal| match refusal.class {
            Class::NotFound => Refusal::conflict("payout_ended", "this payout has ended"),
            _ => refusal,
        })
    }

    /// Shows an app first from now on, or no more.
    pub async fn feature_app(
        &self,
        system: &Arc<System>,
        app_id: &str,
        featured: bool,
        origin: &Origin,
    ) -> Result<(), Refusal> {
        let missing = || Refusal::not_found("app");
        let id = AppId::new(app_id).map_err(|_| missing())?;
        let address = Apps::locate(system, &id).ok_or_else(missing)?;
        let listing = Listing::address(&id, address.place().home);
        let feature = Feature { app: id.clone(), featured };
        let told = system.directory::<Listing>().ask(&listing, feature, origin.clone()).await?;
        Storefront::hear(system, &id, told);
        Ok(())
    }

    /// The apps in a state, or in any, by id; and how many there are.
    pub async fn apps_in_state(
        &self,
        system: &Arc<System>,
        status: Option<Status>,
        page: Page,
        origin: &Origin,
    ) -> Result<(Vec<AppResponse>, usize), Refusal> {
        let (cards, total) = system.port::<Storefront>().in_state(status, page);
        let mut apps = Vec::with_capacity(cards.len());
        for card in cards {
            let Some(address) = Apps::locate(system, &card.app.id) else { continue };
            let look = |app: &control::app::App| app.details().map(AppResponse::from);
            let directory = system.directory::<control::app::App>();
            let app = directory.look(&address, origin.clone(), look).await;
            apps.extend(app.or_else(|it| if it.is_erased() { Ok(None) } else { Err(it) })?);
        }
        Ok((apps, total))
    }

    /// Reads apps' prices anew before they are called again; all of them without an id.
    pub async fn sync_pricing(
        &self,
        system: &Arc<System>,
        app_id: Option<&str>,
        origin: &Origin,
    ) -> Result<usize, Refusal> {
        let Some(app_id) = app_id else {
            self.apps.forget_all();
            let page = Page { limit: 1, offset: 0 };
            return Ok(system.port::<Storefront>().in_state(None, page).1);
        };
        let missing = || Refusal::not_found("app");
        let id = AppId::new(app_id).map_err(|_| missing())?;
        Apps::locate(system, &id).ok_or_else(missing)?;
        self.show(system, &id, origin).await?;
        Ok(1)
    }

    /// What tiers are and what an operator has set.
    pub fn config(&self) -> Value {
        let tier = |tier: Tier| {
            let apps_max = match tier {
                Tier::Explorer => self.settings.explorer_apps_max,
                tier => tier.apps_max(),
            };
            json!({"tier": tier.name(), "price_credits": tier.price(), "apps": apps_max,
                "share_percent": tier.share().percent(), "payouts": tier.has_payouts(),
                "analytics_days": tier.analytics_days(),
                "requests_per_minute": tier.requests_per_minute()})
        };
        json!({"tiers": Tier::ALL.map(tier), "payout_minimum": self.settings.payout_minimum,
            "credit_microdollars": self.settings.credit_microdollars})
    }
}

/// Runs on a thread that may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Refusal> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Refusal::crashed())
}
