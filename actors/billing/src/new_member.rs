//! An account that a tenant's administrator makes for somebody: signed up, a member of the tenant,
//! and mailed a link to choose a password. Nobody but that person ever knows one.
//!
//! A process: durable before its first step, every step repeatable. The account is as one that was
//! signed up for: it has a tenant of its own, and whoever reads the address's mail owns it.
//!
//! Deliberate limit: when the tenant does not take the member in after all, the account stays, as
//! if its owner had signed up.

use identity::Identity;
use identity::claim::EmailAddress;
use identity::password::PasswordHash;
use identity::tenant::{AddMember, ChangeMember, MemberChange, OWNER_ROLE, Tenant};
use serde::{Deserialize, Serialize};
use supervision::{
    Address, Command, EffectContext, Entity, Handle, Origin, Process, Refusal, System, Timestamp,
    Turn,
};
use types::{JsonBytes, Personal, Scopes, TenantId, UserId, base32, home_of, owner_of_tenant};

use crate::sign_up;

/// When what has not ended is tried again, in milliseconds.
const RETRY_MS: i64 = 5_000;
const EMAIL: &str = "new_member.email";
const ATTRIBUTES: &str = "new_member.attributes";

/// Somebody's account in the making.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct NewMember {
    started: Option<Started>,
    retry_at: Timestamp,
    ended: Option<Ended>,
}

/// It began.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Started {
    user: UserId,
    tenant: TenantId,
    email: Personal,
    password: PasswordHash,
    role: String,
    grants: Scopes,
    rights: Scopes,
    attributes: Option<Personal>,
}

/// It is tried once more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Retried {}

/// It is over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ended {
    refusal: Option<Refusal>,
}

supervision::events! {
    /// What happens to an account in the making.
    pub enum NewMemberEvent {
        /// It began.
        Started(Started) = "started", 1;
        /// It is tried once more.
        Retried(Retried) = "retried", 1;
        /// It is over.
        Ended(Ended) = "ended", 1;
    }
}

/// What it asks for.
#[derive(Clone, Debug)]
pub enum NewMemberEffect {
    /// All its steps, in order.
    Go(Box<Started>),
}

impl NewMember {
    /// Where a user's account is made for a tenant.
    pub fn address(user: UserId, tenant: TenantId) -> Address<Self> {
        let address = Address::new(&base32(user.0), owner_of_tenant(tenant), home_of(tenant));
        address.unwrap_or_else(|| panic!("an id's digits are always a stream name"))
    }

    fn is_running(&self) -> bool {
        self.started.is_some() && self.ended.is_none()
    }
}

impl Entity for NewMember {
    const KIND: &'static str = "new_member";
    type Event = NewMemberEvent;
    type Effect = NewMemberEffect;

    fn apply(&mut self, event: &NewMemberEvent, at: Timestamp) {
        match event {
            NewMemberEvent::Started(it) => {
                self.started = Some(it.clone());
                self.retry_at = at.plus_ms(RETRY_MS);
            }
            NewMemberEvent::Retried(_) => self.retry_at = at.plus_ms(RETRY_MS),
            NewMemberEvent::Ended(it) => self.ended = Some(it.clone()),
        }
    }

    fn is_pending(&self) -> bool {
        self.is_running()
    }

    fn is_over(&self) -> bool {
        self.ended.is_some()
    }

    fn resume(&self) -> Vec<NewMemberEffect> {
        let running = self.started.iter().filter(|_| self.is_running());
        running.map(|started| NewMemberEffect::Go(Box::new(started.clone()))).collect()
    }

    fn next_deadline(&self) -> Option<Timestamp> {
        self.is_running().then_some(self.retry_at)
    }

    fn due(turn: &mut Turn<'_, Self>) {
        if turn.state().is_running() && turn.state().retry_at <= turn.now() {
            let again = turn.state().resume();
            turn.record(NewMemberEvent::Retried(Retried {}));
            again.into_iter().for_each(|effect| turn.effect(effect));
        }
    }

