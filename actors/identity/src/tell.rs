//! What the records of tenants and sessions tell to readers: who belongs, as what, and which
//! logins have ended. Ids and roles only.

use activity::feed::{Audience, Source, Telling};
use serde_json::json;
use supervision::Event as _;
use types::UserId;

use crate::refresh::EndReason;
use crate::session::SessionEvent;
use crate::tenant::TenantEvent;

/// Tells what a tenant's event means.
pub fn tell_tenant(source: &mut Source<'_>) -> Vec<Telling> {
    let header = source.header;
    let event = TenantEvent::decode(&header.event, header.event_version, source.payload);
    let (user, change, role) = match event {
        Ok(TenantEvent::MemberSet(it)) => (it.user, "set", Some(it.role)),
        Ok(TenantEvent::MemberRemoved(it)) => (it.user, "removed", None),
        Ok(TenantEvent::GrantsSet(it)) => (it.user, "grants_set", None),
        _ => return Vec::new(),
    };
    let data = json!({"user_id": user, "change": change, "role": role});
    let telling = Telling::new("member.changed", Audience::UserAndAdmins(user), data);
    vec![telling.of_family("tenants:read")]
}

/// Tells what a session's event means.
pub fn tell_session(source: &mut Source<'_>) -> Vec<Telling> {
    let header = source.header;
    let event = SessionEvent::decode(&header.event, header.event_version, source.payload);
    let Ok(SessionEvent::Ended(ended)) = event else { return Vec::new() };
    let reason = match ended.reason {
        EndReason::Reuse => "reuse",
        EndReason::Revoked => "revoked",
        EndReason::Expired => "expired",
    };
    let data = json!({"session_id": source.id(), "reason": reason});
    // Sessions are their users' own.
    let audience = Audience::User(UserId(header.owner.id));
    vec![Telling::new("session.ended", audience, data).of_family("sessions:read")]
}
