//! An install: one user of one tenant has an app, on terms that they have agreed to; or has
//! switched it off.
//!
//! Invariants
//! - What was agreed to is pinned: the version, its envelope's digest and the [`Terms`]. A later
//!   version that asks for more is not called until it is installed again.
//! - Each change has a number, and the app's listing counts it once, after a restart too: that it
//!   was counted is the shadow of a pending state.
//!
//! Rows, in the tenant's shard and under its key: family [`INSTALL_FAMILY`], by tenant, user and
//! app, an [`InstallRow`] for what is installed or switched off; family [`INSTALL_USER_FAMILY`], by
//! tenant, app and user, when it was installed.
//!
//! Deliberate limit: an app that is active may be called by everybody whose scopes cover it,
//! installed or not; installing is what pins its terms, and what a review needs.

use serde::{Deserialize, Serialize};
use serde_json::json;
use supervision::{
    Address, Backoff, Command, EffectContext, Entity, Handle, Refusal, Retried, Retry, Retrying,
    RowDraft, Timestamp, Turn,
};
use types::{AppId, TenantId, UserId, base32, home_of, owner_of_tenant};

use crate::listing::{CountInstall, Listing, mark, put, remove};
use crate::storefront::Storefront;
use crate::terms::Terms;

/// What users have installed or switched off.
pub const INSTALL_FAMILY: &str = "install";
/// Who of a tenant has an app installed.
pub const INSTALL_USER_FAMILY: &str = "install_user";
/// The pauses between two tries to have an install counted.
const COUNT_BACKOFF: Backoff = Backoff { first_ms: 2_000, max_ms: 60_000 };

/// Who has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The tenant.
    pub tenant: TenantId,
    /// The user.
    pub user: UserId,
    /// The app.
    pub app: AppId,
}

impl Holder {
    /// Where the install lives.
    pub fn address(&self) -> Address<Install> {
        let id = format!("{}.{}.{}", base32(self.tenant.0), base32(self.user.0), self.app);
        let address = Address::new(&id, owner_of_tenant(self.tenant), home_of(self.tenant));
        // 54 characters of base32 and dots and a slug are neither too long nor unprintable.
        address.unwrap_or_else(|| panic!("{id} has no address"))
    }

    /// Who it is, within the app, without saying who.
    pub fn mark(&self) -> u128 {
        mark(&self.app, &[self.tenant.0, self.user.0])
    }

    /// What the keys of a user's rows begin with.
    pub fn prefix(tenant: TenantId, user: UserId) -> Vec<u8> {
        [tenant.0.to_be_bytes(), user.0.to_be_bytes()].concat()
    }

    /// The key of the row.
    pub fn key(&self) -> Vec<u8> {
        let mut key = Self::prefix(self.tenant, self.user);
        key.extend_from_slice(self.app.as_str().as_bytes());
        key
    }

    /// Whose a row is, by its key.
    pub fn of_key(key: &[u8]) -> Option<Self> {
        let (tenant, rest) = key.split_first_chunk()?;
        let (user, app) = rest.split_first_chunk()?;
        let [tenant, user] = [tenant, user].map(|id| u128::from_be_bytes(*id));
        let app = AppId::new(std::str::from_utf8(app).ok()?).ok()?;
        Some(Self { tenant: TenantId(tenant), user: UserId(user), app })
    }

    /// What the keys of the rows of an app's users begin with.
    pub fn users_prefix(tenant: TenantId, app: &AppId) -> Vec<u8> {
        [tenant.0.to_be_bytes(), app.owner_number().to_be_bytes()].concat()
    }

    fn user_key(&self) -> Vec<u8> {
        let mut key = Self::users_prefix(self.tenant, &self.app);
        key.extend_from_slice(&self.user.0.to_be_bytes());
        key
    }
}

/// Who switched an app off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DisabledBy {
    /// The user.
    User,
    /// Somebody who answers for the tenant: the user does not switch it on again.
    Admin,
}

/// What was agreed to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// The app's version.
    pub version: String,
    /// SHA-256 of its envelope.
    pub digest: [u8; 32],
    /// What it asked for.
    pub terms: Terms,
}

