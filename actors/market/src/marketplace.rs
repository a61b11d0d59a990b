//! The marketplace: what everybody sees of active apps, installing them, and reviewing them.
//!
//! An active app may be called by everybody whose scopes cover it. Installing pins what it asks
//! for: a later version that asks for more is not called until it is installed again. Switching an
//! app off keeps a user's calls from it, installed or not.
//!
//! Who installs or reviews from a sandbox leaves no trace in the listing.

use std::collections::HashSet;
use std::sync::Arc;

use billing::numbers::{Numbers, TakeNumbers, numbers_address};
use control::app::Status;
use extensions::{Apps, CompiledApp};
use identity::frozen::Frozen;
use persistence::record::SHARDS;
use persistence::{RowRange, Shard, codec};
use supervision::{Class, Home, IdempotencyKey, Origin, Refusal, System};
use types::{AppId, Page, TenantId, UserId, home_of, owner_of_app, owner_of_tenant};

use crate::bookkeeper::range;
use crate::consents::{grant_of, hex, row_of};
use crate::developer::Developer;
use crate::install::{
    DisabledBy, Holder, INSTALL_FAMILY, INSTALL_USER_FAMILY, Install, InstallApp, InstallRow,
    Switch, UninstallApp,
};
use crate::listing::{
    CountInstall, Listing, Order, REVIEW_FAMILY, REVIEW_ORDER_FAMILY, REVIEW_RANGE_FAMILY,
    StoredReview, Told, key, order_prefix, review_key,
};
use crate::portal::blocking;
use crate::review::{
    ChangeReview, NUMBERS_NEEDED, NumberReviews, RemoveReview, Reviewed, Vote, WriteReview,
    check_review, person,
};
use crate::service::{Begun, Market, Principal, ask, begin};
use crate::storefront::{Card, Question, Storefront};

mod view;
pub use view::{
    AppDetails, AppSummary, AppsPage, DeveloperPage, ExtensionEntry, ExtensionUser,
    InstallResponse, ReviewPage, ReviewResponse,
};

/// The series that reviews' numbers come from.
const REVIEW_SERIES: &str = "reviews";
/// How often a review is written anew that finds no number.
const NUMBERING_ATTEMPTS_MAX: usize = 8;
/// Reviews of an app that can be paged through.
pub const REVIEWS_READ_MAX: usize = 10_000;
/// How many apps of a user, and users of an app, are listed.
pub const INSTALLS_SHOWN_MAX: usize = 1_000;

/// Installs of a user that are read at once to mark a list.
const INSTALLS_AT_ONCE: usize = 128;

/// Who looks: a user in a tenant, or nobody in particular.
pub type Viewer = Option<(TenantId, UserId)>;

/// The orders of reviews.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReviewSort {
    /// Those that helped the most first.
    Helpful,
    /// The newest first.
    Newest,
    /// The oldest first.
    Oldest,
    /// The best ratings first.
    Highest,
    /// The worst ratings first.
    Lowest,
}

impl ReviewSort {
    /// The order of a name.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "helpful" => Self::Helpful,
            "newest" => Self::Newest,
            "oldest" => Self::Oldest,
            "highest" => Self::Highest,
            "lowest" => Self::Lowest,
            _ => return None,
        })
    }
}

/// What somebody says of an app, or changes of it.
#[derive(Clone, Debug, Default)]
pub struct ReviewWords {
    /// 1 to 5.
    pub rating: Option<u8>,
    /// The title.
    pub title: Option<String>,
    /// The text.
    pub body: Option<String>,
}

fn not_active() -> Refusal {
    Refusal::new(Class::BadRequest, "app_not_active", "App not found or not active")
}

fn is_sandbox(system: &System, tenant: TenantId) -> bool {
    system.own_time(home_of(tenant)).is_some()
}

pub(crate) fn not_from_a_sandbox(system: &System, principal: &Principal) -> Result<(), Refusal> {
    let message = "a sandbox writes nothing that others read";
    let is_one = is_sandbox(system, principal.tenant);
    (!is_one).then_some(()).ok_or_else(|| Refusal::new(Class::Forbidden, "sandbox", message))
}

fn summary(system: &System, viewer: Viewer, card: &Card) -> AppSummary {
    let is_installed = viewer.map(|(tenant, user)| {
        let holder = Holder { tenant, user, app: card.app.id.clone() };
        row_of(system, &holder).is_some_and(|row| row.terms.is_some())
    });
    AppSummary::of(card, is_installed)
}