    async fn perform(effect: NewMemberEffect, context: EffectContext<Self>) {
        let NewMemberEffect::Go(started) = effect;
        let EffectContext { system, address, origin, .. } = context;
        let refusal = match steps(&system, &started, &origin).await {
            Ok(()) => None,
            // These say nothing about it: the reminder tries again.
            Err(refusal) if refusal.class.may_pass() => return,
            Err(refusal) => Some(refusal),
        };
        let end = End(Ended { refusal });
        if let Err(refusal) = system.directory::<Self>().ask(&address, end, origin).await {
            tracing::debug!(%refusal, "the end of an account's making is noted later");
        }
    }

    fn observe(&self) -> serde_json::Value {
        let started = self.started.as_ref();
        let refusal = self.ended.as_ref().and_then(|ended| ended.refusal.as_ref());
        serde_json::json!({
            "user": started.map(|it| it.user.to_string()),
            "role": started.map(|it| it.role.clone()),
            "ended": self.ended.is_some(),
            "refusal": refusal.map(|refusal| refusal.code.as_str()),
        })
    }
}

async fn steps(system: &System, started: &Started, origin: &Origin) -> Result<(), Refusal> {
    let Started { user, tenant, password, role, grants, rights, .. } = started.clone();
    let (keys, identity) = (system.journal().keys(), system.port::<Identity>());
    let erased = || Refusal::not_found("user");
    let email = started.email.open(keys, EMAIL).ok_or_else(erased)?;
    let attributes = started.attributes.as_ref().and_then(|it| it.open(keys, ATTRIBUTES));
    let (name, company, owner) = (None, None, OWNER_ROLE.to_owned());
    let start = sign_up::Start { user, email, name, company, password, role: owner };
    sign_up::sign_up(system, start, origin.clone()).await?;
    let add = AddMember { user, role: role.clone(), rights: rights.clone(), is_new: true };
    identity.change_members(tenant, add, origin.clone()).await?;
    let change = MemberChange {
        grants: Some(grants),
        attributes: attributes.and_then(|text| JsonBytes::new(&text).ok()),
        ..MemberChange::default()
    };
    let change = ChangeMember { user, change, rights };
    identity.change_members(tenant, change, origin.clone()).await?;
    let called = |tenant: &Tenant| tenant.details.as_ref().map(|it| it.name.clone());
    let called = identity.look_tenant(tenant, called).await?.flatten().unwrap_or_default();
    identity.send_account_link(user, called, role, origin.clone()).await.map(drop)
}

/// Begins it. A repetition is no change. That the role and the grants may be given, the caller has
/// checked; they are checked again when they are.
pub struct Start {
    /// The id the user will have.
    pub user: UserId,
    /// The tenant.
    pub tenant: TenantId,
    /// The address, in clear; it is sealed here.
    pub email: EmailAddress,
    /// The hash of a password that nobody knows.
    pub password: PasswordHash,
    /// As what.
    pub role: String,
    /// What is granted beside the role.
    pub grants: Scopes,
    /// What whoever asks may give.
    pub rights: Scopes,
    /// What the tenant keeps of them, a JSON object, in clear; it is sealed here.
    pub attributes: Option<JsonBytes>,
}

impl Command for Start {
    const NAME: &'static str = "start";
}

impl Handle<Start> for NewMember {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, command: Start) -> Result<(), Refusal> {
        let Start { user, tenant, email, password, role, grants, rights, attributes } = command;
        if turn.state().started.is_some() {
            return Ok(());
        }
        let seal = |label, plain: &str| Personal::seal(turn.keys(), user, label, plain);
        let email = seal(EMAIL, email.as_str())?;
        let attributes = attributes.map(|it| seal(ATTRIBUTES, it.as_str())).transpose()?;
        let started = Started { user, tenant, email, password, role, grants, rights, attributes };
        turn.effect(NewMemberEffect::Go(Box::new(started.clone())));
        turn.record(NewMemberEvent::Started(started));
        Ok(())
    }
}

/// Notes how the steps went.
struct End(Ended);

impl Command for End {
    const NAME: &'static str = "end";
    const ESSENTIAL: bool = true;
}

