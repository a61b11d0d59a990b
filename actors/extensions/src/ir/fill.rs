//! Bindings outside of a program: what an automation hands to the functions that it calls.
//!
//! The roots are those of a step: `event` (and `args`, which is the same) is what set it off,
//! `steps.0`, `steps.1`, … are the results so far, `prev` is the last of them, `user` is whose it
//! is. What a path leads nowhere to is the empty text, as everywhere.

use serde_json::Value;

use super::issue::{At, Issue, Issues};
use super::meter::{Excess, Meter, VALUE_DEPTH_MAX, weigh};
use super::template::{Names, Scope, Template};

/// Bytes of what may come of one value, as the meter weighs them.
pub const FILLED_BYTES_MAX: usize = 1024 * 1024;
/// Results that bindings may name.
pub const RESULTS_MAX: usize = 64;

/// What bindings lead into.
#[derive(Clone, Copy, Debug)]
pub struct Bound<'a> {
    /// What set it off.
    pub event: &'a Value,
    /// The results so far; the first [`RESULTS_MAX`] can be named.
    pub results: &'a [Option<Value>],
    /// Whose it is.
    pub user: &'a Value,
    /// In which tenant.
    pub tenant: &'a Value,
}

/// The value with its bindings resolved. Refused with what is wrong in it, in words.
pub fn fill(value: &Value, bound: Bound<'_>) -> Result<Value, String> {
    if weigh(value, VALUE_DEPTH_MAX).is_none() {
        return Err(format!("it is nested deeper than {VALUE_DEPTH_MAX} levels"));
    }
    let results = bound.results.get(..RESULTS_MAX).unwrap_or(bound.results);
    let ids: Vec<String> = (0..results.len()).map(|place| place.to_string()).collect();
    let steps = ids.iter().enumerate().map(|(place, id)| (id.as_str(), place)).collect();
    let (names, mut issues) = (Names { steps, aliases: Vec::new() }, Issues::default());
    let template = Template::parse(value, &names, &At::root("args"), &mut issues);
    if !issues.is_empty() {
        let told: Vec<String> = issues.into_list().iter().map(Issue::to_string).collect();
        return Err(told.join("; "));
    }
    let scope = Scope {
        params: bound.event,
        step_ids: &ids,
        results,
        previous: results.len().checked_sub(1),
        user: bound.user,
        tenant: bound.tenant,
        aliases: None,
    };
    let mut meter = Meter::new(FILLED_BYTES_MAX);
    template.resolve(&scope, &mut meter, 0).map_err(|excess| match excess {
        Excess::Bytes => format!("more than {FILLED_BYTES_MAX} bytes would come of it"),
        Excess::Depth => format!("it would be nested deeper than {VALUE_DEPTH_MAX} levels"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn filled(value: &Value, event: &Value, results: &[Option<Value>]) -> Result<Value, String> {
        let nobody = json!({});
        fill(value, Bound { event, results, user: &nobody, tenant: &nobody })
    }

    #[test]
    fn bindings_lead_into_the_event_and_into_earlier_results() {
        let event = json!({"type": "shelf.added", "data": {"n": 3}});
        let results = [Some(json!({"id": "a"})), None, Some(json!([1, 2]))];
        let value = json!({"n": "{{event.data.n}}", "of": "{{steps.0.id}} {{prev.1}}",
            "gone": "{{steps.7.x}}", "plain": 1});
        let expected = json!({"n": 3, "of": "a 2", "gone": "", "plain": 1});
        assert_eq!(filled(&value, &event, &results), Ok(expected));
    }

    #[test]
    fn what_grows_too_large_or_too_deep_is_refused() {
        let event = json!({"text": "x".repeat(FILLED_BYTES_MAX / 2)});
        let twice = json!(["{{event.text}}", "{{event.text}}"]);
        assert!(filled(&twice, &event, &[]).unwrap_err().contains("bytes"));
        let mut deep = json!(1);
        for _ in 0..=VALUE_DEPTH_MAX {
            deep = json!([deep]);
        }
        assert!(filled(&deep, &json!({}), &[]).unwrap_err().contains("nested"));
    }
}
