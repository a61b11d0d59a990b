//! What this crate stores, as it always was: see [`supervision::testkit::Golden`].

use persistence::codec;
use serde_json::json;
use supervision::testkit::Golden;
use supervision::{Entity, Event as _, Timestamp};
use types::{AppId, JsonBytes, Personal, TenantId, UserId};

use crate::completion::*;
use crate::configuration::*;
use crate::files::*;
use crate::notices::*;
use crate::report::*;
use crate::skeleton::*;

const AT: Timestamp = Timestamp(1_767_225_600_000);

fn golden() -> Golden {
    Golden::of(env!("CARGO_MANIFEST_DIR"))
}

fn app() -> AppId {
    AppId::new("shelf").unwrap()
}

/// Sealing draws a random nonce: what is stored is a sealed field with fixed bytes.
fn personal() -> Personal {
    codec::decode(&codec::encode(&vec![7_u8; 24]).unwrap()).unwrap()
}

/// The state after these events, each stored as it always was.
fn check<E: Entity>(samples: &[E::Event])
where
    E::Event: PartialEq,
{
    golden().check_events(samples);
    let mut state = E::default();
    for event in samples {
        state.apply(event, AT);
    }
    // The last event may have ended what there was to see.
    state.apply(&samples[0], AT);
    golden().check_state(&state);
}

#[test]
fn sections() {
    let data = JsonBytes::from(json!({"unread": 3}));
    let name = "inbox".to_owned();
    let set = SectionSet { name: name.clone(), data, until: Some(AT) };
    check::<Skeleton>(&[SkeletonEvent::Set(set), SkeletonEvent::Ended(SectionEnded { name })]);
}

fn stored_file() -> StoredFile {
    StoredFile {
        upload: 5,
        size: 3,
        pieces: 1,
        digest: [9; 32],
        content_type: "text/plain".to_owned(),
        by: Some(UserId(8)),
        at: AT,
    }
}

#[test]
fn files() {
    let (path, content_type) = ("a/b.txt".to_owned(), "text/plain".to_owned());
    let begun = Begun {
        upload: 6,
        tenant: TenantId(7),
        app: app(),
        path: path.clone(),
        content_type,
        by: Some(UserId(8)),
    };
    let stored = FileStored { upload: 6, digest: [9; 32], replaced: Some(stored_file()) };
    check::<Files>(&[
        FilesEvent::Begun(begun),
        FilesEvent::Added(PieceAdded { upload: 6, number: 0, piece: Piece(b"abc".to_vec()) }),
        FilesEvent::Stored(stored),
        FilesEvent::GivenUp(UploadGivenUp { upload: 6 }),
        FilesEvent::Removed(FileRemoved { app: app(), path, file: stored_file() }),
    ]);
    golden().check("rows/file", &codec::encode(&stored_file()).unwrap());
}

#[test]
fn configurations() {
    let part = |value| JsonBytes::from(value);
    let settings = Settings {
        config: part(json!({"models": {"primary": "small"}})),
        enforced: part(json!({"limits": {"spend": 10}})),
        role_defaults: part(json!({"admin": {"all": true}})),
    };
    let updated_by = "ops".to_owned();
    check::<Configuration>(&[ConfigurationEvent::Changed(Configured { settings, updated_by })]);
}

#[test]
fn notices() {
    let notice = Notice {
        id: 5,
        app: Some(app()),
        channel: "default".to_owned(),
        message: "Your report is ready".to_owned().into(),
        at: AT,
    };
    let (tenant, user) = (TenantId(7), UserId(8));
    check::<Notices>(&[
        NoticesEvent::Notified(Notified { tenant, user, notice, by_mail: true }),
        NoticesEvent::MailTried(MailTried { notice: 5 }),
        NoticesEvent::MailOver(MailOver { notice: 5, is_queued: true }),
    ]);
}

fn reported(details: Details) -> Reported {
    let text = str::to_owned;
    Reported {
        id: 5,
        app: Some(app()),
        action: text("invoice.send"),
        sort: Sort::Write,
        is_success: false,
        actor_type: text("user"),
        target_type: text("invoice"),
        source: text("api"),
        details,
    }
}

#[test]
fn reports() {
    check::<Report>(&[ReportEvent::Reported(reported(Details::OfUser(personal())))]);
    let open = Details::Open(json!({"target_id": "inv-1"}).into());
    let bytes = codec::encode(&reported(open)).unwrap();
    golden().check("events/reported_open", &bytes);
    let sorts = [Sort::Read, Sort::Write, Sort::Destructive, Sort::System];
    assert_eq!(sorts.map(|sort| codec::encode(&sort).unwrap()), [[0], [1], [2], [3]]);
    let action = &crate::describe_report("reported", 1, &bytes)[0];
    assert_eq!((&*action.tool_name, action.error.as_deref()), ("invoice.send", FAILED));
    assert!(crate::describe_report("reported", 9, &bytes).is_empty());
}

const FAILED: Option<&str> = Some("reported_failure");

#[test]
fn completions() {
    let failed =
        AiCompletionEvent::Failed(ModelFailed { app: app(), code: "ai_refused".to_owned() });
    let action = &crate::describe_completion("model_failed", 1, &failed.encode().unwrap())[0];
    assert_eq!((&*action.tool_name, action.error.as_deref()), ("ai.complete", Some("ai_refused")));
    check::<AiCompletion>(&[
        AiCompletionEvent::Asked(ModelAsked { app: app(), user: Some(UserId(8)) }),
        AiCompletionEvent::Answered(ModelAnswered {
            app: app(),
            model: "small".to_owned(),
            prompt_tokens: 12,
            completion_tokens: 34,
        }),
        failed,
    ]);
}
