//! What a run announces beside its answers: the events that its functions declare, which are
//! recorded with it, and the panels that are to be drawn anew, which are told once.
//!
//! A function's event is called `APP.EVENT`. Which panels a call changes, its `effects` say: a
//! panel's id, or `panel:` and the id. A function that writes and names none may have changed all.

use std::sync::Arc;

use activity::feed::Feed;
use serde_json::{Value, json};
use supervision::System;
use types::{AppId, JsonBytes};

use crate::answer::CallAnswer;
use crate::ir::{self, ActionType, Callable};
use crate::runtime::Call;
use crate::session::{AppEvent, FUNCTION_CHARACTERS_MAX, Scope};
use crate::tell::telling;

/// The most bytes of an event's data; a larger result is not told.
const EVENT_BYTES_MAX: usize = 4 * 1024;
/// The most bytes of the data of all events of one run.
const RUN_EVENT_BYTES_MAX: usize = 256 * 1024;
/// What an effect may begin with that names a panel.
const PANEL_EFFECT: &str = "panel:";

/// The events of the calls that succeeded, with their results.
pub(crate) fn events(
    app: &AppId,
    ir: &ir::App,
    calls: &[Call],
    answers: &[CallAnswer],
) -> Vec<AppEvent> {
    let mut room = RUN_EVENT_BYTES_MAX;
    let done = (0_u32..).zip(calls.iter().zip(answers));
    let done = done.filter(|(_, (_, answer))| answer.is_success());
    let event = |(index, (call, answer)): (u32, (&Call, &CallAnswer))| {
        let Some(Callable::Function(function)) = ir.callable(&call.function) else { return None };
        let declared = (!function.event.is_empty()).then_some(&function.event)?;
        let data = JsonBytes::from(answer.data.clone());
        let length = data.as_str().len();
        let fits = length <= EVENT_BYTES_MAX && length <= room;
        room -= if fits { length } else { 0 };
        Some(AppEvent {
            index,
            function: call.function.chars().take(FUNCTION_CHARACTERS_MAX).collect(),
            name: event_name(app, declared),
            data: fits.then_some(data),
        })
    };
    done.filter_map(event).collect()
}

/// An app's events begin with its id, also when it wrote them without.
fn event_name(app: &AppId, declared: &str) -> String {
    let rest = declared.strip_prefix(app.as_str());
    match rest.is_some_and(|rest| rest.starts_with('.')) {
        true => declared.to_owned(),
        false => format!("{app}.{declared}"),
    }
}

/// The panels that calls have changed, in the app's order.
pub(crate) fn panels(ir: &ir::App, calls: &[Call], answers: &[CallAnswer]) -> Vec<String> {
    let mut changed = vec![false; ir.panels.len()];
    for (call, _) in calls.iter().zip(answers).filter(|(_, answer)| answer.is_success()) {
        let Some(Callable::Function(function)) = ir.callable(&call.function) else { continue };
        let is_named = |id: &str| {
            let names = |effect: &String| effect.strip_prefix(PANEL_EFFECT).unwrap_or(effect) == id;
            function.effects.iter().any(names)
        };
        let named: Vec<_> = ir.panels.iter().map(|panel| is_named(&panel.id)).collect();
        let is_any = named.contains(&true);
        let writes = function.action_type != ActionType::Read;
        for (changed, named) in changed.iter_mut().zip(named) {
            *changed |= named || !is_any && writes;
        }
    }
    let panels = ir.panels.iter().zip(changed);
    panels.filter(|(_, changed)| *changed).map(|(panel, _)| panel.id.clone()).collect()
}

/// The panels that answers name themselves, as those of apps do that are built in.
pub(crate) fn panels_named(answers: &[CallAnswer]) -> Vec<String> {
    let named = answers.iter().filter_map(|answer| answer.ui["refresh_panels"].as_array());
    let mut panels: Vec<String> =
        named.flatten().filter_map(Value::as_str).map(str::to_owned).collect();
    panels.dedup();
    panels
}

/// Tells whose run it was that panels are to be drawn anew.
pub(crate) fn refresh(system: &Arc<System>, scope: &Scope, panels: Vec<String>) {
    if panels.is_empty() {
        return;
    }
    // A system without a feed has nobody to tell.
    if let Some(feed) = system.find_port::<Feed>()
        && feed.has_readers(scope.tenant)
    {
        let data = json!({"app_id": scope.app, "panels": panels});
        let telling = telling("panel_refresh".to_owned(), scope, data);
        feed.publish(scope.tenant, telling, system.clock().now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app() -> ir::App {
        let code = json!({"kind": "code", "module": "m", "entry": "e"});
        let function = |name: &str, action: &str, effects: &[&str], event: &str| {
            json!({"name": name, "action_type": action, "effects": effects, "event": event,
                "params_schema": {}, "impl": code})
        };
        let panel = |id: &str| {
            json!({"panel_id": id, "slot": "center", "title": id, "render":
                {"kind": "static", "tree": {"type": "Text", "props": {"text": "x"}}}})
        };
        let envelope = json!({"ir_version": "1.0", "app": {"id": "shelf", "version": "1",
            "title": "Shelf", "functions": [
                function("look", "read", &[], "looked"),
                function("draw", "read", &["panel:side"], ""),
                function("add", "write", &["main", "store"], "shelf.added"),
                function("wipe", "destructive", &["store"], "wiped")],
            "ui": {"panels": [panel("main"), panel("side")]}}});
        ir::parse(&envelope).unwrap()
    }

    fn call(function: &str) -> Call {
        Call { function: function.to_owned(), params: Value::Null }
    }

    #[test]
    fn effects_name_panels_and_what_writes_without_naming_any_changes_all() {
        let done = CallAnswer::success(Value::Null);
        let of = |function: &str| panels(&app(), &[call(function)], std::slice::from_ref(&done));
        assert_eq!(of("look"), Vec::<String>::new());
        assert_eq!(of("draw"), ["side"]);
        assert_eq!(of("add"), ["main"]);
        assert_eq!(of("wipe"), ["main", "side"]);
        let failed = CallAnswer::error("x", "y");
        assert!(panels(&app(), &[call("wipe")], &[failed]).is_empty());
        let named = done.with_ui(json!({"refresh_panels": ["a", "b"]}));
        assert_eq!(panels_named(&[named]), ["a", "b"]);
    }

    #[test]
    fn what_succeeded_tells_its_event_with_its_result_if_that_is_small() {
        let id = AppId::new("shelf").unwrap();
        let large = CallAnswer::success(json!("x".repeat(EVENT_BYTES_MAX)));
        let small = CallAnswer::success(json!({"n": 1}));
        let calls = ["look", "draw", "add", "wipe", "gone"].map(call);
        let failed = CallAnswer::error("x", "y");
        let answers = [small.clone(), small, large, failed.clone(), failed];
        let told = events(&id, &app(), &calls, &answers);
        let told: Vec<_> =
            told.iter().map(|it| (it.index, it.name.as_str(), it.data.is_some())).collect();
        assert_eq!(told, [(0, "shelf.looked", true), (2, "shelf.added", false)]);
    }
}
