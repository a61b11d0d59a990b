//! The entity by itself: limits, what is set off once, and what ends.

use serde_json::json;
use supervision::Timestamp;
use supervision::testkit::Given;
use types::{ExecutionId, Personal};

use super::*;
use crate::automations::AutomationsEvent;
use crate::commands::*;
use crate::execution::{CHAIN_MAX, EXECUTION_MS_MAX, End, Outcome, Source, seal_event};
use crate::rule::{EXECUTIONS_KEPT_MAX, FAILURES_IN_ROW_MAX, Status};

type Entity = Given<Automations>;

fn event(given: &Entity) -> Personal {
    seal_event(given.keys(), ADA, &json!({"type": "x"})).unwrap()
}

fn create(given: &Entity, id: u64, trigger: Trigger, limits: Limits) -> CreateRule {
    CreateRule {
        tenant: HOME,
        id,
        user: ADA,
        words: event(given),
        trigger,
        limits,
        notify: NotifyMode::All,
        maker: Maker::user(),
        made_by: u128::from(id),
        from_seq: 10,
        cap: (Some(2), "free"),
    }
}

fn with_rule(trigger: Trigger, limits: Limits) -> Entity {
    let given = Given::nothing();
    let create = create(&given, 1, trigger, limits);
    given.when(create).reply().1
}

fn hit(given: &Entity, seq: u64) -> Hit {
    Hit { rule: 1, place: (seq, 0), at: given.now(), event: event(given), ancestors: Vec::new() }
}

fn observe(given: Entity, seqs: &[u64]) -> (usize, Entity) {
    let hits = seqs.iter().map(|seq| hit(&given, *seq)).collect();
    given.when(Observe { hits }).reply()
}

fn limits(cooldown_seconds: i64, max_per_hour: i64, max_iterations: i64) -> Limits {
    Limits { cooldown_seconds, max_per_hour, max_iterations }
}

fn rule(given: &Entity) -> Arc<Rule> {
    given.state().rule(1).unwrap().clone()
}

fn end_all(mut given: Entity, outcome: Outcome) -> Entity {
    let running: Vec<ExecutionId> = given.state().running.keys().copied().collect();
    for id in running {
        let end = match outcome {
            Outcome::Success => End { outcome, steps: Vec::new(), error: None },
            _ => End::because(outcome, "x", Vec::new()),
        };
        given = given.when(EndExecution { id, end }).reply().1;
    }
    given
}

#[test]
fn a_plan_allows_so_many_rules_and_the_same_request_makes_one() {
    let mut given = with_rule(on("x"), Limits::default());
    let again = create(&given, 9, on("x"), Limits::default());
    let (same, next) = given.when(CreateRule { made_by: 1, ..again }).reply();
    assert_eq!(same.id, 1);
    given = next;
    let second = create(&given, 2, on("x"), Limits::default());
    given = given.when(second).reply().1;
    let third = create(&given, 3, on("x"), Limits::default());
    let then = given.when(third);
    let refusal = then.outcome.unwrap_err();
    let facts: Value = serde_json::from_str(&refusal.facts.unwrap()).unwrap();
    let quota = json!({"cap": 2, "used": 2, "remaining": 0, "unlimited": false, "plan": "free"});
    assert_eq!(facts["detail"]["quota"], quota);
    assert_eq!(facts["detail"]["error_code"], "AUTOMATION_QUOTA_EXCEEDED");
    let (_, given) = then.given.when(DeleteRule { id: 2, user: Some(ADA) }).reply();
    let third = create(&given, 3, on("x"), Limits::default());
    given.when(third).reply();
}

#[test]
fn an_event_sets_a_rule_off_once_and_never_one_from_before_it() {
    let given = with_rule(on("x"), limits(0, 100, 0));
    let (count, given) = observe(given, &[9, 10, 11, 12]);
    assert_eq!(count, 2, "the first two were before the rule");
    let (count, given) = observe(given, &[11, 12, 13]);
    assert_eq!(count, 1);
    assert_eq!((rule(&given).trigger_count, given.state().looked_at), (3, (13, 0)));
}

