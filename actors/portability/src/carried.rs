//! Which records of a tenant go along, where they stand at their new place, and what is changed in
//! them on the way.
//!
//! | kind | goes along | why |
//! | --- | --- | --- |
//! | `tenant` | yes | its name, settings, members, roles and grants |
//! | `sign_in_policy` | yes | what it asks of those who log in |
//! | `wallet` | yes | credits, holds and the ledger, without `ledger_numbered`: see below |
//! | `subscription` | sandboxes only | elsewhere is no payment method: it is free there |
//! | `extension_session` | yes | documents, and what ran |
//! | `files` | yes | what apps' runtimes store |
//! | `configuration` | a user's no | what is set for the tenant, its apps and roles |
//! | `skeleton`, `notices` | no | users' own, and gone with their keys; apps make them anew |
//! | `report`, `ai_completion` | no | what was told and done here |
//! | `tasks` | no | what runs, runs on where it began; what it did is in the sessions |
//! | `automations` | no | they act by themselves, and go on where they were made |
//! | `app`, `developer` | elsewhere only | an app's id and a nickname are unique in one place |
//! | `registration` | with its app | what the registry knows of it |
//! | `user` | no | members' addresses and names go along; a password hash stays |
//! | `session`, `api_keys`, `second_factors` | no | secrets, and what is proven with them |
//! | `mail_link`, `invitation`, `app_secrets` | no | the same |
//! | `install_keys`, `oauth_flow` | no | the same |
//! | `confirmation` | no | waits for somebody here; what was held for it lapses there |
//! | `claim`, `mail`, `sign_up`, `new_tenant` | no | the installation's |
//! | `numbers`, `signing_keys`, `operator_act` | no | the installation's |
//! | `agency`, `agency_member` | no | the installation's |
//! | `agent`, `agent_roster`, `revoked_tokens` | no | tokens are the installation's; made anew |
//! | `issuing_keys` | no | the installation's |
//! | `tenant_import`, `sandbox`, `sandboxes` | no | about the installation |
//! | `payment`, `billing_account`, `sandbox_customer` | no | what is at a provider's stays |
//! | `listing`, `install`, `earnings` | no | reviews, installs and payouts of the installation |
//!
//! The integer ids of the ledger's lines are the installation's, and are given anew. The plan that
//! a wallet knows of goes where the subscription goes.
//! A kind that is not named stays. Of what stays the header goes along (ids, names of events and
//! times), so that the whole chain can be verified elsewhere.
//!
//! Invariant: where a record stands is found from its kind and the ids in its stream's name, and
//! never from what the file says of owner and home; so a file cannot write to another tenant.

use std::sync::Arc;

use billing::subscription::Subscription;
use billing::wallet::{Wallet, wallet_address};
use control::app::App;
use control::registration::Registration;
use extensions::session::{ExtensionSession, Scope};
use identity::sign_in_policy::SignInPolicy;
use identity::tenant::{Created, Tenant, TenantEvent};
use keeping::configuration::{self, Configuration};
use keeping::files::Files;
use market::developer::Developer;
use persistence::Header;
use supervision::address::Place;
use supervision::renaming::Renaming;
use supervision::{Class, Entity, Event as _, Refusal, System};
use types::{AppId, TenantId, UserId, base32, home_of};

/// The event of a wallet that stays.
const LEDGER_NUMBERED: &str = "ledger_numbered";
/// The event of a wallet that goes where the subscription goes.
const PLAN_NOTED: &str = "plan_noted";
/// What the ids of a user's own configurations begin with.
const OF_USER: &str = "user.";
/// What stands before a user's id in the label of a caller.
const USER_LABEL: &str = "user/";

/// Where a tenant's records go.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    /// Whose they are.
    pub(crate) from: TenantId,
    /// Whose they will be.
    pub(crate) to: TenantId,
    /// The ids that are others there.
    renaming: Renaming,
}

/// Whether a record's payload goes along; `with_apps` when it goes to another installation.
pub(crate) fn is_carried(header: &Header, with_apps: bool) -> bool {
    match kind_and_id(header).0 {
        Tenant::KIND | SignInPolicy::KIND | ExtensionSession::KIND => true,
        Files::KIND => true,
        Configuration::KIND => !kind_and_id(header).1.starts_with(OF_USER),
        Wallet::KIND => match &*header.event {
            LEDGER_NUMBERED => false,
            PLAN_NOTED => !with_apps,
            _ => true,
        },
        Subscription::KIND => !with_apps,
        App::KIND | Registration::KIND | Developer::KIND => with_apps,
        _ => false,
    }
}

