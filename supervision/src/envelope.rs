//! A command on its way: it owns its place in the mailbox and the port its answer leaves by.
//!
//! Whatever becomes of an envelope, its caller hears of it: a dropped one answers by itself, and
//! says whether the command can have had any effect.

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::command::{Command, Handle, Need, Origin, Turn};
use crate::entity::{Entity, RowDraft};
use crate::refusal::Refusal;

/// What became of the append that an answer waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is durable; or nothing was recorded, and all that was read is.
    Durable,
    /// Another incarnation had taken over: nothing was changed.
    Stale,
}

/// Lets an answer go.
pub(crate) type Release = Box<dyn FnOnce(Fate) + Send>;

/// What a command's turn left for the host to do, beside events.
pub(crate) struct Ran {
    pub(crate) refused: bool,
    /// The idempotency row, to be written with the events.
    pub(crate) outcome: Vec<RowDraft>,
    pub(crate) release: Release,
}

/// Answers once its condition on the state holds; `false` until then.
pub(crate) type Parked<E> = Box<dyn FnMut(&E) -> Option<Release> + Send>;

type Run<E> = Box<dyn FnOnce(&mut Turn<'_, E>) -> Ran + Send>;

pub(crate) enum Job<E: Entity> {
    Command(Run<E>),
    Look(Box<dyn FnOnce(&E) -> Release + Send>),
    Park(Parked<E>),
    /// A reminder fired; its row, to be deleted, and who wants to know that it was handled.
    Due(Option<i64>, oneshot::Sender<()>),
}

/// A job for an entity, with who asks for it.
pub struct Envelope<E: Entity> {
    pub(crate) name: &'static str,
    pub(crate) origin: Origin,
    pub(crate) needs: Vec<Need>,
    pub(crate) job: Job<E>,
}

/// The receiving end of an answer.
pub(crate) type Answer<R> = oneshot::Receiver<Result<R, Refusal>>;

struct Port<R> {
    sender: Option<oneshot::Sender<Result<R, Refusal>>>,
    started: bool,
    permit: Option<OwnedSemaphorePermit>,
}

impl<R> Port<R> {
    fn new(permit: Option<OwnedSemaphorePermit>) -> (Self, Answer<R>) {
        let (sender, answer) = oneshot::channel();
        (Self { sender: Some(sender), started: false, permit }, answer)
    }

    /// Whether nobody waits for the answer any more.
    fn is_abandoned(&self) -> bool {
        self.sender.as_ref().is_none_or(oneshot::Sender::is_closed)
    }

    fn send(mut self, outcome: Result<R, Refusal>) {
        // First the place, then the answer: who has the answer finds the place free.
        drop(self.permit.take());
        if let Some(sender) = self.sender.take() {
            let _ = sender.send(outcome);
        }
    }
}

impl<R> Drop for Port<R> {
    fn drop(&mut self) {
        drop(self.permit.take());
        let Some(sender) = self.sender.take() else { return };
        let outcome = match (self.started, std::thread::panicking()) {
            (false, _) => Refusal::restarting(),
            (true, true) => Refusal::crashed(),
            (true, false) => Refusal::in_doubt(),
        };
        let _ = sender.send(Err(outcome));
    }
}

impl<E: Entity> Envelope<E> {
    /// A command. `finish` turns the reply into the answer and, for a command with an idempotency
    /// key, the rows that record it.
    pub(crate) fn command<C, R, F>(
        command: C,
        origin: Origin,
        permit: OwnedSemaphorePermit,
        finish: F,
    ) -> (Self, Answer<R>)
    where
        C: Command,
        E: Handle<C>,
        R: Send + 'static,
        F: FnOnce(<E as Handle<C>>::Reply) -> (R, Vec<RowDraft>) + Send + 'static,
    {
        let (mut port, answer) = Port::new(Some(permit));
        let needs = <E as Handle<C>>::needs(&command);
        let run = move |turn: &mut Turn<'_, E>| {
            port.started = true;
            let result = <E as Handle<C>>::handle(turn, command);
            let refused = result.is_err();
            assert!(!refused || !turn.has_recorded(), "{} refused after recording", C::NAME);
            let (outcome, result) = match result {
                Ok(reply) => {
                    let (answer, rows) = finish(reply);
                    (rows, Ok(answer))
                }
                Err(refusal) => (Vec::new(), Err(refusal)),
            };
            let release: Release = Box::new(move |fate| match fate {
                Fate::Durable => port.send(result),
                Fate::Stale => port.send(Err(Refusal::restarting())),
            });
            Ran { refused, outcome, release }
        };
        (Self { name: C::NAME, origin, needs, job: Job::Command(Box::new(run)) }, answer)
    }

    /// A look at the state, answered once what it saw is durable.
    pub(crate) fn look<R: Send + 'static>(
        name: &'static str,
        origin: Origin,
        permit: Option<OwnedSemaphorePermit>,
        look: impl FnOnce(&E) -> R + Send + 'static,
    ) -> (Self, Answer<R>) {
        let (mut port, answer) = Port::new(permit);
        let run = move |state: &E| -> Release {
            port.started = true;
            let seen = look(state);
            Box::new(move |_| port.send(Ok(seen)))
        };
        (Self { name, origin, needs: Vec::new(), job: Job::Look(Box::new(run)) }, answer)
    }

    /// Waits until `ready` finds what it looks for in the state, or whoever waits has gone.
    pub(crate) fn park<R: Send + 'static>(
        origin: Origin,
        mut ready: impl FnMut(&E) -> Option<R> + Send + 'static,
    ) -> (Self, Answer<R>) {
        let (port, answer) = Port::new(None);
        let mut port = Some(port);
        let parked = move |state: &E| -> Option<Release> {
            if port.as_ref().is_none_or(Port::is_abandoned) {
                return Some(Box::new(|_| {}));
            }
            let found = ready(state)?;
            let mut port = port.take()?;
            port.started = true;
            Some(Box::new(move |_| port.send(Ok(found))))
        };
        (Self { name: "wait", origin, needs: Vec::new(), job: Job::Park(Box::new(parked)) }, answer)
    }

    /// A reminder that fired.
    pub(crate) fn due(origin: Origin, row_due: Option<i64>) -> (Self, oneshot::Receiver<()>) {
        let (sender, handled) = oneshot::channel();
        let job = Job::Due(row_due, sender);
        (Self { name: "due", origin, needs: Vec::new(), job }, handled)
    }
}
