//! What a call is answered with: exactly the five keys that clients read, and beside them, for the
//! server alone, where the call stands in the chain.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use types::CallId;

use crate::session::RanItem;

/// Whether a call did what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CallStatus {
    /// It did.
    Success,
    /// It did not; `error` says why, and nothing was changed or paid.
    Error,
}

/// The record that a call left.
#[derive(Clone, Debug, PartialEq)]
pub struct Trace {
    /// The call or batch.
    pub run: CallId,
    /// What it says of this call.
    pub item: RanItem,
}

/// The answer to a call. A function that failed is an answer too.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CallAnswer {
    /// How it went.
    pub status: CallStatus,
    /// What the function answers.
    pub data: Value,
    /// For people.
    pub summary: Option<String>,
    /// Why it failed.
    pub error: Option<String>,
    /// A panel's tree, or `{"directives": […]}`, or `{"refresh_panels": […]}`.
    pub ui: Value,
    /// What was recorded of it; `None` in an answer that is repeated from its recorded outcome.
    #[serde(skip)]
    pub trace: Option<Trace>,
    /// The stable code of the error, which the record keeps.
    #[serde(skip)]
    pub error_code: Option<String>,
}

impl CallAnswer {
    /// It went well.
    pub fn success(data: Value) -> Self {
        let (status, ui) = (CallStatus::Success, Value::Null);
        Self { status, data, summary: None, error: None, ui, trace: None, error_code: None }
    }

    /// It failed: a stable code, and why in words.
    pub fn error(code: &str, message: impl Into<String>) -> Self {
        Self {
            status: CallStatus::Error,
            error: Some(message.into()),
            error_code: Some(code.to_owned()),
            ..Self::success(Value::Null)
        }
    }

    /// With a text for people.
    #[must_use]
    pub fn with_summary(mut self, summary: impl Into<String>) -> Self {
        self.summary = Some(summary.into());
        self
    }

    /// With something to draw or do.
    #[must_use]
    pub fn with_ui(mut self, ui: Value) -> Self {
        self.ui = ui;
        self
    }

    /// Whether it went well.
    pub fn is_success(&self) -> bool {
        self.status == CallStatus::Success
    }
}

/// Whether one answer is sent, or a list of them.
#[derive(Clone, Copy)]
pub(crate) enum Shape {
    Single,
    List,
    /// One of [`crate::webhook`]: a failure is not recorded, so that it is tried again.
    Delivery,
}

impl Shape {
    /// Whether it is recorded, when the client gave a key.
    pub(crate) fn records(self, answers: &[CallAnswer]) -> bool {
        !matches!(self, Self::Delivery) || answers.iter().all(CallAnswer::is_success)
    }

    /// The HTTP body.
    pub(crate) fn render(self, answers: &[CallAnswer]) -> Vec<u8> {
        let body = match (self, answers) {
            (Self::Single | Self::Delivery, [answer]) => serde_json::to_vec(answer),
            _ => serde_json::to_vec(answers),
        };
        // An answer holds nothing that JSON cannot say.
        body.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_answer_has_exactly_the_five_keys_and_is_read_back() {
        let answer = CallAnswer::error("step_failed", "no such book");
        let value = serde_json::to_value(&answer).unwrap();
        let expected = json!({"status": "error", "data": null, "summary": null,
            "error": "no such book", "ui": null});
        assert_eq!(value, expected);
        let read: CallAnswer = serde_json::from_value(value).unwrap();
        assert_eq!(read, CallAnswer { error_code: None, ..answer });
    }
}