/// Whether a record's payload goes along to another installation, or into a sandbox.
pub(crate) fn may_be_carried(header: &Header) -> bool {
    is_carried(header, true) || is_carried(header, false)
}

/// The two parts of a stream's name.
pub(crate) fn kind_and_id(header: &Header) -> (&str, &str) {
    header.stream.as_str().split_once('/').unwrap_or_default()
}

impl Route {
    /// The way from one tenant to another, or to the same elsewhere, with other users' ids.
    pub(crate) fn new(from: TenantId, to: TenantId, users: &[(UserId, UserId)]) -> Self {
        let mut renaming = Renaming::default();
        renaming.add("TenantId", from.0, to.0);
        for (old, new) in users {
            renaming.add("UserId", old.0, new.0);
        }
        Self { from, to, renaming }
    }

    fn user(&self, old: UserId) -> UserId {
        UserId(self.renaming.get("UserId", old.0))
    }

    /// Where the entity of a record lives from now on; `None` when the stream's name is not that
    /// of something of this tenant's.
    pub(crate) fn place(&self, header: &Header) -> Option<Place> {
        let (kind, id) = kind_and_id(header);
        let is_own = |text: &str| text.parse() == Ok(self.from);
        let place = match kind {
            Tenant::KIND if is_own(id) => Tenant::address(self.to).place().clone(),
            SignInPolicy::KIND if is_own(id) => SignInPolicy::address(self.to).place().clone(),
            Wallet::KIND if id == base32(self.from.0) => wallet_address(self.to).place().clone(),
            Subscription::KIND if id == base32(self.from.0) => {
                Subscription::address(self.to).place().clone()
            }
            ExtensionSession::KIND => self.session(id)?.address().place().clone(),
            Files::KIND if id == base32(self.from.0) => Files::address(self.to).place().clone(),
            Configuration::KIND => self.configured(id)?.address().ok()?.place().clone(),
            App::KIND => App::address(&AppId::new(id).ok()?, self.to).place().clone(),
            Registration::KIND => {
                let home = home_of(self.to);
                Registration::address(&AppId::new(id).ok()?, home).place().clone()
            }
            Developer::KIND => {
                Developer::address(self.user(id.parse().ok()?), self.to).place().clone()
            }
            _ => return None,
        };
        Some(place)
    }

    fn session(&self, id: &str) -> Option<Scope> {
        let mut parts = id.splitn(3, '.');
        let (tenant, user, app) = (parts.next()?, parts.next()?, parts.next()?);
        let is_own = tenant.parse() == Ok(self.from);
        let (user, app) = (self.user(user.parse().ok()?), AppId::new(app).ok()?);
        is_own.then_some(Scope { tenant: self.to, user, app })
    }

    /// For whom something is set, which the tenant has set.
    fn configured(&self, id: &str) -> Option<configuration::Scope> {
        use configuration::Scope::{App, Platform, Role, Tenant, User};
        let is_own = |tenant: TenantId| (tenant == self.from).then_some(self.to);
        Some(match configuration::Scope::of_id(id)? {
            Platform => return None,
            Tenant(tenant) => Tenant(is_own(tenant)?),
            App { tenant, app } => App { tenant: Some(is_own(tenant?)?), app },
            Role { tenant, role, app } => Role { tenant: is_own(tenant)?, role, app },
            User { .. } => return None,
        })
    }

    /// A record's payload as it is told at the new place, and its version.
    pub(crate) fn payload(
        &self,
        system: &System,
        header: &Header,
        payload: &[u8],
    ) -> Result<(u16, Vec<u8>), Refusal> {
        let (kind, _) = kind_and_id(header);
        let unknown = |error: &dyn std::fmt::Display| {
            let Header { event, event_version, .. } = header;
            let message = format!("{kind}.{event} of version {event_version}: {error}");
            Refusal::new(Class::Invalid, "export_event_unknown", message)
        };
        let registered = system.kind(kind).ok_or_else(|| unknown(&"there is no such kind"))?;
        let told = registered.retold(&header.event, header.event_version, payload, &self.renaming);
        let (version, bytes) = told.map_err(|error| unknown(&error))?;
        if kind != Tenant::KIND {
            return Ok((version, bytes));
        }
        match TenantEvent::decode(&header.event, version, &bytes) {
            Ok(TenantEvent::Created(created)) => {
                // Only a user's own tenant has its user's number.
                let direct = created.direct && created.owner.direct_tenant() == created.id;
                let created = TenantEvent::Created(Created { direct, ..created });
                Ok((created.version(), created.encode().map_err(|error| unknown(&error))?))
            }
            _ => Ok((version, bytes)),
        }
    }