/// The same of several: what the viewer has is read at once, unless it is very much.
fn summaries(system: &System, viewer: Viewer, cards: &[Arc<Card>]) -> Vec<AppSummary> {
    let one_by_one = || cards.iter().map(|card| summary(system, viewer, card)).collect();
    let Some((tenant, user)) = viewer else { return one_by_one() };
    let shard = owner_of_tenant(tenant).shard();
    let prefix = Holder::prefix(tenant, user);
    let rows = system.rows(&range(shard, INSTALL_FAMILY, prefix, false, INSTALLS_AT_ONCE));
    if rows.len() >= INSTALLS_AT_ONCE {
        return one_by_one();
    }
    let is_installed =
        |row: &[u8]| codec::decode::<InstallRow>(row).is_ok_and(|row| row.terms.is_some());
    let rows = rows.into_iter().filter(|(_, row)| is_installed(row));
    let installed: HashSet<Vec<u8>> = rows.map(|(key, _)| key).collect();
    let summary = |card: &Arc<Card>| {
        let holder = Holder { tenant, user, app: card.app.id.clone() };
        AppSummary::of(card, Some(installed.contains(&holder.key())))
    };
    cards.iter().map(summary).collect()
}

impl Market {
    /// A page of the active apps.
    pub fn browse(&self, system: &Arc<System>, viewer: Viewer, question: &Question) -> AppsPage {
        let found = system.port::<Storefront>().find(question);
        AppsPage {
            apps: summaries(system, viewer, &found.cards),
            total: found.total,
            page: question.page.number(),
            per_page: question.page.limit,
        }
    }

    /// Those that are shown first.
    pub fn featured(&self, system: &Arc<System>, viewer: Viewer, limit: usize) -> Vec<AppSummary> {
        let cards = system.port::<Storefront>().featured(limit);
        summaries(system, viewer, &cards)
    }

    /// An active app with its functions; 404 for any other.
    pub async fn details(
        &self,
        system: &Arc<System>,
        viewer: Viewer,
        app_id: &str,
        origin: &Origin,
    ) -> Result<AppDetails, Refusal> {
        let card = active(system, app_id).ok_or_else(|| Refusal::not_found("app"))?;
        let compiled = self.apps.find(system, &card.app.id, origin).await?;
        Ok(AppDetails::of(&card, summary(system, viewer, &card), &compiled))
    }

    /// A developer with active apps; 404 for anybody else.
    pub async fn developer_page(
        &self,
        system: &Arc<System>,
        viewer: Viewer,
        developer_id: &str,
        origin: &Origin,
    ) -> Result<DeveloperPage, Refusal> {
        let missing = || Refusal::not_found("developer");
        let developer: UserId = developer_id.parse().map_err(|_| missing())?;
        let cards = system.port::<Storefront>().of_developer(developer);
        let tenant = cards.first().ok_or_else(missing)?.app.tenant;
        let nickname = |it: &Developer| it.profile().and_then(|profile| profile.nickname.clone());
        let developers = system.directory::<Developer>();
        let address = Developer::address(developer, tenant);
        let nickname = developers.look(&address, origin.clone(), nickname).await;
        let nickname = nickname.or_else(|it| if it.is_erased() { Ok(None) } else { Err(it) })?;
        let apps = summaries(system, viewer, &cards);
        Ok(DeveloperPage { developer_id: developer.to_string(), nickname, apps })
    }

    /// Installs an active app, or agrees to what it asks for now. With `terms` it must still ask
    /// for just that (409, `terms_changed`). 400 `app_not_active` for an app that is not active.
    pub async fn install(
        &self,
        system: &Arc<System>,
        principal: &Principal,
        app_id: &str,
        terms: Option<&str>,
        idempotency: Option<&IdempotencyKey>,
    ) -> Result<serde_json::Value, Refusal> {
        let card = active(system, app_id).ok_or_else(not_active)?;
        let id = card.app.id.clone();
        system.find_port::<Frozen>().map_or(Ok(()), |frozen| frozen.check_app(&id))?;
        let listing = listing_of(system, &id)?;
        let ticket = match begin(system, &listing, idempotency).await? {
            Begun::Recorded(body) => return Ok(body),
            Begun::New(ticket) => ticket,
        };
        let compiled = self.apps.find(system, &id, &principal.origin).await?;
        if compiled.status != Status::Active || compiled.ir.is_none() {
            return Err(not_active());
        }
        let grant = grant_of(system, &compiled, &principal.origin).await?;
        if terms.is_some_and(|terms| terms != hex(&grant.terms.digest())) {
            let message = "the app asks for something else by now: look again";
            return Err(Refusal::conflict("terms_changed", message));
        }
        let holder = holder(principal, &id);
        let installs = system.directory::<Install>();
        let command = InstallApp { holder: holder.clone(), grant };
        let standing = installs.ask(&holder.address(), command, principal.origin.clone()).await?;
        let counts = card.counts.installs;
        if is_sandbox(system, principal.tenant) {
            let answer = InstallResponse::of(&id, true, counts);
            return serde_json::to_value(answer).map_err(|_| Refusal::crashed());
        }
        let count = CountInstall {
            app: id.clone(),
            installer: holder.mark(),
            number: standing.number,
            installed: standing.installed,
        };
        let (told_app, window) = (id.clone(), Arc::clone(system));
        let render = move |told: &Told| {
            Storefront::hear(&window, &told_app, told.clone());
            InstallResponse::of(&told_app, true, told.counts.installs)
        };
        ask(system, &listing, count, principal.origin.clone(), ticket, render).await
    }

