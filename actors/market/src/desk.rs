//! What whoever keeps the marketplace looks at: the apps that wait for a review, each with what was
//! looked at before it, and the developers with what they have earned.
//!
//! The gateway has checked that whoever asks may: the service token, or an operator.
//!
//! Deliberate limits: no addresses and names of persons but the nickname that a developer shows
//! everybody; developers are listed in the order of their users' ids, which is that of sign-up.

use std::sync::Arc;

use control::app::{App, Details, Status};
use extensions::Apps;
use persistence::StreamName;
use serde::Serialize;
use supervision::{Address, Entity as _, Origin, Refusal, System};
use types::{Page, rfc3339};

use crate::checks::checks;
use crate::developer::{Developer, Profile};
use crate::portal::{balances, blocking};
use crate::service::Market;
use crate::storefront::Storefront;
use crate::terms::Terms;
use crate::view::{AppResponse, SubmitCheck};

/// How many developers a page has when not told, and at most.
pub const DEVELOPERS_DEFAULT: usize = 50;
/// See [`DEVELOPERS_DEFAULT`].
pub const DEVELOPERS_MAX: usize = 200;

/// An app that waits for a review.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct AppUnderReview {
    /// The app, as its developer sees it.
    #[serde(flatten)]
    pub app: AppResponse,
    /// The developer's nickname.
    pub developer: Option<String>,
    /// The version that would go live.
    pub version: Option<String>,
    /// What it asks of who installs it.
    pub scopes: Vec<String>,
    /// Where calls leave to; null when they do not.
    pub host: Option<String>,
    /// What submitting looks at, as it is now: deploying hands an app in without looking.
    pub checks: Vec<SubmitCheck>,
}

/// A developer, as whoever keeps the marketplace sees them.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct DeveloperSummary {
    /// The user.
    pub developer_id: String,
    /// The tenant in whose chain the developer's records are.
    pub tenant_id: String,
    /// The nickname.
    pub nickname: Option<String>,
    /// explorer, indie, studio or partner.
    pub tier: &'static str,
    /// RFC 3339: until when it is paid for.
    pub paid_until: Option<String>,
    /// How many apps there are.
    pub apps_count: usize,
    /// RFC 3339.
    pub registered_at: String,
    /// All that was ever earned, in credits.
    pub total_earnings: i64,
    /// What may be asked for.
    pub available: i64,
    /// What was asked for and is not paid yet.
    pub pending_payout: i64,
    /// What has left.
    pub paid_out: i64,
}

/// A part of all developers.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct DevelopersPage {
    /// The developers.
    pub items: Vec<DeveloperSummary>,
    /// Where to go on; null at the end.
    pub next_cursor: Option<String>,
}

/// The ids of the next developers. Blocks.
fn ids_after(system: &System, after: &str, limit: usize) -> Result<Vec<String>, Refusal> {
    let mut ids = Vec::new();
    let mut last = StreamName::new(&format!("{}/{after}", Developer::KIND));
    while ids.len() < limit {
        let next = system.journal().next_stream(Developer::KIND, last.as_ref());
        let Some(stream) = next.map_err(|_| Refusal::crashed())? else { break };
        ids.extend(stream.as_str().split_once('/').map(|(_, id)| id.to_owned()));
        last = Some(stream);
    }
    Ok(ids)
}

async fn profile_of(
    system: &Arc<System>,
    id: &str,
    origin: &Origin,
) -> Result<Option<Profile>, Refusal> {
    let place = system.locate(Developer::KIND, id);
    let Some(address) = place.and_then(Address::<Developer>::from_place) else { return Ok(None) };
    let look = |developer: &Developer| developer.profile().cloned();
    let found = system.directory::<Developer>().look(&address, origin.clone(), look).await;
    // Who was erased is no developer any more.
    found.or_else(|refusal| if refusal.is_erased() { Ok(None) } else { Err(refusal) })
}

async fn summary(
    system: &Arc<System>,
    profile: &Profile,
    origin: &Origin,
) -> Result<DeveloperSummary, Refusal> {
    let balances = match balances(system, profile, origin).await {
        Err(refusal) if refusal.is_erased() => Default::default(),
        balances => balances?,
    };
    Ok(DeveloperSummary {
        developer_id: profile.user.to_string(),
        tenant_id: profile.tenant.to_string(),
        nickname: profile.nickname.clone(),
        tier: profile.tier.name(),
        paid_until: profile.tier_until.map(rfc3339),
        apps_count: profile.apps.len(),
        registered_at: rfc3339(profile.registered_at),
        total_earnings: balances.total,
        available: balances.earned,
        pending_payout: balances.pending,
        paid_out: balances.paid,
    })
}

impl Market {
    /// The apps that wait for a review, by id; and how many there are.
    pub async fn apps_under_review(
        &self,
        system: &Arc<System>,
        page: Page,
        origin: &Origin,
    ) -> Result<(Vec<AppUnderReview>, usize), Refusal> {
        let waiting = Some(Status::PendingReview);
        let (cards, total) = system.port::<Storefront>().in_state(waiting, page);
        let mut items = Vec::with_capacity(cards.len());
        for card in cards {
            let Some(address) = Apps::locate(system, &card.app.id) else { continue };
            let look = |app: &App| app.details().cloned();
            let found = system.directory::<App>().look(&address, origin.clone(), look).await;
            match found {
                Ok(Some(app)) => items.push(self.under_review(system, &app, origin).await?),
                Ok(None) => {}
                Err(refusal) if refusal.is_erased() => {}
                Err(refusal) => return Err(refusal),
            }
        }
        Ok((items, total))
    }

    async fn under_review(
        &self,
        system: &Arc<System>,
        app: &Details,
        origin: &Origin,
    ) -> Result<AppUnderReview, Refusal> {
        let compiled = self.apps.find(system, &app.id, origin).await.ok();
        let terms = compiled.as_deref().map(Terms::of).unwrap_or_default();
        let developer = profile_of(system, &app.developer.to_string(), origin).await?;
        Ok(AppUnderReview {
            app: AppResponse::from(app),
            developer: developer.and_then(|profile| profile.nickname),
            version: app.current().map(|version| version.version.clone()),
            scopes: terms.scopes.into_iter().collect(),
            host: terms.host,
            checks: checks(app, compiled.as_deref(), self.outside.as_deref()),
        })
    }

    /// A part of all developers, after the one of an id.
    pub async fn developers(
        &self,
        system: &Arc<System>,
        after: Option<&str>,
        limit: usize,
        origin: &Origin,
    ) -> Result<DevelopersPage, Refusal> {
        let (reading, after) = (Arc::clone(system), after.unwrap_or_default().to_owned());
        let limit = limit.clamp(1, DEVELOPERS_MAX);
        let ids = blocking(move || ids_after(&reading, &after, limit)).await??;
        let next_cursor = ids.last().filter(|_| ids.len() == limit).cloned();
        let mut items = Vec::with_capacity(ids.len());
        for id in ids {
            if let Some(profile) = profile_of(system, &id, origin).await? {
                items.push(summary(system, &profile, origin).await?);
            }
        }
        Ok(DevelopersPage { items, next_cursor })
    }
}
