//! A tenant's coming here: what it was elsewhere, how far its records have been told again, and how
//! it ended.
//!
//! A process, durable before its first step; its records are in the tenant's own new chain. The
//! first says where the tenant comes from: the old chain's head and Merkle root, and whose ids are
//! others here. Those that follow keep, for every record of the old chain, its header as was, the
//! digest of its payload as it was sealed, and its link; so the old chain can be verified here
//! ([`crate::history`]), although its records have other positions, links and seals now.
//!
//! Invariants
//! - The old records are noted in their order, each once.
//! - It ends once. Until then every start goes on with it, from the file that lies beside the data.
//! - One that ends because an address was taken has written nothing but that; it may come again.
//!
//! Deliberate limits
//! - That a payload is the one whose digest stands here, the one who imports it has to believe: it
//!   was sealed under a key that stays in the other installation.
//! - The file's key is sealed under the tenant's own, and goes with it.

use persistence::record::Digest;
use serde::{Deserialize, Serialize};
use serde_json::json;
use supervision::{
    Address, Command, EffectContext, Entity, Handle, Process, Refusal, Timestamp, Turn,
};
use types::{TenantId, UserId, base32, home_of, owner_of_tenant, rfc3339};

use crate::service::{Portability, drop_staged};

/// When an import that has not ended is tried again, in milliseconds.
const RETRY_MS: i64 = 5_000;

/// Bytes that never print.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedKey(pub(crate) Vec<u8>);

impl std::fmt::Debug for SealedKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("SealedKey([redacted])")
    }
}

/// Where a tenant comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// The generation of the store that it was in.
    pub installation: u128,
    /// The version of the product there.
    pub product: String,
    /// The tenant there.
    pub tenant: TenantId,
    /// When it was exported.
    pub exported_at: Timestamp,
    /// How many records its chain had.
    pub records: u64,
    /// The last link.
    pub link: Digest,
    /// The Merkle root (RFC 9162) over all links.
    pub root: Digest,
}

/// A user of the tenant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Arrival {
    /// The id elsewhere.
    pub old: UserId,
    /// The id here.
    pub new: UserId,
    /// What the user is in the tenant, if the user is to be made; `None` for one who was here.
    pub made_as: Option<identity::user::Membership>,
}

/// An import.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct TenantImport {
    begun: Option<Begun>,
    noted: u64,
    planted: Option<Planted>,
    retry_at: Timestamp,
    ended: Option<Ended>,
}

/// It began.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Begun {
    /// The import's id, which names the file too.
    pub id: u128,
    /// The tenant, here.
    pub tenant: TenantId,
    /// Where it comes from.
    pub source: Source,
    /// The file's key, sealed.
    pub key: SealedKey,
    /// Its users, as far as an address came along.
    pub arrivals: Vec<Arrival>,
    /// What a sandbox is called; `None` for a tenant that comes from another installation.
    pub sandbox: Option<String>,
}

/// A record as it was elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Original {
    /// Its header, encoded.
    pub header: Vec<u8>,
    /// SHA-256 of its payload as it was sealed there.
    pub payload_digest: Digest,
    /// Its link.
    pub link: Digest,
    /// Whether it was told again here.
    pub carried: bool,
}

/// Records as they were elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Noted {
    /// The first one's number in the old chain.
    pub first: u64,
    /// They, in order.
    pub originals: Vec<Original>,
}

/// Every record was told again, and every entity has its rows: from now on they are the members'.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planted {
    /// How many records were told again.
    pub records: u64,
    /// How many entities they make.
    pub entities: u64,
}

/// It is tried once more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retried {}

/// It is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Why it was not done.
    pub refusal: Option<Refusal>,
}

supervision::events! {
    /// What happens to an import.
    pub enum TenantImportEvent {
        /// It began.
        Begun(Begun) = "begun", 1;
        /// Records as they were.
        Noted(Noted) = "noted", 1;
        /// Everything is there.
        Planted(Planted) = "planted", 1;
        /// Tried once more.
        Retried(Retried) = "retried", 1;
        /// Over.
        Ended(Ended) = "ended", 1;
    }
}

/// What an import asks for.
#[derive(Clone, Debug)]
pub enum TenantImportEffect {
    /// All its steps, in order.
    Go,
}