    /// Takes an app off. What is not installed stays so; 404 for an app that is not there.
    pub async fn uninstall(
        &self,
        system: &Arc<System>,
        principal: &Principal,
        app_id: &str,
    ) -> Result<InstallResponse, Refusal> {
        let missing = || Refusal::not_found("app");
        let id = AppId::new(app_id).map_err(|_| missing())?;
        let holder = holder(principal, &id);
        let is_active = active(system, app_id).is_some();
        if row_of(system, &holder).is_none() && !is_active {
            return Err(missing());
        }
        let (installs, origin) = (system.directory::<Install>(), &principal.origin);
        let standing = installs.ask(&holder.address(), UninstallApp {}, origin.clone()).await?;
        let Ok(listing) = listing_of(system, &id) else {
            return Ok(InstallResponse::of(&id, false, 0));
        };
        if standing.number == 0 || is_sandbox(system, principal.tenant) {
            let installs = system.port::<Storefront>().card(&id);
            let installs = installs.map_or(0, |card| card.counts.installs);
            return Ok(InstallResponse::of(&id, false, installs));
        }
        let (app, installer, number) = (id.clone(), holder.mark(), standing.number);
        let count = CountInstall { app, installer, number, installed: false };
        let listings = system.directory::<Listing>();
        let told = listings.ask(&listing, count, origin.clone()).await?;
        let installs = told.counts.installs;
        Storefront::hear(system, &id, told);
        Ok(InstallResponse::of(&id, false, installs))
    }

    /// What a user has installed or switched off.
    pub async fn extensions_of(
        &self,
        system: &Arc<System>,
        tenant: TenantId,
        user: UserId,
        origin: &Origin,
    ) -> Result<Vec<ExtensionEntry>, Refusal> {
        let shard = owner_of_tenant(tenant).shard();
        let prefix = Holder::prefix(tenant, user);
        let rows = system.rows(&range(shard, INSTALL_FAMILY, prefix, false, INSTALLS_SHOWN_MAX));
        let mut entries = Vec::new();
        for (key, value) in rows {
            let id = key.get(32..).and_then(|text| std::str::from_utf8(text).ok());
            let id = id.and_then(|text| AppId::new(text).ok());
            let (Some(id), Ok(row)) = (id, codec::decode::<InstallRow>(&value)) else { continue };
            let compiled = match self.apps.find(system, &id, origin).await {
                Ok(app) => {
                    let is_visible = app.is_visible_to(system, tenant, Some(user), origin).await?;
                    is_visible.then_some(app)
                }
                Err(_) => None,
            };
            let needed = match &compiled {
                Some(app) => self.consent_needed(system, tenant, user, app, &row, origin).await?,
                None => false,
            };
            let card = system.port::<Storefront>().card(&id);
            entries.push(ExtensionEntry::of(
                &id,
                &row,
                card.as_deref(),
                compiled.as_deref(),
                needed,
            ));
        }
        Ok(entries)
    }

    async fn consent_needed(
        &self,
        system: &Arc<System>,
        tenant: TenantId,
        user: UserId,
        app: &CompiledApp,
        row: &InstallRow,
        origin: &Origin,
    ) -> Result<bool, Refusal> {
        let terms = crate::terms::Terms::of(app);
        if row.terms.is_none_or(|agreed| agreed == terms.digest()) || app.tenant == tenant {
            return Ok(false);
        }
        let holder = Holder { tenant, user, app: app.id.clone() };
        let installs = system.directory::<Install>();
        let granted = |install: &Install| install.granted().map(|grant| grant.terms.clone());
        let granted = installs.look(&holder.address(), origin.clone(), granted).await?;
        Ok(granted.is_some_and(|granted| !granted.widened_by(&terms).is_empty()))
    }

