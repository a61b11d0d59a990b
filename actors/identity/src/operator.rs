//! The first operator: somebody must be able to log in to a new installation.
//!
//! Invariants
//! - Once the system tenant exists there was an operator, and nothing here changes anything.
//! - A start that was cut short is finished by the next one, for the same address.
//!
//! Deliberate limits
//! - Further operators are made by the first, and a forgotten password is not reset here.

use std::fmt;

use aws_lc_rs::rand;
use data_encoding::BASE32_NOPAD;
use serde_json::json;
use supervision::{Origin, Refusal, System};
use types::{Scopes, TenantId, UserId};
use zeroize::Zeroizing;

use crate::claim::{Claim, ClaimTarget, Confirm, EmailAddress, Reservation, Reserve};
use crate::internal;
use crate::password::PasswordHash;
use crate::service::Identity;
use crate::tenant::{self, Tenant};
use crate::user::{self, AuthMethod, ChangePassword, Membership, User};

/// The role and the scope of operators.
pub const OPERATOR: &str = "operator";
/// What the system tenant is called.
const SYSTEM_NAME: &str = "system";
/// The strength of a password that is made up here: 160 bits, 32 characters.
const PASSWORD_BYTES: usize = 20;

/// What became of [`Identity::ensure_operator`].
pub enum Bootstrap {
    /// There was an operator.
    Present,
    /// There is one now.
    Created {
        /// The operator.
        user: UserId,
        /// The password that was made up; `None` when one was given.
        password: Option<Zeroizing<String>>,
    },
}

impl fmt::Debug for Bootstrap {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Present => formatter.write_str("Present"),
            Self::Created { user, .. } => write!(formatter, "Created({user})"),
        }
    }
}

impl Identity {
    /// Creates the first operator, a user of the system tenant, if there is none. Without a
    /// password it makes one up. 409 `already_claimed` when the address is another user's.
    pub async fn ensure_operator(
        &self,
        email: &str,
        password: Option<String>,
    ) -> Result<Bootstrap, Refusal> {
        let system = self.system()?;
        let origin = system.system_origin();
        let tenants = system.directory::<Tenant>();
        let tenant = Tenant::address(TenantId::SYSTEM);
        let exists = |tenant: &Tenant| tenant.details.is_some();
        if tenants.look(&tenant, origin.clone(), exists).await? {
            return Ok(Bootstrap::Present);
        }
        let email = EmailAddress::new(email)?;
        let made_up = if password.is_none() { Some(make_up_password()?) } else { None };
        let given = password.or_else(|| made_up.as_deref().cloned()).unwrap_or_default();
        let hash = self.hash_password(given).await?;
        let user = self.create_operator(&system, &email, hash, &origin).await?;
        // Last: from here on there is an operator.
        let create = tenant::Create {
            id: TenantId::SYSTEM,
            name: SYSTEM_NAME.to_owned(),
            owner: user,
            owner_role: OPERATOR.to_owned(),
            direct: false,
        };
        tenants.ask(&tenant, create, origin).await?;
        Ok(Bootstrap::Created { user, password: made_up })
    }

    async fn create_operator(
        &self,
        system: &System,
        email: &EmailAddress,
        password: PasswordHash,
        origin: &Origin,
    ) -> Result<UserId, Refusal> {
        let (claims, users) = (system.directory::<Claim>(), system.directory::<User>());
        let claim = email.claim(self.claim_key());
        let now = system.clock().now();
        let begun = claims.look(&claim, origin.clone(), move |claim| claim.holder(now)).await?;
        // Nobody but this signs up before there is an operator: what was begun is taken up.
        let user = UserId(begun.unwrap_or_else(|| system.new_id()));
        let target = ClaimTarget { user, tenant: TenantId::SYSTEM };
        let reserved = claims.ask(&claim, Reserve { holder: user.0 }, origin.clone()).await?;
        if reserved != Reservation::Confirmed(target)
            && matches!(reserved, Reservation::Confirmed(_))
        {
            let message = "the operator's address belongs to another user";
            return Err(Refusal::conflict("already_claimed", message));
        }
        let scopes = Scopes::from_iter([OPERATOR]);
        let create = user::Create {
            id: user,
            home: TenantId::SYSTEM,
            membership: Membership { role: OPERATOR.to_owned(), scopes },
            email: email.as_str().to_owned(),
            name: None,
            password: Some(password.clone()),
            auth_method: AuthMethod::Password,
            email_verified: true,
            attributes: json!({}).into(),
        };
        let address = User::address(user, TenantId::SYSTEM);
        users.ask(&address, create, origin.clone()).await?;
        if begun.is_some() {
            // The password of the start that was cut short may never have been shown.
            let change = ChangePassword { password, replaces: None };
            self.change_user(user, change, origin.clone()).await?;
        }
        claims.ask(&claim, Confirm { holder: user.0, target }, origin.clone()).await?;
        Ok(user)
    }
}

pub(crate) fn make_up_password() -> Result<Zeroizing<String>, Refusal> {
    let mut bytes = Zeroizing::new([0; PASSWORD_BYTES]);
    rand::fill(bytes.as_mut_slice()).map_err(|_| internal("no random numbers"))?;
    Ok(Zeroizing::new(BASE32_NOPAD.encode(bytes.as_slice()).to_lowercase()))
}
