//! A user on the way to an OAuth provider and back: one entity each, found by a claim on the state
//! that goes along.
//!
//! Invariants
//! - A state is 256 random bits, good once and for [`LIFE_MS`]. It is kept nowhere: the claim is
//!   named by an HMAC of its SHA-256, which is here.
//! - It is bound to the tenant, the user, the app and the provider, and to the browser where one
//!   began it. Where none did, it is taken for the user alone, once they have logged in and agreed
//!   on this server's own page: whoever opens the address need not be who began.
//! - It is taken durably before the code that came back with it is exchanged.

use persistence::record::sha256;
use serde::{Deserialize, Serialize};
use serde_json::json;
use supervision::{
    Address, Class, Command, EffectContext, Entity, Handle, Refusal, Timestamp, Turn,
};
use types::{AppId, TenantId, UserId, base32, home_of, owner_of_tenant};

use super::StateHash;

/// How long a state is good, in milliseconds.
pub const LIFE_MS: i64 = 10 * 60 * 1_000;

/// What a state is bound to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    /// The flow's number.
    pub id: u128,
    /// In which tenant.
    pub tenant: TenantId,
    /// Who connects an account.
    pub user: UserId,
    /// To which app.
    pub app: AppId,
    /// At which provider.
    pub provider: String,
    /// The state's.
    pub hash: StateHash,
    /// The SHA-256 of what the browser keeps; `None` where none began it.
    pub browser: Option<[u8; 32]>,
}

/// What whoever brings a state back shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// Nothing.
    Nothing,
    /// The SHA-256 of what the browser kept.
    Browser([u8; 32]),
    /// That this user has logged in on this server's page, and agrees.
    User(UserId),
    /// That there is nothing to connect: the provider gave no code.
    Denial,
}

impl Shown {
    /// What a browser kept, if it did.
    pub fn kept(text: Option<&str>) -> Self {
        text.map_or(Self::Nothing, |kept| Self::Browser(sha256(&[kept.as_bytes()])))
    }
}

impl Bound {
    /// Whether that is enough to take the state.
    fn is_met_by(&self, shown: Shown) -> bool {
        match (self.browser, shown) {
            (Some(kept), Shown::Browser(shown)) => kept == shown,
            (None, Shown::User(user)) => user == self.user,
            (None, Shown::Denial) => true,
            _ => false,
        }
    }
}

/// How far it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Stage {
    #[default]
    Nothing,
    Open {
        until: Timestamp,
    },
    Taken,
    Over,
}

/// A user on the way.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct OAuthFlow {
    bound: Option<Bound>,
    stage: Stage,
}

impl OAuthFlow {
    /// Where it lives.
    pub fn address(id: u128, tenant: TenantId) -> Address<Self> {
        let address = Address::new(&base32(id), owner_of_tenant(tenant), home_of(tenant));
        // 26 characters of base32 are neither too long nor unprintable.
        address.unwrap_or_else(|| panic!("{id} has no address"))
    }

    /// What it is bound to, as long as it is open and the state came back where it belongs.
    pub(super) fn open(&self, back: &Back, now: Timestamp) -> Option<&Bound> {
        let is_open = matches!(self.stage, Stage::Open { until } if now < until);
        self.bound.as_ref().filter(|bound| {
            is_open
                && bound.hash == back.hash
                && bound.app.as_str() == back.app
                && bound.provider == back.provider
        })
    }
}

/// Where a state came back.
#[derive(Clone, Debug)]
pub struct Back {
    /// The state's.
    pub hash: StateHash,
    /// The app that it came back for.
    pub app: String,
    /// The provider that it came back from.
    pub provider: String,
}

/// A user was sent to a provider.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OAuthBegan {
    /// What the state is bound to.
    pub bound: Bound,
    /// Until when it is good.
    pub until: Timestamp,
}

/// The state came back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OAuthTaken {}

/// It never came back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OAuthExpired {}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OAuthEnded {
    /// `connected`, or the code of what went wrong.
    pub outcome: String,
}

