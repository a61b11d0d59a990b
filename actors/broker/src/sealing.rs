//! How a value is sealed for its holder: under the key of whose it is, and a user's within that
//! under the key of the tenant that they gave it in. So erasing the one or the other erases it.
//!
//! Deliberate limit: what was sealed before values of users had two keys is opened by the user's
//! alone. It is told apart by its first byte, which no text begins with.

use persistence::{KeyId, KeyRing};
use supervision::Refusal;
use supervision::address::TENANT_KEY_CLASS;
use types::Sealed;
use zeroize::Zeroizing;

use crate::app_secrets::Holder;

/// What a value begins with that is sealed under its tenant's key, too: no byte of UTF-8 (RFC 3629,
/// section 1).
const WITHIN: u8 = 0xff;

/// Seals a value of a holder's for its name.
pub(crate) fn seal(
    keys: &KeyRing,
    holder: &Holder,
    name: &str,
    value: &[u8],
) -> Result<Sealed, Refusal> {
    let (key, label) = (holder.address().place().key(), holder.label(name));
    if holder.user.is_none() {
        return Sealed::seal(keys, key, &label, value);
    }
    let tenant = KeyId { class: TENANT_KEY_CLASS, id: holder.tenant.0 };
    let within = Sealed::seal(keys, tenant, &label, value)?;
    Sealed::seal(keys, key, &label, &[&[WITHIN], within.as_bytes()].concat())
}

/// The value; `None` once one of its keys is erased, and when it is another's or another name's.
pub(crate) fn open(
    keys: &KeyRing,
    holder: &Holder,
    name: &str,
    sealed: &Sealed,
) -> Option<Zeroizing<Vec<u8>>> {
    let label = holder.label(name);
    let opened = sealed.open(keys, &label)?;
    match opened.split_first() {
        Some((&WITHIN, within)) => Sealed::from_bytes(within.to_vec()).open(keys, &label),
        _ => Some(opened),
    }
}

#[cfg(test)]
mod tests {
    use persistence::MasterKey;
    use supervision::address::USER_KEY_CLASS;
    use types::{AppId, TenantId, UserId};

    use super::*;

    fn holder(user: Option<UserId>) -> Holder {
        Holder { tenant: TenantId(5), user, app: AppId::new("shelf").unwrap() }
    }

    #[test]
    fn a_users_value_goes_with_the_user_and_with_the_tenant() {
        let erased =
            [KeyId { class: TENANT_KEY_CLASS, id: 5 }, KeyId { class: USER_KEY_CLASS, id: 7 }];
        for key in erased {
            let keys = KeyRing::in_memory(&MasterKey::from_bytes([1; 32])).unwrap();
            let (mine, others) = (holder(Some(UserId(7))), holder(Some(UserId(8))));
            let sealed = seal(&keys, &mine, "token", b"canary").unwrap();
            let opened = open(&keys, &mine, "token", &sealed).unwrap();
            assert_eq!(opened.as_slice(), b"canary");
            assert!(open(&keys, &mine, "other", &sealed).is_none());
            assert!(open(&keys, &others, "token", &sealed).is_none());
            keys.erase(key).unwrap();
            assert!(open(&keys, &mine, "token", &sealed).is_none(), "{key:?}");
        }
    }

    #[test]
    fn an_apps_value_and_one_with_the_users_key_alone_are_opened_too() {
        let keys = KeyRing::in_memory(&MasterKey::from_bytes([1; 32])).unwrap();
        let (app, user) = (holder(None), holder(Some(UserId(7))));
        let sealed = seal(&keys, &app, "client", b"canary").unwrap();
        assert_eq!(open(&keys, &app, "client", &sealed).unwrap().as_slice(), b"canary");
        let key = user.address().place().key();
        let older = Sealed::seal(&keys, key, &user.label("token"), b"canary").unwrap();
        assert_eq!(open(&keys, &user, "token", &older).unwrap().as_slice(), b"canary");
    }
}