#[test]
fn pauses_and_hours_are_kept_by_the_time_of_what_happened() {
    let given = with_rule(on("x"), limits(60, 2, 0));
    let (count, given) = observe(given, &[11, 12]);
    assert_eq!(count, 1, "the second came within the pause");
    let late = Hit { at: given.now(), ..hit(&given, 13) };
    let (count, given) = given.later_ms(3_000_000).when(Observe { hits: vec![late] }).reply();
    assert_eq!(count, 0, "it is looked at late, and happened within the pause all the same");
    let (count, given) = observe(given, &[14]);
    assert_eq!(count, 1);
    let (count, given) = observe(given.later_ms(61_000), &[15]);
    assert_eq!(count, 0, "twice within the hour");
    let (count, _) = observe(given.later_ms(600_000), &[16]);
    assert_eq!(count, 1, "the first is more than an hour ago");
}

#[test]
fn after_so_many_times_a_rule_pauses_until_it_is_resumed() {
    let given = with_rule(on("x"), limits(0, 100, 2));
    let (count, given) = observe(given, &[11, 12, 13]);
    assert_eq!((count, rule(&given).status), (2, Status::Paused));
    let resume = ResumeRule { id: 1, user: Some(ADA), from_seq: 20 };
    let (is_reset, given) = given.when(resume).reply();
    assert!(is_reset && rule(&given).trigger_count == 0);
    let (count, given) = observe(given, &[14, 21]);
    assert_eq!(count, 1, "what happened meanwhile does not count");
    let (status, given) = given.when(PauseRule { id: 1, user: Some(ADA) }).reply();
    assert_eq!(status, Status::Paused);
    let (is_reset, given) = given.when(ResumeRule { id: 1, user: None, from_seq: 30 }).reply();
    assert!(!is_reset && rule(&given).trigger_count == 1);
    let (code, _) = given.when(PauseRule { id: 1, user: Some(BOB) }).refused();
    assert_eq!(code, "not_found");
}

#[test]
fn failures_in_a_row_stop_a_rule_and_a_success_between_them_does_not_count() {
    let mut given = with_rule(on("x"), limits(0, 1_000, 0));
    for seq in 0..u64::from(FAILURES_IN_ROW_MAX) {
        let outcome = if seq == 2 { Outcome::Success } else { Outcome::Failed };
        given = end_all(observe(given, &[11 + seq]).1, outcome);
        assert_eq!(rule(&given).status, Status::Active);
    }
    for seq in 20..23 {
        given = end_all(observe(given, &[seq]).1, Outcome::TimedOut);
    }
    assert_eq!((rule(&given).status, rule(&given).failures_in_row), (Status::Error, 5));
    assert_eq!(observe(given, &[30]).0, 0);
}

#[test]
fn frozen_executions_say_nothing_about_their_rule() {
    let mut given = with_rule(on("x"), limits(0, 1_000, 0));
    for seq in 11..20 {
        given = observe(given, &[seq]).1;
        let id = *given.state().running.keys().next().unwrap();
        let end = End::because(Outcome::Failed, identity::frozen::FROZEN, Vec::new());
        given = given.when(EndExecution { id, end }).reply().1;
    }
    assert_eq!((rule(&given).status, rule(&given).fail_count), (Status::Active, 9));
}

#[test]
fn a_bounded_history_is_kept_and_goes_with_its_rule() {
    let mut given = with_rule(on("x"), limits(0, 1_000, 0));
    let count = EXECUTIONS_KEPT_MAX as u64 + 2;
    let mut deleted = 0;
    for seq in 11..11 + count {
        let then = given.when(Observe { hits: vec![] });
        let hits = vec![hit(&then.given, seq)];
        let then = then.given.when(Observe { hits });
        deleted += then.rows.iter().filter(|row| row.value.is_none()).count();
        given = end_all(then.given, Outcome::Success);
    }
    assert_eq!(deleted, 4, "two rows for each of two that are shown no more");
    assert_eq!(rule(&given).kept.len(), EXECUTIONS_KEPT_MAX);
    let given = observe(given, &[100]).1;
    let then = given.when(DeleteRule { id: 1, user: Some(ADA) });
    let gone = then.rows.iter().filter(|row| row.value.is_none()).count();
    assert_eq!(gone, 1 + 2 * EXECUTIONS_KEPT_MAX);
    assert!(matches!(then.events[0], AutomationsEvent::ExecutionEnded(_)));
    assert!(then.given.state().running.is_empty());
}

