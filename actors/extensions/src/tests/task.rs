//! What a user's tasks do with what is asked of them.

use persistence::{KeyRing, MasterKey};
use supervision::testkit::{Given, Golden, Then};

use super::*;
use crate::watch::{Returned, Sent, Sort};

const ID: TaskId = TaskId(0x0190_1234_5678_7abc_8def_0123_4567_89ab);

fn scope() -> Scope {
    Scope { tenant: TenantId(7), user: UserId(8), app: AppId::new("shelf").unwrap() }
}

/// Sealed bytes differ each time: these stand for some.
fn sealed() -> Personal {
    codec::decode(&codec::encode(&vec![1_u8, 2, 3]).unwrap()).unwrap()
}

fn task(id: TaskId) -> Task {
    Task {
        id,
        scope: scope(),
        function: "stock".to_owned(),
        action: Action::Write,
        params: sealed(),
        acting: Acting {
            kind: CallerKind::User,
            credential: None,
            role: "user".to_owned(),
            scopes: Scopes::from_iter(["extensions:*"]),
            app: None,
            label: "user/test".to_owned(),
            request: 1,
        },
        held: 3,
        hold: Some(HoldId(9)),
        is_confirmed: true,
        confirmation: Some(types::ConfirmationId(12)),
    }
}

fn create(number: u128, limit: u64) -> CreateTask {
    CreateTask { task: task(TaskId(number)), is_running: true, limit }
}

fn end(state: State) -> End {
    let sent = Sent {
        sort: Sort::Host,
        app: "shelf".to_owned(),
        function: "print".to_owned(),
        returned: Returned::Unknown,
    };
    End {
        state,
        error_code: Some("cancelled".to_owned()),
        answer: Some(sealed()),
        is_omitted: false,
        done: Done { documents: Some(2), sent: vec![sent], sent_omitted: 0 },
        charged: 1,
        is_recorded: false,
    }
}

fn ended(number: u128) -> EndTask {
    EndTask { id: TaskId(number), end: end(State::Cancelled), cancelled_by: None }
}

fn row(then: &Then<Tasks, impl Sized>, family: &str) -> Option<Details> {
    let row = then.rows.iter().find(|row| row.family == family)?;
    codec::decode(row.value.as_ref()?).ok()
}

#[test]
fn one_turn_counts_a_users_tasks_against_the_limit() {
    let given = (1..=3).fold(Given::<Tasks>::nothing(), |given, number| {
        let then = given.when(create(number, 3));
        assert_eq!((then.effects.len(), then.rows.len()), (1, 2));
        then.then()
    });
    let then = given.when(create(3, 3));
    assert!(then.events.is_empty() && then.outcome == Ok(State::Running), "a repetition");
    let refused = then.given.when(create(4, 3));
    let refusal = refused.outcome.unwrap_err();
    assert_eq!((refusal.class, refusal.code.as_str()), (Class::TooMany, "too_many_tasks"));
    assert!(refusal.facts.unwrap().contains("\"max_concurrent_tasks\":3"));
    let given = refused.given.when(ended(2)).then();
    assert!(given.when(create(4, 3)).outcome.is_ok(), "one has ended");
    let none = Given::<Tasks>::nothing().when(create(1, 0));
    assert_eq!(none.refused().0, "too_many_tasks");
}

#[test]
fn a_task_ends_once_and_its_row_says_how_far_it_is() {
    let queued = CreateTask { is_running: false, ..create(1, 3) };
    let then = Given::<Tasks>::nothing().when(queued);
    assert_eq!(row(&then, TASK_FAMILY).unwrap().state, State::Queued);
    let then = then.given.later_ms(5).when(BeginTask(TaskId(1)));
    let running = row(&then, TASK_FAMILY).unwrap();
    assert_eq!((running.state, running.attempts), (State::Running, 1));
    let started_at = running.started_at;
    let then = then.given.later_ms(5).when(BeginTask(TaskId(1)));
    let again = row(&then, TASK_FAMILY).unwrap();
    assert_eq!((again.started_at, again.attempts), (started_at, 2), "after a restart");
    let cancel = |by: &str| AskCancel { id: TaskId(1), by: by.to_owned() };
    let then = then.given.when(cancel("user/a"));
    assert_eq!(row(&then, TASK_FAMILY).unwrap().cancelled_by.as_deref(), Some("user/a"));
    let then = then.given.when(cancel("user/b"));
    assert!(then.events.is_empty() && then.outcome == Ok(true));
    assert!(then.given.state().is_pending() && then.given.state().resume().len() == 1);
    let then = then.given.later_ms(5).when(ended(1));
    let details = row(&then, TASK_FAMILY).unwrap();
    assert_eq!((details.state, details.held, details.charged), (State::Cancelled, 3, 1));
    assert!(details.ended_at.is_some() && !then.given.state().is_pending());
    let then = then.given.when(ended(1));
    assert!(then.events.is_empty() && then.outcome == Ok(()));
    assert_eq!(then.given.when(cancel("user/a")).outcome, Ok(false));
}

