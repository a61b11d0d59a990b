//! What the records of an extension session tell: calls and batches that ended, and the events
//! that apps declare. A user's calls are told to that user, others to the tenant's admins.

use activity::feed::{Audience, Source, Telling};
use serde_json::json;
use supervision::Event as _;
use types::CallId;

use crate::session::{Emitted, NOBODY, RanItem, Scope, SessionEvent};
use crate::task::{Created, Ended, State, TasksEvent};

/// Tells what a session's event means.
pub fn tell(source: &mut Source<'_>) -> Vec<Telling> {
    let header = source.header;
    let event = SessionEvent::decode(&header.event, header.event_version, source.payload);
    match event {
        Ok(SessionEvent::Ran(ran)) => of_run(ran.id, &ran.scope, &ran.items),
        Ok(SessionEvent::Lost(lost)) => of_run(lost.id, &lost.scope, &lost.items),
        Ok(SessionEvent::Emitted(emitted)) => of_app(emitted),
        Ok(
            SessionEvent::Settled(_)
            | SessionEvent::Retried(_)
            | SessionEvent::Started(_)
            | SessionEvent::Completed(_)
            | SessionEvent::Indexed(_),
        )
        | Err(_) => Vec::new(),
    }
}

/// Tells of tasks that begin and end.
pub fn tell_tasks(source: &mut Source<'_>) -> Vec<Telling> {
    let header = source.header;
    let event = TasksEvent::decode(&header.event, header.event_version, source.payload);
    let (name, scope, data) = match event {
        Ok(TasksEvent::Created(Created { task, is_running, .. })) => {
            let state = if is_running { State::Running } else { State::Queued };
            let data = json!({"task_id": task.id, "app_id": task.scope.app,
                "function": task.function, "status": state.name(), "held": task.held});
            ("task_started", task.scope, data)
        }
        Ok(TasksEvent::Ended(Ended { id, scope, function, end, .. })) => {
            let data = json!({"task_id": id, "app_id": scope.app, "function": function,
                "status": end.state.name(), "error_code": end.error_code,
                "charged": end.charged});
            ("task_ended", scope, data)
        }
        _ => return Vec::new(),
    };
    vec![telling(name.to_owned(), &scope, data).of_family("tasks:read")]
}

/// Who hears of what is done in a scope.
pub(crate) fn audience(scope: &Scope) -> Audience {
    if scope.user == NOBODY { Audience::Admins } else { Audience::User(scope.user) }
}

/// An event of a scope, for those of its audience who may look at what the app does.
pub(crate) fn telling(name: String, scope: &Scope, data: serde_json::Value) -> Telling {
    let telling = Telling::new(name, audience(scope), data);
    telling.of_family(format!("{}:read", scope.app)).of_family("extensions:read")
}

fn of_run(call: CallId, scope: &Scope, items: &[RanItem]) -> Vec<Telling> {
    let app = &scope.app;
    let (name, data) = match items {
        [] => return Vec::new(),
        [item] => {
            let name = if item.succeeded { "call.finished" } else { "call.failed" };
            let data = json!({"call_id": call, "app_id": app, "function": item.function,
                "action": item.action, "price": item.price.saturating_add(item.fee),
                "error_code": item.error_code, "duration_ms": item.duration_us / 1_000});
            (name, data)
        }
        items => {
            let succeeded = items.iter().filter(|item| item.succeeded).count();
            let price: i64 = items.iter().map(|it| it.price.saturating_add(it.fee)).sum();
            let data = json!({"batch_id": call, "app_id": app, "calls": items.len(),
                "succeeded": succeeded, "failed": items.len() - succeeded, "price": price});
            ("batch.finished", data)
        }
    };
    vec![telling(name.to_owned(), scope, data).of_family("actions:read")]
}

fn of_app(emitted: Emitted) -> Vec<Telling> {
    let Emitted { id, scope, events } = emitted;
    let each = events.into_iter().map(|event| {
        let data = event.data.as_ref().map(|data| data.value());
        let name = event.name;
        let body = json!({"app_id": scope.app, "event": name, "function": event.function,
            "call_id": id, "data": data, "data_omitted": event.data.is_none()});
        telling(name, &scope, body)
    });
    each.collect()
}