    /// Switches an app off for a user, or on again. 404 for an app that the user may not know of.
    pub async fn switch(
        &self,
        system: &Arc<System>,
        (tenant, user): (TenantId, UserId),
        app_id: &str,
        (on, by): (bool, DisabledBy),
        origin: &Origin,
    ) -> Result<(), Refusal> {
        let missing = || Refusal::not_found("app");
        let id = AppId::new(app_id).map_err(|_| missing())?;
        let holder = Holder { tenant, user, app: id.clone() };
        if row_of(system, &holder).is_none() {
            let app = self.apps.find(system, &id, origin).await?;
            if !app.is_visible_to(system, tenant, Some(user), origin).await? {
                return Err(missing());
            }
        }
        let switch = Switch { holder: holder.clone(), on, by };
        let installs = system.directory::<Install>();
        installs.ask(&holder.address(), switch, origin.clone()).await.map(drop)
    }

    /// Who of a tenant has an app installed. 404 for an app that the tenant may not know of.
    pub async fn users_of(
        &self,
        system: &Arc<System>,
        tenant: TenantId,
        app_id: &str,
        page: Page,
        origin: &Origin,
    ) -> Result<Vec<ExtensionUser>, Refusal> {
        let missing = || Refusal::not_found("app");
        let id = AppId::new(app_id).map_err(|_| missing())?;
        let app = self.apps.find(system, &id, origin).await?;
        let is_visible = app.is_visible_to(system, tenant, None, origin).await?;
        is_visible.then_some(()).ok_or_else(missing)?;
        let shard = owner_of_tenant(tenant).shard();
        let prefix = Holder::users_prefix(tenant, &id);
        let limit = page.offset.saturating_add(page.limit).min(INSTALLS_SHOWN_MAX);
        let rows = system.rows(&range(shard, INSTALL_USER_FAMILY, prefix, false, limit));
        let users = rows.iter().filter_map(|(key, value)| {
            let user = key.last_chunk::<16>().map(|it| UserId(u128::from_be_bytes(*it)))?;
            Some(ExtensionUser::new(user, codec::decode(value).ok()?))
        });
        Ok(page.of(users))
    }

    /// A page of an active app's reviews; 404 for any other app.
    pub fn reviews(
        &self,
        system: &Arc<System>,
        viewer: Viewer,
        app_id: &str,
        sort: ReviewSort,
        page: Page,
    ) -> Result<ReviewPage, Refusal> {
        let card = active(system, app_id).ok_or_else(|| Refusal::not_found("app"))?;
        let reviews = read_reviews(system, &card.app.id, sort, page);
        let mine = viewer.map(|(_, user)| person(&card.app.id, user));
        let keys = system.journal().keys();
        let view = |review: &StoredReview| ReviewResponse::of(keys, &card.app.id, review, mine);
        Ok(ReviewPage {
            reviews: reviews.iter().map(view).collect(),
            total: card.counts.reviews,
            avg_rating: card.rating_hundredths() as f64 / 100.0,
            page: page.number(),
            per_page: page.limit,
        })
    }

    /// Reviews an app that the author has installed. Refused: 404 for an app that is not active,
    /// 403 `not_installed` and `own_app`, 409 `already_reviewed`, 422.
    pub async fn write_review(
        &self,
        system: &Arc<System>,
        principal: &Principal,
        app_id: &str,
        words: ReviewWords,
        idempotency: Option<&IdempotencyKey>,
    ) -> Result<serde_json::Value, Refusal> {
        let card = active(system, app_id).ok_or_else(|| Refusal::not_found("app"))?;
        let (id, origin) = (card.app.id.clone(), &principal.origin);
        check_review(words.rating, words.title.as_deref(), words.body.as_deref())?;
        not_from_a_sandbox(system, principal)?;
        if card.app.tenant == principal.tenant || card.app.developer == principal.user {
            let message = "an app is reviewed by others than those who make it";
            return Err(Refusal::new(Class::Forbidden, "own_app", message));
        }
        let row = row_of(system, &holder(principal, &id));
        if row.is_none_or(|row| row.terms.is_none()) {
            let message = "install the app before you review it";
            return Err(Refusal::new(Class::Forbidden, "not_installed", message));
        }
        let listing = listing_of(system, &id)?;
        let ReviewWords { rating, title, body } = words;
        let write = WriteReview {
            app: id.clone(),
            user: principal.user,
            rating: rating.ok_or_else(|| Refusal::invalid("rating", "is missing"))?,
            title: title.unwrap_or_default(),
            body: body.ok_or_else(|| Refusal::invalid("body", "is missing"))?,
        };
        for _ in 0..NUMBERING_ATTEMPTS_MAX {
            let ticket = match begin(system, &listing, idempotency).await? {
                Begun::Recorded(body) => return Ok(body),
                Begun::New(ticket) => ticket,
            };
            let render = reviewed(system, &id, principal.user);
            match ask(system, &listing, write.clone(), origin.clone(), ticket, render).await {
                Err(refusal) if refusal.code == NUMBERS_NEEDED => {
                    number_reviews(system, &id, origin).await?;
                }
                written => return written,
            }
        }
        Err(Refusal::busy())
    }