supervision::events! {
    /// What happens on the way.
    pub enum OAuthFlowEvent {
        /// Begun.
        Began(OAuthBegan) = "oauth_began", 1;
        /// Back.
        Taken(OAuthTaken) = "oauth_taken", 1;
        /// Not back in time.
        Expired(OAuthExpired) = "oauth_expired", 1;
        /// Over.
        Ended(OAuthEnded) = "oauth_ended", 1;
    }
}

/// The state's claim is of no more use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetireState {
    bound: Bound,
}

impl Entity for OAuthFlow {
    const KIND: &'static str = "oauth_flow";
    type Event = OAuthFlowEvent;
    type Effect = RetireState;

    fn apply(&mut self, event: &OAuthFlowEvent, _: Timestamp) {
        match event {
            OAuthFlowEvent::Began(began) => {
                self.bound = Some(began.bound.clone());
                self.stage = Stage::Open { until: began.until };
            }
            OAuthFlowEvent::Taken(_) => self.stage = Stage::Taken,
            OAuthFlowEvent::Expired(_) | OAuthFlowEvent::Ended(_) => self.stage = Stage::Over,
        }
    }

    fn is_over(&self) -> bool {
        self.stage == Stage::Over
    }

    fn next_deadline(&self) -> Option<Timestamp> {
        match self.stage {
            Stage::Open { until } => Some(until),
            _ => None,
        }
    }

    fn due(turn: &mut Turn<'_, Self>) {
        if let Stage::Open { until } = turn.state().stage
            && until <= turn.now()
        {
            turn.record(OAuthFlowEvent::Expired(OAuthExpired {}));
            retire(turn);
        }
    }

    async fn perform(effect: RetireState, context: EffectContext<Self>) {
        let RetireState { bound } = effect;
        super::retire(&context.system, &bound, context.origin).await;
    }

    fn observe(&self) -> serde_json::Value {
        let Some(bound) = &self.bound else { return json!({"exists": false}) };
        json!({"user": bound.user, "tenant": bound.tenant, "app": bound.app,
            "provider": bound.provider, "bound_to_browser": bound.browser.is_some(),
            "open": matches!(self.stage, Stage::Open { .. })})
    }
}

fn retire(turn: &mut Turn<'_, OAuthFlow>) {
    if let Some(bound) = turn.state().bound.clone() {
        turn.effect(RetireState { bound });
    }
}

/// Begins it. Repeated it changes nothing.
#[derive(Clone, Debug)]
pub struct Begin {
    /// What the state, which was claimed for it, is bound to.
    pub bound: Bound,
}

impl Command for Begin {
    const NAME: &'static str = "begin_oauth";
}

impl Handle<Begin> for OAuthFlow {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, command: Begin) -> Result<(), Refusal> {
        if turn.state().bound.is_none() {
            let until = turn.now().plus_ms(LIFE_MS);
            turn.record(OAuthFlowEvent::Began(OAuthBegan { bound: command.bound, until }));
        }
        Ok(())
    }
}

/// The one refusal of a state, whatever is wrong with it.
pub(super) fn invalid_state() -> Refusal {
    let message = "this link is not good any more, or never was";
    Refusal::new(Class::BadRequest, "oauth_state_invalid", message)
}

/// Takes the state, once. Refused alike (400, `oauth_state_invalid`) when it was taken, is over,
/// or belongs to another app, provider, browser or user.
#[derive(Clone, Debug)]
pub struct Take {
    /// Where it came back.
    pub back: Back,
    /// What was shown with it.
    pub shown: Shown,
}

impl Command for Take {
    const NAME: &'static str = "take_oauth_state";
}

impl Handle<Take> for OAuthFlow {
    type Reply = Bound;

