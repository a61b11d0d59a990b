//! A call as a card: what it is bound to, what its caller is answered, and what came of it.

use confirmations::canonical::canonical;
use confirmations::deciding::Draft;
use confirmations::{Card, Fact, Rules, State};
use data_encoding::HEXLOWER;
use identity::confirmation_policy::ConfirmationPolicy;
use persistence::record::sha256;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use supervision::{Refusal, System};
use types::{Caller, ConfirmationId, JsonBytes, UserId, rfc3339};

use super::{CALL_KIND, Called, Weighed};
use crate::answer::CallAnswer;
use crate::ir::ActionType;
use crate::runtime::{Call, Request};

/// What an intercepted call is answered.
const INTERCEPTED: &str = "INTERCEPTED";

/// What an executor of calls puts by.
#[derive(Serialize, Deserialize)]
pub(super) struct StoredCall {
    pub(super) app: String,
    pub(super) function: String,
    pub(super) caller: Caller,
}

/// The draft of one call's card. `content` is the text of its params, which is what waits.
pub(super) fn draft(
    request: &Request,
    user: UserId,
    (called, call, weighed): (&Called<'_>, &Call, &Weighed),
    content: String,
    policy: &ConfirmationPolicy,
) -> Result<Draft, Refusal> {
    let principal = request.caller.label().to_string();
    // What is run later is what is read from these bytes, so the digest is over that.
    let read: Value = serde_json::from_str(&content).map_err(|_| Refusal::crashed())?;
    let params = HEXLOWER.encode(&sha256(&[canonical(&read).as_bytes()]));
    let app = called.app.as_str();
    let price: i64 = weighed.price.iter().sum();
    let action = weighed.action.unwrap_or(ActionType::Read).name();
    let facts = vec![
        Fact::new("tenant", request.tenant.to_string()),
        Fact::new("user", user.to_string()),
        Fact::new("principal", principal.clone()),
        Fact::new("app", app),
        Fact::new("app_version", called.version),
        Fact::new("function", call.function.clone()),
        Fact::new("params", params),
        Fact::new("price", price.to_string()),
        Fact::new("policy", policy.version(app, &call.function)),
    ];
    let (function, caller) = (call.function.clone(), request.caller.clone());
    let stored = StoredCall { app: app.to_owned(), function: function.clone(), caller };
    Ok(Draft {
        tenant: request.tenant,
        user,
        principal,
        kind: CALL_KIND.to_owned(),
        facts,
        title: format!("{app}: {function}"),
        app: Some(called.app.clone()),
        function,
        action: action.to_owned(),
        price,
        data: JsonBytes::of(&stored).map_err(|_| Refusal::crashed())?,
        content,
        rules: Rules { in_panel: weighed.in_panel, ..Rules::own(user) },
        ttl_ms: policy.ttl_ms(),
    })
}

/// What a call that waits is answered: what a model reads in `data`, what a person is shown in
/// `ui`.
pub(super) fn intercepted(card: &Card, call: &Call) -> CallAnswer {
    let opened = &card.opened;
    let (id, subject) = (opened.id, &opened.subject);
    let panel = format!("/confirmations/{id}");
    let message = if opened.rules.in_panel {
        format!("{} waits until its user releases it at {panel}; it has not run", subject.title)
    } else {
        format!("{} waits until its user confirms it; it has not run", subject.title)
    };
    let mut data = json!({"RESULT": INTERCEPTED, "message": message,
        "function": call.function, "params": call.params, "action_type": subject.action,
        "confirmation_id": id, "expires_at": rfc3339(opened.expires_at)});
    let mut buttons = vec![json!({"label": "Cancel", "method": "POST",
        "path": format!("/v1/confirmations/{id}/cancel")})];
    if opened.rules.in_panel {
        data["panel_path"] = json!(panel);
        buttons.insert(0, json!({"label": "Open", "method": "GET", "path": panel}));
    } else {
        buttons.insert(
            0,
            json!({"label": "Confirm", "method": "POST",
            "path": format!("/v1/confirmations/{id}/confirm")}),
        );
    }
    let calls = json!([{"function": call.function, "params": call.params,
        "action_type": subject.action, "price": subject.price}]);
    let ui = json!({"type": "confirmation", "confirmation_id": id, "title": subject.title,
        "description": message, "calls": calls, "buttons": buttons,
        "expires_at": rfc3339(opened.expires_at)});
    CallAnswer::success(data).with_summary(message).with_ui(ui)
}

/// The card that an answer is about, if it says so. Apps may say anything: whether there is such a
/// card, and whose it is, must be looked up.
pub(super) fn waits_for(answer: &CallAnswer) -> Option<ConfirmationId> {
    let is_intercepted = answer.data["RESULT"] == INTERCEPTED;
    answer.data["confirmation_id"].as_str().filter(|_| is_intercepted)?.parse().ok()
}

/// What a card's call was answered.
pub fn answer_of(system: &System, card: &Card) -> CallAnswer {
    let kept = card.answer(system.journal().keys());
    let read = kept.and_then(|kept| serde_json::from_str(&kept).ok());
    read.unwrap_or_else(|| match card.state {
        State::Executed => CallAnswer::success(Value::Null)
            .with_summary("it was done; its answer was too large to be kept"),
        _ => CallAnswer::error("not_kept", "what was answered is not kept any more"),
    })
}
