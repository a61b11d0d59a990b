//! Reading the event feed over HTTP: with which credential, how long that stands, and the body.
//!
//! The body asks the feed for its next bytes when the connection has room for them: a client that
//! reads nothing is not waited for (see [`activity::feed`]), and nothing is kept for it here.

use std::sync::Arc;

use activity::feed::{Opening, Reader, Standing, View};
use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::http::HeaderName;
use axum::http::request::Parts;
use futures::StreamExt as _;
use identity::api_key::is_api_key;
use identity::frozen::Frozen;
use identity::token_cache::{CarriedEpoch, Epochs, OwnerClass, OwnerKey};
use serde::Deserialize;
use supervision::{Refusal, Timestamp};
use types::{CallerKind, TenantId, UserId};

use crate::app::App;
use crate::authenticate::{Entered, Someone, bearer};
use crate::extract::Query;
use crate::problem::Problem;

/// Where a client says which event it had last (WHATWG HTML, section 9.2.4).
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Why a stream ends: the token's time was over.
pub const TOKEN_EXPIRED: &str = "token_expired";
/// Why a stream ends: an operator has frozen its tenant or user.
pub const FROZEN: &str = "frozen";
/// Why a stream ends: the credential was revoked, or the account or tenant switched off.
pub const TOKEN_REVOKED: &str = "token_revoked";

/// A credential that somebody reads with.
struct Held {
    epochs: Arc<Epochs>,
    frozen: Arc<Frozen>,
    whose: (TenantId, Option<UserId>),
    carried: Box<[CarriedEpoch]>,
    until: Option<Timestamp>,
}

impl Standing for Held {
    fn ended(&self, now: Timestamp) -> Option<&'static str> {
        if self.until.is_some_and(|until| until <= now) {
            return Some(TOKEN_EXPIRED);
        }
        let (tenant, user) = self.whose;
        if self.frozen.check(tenant, user).is_err() {
            return Some(FROZEN);
        }
        (!self.epochs.check(&self.carried)).then_some(TOKEN_REVOKED)
    }

    fn until(&self) -> Option<Timestamp> {
        self.until
    }
}

/// Who reads, of which tenant, and from where on.
pub struct Reading {
    /// The tenant.
    pub tenant: TenantId,
    /// What the feed wants to know.
    pub opening: Opening,
}

#[derive(Deserialize)]
struct Named {
    #[serde(default)]
    tenant_id: String,
}

impl FromRequestParts<App> for Reading {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let Someone(entered) = Someone::from_request_parts(parts, app).await?;
        let Query(Named { tenant_id }) = Query::from_request_parts(parts, app).await?;
        let (tenant, held) = match entered.caller.kind {
            CallerKind::Service => of_service(app, &entered, &tenant_id).await?,
            _ => (entered.tenant_named(&tenant_id)?, of_user(parts, app).await?),
        };
        let last_id = parts.headers.get(LAST_EVENT_ID);
        let last_id = last_id.map(|value| value.to_str().unwrap_or("-").to_owned());
        let (view, standing) = (View::of(&entered.caller), Box::new(held));
        Ok(Self { tenant, opening: Opening { view, last_id, standing } })
    }
}

/// A service reads in the tenant that it names, in the header or in the query.
async fn of_service(
    app: &App,
    entered: &Entered,
    named: &str,
) -> Result<(TenantId, Held), Problem> {
    let caller = &entered.caller;
    let tenant = service_tenant(entered, "query", named)?;
    let current = |class, id| {
        let owner = OwnerKey { class, id };
        CarriedEpoch { owner, epoch: app.identity.epochs().current(&owner) }
    };
    let mut carried = vec![current(OwnerClass::Tenant, tenant.0)];
    if let Some(user) = caller.user {
        carried.push(current(OwnerClass::User, user.0));
        let owner = OwnerKey::member(tenant.0, user.0);
        carried.push(CarriedEpoch { owner, epoch: app.identity.epochs().current(&owner) });
    }
    // Looked at after the epochs: whatever is switched off from here on raises one of them.
    app.identity.admit_service(tenant, caller.user).await?;
    let epochs = app.identity.epochs().clone();
    let (frozen, whose) = (app.identity.frozen().clone(), (tenant, caller.user));
    Ok((tenant, Held { epochs, frozen, whose, carried: carried.into(), until: None }))
}

