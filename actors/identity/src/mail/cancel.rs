//! The end of mails to somebody who is erased: what waits is given up, and what the mailer kept of
//! what it took is deleted.
//!
//! Deliberate limit: what was handed to a mail server is out of this installation's hands.

use std::sync::Arc;

use futures::future::BoxFuture;
use supervision::{Address, Command, Entity, Handle, Origin, Refusal, System, Turn};

use super::{GivenUp, Mail, MailEvent, MailFailure, PostOffice};
use crate::claim::EmailAddress;

/// Tells the recipients that are meant.
pub type Recipients = Arc<dyn Fn(&EmailAddress) -> bool + Send + Sync>;

/// Gives a mail up whose recipient is erased. Answers its id if it waited.
struct Cancel {}

impl Command for Cancel {
    const NAME: &'static str = "cancel";
    const ESSENTIAL: bool = true;
}

impl Handle<Cancel> for Mail {
    type Reply = Option<u128>;

    fn handle(turn: &mut Turn<'_, Self>, _: Cancel) -> Result<Option<u128>, Refusal> {
        let waiting = turn.state().is_pending();
        let id = turn.state().queued.as_ref().map(|queued| queued.id).filter(|_| waiting);
        if id.is_some() {
            let reason = "its recipient is erased".to_owned();
            turn.record(MailEvent::GivenUp(GivenUp { reason }));
        }
        Ok(id)
    }
}

/// Gives a mail up. Says whether it waited.
pub(crate) async fn cancel(
    system: &System,
    address: &Address<Mail>,
    origin: Origin,
) -> Result<bool, Refusal> {
    if system.locate(Mail::KIND, address.id()).is_none() {
        return Ok(false);
    }
    match system.directory::<Mail>().ask(address, Cancel {}, origin).await {
        Ok(id) => {
            let office = system.port::<PostOffice>();
            id.iter().for_each(|id| office.gave_up(*id));
            Ok(id.is_some())
        }
        Err(refusal) if refusal.is_erased() => Ok(false),
        Err(refusal) => Err(refusal),
    }
}

impl PostOffice {
    /// Deletes what the mailer keeps of messages to these recipients; answers how many.
    pub fn forget(&self, recipients: Recipients) -> BoxFuture<'_, Result<usize, MailFailure>> {
        self.mailer.forget(recipients)
    }
}
