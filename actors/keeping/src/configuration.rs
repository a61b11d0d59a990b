//! What is set: for the platform, a tenant, an app, a role and a user, each in JSON objects that
//! the server does not read.
//!
//! What comes of it ([`resolve`]) is merged object by object, the narrower over the wider:
//! platform, tenant, app, the app in the tenant, role, user; after what a scope sets comes what it
//! sets for members of a role. What a scope enforces is laid over all of that, the wider over the
//! narrower.
//!
//! Invariants
//! - A change takes the place of the parts that it names, whole, and leaves the others.
//! - A user's are sealed under the user's own key, a tenant's under the tenant's.
//!
//! Deliberate limits
//! - A value is a value: what looks like a secret is neither treated otherwise nor ever logged.
//!   Secrets have a place of their own.
//! - A list is replaced, never merged.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use supervision::{Address, Command, Entity, Handle, NoEffect, Refusal, Timestamp, Turn};
use types::{
    AppId, JsonBytes, TenantId, UserId, base32, home_of, owner_of_tenant, owner_of_user, platform,
    rfc3339,
};

/// Bytes of the JSON text of one part of what a scope sets.
pub const PART_BYTES_MAX: usize = 64 * 1024;
/// Characters of who is said to have changed it.
pub const UPDATED_BY_CHARS_MAX: usize = 200;
/// Bytes of a role's name.
pub const ROLE_BYTES_MAX: usize = 64;
/// Roles that a scope sets something for.
pub const ROLES_MAX: usize = 100;

/// What stands in an id for no tenant and no app.
const NONE: &str = "-";

/// For whom something is set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// For everybody.
    Platform,
    /// For a tenant.
    Tenant(TenantId),
    /// For an app: everywhere, or in one tenant.
    App {
        /// Where.
        tenant: Option<TenantId>,
        /// Which.
        app: AppId,
    },
    /// For the members of a tenant who have a role: in all apps, or in one.
    Role {
        /// Whose members.
        tenant: TenantId,
        /// The role.
        role: String,
        /// In which app.
        app: Option<AppId>,
    },
    /// For a user in a tenant: in all apps, or in one.
    User {
        /// In which tenant.
        tenant: TenantId,
        /// Who.
        user: UserId,
        /// In which app.
        app: Option<AppId>,
    },
}

impl Scope {
    /// Where what is set for it lives. 422 for a role whose name will not do.
    pub fn address(&self) -> Result<Address<Configuration>, Refusal> {
        let of =
            |app: &Option<AppId>| app.as_ref().map_or_else(|| NONE.to_owned(), AppId::to_string);
        let of_tenant = |id: String, tenant: TenantId| {
            crate::address(&id, owner_of_tenant(tenant), home_of(tenant))
        };
        let of_platform = |id: &str| crate::address(id, platform(), home_of(TenantId::SYSTEM));
        Ok(match self {
            Self::Platform => of_platform("platform"),
            Self::Tenant(tenant) => of_tenant(format!("tenant.{}", base32(tenant.0)), *tenant),
            Self::App { tenant: None, app } => of_platform(&format!("app.{NONE}.{app}")),
            Self::App { tenant: Some(tenant), app } => {
                of_tenant(format!("app.{}.{app}", base32(tenant.0)), *tenant)
            }
            Self::Role { tenant, role, app } => {
                check_role(role)?;
                of_tenant(format!("role.{}.{}.{role}", base32(tenant.0), of(app)), *tenant)
            }
            Self::User { tenant, user, app } => {
                let id = format!("user.{}.{}.{}", base32(tenant.0), base32(user.0), of(app));
                crate::address(&id, owner_of_user(*user), home_of(*tenant))
            }
        })
    }

    /// The scope that an id names; `None` when it names none.
    pub fn of_id(id: &str) -> Option<Self> {
        let mut parts = id.splitn(4, '.');
        let name = parts.next()?;
        let tenant: Option<TenantId> = parts.next().and_then(|text| text.parse().ok());
        let app = |text: &str| match text {
            NONE => Some(None),
            text => AppId::new(text).ok().map(Some),
        };
        Some(match name {
            "platform" => Self::Platform,
            "tenant" => Self::Tenant(tenant?),
            "app" => Self::App { tenant, app: app(parts.next()?)?? },
            "role" => {
                let (app, role) = (app(parts.next()?)?, parts.next()?.to_owned());
                Self::Role { tenant: tenant?, role, app }
            }
            "user" => {
                let user = parts.next()?.parse().ok()?;
                Self::User { tenant: tenant?, user, app: app(parts.next()?)? }
            }
            _ => return None,
        })
    }

    /// What counts for a user of an app in a tenant, from the widest to the narrowest.
    pub fn all_for(tenant: TenantId, app: &AppId, role: &str, user: Option<UserId>) -> Vec<Self> {
        let of_app = |tenant| Self::App { tenant, app: app.clone() };
        let of_role = |app| Self::Role { tenant, role: role.to_owned(), app };
        let mut all = vec![Self::Platform, Self::Tenant(tenant), of_app(None)];
        all.extend([of_app(Some(tenant)), of_role(None), of_role(Some(app.clone()))]);
        let apps = [None, Some(app.clone())].into_iter();
        all.extend(
            user.into_iter()
                .flat_map(|user| apps.clone().map(move |app| Self::User { tenant, user, app })),
        );
        all
    }
}