    /// Changes one's own review. Refused: 404, 403 `not_your_review`, 422.
    pub async fn change_review(
        &self,
        system: &Arc<System>,
        principal: &Principal,
        review_id: &str,
        words: ReviewWords,
        idempotency: Option<&IdempotencyKey>,
    ) -> Result<serde_json::Value, Refusal> {
        let (id, number) = find_review(system, review_id).await?;
        check_review(words.rating, words.title.as_deref(), words.body.as_deref())?;
        not_from_a_sandbox(system, principal)?;
        let listing = listing_of(system, &id)?;
        let ticket = match begin(system, &listing, idempotency).await? {
            Begun::Recorded(body) => return Ok(body),
            Begun::New(ticket) => ticket,
        };
        let ReviewWords { rating, title, body } = words;
        let (app, user) = (id.clone(), principal.user);
        let change = ChangeReview { app, id: number, user, rating, title, body };
        let render = reviewed(system, &id, user);
        ask(system, &listing, change, principal.origin.clone(), ticket, render).await
    }

    /// Says whether a review helped. Refused: 404, 403 `own_review`.
    pub async fn vote(
        &self,
        system: &Arc<System>,
        principal: &Principal,
        review_id: &str,
        helpful: bool,
        idempotency: Option<&IdempotencyKey>,
    ) -> Result<serde_json::Value, Refusal> {
        let (id, number) = find_review(system, review_id).await?;
        not_from_a_sandbox(system, principal)?;
        let listing = listing_of(system, &id)?;
        let ticket = match begin(system, &listing, idempotency).await? {
            Begun::Recorded(body) => return Ok(body),
            Begun::New(ticket) => ticket,
        };
        let (app, user) = (id.clone(), principal.user);
        let vote = Vote { app, id: number, user, helpful };
        let (keys, mine) = (system.journal().keys().clone(), Some(person(&id, user)));
        let render = move |review: &StoredReview| ReviewResponse::of(&keys, &id, review, mine);
        ask(system, &listing, vote, principal.origin.clone(), ticket, render).await
    }

    /// Takes a review away: one's own, or any when `user` is nobody.
    pub async fn remove_review(
        &self,
        system: &Arc<System>,
        user: Option<UserId>,
        review_id: &str,
        origin: &Origin,
    ) -> Result<(), Refusal> {
        let (id, number) = find_review(system, review_id).await?;
        let listing = listing_of(system, &id)?;
        let remove = RemoveReview { app: id.clone(), id: number, user };
        let told = system.directory::<Listing>().ask(&listing, remove, origin.clone()).await?;
        Storefront::hear(system, &id, told);
        Ok(())
    }
}

fn holder(principal: &Principal, app: &AppId) -> Holder {
    Holder { tenant: principal.tenant, user: principal.user, app: app.clone() }
}

/// The card of an active app.
fn active(system: &System, app_id: &str) -> Option<Arc<Card>> {
    let id = AppId::new(app_id).ok()?;
    let card = system.port::<Storefront>().card(&id)?;
    (card.app.status == Status::Active).then_some(card)
}

fn listing_of(system: &System, app: &AppId) -> Result<supervision::Address<Listing>, Refusal> {
    let address = Apps::locate(system, app).ok_or_else(|| Refusal::not_found("app"))?;
    let home: Home = address.place().home;
    Ok(Listing::address(app, home))
}