    fn handle(turn: &mut Turn<'_, Self>, command: Take) -> Result<Bound, Refusal> {
        let Take { back, shown } = command;
        let bound = turn.state().open(&back, turn.now()).filter(|it| it.is_met_by(shown));
        let bound = bound.cloned().ok_or_else(invalid_state)?;
        turn.record(OAuthFlowEvent::Taken(OAuthTaken {}));
        retire(turn);
        Ok(bound)
    }
}

/// Says what came of a state that was taken.
#[derive(Clone, Debug)]
pub struct End {
    /// `connected`, or a code.
    pub outcome: String,
}

impl Command for End {
    const NAME: &'static str = "end_oauth";
    const ESSENTIAL: bool = true;
}

impl Handle<End> for OAuthFlow {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, command: End) -> Result<(), Refusal> {
        if turn.state().stage == Stage::Taken {
            turn.record(OAuthFlowEvent::Ended(OAuthEnded { outcome: command.outcome }));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use supervision::testkit::Given;

    use super::*;

    fn begin(browser: Option<[u8; 32]>) -> Given<OAuthFlow> {
        let app = AppId::new("shop").unwrap();
        let provider = "hub".to_owned();
        let (tenant, user, hash) = (TenantId(7), UserId(8), StateHash([1; 32]));
        let bound = Bound { id: 1, tenant, user, app, provider, hash, browser };
        Given::nothing().when(Begin { bound }).then()
    }

    fn back() -> Back {
        let hash = StateHash([1; 32]);
        Back { hash, app: "shop".to_owned(), provider: "hub".to_owned() }
    }

    /// As its user does who has logged in.
    fn take() -> Take {
        Take { back: back(), shown: Shown::User(UserId(8)) }
    }

    #[test]
    fn a_state_is_taken_once() {
        let (bound, given) = begin(None).when(take()).reply();
        assert_eq!(bound.user, UserId(8));
        let (code, given) = given.when(take()).refused();
        assert_eq!(code, "oauth_state_invalid");
        let then = given.when(End { outcome: "connected".to_owned() });
        assert_eq!(then.events.len(), 1);
        assert!(then.then().when(End { outcome: "again".to_owned() }).events.is_empty());
    }

    #[test]
    fn it_is_bound_to_what_began_it_and_says_only_that_it_is_not_good() {
        let browser = Some([9; 32]);
        let at = |back| Take { back, ..take() };
        let showing = |shown| Take { shown, ..take() };
        let wrong = [
            (None, at(Back { hash: StateHash([2; 32]), ..back() })),
            (None, at(Back { app: "other".to_owned(), ..back() })),
            (None, at(Back { provider: "other".to_owned(), ..back() })),
            (None, showing(Shown::Nothing)),
            (None, showing(Shown::Browser([9; 32]))),
            (None, showing(Shown::User(UserId(9)))),
            (browser, take()),
            (browser, showing(Shown::Nothing)),
            (browser, showing(Shown::Denial)),
            (browser, showing(Shown::Browser([8; 32]))),
        ];
        for (began_in, take) in wrong {
            let (code, given) = begin(began_in).when(take.clone()).refused();
            assert_eq!(code, "oauth_state_invalid", "{take:?}");
            let (code, _) =
                given.when(End { outcome: "x".to_owned() }).reply().1.when(take).refused();
            assert_eq!(code, "oauth_state_invalid");
        }
        assert!(begin(browser).when(showing(Shown::Browser([9; 32]))).outcome.is_ok());
        assert!(begin(None).when(take()).outcome.is_ok());
        assert!(begin(None).when(showing(Shown::Denial)).outcome.is_ok());
    }

    #[test]
    fn it_is_over_after_its_time_also_before_that_is_noticed() {
        assert_eq!(begin(None).later_ms(LIFE_MS).when(take()).refused().0, "oauth_state_invalid");
        let then = begin(None).later_ms(LIFE_MS).when_due();
        assert_eq!((then.events.len(), then.effects.len()), (1, 1));
        assert_eq!(then.then().state().next_deadline(), None);
        assert!(begin(None).later_ms(LIFE_MS - 1).when(take()).outcome.is_ok());
    }
}