    /// Who asked, with the ids of the new place.
    pub(crate) fn caller(&self, label: &str) -> Arc<str> {
        let Some((before, id)) = label.rsplit_once(USER_LABEL) else { return label.into() };
        let Ok(user) = id.parse() else { return label.into() };
        format!("{before}{USER_LABEL}{}", self.user(user)).into()
    }
}

#[cfg(test)]
mod tests {
    use persistence::{Home, OwnerKey, Position, RequestRef, Shard, StreamName};

    use super::*;

    const FROM: TenantId = TenantId(5);
    const TO: TenantId = TenantId(6);

    fn header(stream: &str, event: &str) -> Header {
        Header {
            position: Position { shard: Shard(1), pos: 1 },
            stream: StreamName::new(stream).unwrap(),
            seq: 1,
            owner: OwnerKey { class: 1, id: 99 },
            home: Home(99),
            chain_seq: 1,
            caller: "system".into(),
            request: RequestRef::from(1),
            cause: None,
            command: "x".into(),
            event: event.into(),
            event_version: 1,
            time_ms: 1,
        }
    }

    #[test]
    fn a_stream_stands_where_its_own_ids_say_and_nowhere_else() {
        let route = Route::new(FROM, TO, &[(UserId(7), UserId(8))]);
        let at = |stream: &str| route.place(&header(stream, "x"));
        let wallet = at(&format!("wallet/{}", base32(5))).unwrap();
        assert_eq!(&wallet, wallet_address(TO).place());
        assert_eq!(&at(&format!("tenant/{FROM}")).unwrap(), Tenant::address(TO).place());
        let id = format!("extension_session/{}.{}.shelf", base32(5), base32(7));
        let scope = Scope { tenant: TO, user: UserId(8), app: AppId::new("shelf").unwrap() };
        assert_eq!(&at(&id).unwrap(), scope.address().place());
        assert_eq!(&at(&format!("files/{}", base32(5))).unwrap(), Files::address(TO).place());
        let set = at(&format!("configuration/app.{}.shelf", base32(5))).unwrap();
        let to = configuration::Scope::App { tenant: Some(TO), app: scope.app };
        assert_eq!(&set, to.address().unwrap().place());
        let developer = at(&format!("developer/{}", UserId(7))).unwrap();
        assert_eq!(&developer, Developer::address(UserId(8), TO).place());
        let foreign = [
            format!("wallet/{}", base32(9)),
            format!("subscription/{}", base32(9)),
            format!("tenant/{}", TenantId(9)),
            format!("extension_session/{}.{}.shelf", base32(9), base32(7)),
            format!("user/{}", UserId(7)),
            "claim/email/00".to_owned(),
            format!("files/{}", base32(9)),
            format!("configuration/user.{}.{}.shelf", base32(5), base32(7)),
            format!("configuration/tenant.{}", base32(9)),
            "configuration/platform".to_owned(),
            "configuration/app.-.shelf".to_owned(),
        ];
        for stream in foreign {
            assert_eq!(at(&stream), None, "{stream}");
        }
    }

    #[test]
    fn secrets_and_what_is_not_named_stay() {
        let carried = |stream: &str, event| is_carried(&header(stream, event), true);
        assert!(carried("wallet/x", "granted") && !carried("wallet/x", LEDGER_NUMBERED));
        for (stream, event) in [("subscription/x", "period_begun"), ("wallet/x", PLAN_NOTED)] {
            assert!(!carried(stream, event) && is_carried(&header(stream, event), false));
            assert!(may_be_carried(&header(stream, event)));
        }
        assert!(carried("app/x", "created") && !is_carried(&header("app/x", "created"), false));
        assert!(carried("configuration/tenant.x", "configured"));
        assert!(!carried("configuration/user.x.y.-", "configured"), "it is the user's own");
        for kind in ["user", "session", "api_keys", "second_factors", "mail_link", "claim", "new"] {
            assert!(!carried(&format!("{kind}/x"), "created"), "{kind}");
        }
    }

    #[test]
    fn callers_get_the_ids_of_the_new_place() {
        let route = Route::new(FROM, TO, &[(UserId(7), UserId(8))]);
        let (old, new) = (UserId(7), UserId(8));
        assert_eq!(&*route.caller(&format!("user/{old}")), format!("user/{new}"));
        let service = format!("service/shop for user/{old}");
        assert_eq!(&*route.caller(&service), format!("service/shop for user/{new}"));
        for label in ["system", "service", "agent/agt_x", "user"] {
            assert_eq!(&*route.caller(label), label);
        }
    }
}
