//! A developer: a user with a nickname, a tier ([`crate::tier`]), and a list of apps.
//!
//! Invariants
//! - A user registers once. The nickname was reserved before; it is confirmed after a restart too.
//! - An app's id stands in the list before the app is created, so that no more are created than
//!   the tier allows, however many requests come at once.
//!
//! Deliberate limits
//! - A nickname whose reservation lapsed before it could be confirmed (a server that was down just
//!   then) and that somebody else took meanwhile is given up.
//! - An id stays in the list when the process ended before its app was created; creating it again
//!   goes on from there.

use std::collections::BTreeSet;
use std::time::Duration;

use identity::claim::{Claim, ClaimKey, ClaimTarget, Confirm, Namespace, Reserve, claim_address};
use serde::{Deserialize, Serialize};
use serde_json::json;
use supervision::{
    Address, Backoff, Class, Command, EffectContext, Entity, Handle, Refusal, Retried, Retry,
    Timestamp, Turn,
};
use types::{AppId, SharePercent, TenantId, UserId, home_of, owner_of_user};

use crate::shares::{self, FitShares, SharesFitted};
use crate::tier::{self, TierEnded, TierNextSet, TierOrder, TierOrdered, TierSettled};

/// Nicknames, unique over the installation.
pub const NICKNAME: Namespace = Namespace::new("nickname");
/// How often a confirmation is tried before it waits for the next start.
const CONFIRM_ATTEMPTS_MAX: u32 = 60;
/// The pause between two tries.
const CONFIRM_PAUSE: Duration = Duration::from_secs(1);

/// What a developer has paid for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// Nothing.
    #[default]
    Explorer,
    /// The first step.
    Indie,
    /// The second.
    Studio,
    /// All there is.
    Partner,
}

impl Tier {
    /// The name in requests and answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Explorer => "explorer",
            Self::Indie => "indie",
            Self::Studio => "studio",
            Self::Partner => "partner",
        }
    }

    /// The tier of a name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|tier| tier.name() == name)
    }

    /// All of them, the least first.
    pub const ALL: [Self; 4] = [Self::Explorer, Self::Indie, Self::Studio, Self::Partner];

    /// How many apps it allows.
    pub fn apps_max(self) -> usize {
        match self {
            Self::Explorer => 1,
            Self::Indie => 3,
            Self::Studio => 10,
            Self::Partner => 1_000,
        }
    }

    /// What it costs a year, in credits.
    pub fn price(self) -> i64 {
        match self {
            Self::Explorer => 0,
            Self::Indie => 9_000,
            Self::Studio => 29_000,
            Self::Partner => 79_000,
        }
    }

    /// Whether what is earned is paid out.
    pub fn has_payouts(self) -> bool {
        self != Self::Explorer
    }

    /// How many days back figures go.
    pub fn analytics_days(self) -> u32 {
        match self {
            Self::Explorer => 7,
            Self::Indie => 30,
            Self::Studio => 90,
            Self::Partner => 365,
        }
    }

    /// Requests of the portal a minute.
    pub fn requests_per_minute(self) -> u32 {
        match self {
            Self::Explorer => 100,
            Self::Indie => 500,
            Self::Studio => 2_000,
            Self::Partner => 5_000,
        }
    }

    /// The developer's share of an app's price.
    pub fn share(self) -> SharePercent {
        let percent = match self {
            Self::Explorer => 70,
            Self::Indie => 80,
            Self::Studio => 85,
            Self::Partner => 95,
        };
        // All of them are percentages.
        SharePercent::new(percent).unwrap_or_else(|error| panic!("{percent}: {error}"))
    }
}