impl Handle<End> for NewMember {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, End(ended): End) -> Result<(), Refusal> {
        if turn.state().is_running() {
            turn.record(NewMemberEvent::Ended(ended));
        }
        Ok(())
    }
}

/// Answers that it is over: what an answer that is to be recorded rides on.
pub struct Conclude;

impl Command for Conclude {
    const NAME: &'static str = "conclude";
    const ESSENTIAL: bool = true;
}

impl Handle<Conclude> for NewMember {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, _: Conclude) -> Result<(), Refusal> {
        let over = turn.state().ended.is_some();
        over.then_some(()).ok_or_else(|| Refusal::conflict("pending", "it is not over yet"))
    }
}

impl Process for NewMember {
    type Outcome = Result<(), Refusal>;

    fn outcome(&self) -> Option<Self::Outcome> {
        self.ended.as_ref().map(|ended| ended.refusal.clone().map_or(Ok(()), Err))
    }
}

#[cfg(test)]
mod tests {
    use supervision::Event as _;
    use supervision::testkit::{Given, Golden};

    use super::*;

    fn start() -> Start {
        Start {
            user: UserId(7),
            tenant: TenantId(5),
            email: EmailAddress::new("bob@example.test").unwrap_or_else(|it| panic!("{it}")),
            password: "$argon2id$x".to_owned().into(),
            role: "user".to_owned(),
            grants: Scopes::from_iter(["wallet:spend"]),
            rights: Scopes::all(),
            attributes: Some(serde_json::json!({"team": "crimson"}).into()),
        }
    }

    #[test]
    fn it_goes_on_until_its_end_is_noted_and_tells_nobody_the_address() {
        let then = Given::<NewMember>::nothing().when(start());
        assert_eq!((then.events.len(), then.effects.len()), (1, 1));
        let shown = format!("{:?} {}", then.events, then.given.state().observe());
        assert!(!shown.contains("bob@") && !shown.contains("crimson"), "{shown}");
        let then = then.given.when(start());
        assert!(then.events.is_empty() && then.effects.is_empty());
        let (code, given) = then.given.when(Conclude).refused();
        assert_eq!(code, "pending");
        let then = given.later_ms(RETRY_MS).when_due();
        assert_eq!((then.events.len(), then.effects.len()), (1, 1), "tried again");
        let given = then.given.when(End(Ended { refusal: None })).then();
        assert_eq!(given.state().outcome(), Some(Ok(())));
        let late = given.when(End(Ended { refusal: Some(Refusal::busy()) }));
        assert!(late.events.is_empty());
    }

    #[test]
    fn its_events_are_stored_as_they_always_were() {
        let sealed = |byte: u8| -> Personal {
            let bytes = persistence::codec::encode(&vec![byte; 40]);
            bytes.and_then(|it| persistence::codec::decode(&it)).unwrap_or_else(|it| panic!("{it}"))
        };
        let started = Started {
            user: UserId(7),
            tenant: TenantId(5),
            email: sealed(1),
            password: "$argon2id$x".to_owned().into(),
            role: "user".to_owned(),
            grants: Scopes::from_iter(["wallet:spend"]),
            rights: Scopes::all(),
            attributes: Some(sealed(2)),
        };
        let samples = [
            NewMemberEvent::Started(started),
            NewMemberEvent::Retried(Retried {}),
            NewMemberEvent::Ended(Ended { refusal: Some(Refusal::not_found("user")) }),
        ];
        // Names of events are shared by kinds: these have a prefix of their own.
        let golden = Golden::of(env!("CARGO_MANIFEST_DIR"));
        for sample in &samples {
            let bytes = sample.encode().unwrap_or_else(|it| panic!("{it}"));
            let (name, version) = (sample.name(), sample.version());
            golden.check(&format!("events/new_member.{name}.{version}"), &bytes);
            let read = NewMemberEvent::decode(name, version, &bytes);
            assert_eq!(read.unwrap_or_else(|it| panic!("{it}")), *sample);
        }
    }
}
