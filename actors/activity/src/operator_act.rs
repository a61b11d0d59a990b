//! What an operator did to an entity: noted before it is done, in the chain of the tenant whose
//! entity it is and in the platform's own.

use serde::{Deserialize, Serialize};
use supervision::{
    Address, Command, Entity, Handle, Home, NoEffect, Origin, Refusal, System, Timestamp, Turn,
};
use types::{TenantId, base32, home_of, owner_of_tenant};

/// The longest reason, in characters.
pub const REASON_CHARS_MAX: usize = 500;

/// One act. Its only event is all there is to it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct OperatorAct {
    noted: Option<Noted>,
}

/// It was noted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Noted {
    /// The entity's kind.
    pub kind: String,
    /// The entity's id.
    pub id: String,
    /// What is done to it.
    pub action: String,
    /// Why.
    pub reason: String,
}

supervision::events! {
    /// What happens to an act.
    pub enum OperatorActEvent {
        /// It was noted.
        Noted(Noted) = "noted", 1;
    }
}

impl Entity for OperatorAct {
    const KIND: &'static str = "operator_act";
    type Event = OperatorActEvent;
    type Effect = NoEffect;

    fn apply(&mut self, OperatorActEvent::Noted(noted): &OperatorActEvent, _: Timestamp) {
        self.noted = Some(noted.clone());
    }

    fn observe(&self) -> serde_json::Value {
        serde_json::json!(self.noted)
    }
}

/// Notes an act.
struct Note(Noted);

impl Command for Note {
    const NAME: &'static str = "note";
    const ESSENTIAL: bool = true;
}

impl Handle<Note> for OperatorAct {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, Note(noted): Note) -> Result<(), Refusal> {
        if turn.state().noted.is_none() {
            turn.record(OperatorActEvent::Noted(noted));
        }
        Ok(())
    }
}

/// Notes what an operator is about to do to an entity of `home`. 422 for a reason that is empty
/// or longer than [`REASON_CHARS_MAX`] characters.
pub async fn note(system: &System, home: Home, act: Noted, origin: Origin) -> Result<(), Refusal> {
    if !(1..=REASON_CHARS_MAX).contains(&act.reason.trim().chars().count()) {
        return Err(Refusal::invalid("reason", "must say why, in at most 500 characters"));
    }
    let mut tenants = vec![TenantId(home.0), TenantId::SYSTEM];
    tenants.dedup();
    for tenant in tenants {
        note_as(system, tenant, system.new_id(), act.clone(), origin.clone()).await?;
    }
    Ok(())
}

/// Notes an act in the chain of one tenant, under an id: a repetition with the same id is no
/// change.
pub async fn note_as(
    system: &System,
    tenant: TenantId,
    id: u128,
    act: Noted,
    origin: Origin,
) -> Result<(), Refusal> {
    let address = Address::new(&base32(id), owner_of_tenant(tenant), home_of(tenant));
    let address = address.ok_or_else(|| Refusal::not_found("act"))?;
    system.directory::<OperatorAct>().ask(&address, Note(act), origin).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use supervision::Event as _;
    use supervision::testkit::Given;

    #[test]
    fn an_act_is_noted_once_and_its_bytes_are_pinned() {
        let text = |text: &str| text.to_owned();
        let (kind, id) = (text("wallet"), text("x"));
        let noted = Noted { kind, id, action: text("restart"), reason: text("stuck") };
        let then = Given::<OperatorAct>::nothing().when(Note(noted.clone()));
        let bytes = then.events[0].encode().unwrap();
        let hex = data_encoding::HEXLOWER.encode(&bytes);
        assert_eq!(hex, "0677616c6c65740178077265737461727405737475636b");
        assert_eq!(OperatorActEvent::decode("noted", 1, &bytes).unwrap(), then.events[0]);
        assert!(then.then().when(Note(noted)).events.is_empty());
    }
}