/// What is known of a developer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    /// Who.
    pub user: UserId,
    /// The tenant in whose chain the developer's records are.
    pub tenant: TenantId,
    /// The tier.
    pub tier: Tier,
    /// The nickname; `None` when it was given up.
    pub nickname: Option<String>,
    /// Since when.
    pub registered_at: Timestamp,
    /// The apps, the oldest first.
    pub apps: Vec<AppId>,
    /// Until when the tier is paid for; `None` when it costs nothing.
    pub tier_until: Option<Timestamp>,
    /// What the tier becomes then; `None` when it is paid for again.
    pub tier_next: Option<Tier>,
}

/// A developer.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Developer {
    profile: Option<Profile>,
    /// Whether the nickname is reserved only.
    unconfirmed: bool,
    /// The tier that is being paid for.
    pub(crate) order: Option<TierOrder>,
    pub(crate) retry: Retry,
    /// The tiers whose shares apps may still have.
    pub(crate) tiers_left: BTreeSet<Tier>,
}

impl Developer {
    /// Where a developer lives who registers in `tenant`. An existing one is found by the id:
    /// [`supervision::System::locate`].
    pub fn address(user: UserId, tenant: TenantId) -> Address<Self> {
        let address = Address::new(&user.to_string(), owner_of_user(user), home_of(tenant));
        // An id's text is neither empty, nor too long, nor unprintable.
        address.unwrap_or_else(|| panic!("{user} has no address"))
    }

    /// What is known; `None` when the user is no developer.
    pub fn profile(&self) -> Option<&Profile> {
        self.profile.as_ref()
    }

    /// The payment that is waited for.
    pub(crate) fn resume_order(&self) -> Option<DeveloperEffect> {
        let profile = self.profile.as_ref()?;
        self.order.clone().map(|order| DeveloperEffect::Pay(order, profile.tenant))
    }

    pub(crate) fn existing(&self) -> Result<&Profile, Refusal> {
        self.profile.as_ref().ok_or_else(no_developer)
    }
}

/// 403: the user has not registered.
pub fn no_developer() -> Refusal {
    let message = "you are no developer yet: register first";
    Refusal::new(Class::Forbidden, "not_a_developer", message)
}

/// A user became a developer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Registered {
    /// Who.
    pub user: UserId,
    /// The tenant in whose chain the developer's records are.
    pub tenant: TenantId,
    /// The tier.
    pub tier: Tier,
    /// The nickname, which is reserved.
    pub nickname: String,
}

/// The nickname is the developer's for good, or was given up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NicknameSettled {
    /// Which of the two.
    pub kept: bool,
}

/// An app is about to be created.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AppAdded {
    /// Its id.
    pub app: AppId,
}

/// An app could not be created, or is gone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AppRemoved {
    /// Its id.
    pub app: AppId,
}

supervision::events! {
    /// What happens to a developer.
    pub enum DeveloperEvent {
        /// Registered.
        Registered(Registered) = "registered", 1;
        /// The nickname was confirmed or given up.
        NicknameSettled(NicknameSettled) = "nickname_settled", 1;
        /// An app more.
        AppAdded(AppAdded) = "app_added", 1;
        /// An app less.
        AppRemoved(AppRemoved) = "app_removed", 1;
        /// A tier is to be paid for.
        TierOrdered(TierOrdered) = "tier_ordered", 1;
        /// It was, or could not be.
        TierSettled(TierSettled) = "tier_settled", 1;
        /// What it becomes at the end.
        TierNextSet(TierNextSet) = "tier_next_set", 1;
        /// Its time was over.
        TierEnded(TierEnded) = "tier_ended", 1;
        /// What is not paid for yet is tried once more.
        TierRetried(Retried) = "tier_retried", 1;
        /// The apps' shares are those of the tier.
        SharesFitted(SharesFitted) = "shares_fitted", 1;
    }
}

/// What a developer asks of others.
#[derive(Clone, Debug)]
pub enum DeveloperEffect {
    /// The nickname.
    Confirm(ConfirmNickname),
    /// The tier's price.
    Pay(TierOrder, TenantId),
    /// The apps' shares.
    Fit(FitShares),
}