#[test]
fn who_stopped_a_task_stands_in_its_end_if_it_came_before_the_asking() {
    let by = |by: &str, state| EndTask {
        end: end(state),
        cancelled_by: Some(by.to_owned()),
        ..ended(1)
    };
    let begun = || Given::<Tasks>::nothing().when(create(1, 3)).then();
    let then = begun().when(by("user/a", State::Cancelled));
    assert_eq!(then.events.len(), 2);
    let details = then.rows.iter().rev().find(|row| row.family == TASK_FAMILY).unwrap();
    let details: Details = codec::decode(details.value.as_ref().unwrap()).unwrap();
    assert_eq!(
        (details.state, details.cancelled_by.as_deref()),
        (State::Cancelled, Some("user/a"))
    );
    // What ended by itself was stopped by nobody, and whoever has asked before is who it was.
    assert_eq!(begun().when(by("user/a", State::Succeeded)).events.len(), 1);
    let asked = AskCancel { id: TaskId(1), by: "user/b".to_owned() };
    let then = begun().when(asked).then().when(by("user/a", State::Cancelled));
    assert_eq!(row(&then, TASK_FAMILY).unwrap().cancelled_by.as_deref(), Some("user/b"));
}

#[test]
fn what_nobody_carries_on_is_taken_up_after_its_time_and_not_before() {
    let given = Given::<Tasks>::nothing().when(create(1, 3)).then();
    let then = given.later_ms(TASK_MS_MAX).when_due();
    assert!(then.events.is_empty() && then.effects.is_empty());
    let then = then.given.later_ms(OVERDUE_MS).when_due();
    assert_eq!((then.events.len(), then.effects.len()), (1, 1));
    let then = then.given.when_due();
    assert!(then.effects.is_empty(), "later each time");
}

#[test]
fn so_many_are_shown_and_the_oldest_rows_go() {
    let mut given = Given::<Tasks>::nothing();
    for number in 0..ENDED_KEPT_MAX as u128 {
        given = given.when(create(number, 1)).then().when(ended(number)).then();
    }
    let then = given.when(create(5_000, 1)).then().when(ended(5_000));
    let gone: Vec<_> = then.rows.iter().filter(|row| row.value.is_none()).collect();
    assert_eq!(gone.len(), 2);
    assert_eq!(gone[0].key, task_key(TenantId(7), UserId(8), Some(TaskId(0))));
    assert_eq!(then.given.state().ended.len(), ENDED_KEPT_MAX);
}

#[test]
fn what_is_stored_stays_as_it_always_was() {
    let golden = Golden::of(env!("CARGO_MANIFEST_DIR"));
    let created =
        TasksEvent::Created(Created { task: task(ID), is_running: true, until: Timestamp(1_000) });
    let asked = CancelAsked { id: ID, by: "user/test".to_owned() };
    let (scope, function) = (scope(), "stock".to_owned());
    let end = Ended { id: ID, scope, function, action: Action::Write, end: end(State::Cancelled) };
    let samples = [
        created.clone(),
        TasksEvent::Began(Began { id: ID }),
        TasksEvent::CancelAsked(asked),
        TasksEvent::Ended(end),
        TasksEvent::Retried(Retried {}),
    ];
    golden.check_events(&samples);
    let mut tasks = Tasks::default();
    let at = Timestamp(1_767_225_600_000);
    tasks.apply(&created, at);
    let (mut rows, mut ended) = (Vec::new(), Vec::new());
    tasks.rows(&samples[3], at, &mut rows);
    for row in rows {
        golden.check(&format!("rows/{}", row.family), &row.value.unwrap());
    }
    tasks.apply(&samples[3], at);
    tasks.apply(&created, at);
    golden.check_state(&tasks);
    ended.extend(crate::describe_tasks(
        "task_ended",
        1,
        &supervision::Event::encode(&samples[3]).unwrap(),
    ));
    assert_eq!((ended[0].tool_name.as_str(), ended[0].price), ("stock", 1));
}

#[test]
fn a_tasks_params_are_its_users_own() {
    let keys = KeyRing::in_memory(&MasterKey::from_bytes([1; 32])).unwrap();
    let sealed = Personal::seal(&keys, UserId(8), PARAMS_LABEL, "{\"title\":\"Emma\"}").unwrap();
    let shown = format!("{:?}", Task { params: sealed, ..task(ID) });
    assert!(!shown.contains("Emma"), "{shown}");
}