/// A row of [`INSTALL_FAMILY`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstallRow {
    /// The digest of the terms that were agreed to; `None` when it is not installed.
    pub terms: Option<[u8; 32]>,
    /// The version that was.
    pub version: String,
    /// Since when.
    pub at: Timestamp,
    /// Who switched it off.
    pub disabled: Option<DisabledBy>,
}

/// An install.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Install {
    holder: Option<Holder>,
    granted: Option<Grant>,
    granted_at: Timestamp,
    disabled: Option<DisabledBy>,
    /// Which change the last one was.
    number: u64,
    /// Which one was counted.
    counted: u64,
    retry: Retry,
}

impl Install {
    /// What was agreed to; `None` when it is not installed.
    pub fn granted(&self) -> Option<&Grant> {
        self.granted.as_ref()
    }

    fn row(&self) -> Option<InstallRow> {
        let (terms, version) = match &self.granted {
            Some(grant) => (Some(grant.terms.digest()), grant.version.clone()),
            None => (None, String::new()),
        };
        let disabled = self.disabled;
        let is_there = terms.is_some() || disabled.is_some();
        is_there.then_some(InstallRow { terms, version, at: self.granted_at, disabled })
    }
}

/// A user has the app, on these terms.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Installed {
    /// Who.
    pub holder: Holder,
    /// What was agreed to.
    pub grant: Grant,
    /// Which change it is; the same as before when only the terms are others.
    pub number: u64,
}

/// A user has the app no more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Uninstalled {
    /// Who.
    pub holder: Holder,
    /// Which change it is.
    pub number: u64,
}

/// The listing has counted a change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Counted {
    /// Which.
    pub number: u64,
}

/// The app was switched off, or on again, for a user.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Switched {
    /// Who.
    pub holder: Holder,
    /// Who switched it off; `None` when it is on.
    pub disabled: Option<DisabledBy>,
}

supervision::events! {
    /// What happens to an install.
    pub enum InstallEvent {
        /// Installed, or on other terms.
        Installed(Installed) = "app_installed", 1;
        /// Taken off.
        Uninstalled(Uninstalled) = "app_uninstalled", 1;
        /// Counted.
        Counted(Counted) = "install_counted", 1;
        /// Off or on.
        Switched(Switched) = "app_switched", 1;
        /// What is not counted is told once more.
        Retried(Retried) = "install_retried", 1;
    }
}

/// What an install asks of its app's listing.
#[derive(Clone, Debug)]
pub struct Count {
    holder: Holder,
    number: u64,
    installed: bool,
}

impl Entity for Install {
    const KIND: &'static str = "install";
    type Event = InstallEvent;
    type Effect = Count;

    fn apply(&mut self, event: &InstallEvent, at: Timestamp) {
        match event {
            InstallEvent::Installed(it) => {
                if it.number > self.number {
                    self.granted_at = at;
                    self.retry = Retry::begin(at, COUNT_BACKOFF);
                }
                (self.holder, self.granted) = (Some(it.holder.clone()), Some(it.grant.clone()));
                self.number = it.number;
            }
            InstallEvent::Uninstalled(it) => {
                (self.granted, self.number) = (None, it.number);
                self.retry = Retry::begin(at, COUNT_BACKOFF);
            }
            InstallEvent::Counted(it) => self.counted = it.number.max(self.counted),
            InstallEvent::Switched(it) => {
                (self.holder, self.disabled) = (Some(it.holder.clone()), it.disabled);
            }
            InstallEvent::Retried(_) => self.retry.again(at, COUNT_BACKOFF),
        }
    }

    fn rows(&self, event: &InstallEvent, at: Timestamp, rows: &mut Vec<RowDraft>) {
        let mut after = self.clone();
        after.apply(event, at);
        let (Some(holder), true) = (&after.holder, after.row() != self.row()) else { return };
        match after.row() {
            Some(row) => put(rows, INSTALL_FAMILY, holder.key(), &row),
            None => remove(rows, INSTALL_FAMILY, holder.key()),
        }
        match (&self.granted, &after.granted) {
            (None, Some(_)) => put(rows, INSTALL_USER_FAMILY, holder.user_key(), &at),
            (Some(_), None) => remove(rows, INSTALL_USER_FAMILY, holder.user_key()),
            _ => {}
        }
    }

