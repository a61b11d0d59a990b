//! What is told on the event feed: a notice, to its user alone.

use activity::feed::{Audience, Source, Telling};
use serde_json::json;
use supervision::Event as _;
use types::{base32, rfc3339};

use crate::notices::{NoticesEvent, Notified};

/// Tells a notice.
pub fn tell_notices(source: &mut Source<'_>) -> Vec<Telling> {
    let header = source.header;
    let event = NoticesEvent::decode(&header.event, header.event_version, source.payload);
    let Ok(NoticesEvent::Notified(Notified { user, notice, .. })) = event else {
        return Vec::new();
    };
    let data = json!({"notice_id": base32(notice.id), "app_id": notice.app,
        "channel": notice.channel, "message": notice.message.as_str(),
        "created_at": rfc3339(notice.at)});
    let telling = Telling::new("notification", Audience::User(user), data);
    vec![telling.of_family("extensions:read")]
}