#[test]
fn what_takes_too_long_ends_and_reports_of_services_do_too() {
    let given = with_rule(on("x"), limits(60, 100, 0));
    let set_off = |given: &Entity, asked: &str, ancestors: &[u64]| SetOff {
        rule: 1,
        user: None,
        source: Source::Reported,
        asked: asked.to_owned(),
        event: event(given),
        ancestors: ancestors.to_vec(),
        until: Some(given.now().plus_ms(5_000)),
    };
    let (first, given) = {
        let command = set_off(&given, "a", &[]);
        given.when(command).reply()
    };
    let (again, given) = {
        let command = set_off(&given, "a", &[]);
        given.when(command).reply()
    };
    assert_eq!((first, rule(&given).trigger_count), (again, 1));
    let chain: Vec<u64> = (50..50 + CHAIN_MAX as u64).collect();
    for ancestors in [&[1][..], &chain] {
        let command = set_off(&given, "b", ancestors);
        assert_eq!(given_refused(&given, command), "automation_loop");
    }
    let then = given.later_ms(5_000).when(CheckTimeouts {});
    assert_eq!(then.outcome, Ok(1));
    let given = then.given;
    assert_eq!(rule(&given).fail_count, 1);
    let end = End { outcome: Outcome::Success, steps: Vec::new(), error: None };
    let report = |given: &Entity, id| ReportResult {
        rule: 1,
        user: None,
        id,
        end: end.clone(),
        event: event(given),
    };
    let late = report(&given, Some(first));
    assert_eq!(given_refused(&given, late), "execution_ended");
    let untold = report(&given, None);
    let (_, given) = given.when(untold).reply();
    let rule_now = rule(&given);
    assert_eq!((rule_now.trigger_count, rule_now.success_count), (2, 1));
    let (_, given) = observe(given.later_ms(60_000), &[11]);
    let given = given.later_ms(EXECUTION_MS_MAX).when_due().given;
    assert!(given.state().running.is_empty());
}

/// The code of a refusal, of an entity that stays as it is.
fn given_refused<C>(given: &Entity, command: C) -> String
where
    C: supervision::Command,
    Automations: supervision::Handle<C>,
{
    let mut state = given.state().clone();
    let origin = origin();
    let turn = supervision::command::Given {
        now: given.now(),
        new_id: &|| 1,
        keys: given.keys(),
        origin: &origin,
        found: Vec::new(),
        seq: 1,
    };
    let mut turn = supervision::Turn::new(&mut state, turn);
    <Automations as supervision::Handle<C>>::handle(&mut turn, command).err().unwrap().code
}

#[test]
fn a_slot_sets_its_rule_off_and_a_missed_one_is_counted() {
    let start = parse_rfc3339("2026-01-01T00:00:00Z").unwrap();
    let schedule = Some("0 9 * * *".to_owned());
    let trigger = Trigger { schedule, ..on("schedule") };
    let given = with_rule(trigger, limits(0, 100, 0));
    assert_eq!(rule(&given).next_slot, Some(start.plus_ms(9 * 3_600_000)));
    let nine = |day: i64| Timestamp(start.0 + (day * 24 + 9) * 3_600_000);
    let then = given.at(nine(0)).when_due();
    assert_eq!(then.effects.len(), 1);
    let then = then.given.at(nine(0)).when_due();
    assert!(then.events.is_empty(), "{:?}", then.events);
    let given = end_all(then.given, Outcome::Success);
    let then = given.at(nine(3).plus_ms(600_000)).when_due();
    let now = rule(&then.given);
    assert_eq!((now.trigger_count, now.missed_count, now.next_slot), (2, 2, Some(nine(4))));
    let given = end_all(then.given, Outcome::Success);
    let given = given.at(nine(5).plus_ms(7_200_000)).when_due().given;
    let now = rule(&given);
    assert_eq!((now.trigger_count, now.missed_count, now.next_slot), (2, 4, Some(nine(6))));
}