    fn is_pending(&self) -> bool {
        self.counted < self.number
    }

    fn resume(&self) -> Vec<Count> {
        let holder = self.holder.clone().filter(|_| self.is_pending());
        let (number, installed) = (self.number, self.granted.is_some());
        holder.map(|holder| Count { holder, number, installed }).into_iter().collect()
    }

    fn next_deadline(&self) -> Option<Timestamp> {
        self.retry_at()
    }

    fn due(turn: &mut Turn<'_, Self>) {
        Self::try_again(turn);
    }

    async fn perform(effect: Count, context: EffectContext<Self>) {
        let EffectContext { system, address, origin, .. } = context;
        let Count { holder, number, installed } = effect;
        // A listing without its app has gone with it: there is nothing left to count.
        // A sandbox counts nowhere.
        if system.own_time(home_of(holder.tenant)).is_none()
            && let Some(app) = system.locate(control::app::App::KIND, holder.app.as_str())
        {
            let listing = Listing::address(&holder.app, app.home);
            let (installer, app) = (holder.mark(), holder.app.clone());
            let count = CountInstall { app: app.clone(), installer, number, installed };
            let listings = system.directory::<Listing>();
            match listings.ask(&listing, count, origin.clone()).await {
                Ok(told) => Storefront::hear(&system, &app, told),
                Err(refusal) if refusal.is_erased() => {}
                Err(_) => return,
            }
        }
        // If this is lost the reminder asks again, and nothing is counted twice.
        let _ = system.directory::<Self>().ask(&address, NoteCounted { number }, origin).await;
    }

    fn observe(&self) -> serde_json::Value {
        json!({"app": self.holder.as_ref().map(|holder| &holder.app),
            "installed": self.granted.is_some(),
            "version": self.granted.as_ref().map(|grant| &grant.version),
            "disabled": self.disabled, "number": self.number, "counted": self.counted})
    }
}

impl Retrying for Install {
    fn retry(&self) -> &Retry {
        &self.retry
    }

    fn retried() -> InstallEvent {
        InstallEvent::Retried(Retried {})
    }
}

/// Where an install stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Which change was the last.
    pub number: u64,
    /// Whether it is installed.
    pub installed: bool,
}

fn standing(turn: &Turn<'_, Install>) -> Standing {
    let install = turn.state();
    Standing { number: install.number, installed: install.granted.is_some() }
}

fn count(turn: &mut Turn<'_, Install>) {
    for effect in turn.state().resume() {
        turn.effect(effect);
    }
}

/// Installs the app, or agrees to other terms. The same again changes nothing.
#[derive(Clone, Debug)]
pub struct InstallApp {
    /// Who.
    pub holder: Holder,
    /// What is agreed to.
    pub grant: Grant,
}

impl Command for InstallApp {
    const NAME: &'static str = "install";
}

impl Handle<InstallApp> for Install {
    type Reply = Standing;

    fn handle(turn: &mut Turn<'_, Self>, command: InstallApp) -> Result<Standing, Refusal> {
        let InstallApp { holder, grant } = command;
        let install = turn.state();
        if install.granted.as_ref() == Some(&grant) {
            return Ok(standing(turn));
        }
        let number = install.number + u64::from(install.granted.is_none());
        turn.record(InstallEvent::Installed(Installed { holder, grant, number }));
        count(turn);
        Ok(standing(turn))
    }
}

/// Takes the app off. What is not installed stays so.
#[derive(Clone, Copy, Debug)]
pub struct UninstallApp {}

impl Command for UninstallApp {
    const NAME: &'static str = "uninstall";
    const ESSENTIAL: bool = true;
}

impl Handle<UninstallApp> for Install {
    type Reply = Standing;

    fn handle(turn: &mut Turn<'_, Self>, _: UninstallApp) -> Result<Standing, Refusal> {
        let install = turn.state();
        if let (Some(holder), true) = (install.holder.clone(), install.granted.is_some()) {
            let number = install.number + 1;
            turn.record(InstallEvent::Uninstalled(Uninstalled { holder, number }));
            count(turn);
        }
        Ok(standing(turn))
    }
}