/// A nickname to be confirmed.
#[derive(Clone, Debug)]
pub struct ConfirmNickname {
    nickname: String,
    target: ClaimTarget,
}

impl Entity for Developer {
    const KIND: &'static str = "developer";
    const SNAPSHOT_VERSION: u16 = 3;
    type Event = DeveloperEvent;
    type Effect = DeveloperEffect;

    fn apply(&mut self, event: &DeveloperEvent, at: Timestamp) {
        if let DeveloperEvent::Registered(registered) = event {
            let Registered { user, tenant, tier, nickname } = registered.clone();
            let (nickname, apps) = (Some(nickname), Vec::new());
            let (tier_until, tier_next) = (None, None);
            self.profile = Some(Profile {
                user,
                tenant,
                tier,
                nickname,
                registered_at: at,
                apps,
                tier_until,
                tier_next,
            });
            self.unconfirmed = true;
        }
        let Some(profile) = &mut self.profile else { return };
        let tier_before = profile.tier;
        match event {
            DeveloperEvent::Registered(_) => {}
            DeveloperEvent::NicknameSettled(settled) => {
                self.unconfirmed = false;
                profile.nickname.take_if(|_| !settled.kept);
            }
            DeveloperEvent::AppAdded(added) => profile.apps.push(added.app.clone()),
            DeveloperEvent::AppRemoved(removed) => profile.apps.retain(|app| *app != removed.app),
            DeveloperEvent::TierOrdered(ordered) => {
                self.order = Some(ordered.order.clone());
                self.retry = Retry::begin(at, Backoff::USUAL);
            }
            DeveloperEvent::TierSettled(settled) => {
                tier::settle(profile, self.order.take(), settled.paid, at);
            }
            DeveloperEvent::TierNextSet(set) => profile.tier_next = set.next,
            DeveloperEvent::TierEnded(_) => tier::end(profile),
            DeveloperEvent::TierRetried(_) => self.retry.again(at, Backoff::USUAL),
            DeveloperEvent::SharesFitted(_) => self.tiers_left.clear(),
        }
        if profile.tier != tier_before {
            self.tiers_left.insert(tier_before);
            self.retry = Retry::begin(at, Backoff::USUAL);
        }
    }

    fn is_pending(&self) -> bool {
        self.unconfirmed || self.order.is_some() || !self.tiers_left.is_empty()
    }

    fn resume(&self) -> Vec<DeveloperEffect> {
        let Some(profile) = &self.profile else { return Vec::new() };
        let nickname = profile.nickname.clone().filter(|_| self.unconfirmed).map(|nickname| {
            let target = ClaimTarget { user: profile.user, tenant: profile.tenant };
            DeveloperEffect::Confirm(ConfirmNickname { nickname, target })
        });
        let fit = self.resume_fit().map(DeveloperEffect::Fit);
        nickname.into_iter().chain(self.resume_order()).chain(fit).collect()
    }

    fn next_deadline(&self) -> Option<Timestamp> {
        tier::deadline(self)
    }

    fn due(turn: &mut Turn<'_, Self>) {
        tier::due(turn);
    }

    async fn perform(effect: DeveloperEffect, context: EffectContext<Self>) {
        match effect {
            DeveloperEffect::Confirm(effect) => confirm_nickname(effect, context).await,
            DeveloperEffect::Pay(order, tenant) => {
                let EffectContext { system, address, origin, .. } = context;
                let _ = tier::pay(&system, &address, tenant, order, origin).await;
            }
            DeveloperEffect::Fit(fit) => shares::fit(fit, context).await,
        }
    }