impl TenantImport {
    /// Where an import lives.
    pub fn address(id: u128, tenant: TenantId) -> Address<Self> {
        let address = Address::new(&base32(id), owner_of_tenant(tenant), home_of(tenant));
        // 26 characters of base32 are neither empty, nor too long, nor unprintable.
        address.unwrap_or_else(|| panic!("{id} has no address"))
    }

    /// What it began with.
    pub fn begun(&self) -> Option<&Begun> {
        self.begun.as_ref()
    }

    /// What was told again; `None` until all of it was.
    pub fn planted(&self) -> Option<Planted> {
        self.planted
    }

    /// Whether it is over without what was to come.
    pub(crate) fn has_failed(&self) -> bool {
        self.ended.as_ref().is_some_and(|ended| ended.refusal.is_some())
    }

    /// How many records of the old chain are noted.
    #[cfg(test)]
    fn noted(&self) -> u64 {
        self.noted
    }
}

impl Entity for TenantImport {
    const KIND: &'static str = "tenant_import";
    type Event = TenantImportEvent;
    type Effect = TenantImportEffect;

    fn apply(&mut self, event: &TenantImportEvent, at: Timestamp) {
        match event {
            TenantImportEvent::Begun(begun) => {
                self.begun = Some(begun.clone());
                self.retry_at = at.plus_ms(RETRY_MS);
            }
            TenantImportEvent::Noted(noted) => self.noted += noted.originals.len() as u64,
            TenantImportEvent::Planted(planted) => self.planted = Some(*planted),
            TenantImportEvent::Retried(_) => self.retry_at = at.plus_ms(RETRY_MS),
            TenantImportEvent::Ended(ended) => self.ended = Some(ended.clone()),
        }
    }

    fn is_pending(&self) -> bool {
        self.begun.is_some() && self.ended.is_none()
    }

    fn resume(&self) -> Vec<TenantImportEffect> {
        if self.is_pending() { vec![TenantImportEffect::Go] } else { Vec::new() }
    }

    fn next_deadline(&self) -> Option<Timestamp> {
        self.is_pending().then_some(self.retry_at)
    }

    fn due(turn: &mut Turn<'_, Self>) {
        if turn.state().is_pending() && turn.state().retry_at <= turn.now() {
            turn.record(TenantImportEvent::Retried(Retried {}));
            turn.effect(TenantImportEffect::Go);
        }
    }

    async fn perform(_: TenantImportEffect, context: EffectContext<Self>) {
        let EffectContext { system, address, origin, .. } = context;
        let portability = system.port::<Portability>();
        let outcome = portability.carry_out(&system, &address, &origin).await;
        let ended = match outcome {
            // Another run of it is at work.
            Ok(false) => return,
            Ok(true) => Ended { refusal: None },
            // These say nothing about the tenant: the reminder tries again.
            Err(it) if it.class.may_pass() => {
                tracing::debug!(refusal = %it, "an import goes on later");
                return;
            }
            Err(refusal) => Ended { refusal: Some(refusal) },
        };
        match system.directory::<Self>().ask(&address, End(ended), origin).await {
            // Not before: until its end is durable it may have to be read once more.
            Ok(()) => drop_staged(&system, address.id()),
            Err(refusal) => {
                tracing::debug!(%refusal, "an import's end is not noted yet; it is tried again");
            }
        }
    }

    fn observe(&self) -> serde_json::Value {
        let Some(begun) = &self.begun else { return json!({"exists": false}) };
        let refusal = self.ended.as_ref().and_then(|ended| ended.refusal.as_ref());
        json!({
            "tenant": begun.tenant, "from": begun.source.tenant,
            "exported_at": rfc3339(begun.source.exported_at), "records": begun.source.records,
            "users": begun.arrivals.len(), "sandbox": begun.sandbox.is_some(),
            "noted": self.noted, "ended": self.ended.is_some(),
            "refusal": refusal.map(|refusal| refusal.code.as_str()),
        })
    }
}

impl Process for TenantImport {
    type Outcome = Result<Planted, Refusal>;

    fn outcome(&self) -> Option<Self::Outcome> {
        let refusal = self.ended.as_ref()?.refusal.clone();
        let planted = self.planted.ok_or_else(Refusal::in_doubt);
        Some(refusal.map_or(planted, Err))
    }
}