/// 422 for what names no role.
pub fn check_role(role: &str) -> Result<(), Refusal> {
    let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || b"_-:".contains(&byte);
    if role.is_empty() || role.len() > ROLE_BYTES_MAX || !role.bytes().all(is_fit) {
        let message = format!("1 to {ROLE_BYTES_MAX} of letters, digits and _-:");
        return Err(Refusal::invalid("role", message));
    }
    Ok(())
}

/// What is set for one scope.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// What is set, a JSON object.
    pub config: JsonBytes,
    /// What narrower scopes cannot change, a JSON object.
    pub enforced: JsonBytes,
    /// What is set for members of a role: an object of objects by the role's name.
    pub role_defaults: JsonBytes,
}

impl Default for Settings {
    fn default() -> Self {
        let empty = || JsonBytes::from(json!({}));
        Self { config: empty(), enforced: empty(), role_defaults: empty() }
    }
}

/// What is set for one scope, and since when.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Configuration {
    settings: Settings,
    changed: Option<(String, Timestamp)>,
}

impl Configuration {
    /// What is set.
    pub fn settings(&self) -> Settings {
        self.settings.clone()
    }
}

/// Something else is set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Configured {
    /// All of it.
    pub settings: Settings,
    /// Who is said to have changed it; may be empty.
    pub updated_by: String,
}

supervision::events! {
    /// What happens to a configuration.
    pub enum ConfigurationEvent {
        /// Something else is set.
        Changed(Configured) = "configured", 1;
    }
}

impl Entity for Configuration {
    const KIND: &'static str = "configuration";
    const PUBLISHED: bool = true;
    type Event = ConfigurationEvent;
    type Effect = NoEffect;

    fn apply(&mut self, ConfigurationEvent::Changed(it): &ConfigurationEvent, at: Timestamp) {
        self.settings = it.settings.clone();
        self.changed = Some((it.updated_by.clone(), at));
    }

    fn observe(&self) -> Value {
        let names = |part: &JsonBytes| {
            let names = part.value();
            let names = names.as_object().into_iter().flat_map(|it| it.keys().cloned());
            names.collect::<Vec<String>>()
        };
        let Settings { config, enforced, role_defaults } = &self.settings;
        let changed = self.changed.as_ref();
        json!({"config": names(config), "enforced": names(enforced),
            "role_defaults": names(role_defaults),
            "updated_at": changed.map(|(_, at)| rfc3339(*at)),
            "updated_by": changed.map(|(by, _)| by)})
    }
}

/// Sets parts of it anew; what is `None` stays. Answers all. 422 for what is no object, or too
/// long.
#[derive(Clone, Debug, Default)]
pub struct Configure {
    /// See [`Settings::config`].
    pub config: Option<JsonBytes>,
    /// See [`Settings::enforced`].
    pub enforced: Option<JsonBytes>,
    /// See [`Settings::role_defaults`].
    pub role_defaults: Option<JsonBytes>,
    /// Who is said to change it.
    pub updated_by: String,
}

impl Command for Configure {
    const NAME: &'static str = "configure";
}

impl Handle<Configure> for Configuration {
    type Reply = Settings;

    fn handle(turn: &mut Turn<'_, Self>, command: Configure) -> Result<Settings, Refusal> {
        let Configure { config, enforced, role_defaults, updated_by } = command;
        if updated_by.chars().count() > UPDATED_BY_CHARS_MAX {
            let message = format!("at most {UPDATED_BY_CHARS_MAX} characters");
            return Err(Refusal::invalid("updated_by", message));
        }
        let known = turn.state().settings();
        let settings = Settings {
            config: part("config", config, &known.config)?,
            enforced: part("enforced", enforced, &known.enforced)?,
            role_defaults: part("role_defaults", role_defaults, &known.role_defaults)?,
        };
        check_roles(&settings.role_defaults)?;
        if settings != known {
            let settings = settings.clone();
            turn.record(ConfigurationEvent::Changed(Configured { settings, updated_by }));
        }
        Ok(settings)
    }
}

fn part(field: &str, given: Option<JsonBytes>, known: &JsonBytes) -> Result<JsonBytes, Refusal> {
    let Some(given) = given else { return Ok(known.clone()) };
    if given.as_str().len() > PART_BYTES_MAX {
        return Err(Refusal::invalid(field, format!("has more than {PART_BYTES_MAX} bytes")));
    }
    match given.value().is_object() {
        true => Ok(given),
        false => Err(Refusal::invalid(field, "must be an object")),
    }
}

