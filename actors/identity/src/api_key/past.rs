//! Keys as they were recorded before: without the standing that they were made under.

use serde::{Deserialize, Serialize};
use supervision::Timestamp;
use types::{KeyIdentifier, Scopes, TenantId, UserId};

use super::{ApiKey, KeyCreated, KeyHash, Maker};
use crate::user::MadeUnder;

/// Version 1 of [`ApiKey`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct ApiKeyV1 {
    id: KeyIdentifier,
    name: String,
    scopes: Scopes,
    shown: String,
    hash: KeyHash,
    maker: Maker,
    made_with: Option<KeyIdentifier>,
    created_at: Timestamp,
    expires_at: Option<Timestamp>,
}

/// Version 1 of [`KeyCreated`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct KeyCreatedV1 {
    user: UserId,
    tenant: TenantId,
    key: ApiKeyV1,
}

impl From<KeyCreatedV1> for KeyCreated {
    fn from(old: KeyCreatedV1) -> Self {
        let KeyCreatedV1 { user, tenant, key } = old;
        let key = ApiKey {
            id: key.id,
            name: key.name,
            scopes: key.scopes,
            shown: key.shown,
            hash: key.hash,
            maker: key.maker,
            made_with: key.made_with,
            created_at: key.created_at,
            expires_at: key.expires_at,
            // It counts unless its owner has ever left the tenant.
            made_under: MadeUnder::default(),
        };
        Self { user, tenant, key }
    }
}