/// The tenant that a service names: with two names, both must be the same.
pub(crate) fn service_tenant(
    entered: &Entered,
    place: &str,
    named: &str,
) -> Result<TenantId, Problem> {
    let own = entered.caller.tenant;
    if own != TenantId::SYSTEM {
        return Ok(entered.tenant_named(named)?);
    }
    let unfit = |message| Refusal::invalid_at(place, "tenant_id", message);
    if matches!(named, "" | "default") {
        return Err(unfit("name the tenant here or in X-Tenant-ID").into());
    }
    let parsed = named.parse::<TenantId>();
    Ok(parsed.map_err(|_| unfit("is not an id"))?)
}

/// What the user's token or key was found good under.
async fn of_user(parts: &Parts, app: &App) -> Result<Held, Problem> {
    let token = bearer(parts)?;
    let token = token.ok_or_else(|| Problem::unauthenticated("this needs a credential"))?;
    let (now, epochs) = (app.system.clock().now(), app.identity.epochs().clone());
    let frozen = app.identity.frozen().clone();
    if is_api_key(token) {
        let key = app.identity.authenticate_key(token, now).await?;
        let (carried, whose) = (key.carried.clone(), (key.caller.tenant, key.caller.user));
        return Ok(Held { epochs, frozen, whose, carried, until: key.expires_at });
    }
    let verified = app.identity.authenticate(token, now).await?;
    let caller = &verified.caller;
    let (user, session) = (caller.user.map_or(0, |it| it.0), caller.session.map_or(0, |it| it.0));
    let carried = Box::new(verified.epochs.of_owners(caller.tenant.0, user, session));
    let whose = (caller.tenant, caller.user);
    Ok(Held { epochs, frozen, whose, carried, until: Some(verified.expires_at) })
}

/// What a reader is sent, as a body.
pub fn body(reader: Reader) -> Body {
    let events = futures::stream::unfold(reader, |mut reader| async move {
        let bytes = reader.next().await?;
        Some((bytes, reader))
    });
    Body::from_stream(events.map(Ok::<_, std::convert::Infallible>))
}

#[cfg(test)]
mod tests {
    use identity::frozen::{ReasonClass, Target};

    use super::*;

    const TENANT: TenantId = TenantId(1);
    const ADA: UserId = UserId(2);

    fn held(class: OwnerClass, id: u128, until: Option<Timestamp>) -> Held {
        let owner = OwnerKey { class, id };
        let carried = Box::new([CarriedEpoch { owner, epoch: 0 }]);
        let (epochs, frozen) = (Arc::new(Epochs::default()), Arc::new(Frozen::default()));
        Held { epochs, frozen, whose: (TENANT, Some(ADA)), carried, until }
    }

    #[test]
    fn a_token_stands_until_its_time_and_not_a_moment_longer() {
        let token = held(OwnerClass::Session, 7, Some(Timestamp(60_000)));
        assert_eq!(token.ended(Timestamp(59_999)), None);
        assert_eq!(token.ended(Timestamp(60_000)), Some(TOKEN_EXPIRED));
        assert_eq!(token.until(), Some(Timestamp(60_000)));
        let key = held(OwnerClass::ApiKey, 7, None);
        assert_eq!((key.ended(Timestamp(i64::MAX)), key.until()), (None, None));
    }

    #[test]
    fn a_session_that_ends_and_a_key_that_is_deleted_stand_no_more_and_others_do() {
        for class in [OwnerClass::Session, OwnerClass::ApiKey, OwnerClass::User] {
            let (own, other) = (held(class, 7, None), held(class, 7, None));
            own.epochs.raise(OwnerKey { class, id: 8 }, 1, 0);
            assert_eq!(own.ended(Timestamp(1)), None);
            own.epochs.raise(OwnerKey { class, id: 7 }, 1, 0);
            assert_eq!(own.ended(Timestamp(1)), Some(TOKEN_REVOKED));
            assert_eq!(other.ended(Timestamp(1)), None);
        }
    }

    #[test]
    fn who_reads_in_a_copy_of_a_frozen_tenant_reads_no_more() {
        let reader = held(OwnerClass::Session, 7, None);
        reader.frozen.note_copy(TENANT, TenantId(9));
        reader.frozen.freeze(Target::Tenant(TenantId(9)), 1, ReasonClass::Other);
        assert_eq!(reader.ended(Timestamp(1)), Some(FROZEN));
    }
}