fn check_roles(defaults: &JsonBytes) -> Result<(), Refusal> {
    let (defaults, unfit) =
        (defaults.value(), |message: &str| Err(Refusal::invalid("role_defaults", message)));
    let roles = defaults.as_object().into_iter().flatten();
    if roles.clone().count() > ROLES_MAX {
        return unfit(&format!("has more than {ROLES_MAX} roles"));
    }
    for (role, settings) in roles {
        if check_role(role).is_err() || !settings.is_object() {
            return unfit("must be an object of objects by the names of roles");
        }
    }
    Ok(())
}

/// What counts of all these, from the widest to the narrowest, for somebody with a role.
pub fn resolve(layers: &[Settings], role: &str) -> Map<String, Value> {
    let mut resolved = Map::new();
    for layer in layers {
        merge(&mut resolved, layer.config.value());
        merge(&mut resolved, layer.role_defaults.value()[role].take());
    }
    for layer in layers.iter().rev() {
        merge(&mut resolved, layer.enforced.value());
    }
    resolved
}

/// Lays what is an object over another: objects within are merged, everything else is replaced.
fn merge(under: &mut Map<String, Value>, over: Value) {
    let Value::Object(over) = over else { return };
    for (name, value) in over {
        match (under.get_mut(&name), value) {
            (Some(Value::Object(within)), value @ Value::Object(_)) => merge(within, value),
            (_, value) => {
                under.insert(name, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use supervision::testkit::Given;

    use super::*;

    fn layer(config: Value, enforced: Value, role_defaults: Value) -> Settings {
        let (config, enforced) = (config.into(), enforced.into());
        Settings { config, enforced, role_defaults: role_defaults.into() }
    }

    #[test]
    fn the_narrower_counts_unless_the_wider_enforces() {
        let platform = layer(
            json!({"models": {"primary": "small", "temperature": 0.7}, "list": [1, 2]}),
            json!({"limits": {"spend": 10}}),
            json!({}),
        );
        let tenant = layer(
            json!({"models": {"primary": "large"}, "limits": {"spend": 99, "calls": 5}}),
            json!({"models": {"temperature": 0.1}, "limits": {"spend": 50}}),
            json!({"admin": {"panels": {"all": true}}}),
        );
        let user = layer(
            json!({"models": {"primary": "mine", "temperature": 1}, "list": [3]}),
            json!({"models": {"temperature": 0.9}}),
            json!({}),
        );
        let layers = [platform, tenant, user];
        let expected = json!({"models": {"primary": "mine", "temperature": 0.1}, "list": [3],
            "limits": {"spend": 10, "calls": 5}});
        assert_eq!(Value::from(resolve(&layers, "user")), expected);
        let admin = Value::from(resolve(&layers, "admin"));
        assert_eq!(admin["panels"], json!({"all": true}));
        assert_eq!(Value::from(resolve(&[], "user")), json!({}));
    }

    #[test]
    fn a_change_replaces_the_parts_that_it_names() {
        let set = |config: Value| Configure { config: Some(config.into()), ..Configure::default() };
        let given = Given::<Configuration>::nothing();
        let (all, given) = given.when(set(json!({"a": 1, "b": 2}))).reply();
        assert_eq!(all.enforced.value(), json!({}));
        let enforce = Configure { enforced: Some(json!({"c": 3}).into()), ..Configure::default() };
        let given = given.when(enforce.clone()).then();
        assert!(given.state().observe().to_string().contains("\"enforced\":[\"c\"]"));
        let again = given.when(enforce);
        assert!(again.events.is_empty());
        let (all, given) = again.then().when(set(json!({"a": 2}))).reply();
        assert_eq!((all.config.value(), all.enforced.value()), (json!({"a": 2}), json!({"c": 3})));
        let mut given = given;
        let long = json!({"a": "x".repeat(PART_BYTES_MAX)});
        for unfit in [json!([1]), json!(null), long] {
            let (code, after) = given.when(set(unfit)).refused();
            assert_eq!(code, "validation_error");
            given = after;
        }
        for unfit in [json!({"user": 1}), json!({"a b": {}})] {
            let roles = Configure { role_defaults: Some(unfit.into()), ..Configure::default() };
            let (code, after) = given.when(roles).refused();
            assert_eq!(code, "validation_error");
            given = after;
        }
    }

    #[test]
    fn each_scope_has_a_place_of_its_own_and_is_read_from_it() {
        let app = AppId::new("shelf").unwrap();
        let mut all = Scope::all_for(TenantId(7), &app, "user", Some(UserId(8)));
        assert_eq!(all.len(), 8);
        all.push(Scope::User { tenant: TenantId(7), user: UserId(9), app: None });
        all.push(Scope::App { tenant: Some(TenantId(6)), app });
        let ids: Vec<_> = all.iter().map(|it| it.address().unwrap().id().to_owned()).collect();
        for (at, id) in ids.iter().enumerate() {
            assert_eq!(Scope::of_id(id).as_ref(), Some(&all[at]), "{id}");
            assert!(!ids[..at].contains(id), "{id} twice");
        }
        let role = Scope::Role { tenant: TenantId(7), role: "a.b".to_owned(), app: None };
        assert_eq!(role.address().unwrap_err().code, "validation_error");
        assert_eq!(Scope::of_id("nonsense"), None);
    }
}
