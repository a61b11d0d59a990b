//! Typed ids.
//!
//! An id is 128 bits (a UUIDv7, so ids sort by age). It is shown as `prefix_` and 26 characters of
//! lowercase base32 in Crockford's alphabet, most significant bits first, the first character
//! holding only three: the layout of a ULID, so that texts sort as their ids do. Broker routes show
//! a UUID. Both are read everywhere, whatever the prefix: ids of different types never share their
//! number by accident, and a direct user's tenant shares it on purpose.
//!
//! In JSON an id is a string, in stored bytes a number.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use persistence::record::sha256;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Characters of an id behind its prefix.
const BASE32_CHARACTERS: usize = 26;
/// Characters of a UUID as RFC 9562 writes it.
const UUID_CHARACTERS: usize = 36;
/// Characters of an [`AppId`].
const APP_ID_CHARACTERS: std::ops::RangeInclusive<usize> = 2..=64;
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// A text is no id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// It is neither `prefix_` and 26 characters of base32 nor a UUID.
    #[error("an id is a prefix and 26 characters of base32, or a UUID")]
    Malformed,
    /// It is no app id.
    #[error("an app id is 2 to 64 characters a-z, 0-9 and -, neither first nor last a -")]
    App,
}

/// The 26 characters that stand for 128 bits, without a prefix.
pub fn base32(number: u128) -> String {
    let character = |place: usize| {
        let shift = 5 * (BASE32_CHARACTERS - 1 - place);
        char::from(ALPHABET[(number >> shift) as usize & 31])
    };
    (0..BASE32_CHARACTERS).map(character).collect()
}

fn from_base32(text: &str) -> Option<u128> {
    let mut number = 0u128;
    for (place, byte) in text.bytes().enumerate() {
        let byte = byte.to_ascii_lowercase();
        let digit = ALPHABET.iter().position(|&letter| letter == byte)? as u128;
        // The first character holds the top three bits.
        if place == 0 && digit > 7 {
            return None;
        }
        number = number << 5 | digit;
    }
    Some(number)
}

fn parse(text: &str) -> Result<u128, IdError> {
    let last = text.rsplit('_').next().unwrap_or(text);
    let number = match text.len() {
        _ if last.len() == BASE32_CHARACTERS => from_base32(last),
        UUID_CHARACTERS => uuid::Uuid::try_parse(text).ok().map(|uuid| uuid.as_u128()),
        _ => None,
    };
    number.ok_or(IdError::Malformed)
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident($prefix:literal);)*) => {
    /// What the texts of ids begin with.
    const PREFIXES: &[&str] = &[$($prefix),*];

    $(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
        pub struct $name(pub u128);

        impl $name {
            /// What its text begins with, before the last `_`.
            pub const PREFIX: &'static str = $prefix;

            /// The id as a UUID, as broker routes show it.
            pub fn uuid(self) -> String {
                uuid::Uuid::from_u128(self.0).hyphenated().to_string()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "_{}"), base32(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                parse(text).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                match serializer.is_human_readable() {
                    true => serializer.collect_str(self),
                    // Transparent in bytes; the type's name is what a renaming knows it by.
                    false => serializer.serialize_newtype_struct(stringify!($name), &self.0),
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if !deserializer.is_human_readable() {
                    return u128::deserialize(deserializer).map(Self);
                }
                let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
                text.parse().map_err(de::Error::custom)
            }
        }

        impl utoipa::ToSchema for $name {}

        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                String::schema()
            }
        }
    )*};
}

/// How the id of an entity may be spelled that somebody has seen as `text`: the text itself, and
/// if it holds ids (`imp_t_…`, a UUID, bare base32; parts of an id made of several stand between
/// dots or slashes), those in base32 alone and, for a single one, behind each prefix.
pub fn spellings(text: &str) -> Vec<String> {
    let mut all = vec![text.to_owned()];
    let bare = |part: &str| parse(part).map_or_else(|_| part.to_owned(), base32);
    let parts = text.split_inclusive(['.', '/']).map(|part| match part.strip_suffix(['.', '/']) {
        Some(inner) => format!("{}{}", bare(inner), &part[inner.len()..]),
        None => bare(part),
    });
    all.push(parts.collect());
    if let Ok(number) = parse(text) {
        all.extend(PREFIXES.iter().map(|prefix| format!("{prefix}_{}", base32(number))));
    }
    all
}

ids! {
    /// A tenant. A direct user's tenant has the user's number.
    TenantId("imp_t");
    /// A user; the platform calls it `imperal_id`.
    UserId("imp_u");
    /// A role that a tenant has made.
    RoleIdentifier("role");
    /// An invitation to a tenant.
    InvitationId("inv");
    /// A login session: one family of refresh tokens.
    SessionId("ses");
    /// A hold on a wallet.
    HoldId("hold");
    /// A grant of credits.
    GrantId("grant");
    /// A call of an extension's function.
    CallId("call");
    /// A task: a call that goes on in the background. Its run has the same number.
    TaskId("task");
    /// What an automation has done once.
    ExecutionId("exe");
    /// A batch of calls.
    BatchId("batch");
    /// An API key.
    KeyIdentifier("key");
    /// An action: a record in a tenant's chain.
    ActionId("act");
    /// A request.
    RequestId("req");
    /// A confirmation: something that waits for a person.
    ConfirmationId("cnf");
    /// A transaction in a wallet's ledger.
    TransactionId("txn");
    /// An agent.
    AgentId("agt");
    /// A payment: money that is to come in.
    PaymentId("pay");
    /// A token of an agent's, and all that holders make of it.
    TokenId("tok");
}