/// What is answered to a review that was written; the window hears of it.
fn reviewed(
    system: &Arc<System>,
    app: &AppId,
    user: UserId,
) -> impl FnOnce(&Reviewed) -> ReviewResponse + Send + 'static {
    let (system, app) = (Arc::clone(system), app.clone());
    move |reviewed: &Reviewed| {
        Storefront::hear(&system, &app, reviewed.told.clone());
        let mine = Some(person(&app, user));
        ReviewResponse::of(system.journal().keys(), &app, &reviewed.review, mine)
    }
}

async fn number_reviews(system: &Arc<System>, app: &AppId, origin: &Origin) -> Result<(), Refusal> {
    let (listing, listings) = (listing_of(system, app)?, system.directory::<Listing>());
    let wanted = listings.look(&listing, origin.clone(), Listing::numbers_wanted).await?;
    let Some(count) = wanted else { return Ok(()) };
    let take = TakeNumbers { count };
    let numbers = system.directory::<Numbers>();
    let first = numbers.ask(&numbers_address(REVIEW_SERIES), take, origin.clone()).await?;
    let number = NumberReviews { app: app.clone(), first, count };
    listings.ask(&listing, number, origin.clone()).await
}

/// Whose review has a number; 404 when nobody's. Every shard is asked for the range that it is in.
async fn find_review(system: &Arc<System>, text: &str) -> Result<(AppId, u64), Refusal> {
    let missing = || Refusal::not_found("review");
    let number: u64 = text.parse().map_err(|_| missing())?;
    let reading = Arc::clone(system);
    let found = blocking(move || {
        let of_shard = |shard: usize| {
            let range = RowRange {
                shard: Shard(shard as u8),
                family: REVIEW_RANGE_FAMILY,
                prefix: Vec::new(),
                after: Some(number.saturating_add(1).to_be_bytes().to_vec()),
                newest_first: true,
                limit: 1,
            };
            let (key, value) = reading.rows(&range).into_iter().next()?;
            let first = u64::from_be_bytes(*key.first_chunk::<8>()?);
            let (count, app): (u64, AppId) = codec::decode(&value).ok()?;
            (number - first < count).then_some(app)
        };
        (0..SHARDS).find_map(of_shard)
    });
    Ok((found.await?.ok_or_else(missing)?, number))
}

fn read_reviews(system: &System, app: &AppId, sort: ReviewSort, page: Page) -> Vec<StoredReview> {
    let shard = owner_of_app(app).shard();
    let limit = page.offset.saturating_add(page.limit).min(REVIEWS_READ_MAX);
    let read = |row: &[u8]| codec::decode::<StoredReview>(row).ok();
    let by_number = |newest_first| {
        let rows = system.rows(&range(shard, REVIEW_FAMILY, key(app, &[]), newest_first, limit));
        page.of(rows).iter().filter_map(|(_, value)| read(value)).collect()
    };
    let by_rank = |order, newest_first| {
        let prefix = order_prefix(app, order);
        let rows = system.rows(&range(shard, REVIEW_ORDER_FAMILY, prefix, newest_first, limit));
        let number = |key: &[u8]| key.last_chunk::<8>().map(|it| u64::from_be_bytes(*it));
        let numbers = page.of(rows).into_iter().filter_map(|(key, _)| number(&key));
        let row = |number| system.row(shard, REVIEW_FAMILY, &review_key(app, number));
        numbers.filter_map(|number| read(&row(number)?)).collect()
    };
    match sort {
        ReviewSort::Newest => by_number(true),
        ReviewSort::Oldest => by_number(false),
        ReviewSort::Helpful => by_rank(Order::Helpful, true),
        ReviewSort::Highest => by_rank(Order::Rating, true),
        ReviewSort::Lowest => by_rank(Order::Rating, false),
    }
}

/// The apps that a user has installed in a tenant, for whoever says farewell to them.
pub(crate) fn installed_of(system: &System, tenant: TenantId, user: UserId) -> Vec<Holder> {
    installed(system, tenant, Holder::prefix(tenant, user))
}

/// The same of all users of a tenant.
pub(crate) fn installed_in(system: &System, tenant: TenantId) -> Vec<Holder> {
    installed(system, tenant, tenant.0.to_be_bytes().to_vec())
}

fn installed(system: &System, tenant: TenantId, prefix: Vec<u8>) -> Vec<Holder> {
    let shard = owner_of_tenant(tenant).shard();
    let rows = system.rows(&range(shard, INSTALL_FAMILY, prefix, false, usize::MAX));
    rows.iter().filter_map(|(key, _)| Holder::of_key(key)).collect()
}