    fn observe(&self) -> serde_json::Value {
        let Some(profile) = &self.profile else { return json!({"registered": false}) };
        json!({
            "tenant": profile.tenant,
            "tier": profile.tier,
            "nickname": profile.nickname,
            "unconfirmed": self.unconfirmed,
            "registered_at": types::rfc3339(profile.registered_at),
            "apps": profile.apps,
            "tier_until": profile.tier_until.map(types::rfc3339),
            "tier_next": profile.tier_next,
            "tier_ordered": self.order.as_ref().map(|order| order.tier),
            "tiers_left": self.tiers_left,
        })
    }
}

async fn confirm_nickname(effect: ConfirmNickname, context: EffectContext<Developer>) {
    let ConfirmNickname { nickname, target } = effect;
    let (system, origin) = (context.system, context.origin);
    let claims = system.directory::<Claim>();
    let claim = claim_address(NICKNAME, &nickname, &system.port::<ClaimKey>());
    let holder = target.user.0;
    for _ in 0..CONFIRM_ATTEMPTS_MAX {
        // A reservation that lapsed is taken anew, if nobody else has it.
        let mut outcome = claims.ask(&claim, Reserve { holder }, origin.clone()).await.map(|_| ());
        if outcome.is_ok() {
            outcome = claims.ask(&claim, Confirm { holder, target }, origin.clone()).await;
        }
        let kept = match outcome {
            Ok(()) => Some(true),
            Err(refusal) if refusal.code == "already_claimed" => Some(false),
            Err(_) => None,
        };
        if let Some(kept) = kept {
            let developers = system.directory::<Developer>();
            let settle = SettleNickname { kept };
            if developers.ask(&context.address, settle, origin.clone()).await.is_ok() {
                return;
            }
        }
        tokio::time::sleep(CONFIRM_PAUSE).await;
    }
}

/// Makes the user a developer; the nickname is reserved. Refused (400, `already_registered`) when
/// the user is one.
#[derive(Clone, Debug)]
pub struct Register {
    /// Who.
    pub user: UserId,
    /// The tenant in whose chain the developer's records are.
    pub tenant: TenantId,
    /// The tier.
    pub tier: Tier,
    /// The nickname.
    pub nickname: String,
}

impl Command for Register {
    const NAME: &'static str = "register";
}

impl Handle<Register> for Developer {
    type Reply = Profile;

    fn handle(turn: &mut Turn<'_, Self>, command: Register) -> Result<Profile, Refusal> {
        let Register { user, tenant, tier, nickname } = command;
        if turn.state().profile.is_some() {
            return Err(already_registered());
        }
        turn.record(DeveloperEvent::Registered(Registered { user, tenant, tier, nickname }));
        for effect in turn.state().resume() {
            turn.effect(effect);
        }
        turn.state().existing().cloned()
    }
}

/// 400: the user is a developer.
pub fn already_registered() -> Refusal {
    let message = "you are already registered as a developer";
    Refusal::new(Class::BadRequest, "already_registered", message)
}

/// Says what became of the nickname. A repetition changes nothing.
#[derive(Clone, Copy, Debug)]
pub struct SettleNickname {
    /// Whether it is the developer's.
    pub kept: bool,
}

impl Command for SettleNickname {
    const NAME: &'static str = "settle_nickname";
}

impl Handle<SettleNickname> for Developer {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, command: SettleNickname) -> Result<(), Refusal> {
        if turn.state().unconfirmed {
            let kept = command.kept;
            turn.record(DeveloperEvent::NicknameSettled(NicknameSettled { kept }));
        }
        Ok(())
    }
}

/// Puts an app's id into the list, and says whether it was not there yet. Refused (403,
/// `app_limit`) when the tier allows no more. What is there already stays, whatever the tier.
#[derive(Clone, Debug)]
pub struct AddApp {
    /// The id.
    pub app: AppId,
    /// How many apps a developer has whose tier costs nothing.
    pub explorer_apps_max: usize,
}

impl Command for AddApp {
    const NAME: &'static str = "add_app";
}

impl Handle<AddApp> for Developer {
    type Reply = bool;

