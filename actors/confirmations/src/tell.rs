//! What a card's records tell: that it waits, how it was decided and what came of it, to the user
//! whose it is. Ids, names and amounts; never what was asked with.

use activity::feed::{Audience, Source, Telling};
use serde_json::{Value, json};
use supervision::Event as _;
use types::{ConfirmationId, UserId, rfc3339};

use crate::confirmation::{ConfirmationEvent, Opened, State};

/// Tells what a card's event means.
pub fn tell(source: &mut Source<'_>) -> Vec<Telling> {
    let header = source.header;
    let event = ConfirmationEvent::decode(&header.event, header.event_version, source.payload);
    match event {
        Ok(ConfirmationEvent::Opened(opened)) => vec![of_opened(&opened)],
        Ok(ConfirmationEvent::Confirmed(it)) => of_decided(it.id, it.user, State::Confirmed, None),
        Ok(ConfirmationEvent::Cancelled(it)) => of_decided(it.id, it.user, State::Cancelled, None),
        Ok(ConfirmationEvent::Rejected(it)) => of_decided(it.id, it.user, State::Rejected, None),
        Ok(ConfirmationEvent::Expired(it)) => of_decided(it.id, it.user, State::Expired, None),
        Ok(ConfirmationEvent::Voided(it)) => {
            of_decided(it.id, it.user, State::Voided, Some(it.why.into()))
        }
        Ok(ConfirmationEvent::Executed(it)) => of_done(it.id, it.user, State::Executed, None),
        Ok(ConfirmationEvent::Failed(it)) => of_done(it.id, it.user, State::Failed, it.error_code),
        Ok(
            ConfirmationEvent::Approved(_)
            | ConfirmationEvent::HoldOver(_)
            | ConfirmationEvent::Collected(_)
            | ConfirmationEvent::Retried(_),
        )
        | Err(_) => Vec::new(),
    }
}

fn telling(name: &'static str, user: UserId, data: Value) -> Telling {
    Telling::new(name, Audience::User(user), data).of_family("extensions:read")
}

fn of_opened(opened: &Opened) -> Telling {
    let subject = &opened.subject;
    let data = json!({"confirmation_id": opened.id, "title": subject.title,
        "app_id": subject.app, "function": subject.function, "action_type": subject.action,
        "price": subject.price, "panel_required": opened.rules.in_panel,
        "expires_at": rfc3339(opened.expires_at)});
    telling("confirmation_opened", opened.user, data)
}

fn of_decided(
    id: ConfirmationId,
    user: UserId,
    state: State,
    reason: Option<Value>,
) -> Vec<Telling> {
    let data = json!({"confirmation_id": id, "state": state.name(), "reason": reason});
    vec![telling("confirmation_decided", user, data)]
}

fn of_done(
    id: ConfirmationId,
    user: UserId,
    state: State,
    error_code: Option<String>,
) -> Vec<Telling> {
    let data = json!({"confirmation_id": id, "state": state.name(), "error_code": error_code});
    vec![telling("confirmation_finished", user, data)]
}