/// Notes that the listing has counted a change.
#[derive(Clone, Copy, Debug)]
pub struct NoteCounted {
    /// Which.
    pub number: u64,
}

impl Command for NoteCounted {
    const NAME: &'static str = "note_counted";
    const ESSENTIAL: bool = true;
}

impl Handle<NoteCounted> for Install {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, command: NoteCounted) -> Result<(), Refusal> {
        let number = command.number;
        if number > turn.state().counted {
            turn.record(InstallEvent::Counted(Counted { number }));
        }
        Ok(())
    }
}

/// Switches the app off for the user, or on again. Refused (403, `disabled_by_admin`) when the user
/// switches on what somebody else has switched off.
#[derive(Clone, Debug)]
pub struct Switch {
    /// For whom.
    pub holder: Holder,
    /// Whether it is on from now on.
    pub on: bool,
    /// Who does it.
    pub by: DisabledBy,
}

impl Command for Switch {
    const NAME: &'static str = "switch_app";
}

impl Handle<Switch> for Install {
    type Reply = Standing;

    fn handle(turn: &mut Turn<'_, Self>, command: Switch) -> Result<Standing, Refusal> {
        let Switch { holder, on, by } = command;
        let known = turn.state().disabled;
        if known == Some(DisabledBy::Admin) && by == DisabledBy::User {
            if !on {
                return Ok(standing(turn));
            }
            let message = "an administrator has switched this app off for you";
            let class = supervision::Class::Forbidden;
            return Err(Refusal::new(class, "disabled_by_admin", message));
        }
        let disabled = (!on).then_some(by);
        if known != disabled {
            turn.record(InstallEvent::Switched(Switched { holder, disabled }));
        }
        Ok(standing(turn))
    }
}

#[cfg(test)]
mod tests {
    use supervision::testkit::Given;

    use super::*;

    fn holder() -> Holder {
        Holder { tenant: TenantId(1), user: UserId(2), app: AppId::new("shelf").unwrap() }
    }

    fn install(version: &str) -> InstallApp {
        let terms = Terms { price_default: version.len() as i64, ..Terms::default() };
        let grant = Grant { version: version.to_owned(), digest: [1; 32], terms };
        InstallApp { holder: holder(), grant }
    }

    #[test]
    fn each_change_is_counted_and_waits_until_it_was() {
        let then = Given::<Install>::nothing().when(install("1"));
        assert_eq!((then.effects.len(), then.rows.len()), (1, 2));
        let given = then.then();
        assert_eq!(given.state().resume().len(), 1);
        let then = given.when(install("1"));
        assert!(then.events.is_empty(), "the same again");
        let then = then.then().when(install("22"));
        assert_eq!(then.rows.len(), 1, "other terms, the same user");
        let (standing, given) = then.reply();
        assert_eq!(standing, Standing { number: 1, installed: true });
        let given = given.when(NoteCounted { number: 1 }).then();
        assert!(!given.state().is_pending());
        let then = given.when(UninstallApp {});
        assert!(then.rows.iter().all(|row| row.value.is_none()) && then.rows.len() == 2);
        let given = then.then().when(NoteCounted { number: 1 }).then();
        assert!(given.state().is_pending(), "a late word of an earlier change");
        let then = given.when(UninstallApp {});
        assert!(then.events.is_empty());
        let (standing, given) = then.then().when(install("1")).reply();
        assert_eq!((standing.number, given.state().resume()[0].number), (3, 3));
    }

    #[test]
    fn what_an_administrator_switched_off_its_user_does_not_switch_on() {
        let switch = |on, by| Switch { holder: holder(), on, by };
        let given = Given::<Install>::nothing().when(switch(false, DisabledBy::User)).then();
        let then = given.when(switch(true, DisabledBy::User));
        assert!(then.rows[0].value.is_none(), "neither installed nor off: no row");
        let given = then.then().when(switch(false, DisabledBy::Admin)).then();
        let (code, given) = given.when(switch(true, DisabledBy::User)).refused();
        assert_eq!(code, "disabled_by_admin");
        let given = given.when(switch(false, DisabledBy::User)).then();
        let given = given.when(switch(true, DisabledBy::Admin)).then();
        assert_eq!(given.state().row(), None);
    }
}