    fn handle(turn: &mut Turn<'_, Self>, command: AddApp) -> Result<bool, Refusal> {
        let profile = turn.state().existing()?;
        if profile.apps.contains(&command.app) {
            return Ok(false);
        }
        let (tier, apps_max) = match profile.tier {
            Tier::Explorer => (Tier::Explorer.name(), command.explorer_apps_max),
            tier => (tier.name(), tier.apps_max()),
        };
        if profile.apps.len() >= apps_max {
            let message = format!("the tier {tier} allows {apps_max} apps");
            let facts = json!({"limit": apps_max, "tier": tier});
            return Err(Refusal::new(Class::Forbidden, "app_limit", message).with_facts(&facts));
        }
        turn.record(DeveloperEvent::AppAdded(AppAdded { app: command.app }));
        Ok(true)
    }
}

/// Takes an app's id out of the list. What is not in it changes nothing.
#[derive(Clone, Debug)]
pub struct RemoveApp {
    /// The id.
    pub app: AppId,
}

impl Command for RemoveApp {
    const NAME: &'static str = "remove_app";
    const ESSENTIAL: bool = true;
}

impl Handle<RemoveApp> for Developer {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, command: RemoveApp) -> Result<(), Refusal> {
        if turn.state().existing()?.apps.contains(&command.app) {
            turn.record(DeveloperEvent::AppRemoved(AppRemoved { app: command.app }));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use supervision::testkit::Given;

    use super::*;

    fn register() -> Register {
        let (user, tenant) = (UserId(7), TenantId(8));
        Register { user, tenant, tier: Tier::Explorer, nickname: "ada".to_owned() }
    }

    fn app(number: usize) -> AppId {
        AppId::new(&format!("app-{number}")).unwrap()
    }

    #[test]
    fn a_user_registers_once_and_the_nickname_is_confirmed_until_it_is() {
        let then = Given::<Developer>::nothing().when(register());
        let confirms = |effect: &DeveloperEffect| match effect {
            DeveloperEffect::Confirm(confirm) => confirm.nickname == "ada",
            DeveloperEffect::Pay(..) | DeveloperEffect::Fit(_) => false,
        };
        assert!(then.effects.len() == 1 && then.effects.iter().all(confirms));
        let given = then.then();
        assert_eq!(given.state().resume().len(), 1);
        let (code, given) = given.when(register()).refused();
        assert_eq!(code, "already_registered");
        let given = given.when(SettleNickname { kept: true }).then();
        assert!(!given.state().is_pending() && given.state().resume().is_empty());
        let then = given.when(SettleNickname { kept: false });
        assert!(then.events.is_empty());
        assert_eq!(then.then().state().profile().unwrap().nickname.as_deref(), Some("ada"));
    }

    #[test]
    fn a_nickname_that_was_lost_is_given_up() {
        let given = Given::<Developer>::nothing().when(register()).then();
        let given = given.when(SettleNickname { kept: false }).then();
        assert_eq!(given.state().profile().unwrap().nickname, None);
        assert!(!given.state().is_pending());
    }

    #[test]
    fn no_more_apps_than_the_tier_allows() {
        const EXPLORER_APPS: usize = 3;
        let add = |number| AddApp { app: app(number), explorer_apps_max: EXPLORER_APPS };
        let (code, given) = Given::<Developer>::nothing().when(add(0)).refused();
        assert_eq!(code, "not_a_developer");
        let mut given = given.when(register()).then();
        for number in 0..EXPLORER_APPS {
            let (added, next) = given.when(add(number)).reply();
            assert!(added);
            given = next;
        }
        let (added, given) = given.when(add(0)).reply();
        assert!(!added);
        let (code, given) = given.when(add(9)).refused();
        assert_eq!(code, "app_limit");
        let given = given.when(RemoveApp { app: app(0) }).then();
        assert!(given.when(add(9)).outcome.unwrap());
    }
}