/// Begins an import. A repetition is no change.
pub(crate) struct Begin(pub(crate) Begun);

impl Command for Begin {
    const NAME: &'static str = "begin";
}

impl Handle<Begin> for TenantImport {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, Begin(begun): Begin) -> Result<(), Refusal> {
        if turn.state().begun.is_none() {
            turn.record(TenantImportEvent::Begun(begun));
            turn.effect(TenantImportEffect::Go);
        }
        Ok(())
    }
}

/// Notes records as they were elsewhere. What is noted already is no change.
pub(crate) struct Note(pub(crate) Noted);

impl Command for Note {
    const NAME: &'static str = "note";
}

impl Handle<Note> for TenantImport {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, Note(noted): Note) -> Result<(), Refusal> {
        let state = turn.state();
        let next = state.noted + 1;
        if !state.is_pending() || noted.first > next {
            return Err(Refusal::conflict("import_disturbed", "records would be left out"));
        }
        if noted.first == next {
            turn.record(TenantImportEvent::Noted(noted));
        }
        Ok(())
    }
}

/// Notes that everything is there.
pub(crate) struct MarkPlanted(pub(crate) Planted);

impl Command for MarkPlanted {
    const NAME: &'static str = "mark_planted";
    const ESSENTIAL: bool = true;
}

impl Handle<MarkPlanted> for TenantImport {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, MarkPlanted(it): MarkPlanted) -> Result<(), Refusal> {
        if turn.state().is_pending() && turn.state().planted.is_none() {
            turn.record(TenantImportEvent::Planted(it));
        }
        Ok(())
    }
}

/// Notes how the steps went.
struct End(Ended);

impl Command for End {
    const NAME: &'static str = "end";
    const ESSENTIAL: bool = true;
}

impl Handle<End> for TenantImport {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, End(ended): End) -> Result<(), Refusal> {
        if turn.state().is_pending() {
            turn.record(TenantImportEvent::Ended(ended));
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use supervision::testkit::Given;

    use super::*;

    pub(crate) fn begun() -> Begun {
        let tenant = TenantId(5);
        let source = Source {
            installation: 6,
            product: "0.1.0".to_owned(),
            tenant,
            exported_at: Timestamp(7),
            records: 2,
            link: [8; 32],
            root: [9; 32],
        };
        let arrivals = vec![Arrival { old: UserId(1), new: UserId(2), made_as: None }];
        Begun { id: 4, tenant, source, key: SealedKey(vec![1]), arrivals, sandbox: None }
    }

    pub(crate) fn noted(first: u64) -> Noted {
        let original =
            Original { header: vec![1], payload_digest: [2; 32], link: [3; 32], carried: true };
        Noted { first, originals: vec![original] }
    }

    fn end(refusal: Option<Refusal>) -> End {
        End(Ended { refusal })
    }

    #[test]
    fn an_import_is_pending_until_its_end_is_noted_and_ends_once() {
        let then = Given::<TenantImport>::nothing().when(Begin(begun()));
        assert_eq!((then.events.len(), then.effects.len()), (1, 1));
        let then = then.given.when(Begin(begun()));
        assert!(then.events.is_empty() && then.effects.is_empty());
        let then = then.given.later_ms(RETRY_MS).when_due();
        assert_eq!((then.events.len(), then.effects.len()), (1, 1), "tried again");
        let planted = Planted { records: 1, entities: 1 };
        let given = then.given.when(MarkPlanted(planted)).then().when(end(None)).then();
        assert!(!given.state().is_pending());
        let given = given.when(end(Some(Refusal::busy()))).then();
        assert_eq!(given.state().outcome(), Some(Ok(planted)));
    }

    #[test]
    fn old_records_are_noted_in_order_and_once() {
        let given = Given::<TenantImport>::nothing().when(Begin(begun())).then();
        let given = given.when(Note(noted(1))).then();
        let then = given.when(Note(noted(1)));
        assert!(then.events.is_empty());
        assert_eq!(then.given.state().noted(), 1);
        let (code, given) = then.given.when(Note(noted(3))).refused();
        assert_eq!(code, "import_disturbed");
        assert_eq!(given.when(Note(noted(2))).then().state().noted(), 2);
    }

    #[test]
    fn a_key_never_prints() {
        assert!(!format!("{:?}", begun()).contains("[1]"));
    }
}
