//! What this crate stores, as it always was: see [`supervision::testkit::Golden`].

use persistence::codec;
use supervision::testkit::Golden;
use supervision::{Entity as _, Retried, Timestamp};
use types::{
    AppId, CallId, CallerKind, ConfirmationId, ExecutionId, Personal, Scopes, TenantId, UserId,
};

use crate::automations::*;
use crate::execution::{Cause, End, Execution, Outcome, Shown, Source, StepOutcome};
use crate::rule::{Failure, Limits, Maker, NotifyMode};
use crate::trigger::Trigger;

const USER: UserId = UserId(3);

/// A sealed field is other bytes each time: an empty one stands for it.
fn sealed() -> Personal {
    codec::decode(&[0]).unwrap()
}

fn trigger() -> Trigger {
    let schedule = Some("0 9 * * mon".to_owned());
    Trigger { schedule, timezone: "Europe/Berlin".to_owned(), ..Trigger::manual() }
}

fn created() -> RuleCreated {
    RuleCreated {
        tenant: TenantId(4),
        id: 17,
        user: USER,
        words: sealed(),
        trigger: trigger(),
        limits: Limits { cooldown_seconds: 60, max_per_hour: 10, max_iterations: 3 },
        notify: NotifyMode::Failures,
        maker: Maker {
            kind: CallerKind::ApiKey,
            credential: Some(21),
            scopes: Scopes::from_iter(["shelf:*"]),
        },
        made_by: 8,
        from_seq: 12,
        next_slot: Some(Timestamp(1_767_225_600_000)),
    }
}

fn execution(source: Source) -> Execution {
    Execution {
        id: ExecutionId(9),
        rule: 17,
        user: USER,
        number: 1,
        source,
        at: Timestamp(1_767_225_600_000),
        event: sealed(),
        ancestors: vec![5, 6],
        until: Timestamp(1_767_229_200_000),
    }
}

fn end() -> End {
    let step = StepOutcome {
        app: AppId::new("shelf").ok(),
        tool: "add_book".to_owned(),
        call: Some(CallId(10)),
        confirmation: Some(ConfirmationId(11)),
        charged: 3,
        code: Some("unpaid".to_owned()),
        note: Some(sealed()),
    };
    let error = Some(Failure { code: "unpaid".to_owned(), note: Some(sealed()) });
    End { outcome: Outcome::Failed, steps: vec![step], error }
}

fn samples() -> Vec<AutomationsEvent> {
    let (trigger, limits) = (trigger(), Limits::default());
    let next_slot = Some(Timestamp(1_767_830_400_000));
    let (id, user, from_seq) = (17, USER, 13);
    let started = |source, looked_at| ExecutionStarted {
        execution: execution(source),
        looked_at,
        missed: 2,
        next_slot,
    };
    let ended = ExecutionEnded { id: ExecutionId(9), rule: 17, user, end: end(), is_told: true };
    vec![
        AutomationsEvent::RuleCreated(created()),
        AutomationsEvent::RuleChanged(RuleChanged {
            id,
            user,
            trigger,
            limits,
            from_seq,
            next_slot,
        }),
        AutomationsEvent::RuleStopped(RuleStopped { id, user, why: Stop::WornOut }),
        AutomationsEvent::RuleResumed(RuleResumed {
            id,
            user,
            is_count_reset: true,
            from_seq,
            next_slot,
        }),
        AutomationsEvent::RuleDeleted(RuleDeleted { id, user }),
        AutomationsEvent::ExecutionStarted(started(Source::Event(20, 1), Some((20, 1)))),
        AutomationsEvent::SlotPassed(SlotPassed { id, missed: 4, next_slot }),
        AutomationsEvent::ExecutionEnded(ended),
        AutomationsEvent::Retried(Retried {}),
    ]
}

#[test]
fn events_states_and_rows_are_stored_as_they_always_were() {
    let golden = Golden::of(env!("CARGO_MANIFEST_DIR"));
    golden.check_events(&samples());
    let mut state = Automations::default();
    for event in samples() {
        if !matches!(event, AutomationsEvent::RuleDeleted(_) | AutomationsEvent::ExecutionEnded(_))
        {
            state.apply(&event, Timestamp(1_767_225_600_000));
        }
    }
    golden.check_state(&state);
    let row = |name: &str, bytes: Vec<u8>| golden.check(&format!("rows/{name}"), &bytes);
    let rule = RuleRow { user: USER, follows_from: Some(12) };
    row("automation_rule.1", codec::encode(&rule).unwrap());
    let execution = execution(Source::Schedule(Timestamp(7)));
    let started_at = Timestamp(1_767_225_600_001);
    let ended = Some((Timestamp(1_767_225_600_002), end()));
    let shown = Shown { execution, started_at, ended };
    row("automation_execution.1", codec::encode(&shown).unwrap());
    let cause = Cause { rule: 17, number: 1, ancestors: vec![5, 6] };
    row("automation_cause.1", codec::encode(&cause).unwrap());
}