impl TenantId {
    /// The installation's own tenant, which operators belong to.
    pub const SYSTEM: Self = Self(0);
}

impl UserId {
    /// The tenant of a direct user, who signed up without an invitation.
    pub fn direct_tenant(self) -> TenantId {
        TenantId(self.0)
    }

    /// A tenant's id as this user sees it: a direct user's own tenant has the user's own id.
    pub fn tenant_label(self, tenant: TenantId) -> String {
        if self.direct_tenant() == tenant { self.to_string() } else { tenant.to_string() }
    }
}

/// An app's id, a slug: 2 to 64 characters `a-z`, `0-9` and `-`, neither first nor last a `-`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AppId(Arc<str>);

impl AppId {
    /// An app's id from its text.
    pub fn new(text: &str) -> Result<Self, IdError> {
        let is_letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let fits = APP_ID_CHARACTERS.contains(&text.len())
            && text.bytes().all(|byte| is_letter(byte) || byte == b'-')
            && !text.starts_with('-')
            && !text.ends_with('-');
        if fits { Ok(Self(text.into())) } else { Err(IdError::App) }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The number that stands for the app in an [`persistence::OwnerKey`]: the first 128 bits of
    /// the SHA-256 of its text. For ever.
    pub fn owner_number(&self) -> u128 {
        let mut number = [0; 16];
        number.copy_from_slice(&sha256(&[self.0.as_bytes()])[..16]);
        u128::from_be_bytes(number)
    }
}

impl fmt::Display for AppId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for AppId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for AppId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        Self::new(text)
    }
}

impl Serialize for AppId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for AppId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        Self::new(&text).map_err(de::Error::custom)
    }
}

impl utoipa::ToSchema for AppId {}

impl utoipa::PartialSchema for AppId {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        String::schema()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use persistence::codec::{decode, encode};

    #[test]
    fn a_text_is_read_back_whatever_its_prefix() {
        for number in [0, 1, 31, 32, u128::MAX, 0x0190_1234_5678_7abc_8def_0123_4567_89ab] {
            let user = UserId(number);
            assert_eq!(user.to_string().parse(), Ok(user));
            assert_eq!(user.to_string().parse(), Ok(TenantId(number)));
            assert_eq!(user.to_string().to_uppercase().parse(), Ok(user));
            assert_eq!(user.uuid().parse(), Ok(user));
            for prefix in ["usr_", "tenant_", ""] {
                assert_eq!(format!("{prefix}{}", base32(number)).parse(), Ok(user));
            }
        }
    }

    #[test]
    fn an_id_is_found_however_it_was_seen() {
        let (user, stored) = (UserId(7), base32(7));
        for seen in [user.to_string(), user.direct_tenant().to_string(), user.uuid()] {
            let all = spellings(&seen);
            for wanted in [&stored, &user.to_string(), &user.direct_tenant().to_string()] {
                assert!(all.contains(wanted), "{seen}: {all:?}");
            }
        }
        let session = format!("{}.{}.notes", TenantId(8), UserId(7).uuid());
        assert!(spellings(&session).contains(&format!("{}.{stored}.notes", base32(8))));
        assert!(spellings("email/0a1b").contains(&"email/0a1b".to_owned()));
    }

    #[test]
    fn texts_sort_as_their_ids() {
        let numbers = [0u128, 1, 9 << 64, 10 << 64, u128::MAX];
        let texts: Vec<_> = numbers.iter().map(|number| HoldId(*number).to_string()).collect();
        assert!(texts.is_sorted());
        assert_eq!(texts[0], "hold_00000000000000000000000000");
        assert_eq!(texts[4], "hold_7zzzzzzzzzzzzzzzzzzzzzzzzz");
    }

    #[test]
    fn what_is_no_id_is_refused() {
        let too_great = format!("imp_u_8{}", "0".repeat(25));
        let spaced = format!("imp_u_{}", "é".repeat(13));
        for text in ["", "imp_u_", "imp_u_0123", "me", &too_great, &spaced, &"-".repeat(36)] {
            assert_eq!(text.parse::<UserId>(), Err(IdError::Malformed), "{text}");
        }
    }

    #[test]
    fn an_id_is_text_in_json_and_a_number_in_stored_bytes() {
        let tenant = TenantId(7);
        let json = serde_json::to_string(&tenant).unwrap();
        assert_eq!(json, "\"imp_t_00000000000000000000000007\"");
        assert_eq!(serde_json::from_str::<TenantId>(&json).unwrap(), tenant);
        assert_eq!(encode(&tenant).unwrap(), [7]);
        assert_eq!(decode::<TenantId>(&[7]).unwrap(), tenant);
    }

    #[test]
    fn an_app_id_is_a_slug() {
        for text in ["ab", "my-notes", "2048", &"a".repeat(64)] {
            assert_eq!(AppId::new(text).unwrap().as_str(), text);
        }
        for text in ["", "a", "-ab", "ab-", "Ab", "a_b", "a b", "é1", &"a".repeat(65)] {
            assert_eq!(AppId::new(text), Err(IdError::App), "{text}");
        }
        let app = AppId::new("my-notes").unwrap();
        assert_eq!(decode::<AppId>(&encode(&app).unwrap()).unwrap(), app);
        assert_ne!(app.owner_number(), AppId::new("my-note").unwrap().owner_number());
    }
}
