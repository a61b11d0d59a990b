//! When something waits for a person: what a user has set for themselves, within what their role
//! allows.
//!
//! | role's `confirmation_policy` | user's `confirmation_enabled` | waits |
//! | --- | --- | --- |
//! | `disabled` | any | nothing |
//! | `default_off` | not set or false | nothing |
//! | `default_off` | true | what the user has chosen |
//! | `default_on` | false | nothing |
//! | `default_on` | not set or true | what the user has chosen |
//! | `enforced` | any | what writes and removes, and what the user has chosen beside |
//!
//! What the user has chosen: what `confirmation_overrides` says of the function (`app.function`) or
//! else of the app (`app`) counts before `confirmation_actions`, which names sorts of functions:
//! `destructive`, `write`, or `all`, which is those and what only reads. Sorts that are not named:
//! what removes and what writes waits, what reads does not. Where the role enforces, a choice adds
//! and takes nothing away.
//!
//! Built-in roles are `default_off`. So is a role of a tenant's own whose policy is none of these
//! names, which only roles from before they were checked can be.

use std::collections::BTreeMap;

use activity::ActionType;
use persistence::record::sha256;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use supervision::Refusal;
use types::{JsonBytes, TenantId, UserId, base32};

use crate::role;
use crate::service::Identity;
use crate::tenant::Tenant;

/// How long something waits for a person unless the user has set otherwise, in seconds.
pub const TTL_SECONDS_DEFAULT: u64 = 15 * 60;
/// The shortest and the longest time that a user may set, in seconds.
pub const TTL_SECONDS: (u64, u64) = (60, 24 * 60 * 60);
/// The most overrides of one user in one tenant, and the longest name of one, in bytes.
pub const OVERRIDES_MAX: usize = 200;
const OVERRIDE_BYTES_MAX: usize = 200;
/// The sorts of functions that a user chooses from.
const SORTS: [&str; 3] = ["destructive", "write", "all"];
/// The settings' names.
const ENABLED: &str = "confirmation_enabled";
const ACTIONS: &str = "confirmation_actions";
const OVERRIDES: &str = "confirmation_overrides";
const TTL: &str = "confirmation_ttl";

/// What a role says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RolePolicy {
    /// What writes and removes waits, whatever the user has set.
    Enforced,
    /// It waits unless the user has switched it off.
    DefaultOn,
    /// It waits if the user has switched it on.
    #[default]
    DefaultOff,
    /// Nothing waits.
    Disabled,
}

impl RolePolicy {
    /// The policy of this name.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "enforced" => Some(Self::Enforced),
            "default_on" => Some(Self::DefaultOn),
            "default_off" => Some(Self::DefaultOff),
            "disabled" => Some(Self::Disabled),
            _ => None,
        }
    }

    /// 422, naming the field, unless a policy has this name.
    pub fn check(name: &str) -> Result<(), Refusal> {
        let message = "must be enforced, default_on, default_off or disabled";
        let refusal = || Refusal::invalid("confirmation_policy", message);
        Self::named(name).map(drop).ok_or_else(refusal)
    }
}

/// When something of a user's in a tenant waits for them. Of what is set, only what fits is read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfirmationPolicy {
    role: RolePolicy,
    enabled: Option<bool>,
    actions: BTreeMap<String, bool>,
    overrides: BTreeMap<String, bool>,
    ttl_seconds: Option<u64>,
}

/// An override: `true` or `"always"`, `false` or `"never"`.
fn override_of(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(waits) => Some(*waits),
        Value::String(text) if text == "always" => Some(true),
        Value::String(text) if text == "never" => Some(false),
        _ => None,
    }
}

impl ConfirmationPolicy {
    /// What a role and a user's settings, a JSON object, make together.
    pub fn new(role: RolePolicy, settings: &JsonBytes) -> Self {
        let settings = settings.value();
        let members = |name: &str, read: fn(&Value) -> Option<bool>| -> BTreeMap<String, bool> {
            let members = settings[name].as_object().into_iter().flatten();
            members.filter_map(|(name, value)| Some((name.clone(), read(value)?))).collect()
        };
        Self {
            role,
            enabled: settings[ENABLED].as_bool(),
            actions: members(ACTIONS, Value::as_bool),
            overrides: members(OVERRIDES, override_of),
            ttl_seconds: settings[TTL].as_u64(),
        }
    }

    /// Whether nothing that a client says changes what waits.
    pub fn is_enforced(&self) -> bool {
        self.role == RolePolicy::Enforced
    }

    /// Whether a call of this function waits for a person.
    pub fn holds(&self, app: &str, function: &str, action: ActionType) -> bool {
        let is_on = match self.role {
            RolePolicy::Disabled => return false,
            RolePolicy::Enforced => true,
            RolePolicy::DefaultOn => self.enabled != Some(false),
            RolePolicy::DefaultOff => self.enabled == Some(true),
        };
        let changes = matches!(action, ActionType::Write | ActionType::Destructive);
        is_on && (self.is_enforced() && changes || self.chooses(app, function, action))
    }

    fn override_for(&self, app: &str, function: &str) -> Option<bool> {
        let of_function = self.overrides.get(&format!("{app}.{function}"));
        of_function.or_else(|| self.overrides.get(app)).copied()
    }

    fn chooses(&self, app: &str, function: &str, action: ActionType) -> bool {
        let sort = |name: &str, unset| self.actions.get(name).copied().unwrap_or(unset);
        self.override_for(app, function).unwrap_or_else(|| {
            sort("all", false)
                || match action {
                    ActionType::Destructive => sort("destructive", true),
                    ActionType::Write => sort("write", true),
                    ActionType::Read | ActionType::System => false,
                }
        })
    }

    /// How long something waits, in milliseconds.
    pub fn ttl_ms(&self) -> i64 {
        let seconds = self.ttl_seconds.unwrap_or(TTL_SECONDS_DEFAULT);
        i64::try_from(seconds.clamp(TTL_SECONDS.0, TTL_SECONDS.1)).unwrap_or_default() * 1_000
    }

    /// A name for all that decides about a function: another as soon as any of it is another.
    pub fn version(&self, app: &str, function: &str) -> String {
        let decides =
            json!([self.role, self.enabled, self.actions, self.override_for(app, function)]);
        let digest = sha256(&[decides.to_string().as_bytes()]);
        base32(u128::from_be_bytes(digest[..16].try_into().unwrap_or_default()))
    }
}

/// 422, naming the field, for what is set that cannot be. `null` is what is not set.
pub fn check_settings(settings: &Map<String, Value>) -> Result<(), Refusal> {
    let given = |name: &str| settings.get(name).filter(|value| !value.is_null());
    if given(ENABLED).is_some_and(|value| !value.is_boolean()) {
        return Err(Refusal::invalid(ENABLED, "must be true or false"));
    }
    if let Some(actions) = given(ACTIONS) {
        let message = "must be an object of destructive, write and all, each true or false";
        let is_sort =
            |(name, value): (&String, &Value)| SORTS.contains(&name.as_str()) && value.is_boolean();
        let fits = actions.as_object().is_some_and(|actions| actions.iter().all(is_sort));
        fits.then_some(()).ok_or_else(|| Refusal::invalid(ACTIONS, message))?;
    }
    if let Some(overrides) = given(OVERRIDES) {
        let message = format!(
            "must be an object of at most {OVERRIDES_MAX} members, each an app or app.function of \
             at most {OVERRIDE_BYTES_MAX} bytes with true, false, always or never"
        );
        let is_override = |(name, value): (&String, &Value)| {
            (1..=OVERRIDE_BYTES_MAX).contains(&name.len()) && override_of(value).is_some()
        };
        let fits = overrides
            .as_object()
            .is_some_and(|it| it.len() <= OVERRIDES_MAX && it.iter().all(is_override));
        fits.then_some(()).ok_or_else(|| Refusal::invalid(OVERRIDES, message))?;
    }
    if let Some(ttl) = given(TTL) {
        let (least, most) = TTL_SECONDS;
        let fits = ttl.as_u64().is_some_and(|ttl| (least..=most).contains(&ttl));
        let message = format!("from {least} to {most} seconds");
        fits.then_some(()).ok_or_else(|| Refusal::invalid(TTL, message))?;
    }
    Ok(())
}

impl Identity {
    /// When something that a user with this role does in a tenant waits for them.
    pub async fn confirmation_policy(
        &self,
        tenant: TenantId,
        user: UserId,
        role: &str,
    ) -> Result<ConfirmationPolicy, Refusal> {
        let settings = self.user_settings(user, tenant).await?;
        let role = match role::built_in(role, tenant) {
            Some(_) => RolePolicy::default(),
            None => {
                let name = role.to_owned();
                let look = move |tenant: &Tenant| {
                    let role = tenant.staff.roles.get(&name)?;
                    RolePolicy::named(&role.terms.confirmation_policy)
                };
                self.look_tenant(tenant, look).await?.flatten().unwrap_or_default()
            }
        };
        Ok(ConfirmationPolicy::new(role, &settings))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROLES: [RolePolicy; 4] =
        [RolePolicy::Enforced, RolePolicy::DefaultOn, RolePolicy::DefaultOff, RolePolicy::Disabled];
    const ACTION_TYPES: [ActionType; 3] =
        [ActionType::Read, ActionType::Write, ActionType::Destructive];

    fn policy(role: RolePolicy, settings: Value) -> ConfirmationPolicy {
        ConfirmationPolicy::new(role, &JsonBytes::from(settings))
    }

    /// For each role and each way to switch it: whether reading, writing and removing waits.
    #[test]
    fn the_whole_table_of_roles_switches_and_sorts() {
        let switches = [json!(null), json!(true), json!(false)];
        let waits = |role, settings: Value| {
            let policy = policy(role, settings);
            ACTION_TYPES.map(|action| policy.holds("shelf", "f", action))
        };
        let (none, changes, all) = ([false; 3], [false, true, true], [true; 3]);
        let removes = [false, false, true];
        // Nothing chosen; only what removes; everything; nothing at all.
        let chosen = [
            (json!(null), changes),
            (json!({"write": false}), removes),
            (json!({"all": true}), all),
            (json!({"write": false, "destructive": false}), none),
        ];
        for (actions, wanted) in chosen {
            for role in ROLES {
                for switch in &switches {
                    let settings = json!({ENABLED: switch, ACTIONS: actions});
                    let is_on = match role {
                        RolePolicy::Disabled => false,
                        RolePolicy::Enforced => true,
                        RolePolicy::DefaultOn => *switch != json!(false),
                        RolePolicy::DefaultOff => *switch == json!(true),
                    };
                    let wanted = match (is_on, role) {
                        (false, _) => none,
                        (true, RolePolicy::Enforced) if wanted != all => changes,
                        (true, _) => wanted,
                    };
                    assert_eq!(waits(role, settings.clone()), wanted, "{role:?} {settings}");
                }
            }
        }
    }

    #[test]
    fn an_override_counts_before_the_sort_but_not_before_the_role() {
        for (value, waits) in [
            (json!(true), true),
            (json!("always"), true),
            (json!(false), false),
            (json!("never"), false),
        ] {
            for role in ROLES {
                for action in ACTION_TYPES {
                    let set = |overrides: Value| {
                        policy(role, json!({ENABLED: true, OVERRIDES: overrides}))
                    };
                    let changes = action != ActionType::Read;
                    let wanted = match role {
                        RolePolicy::Disabled => false,
                        RolePolicy::Enforced => changes || waits,
                        _ => waits,
                    };
                    let of_app = set(json!({"shelf": value}));
                    assert_eq!(of_app.holds("shelf", "f", action), wanted, "{role:?} {action:?}");
                    let of_function = set(json!({"shelf": !waits, "shelf.f": value}));
                    assert_eq!(of_function.holds("shelf", "f", action), wanted, "{role:?}");
                    let of_another = set(json!({"shelf.g": value, "other": value}));
                    let is_on = role != RolePolicy::Disabled;
                    assert_eq!(of_another.holds("shelf", "f", action), is_on && changes);
                }
            }
        }
        let off = policy(RolePolicy::DefaultOff, json!({OVERRIDES: {"shelf": true}}));
        assert!(!off.holds("shelf", "f", ActionType::Destructive), "it is not switched on");
    }

    #[test]
    fn its_version_is_another_when_what_decides_is() {
        let version = |role, settings| policy(role, settings).version("shelf", "f");
        let one = version(RolePolicy::DefaultOn, json!({}));
        assert_eq!(one, version(RolePolicy::DefaultOn, json!({TTL: 90, OVERRIDES: {"x": true}})));
        let others = [
            version(RolePolicy::Enforced, json!({})),
            version(RolePolicy::DefaultOn, json!({ENABLED: true})),
            version(RolePolicy::DefaultOn, json!({ACTIONS: {"all": true}})),
            version(RolePolicy::DefaultOn, json!({OVERRIDES: {"shelf.f": true}})),
        ];
        assert!(others.iter().all(|other| *other != one));
    }

    #[test]
    fn what_cannot_be_set_is_refused_and_what_was_set_otherwise_is_bounded() {
        let check = |settings: Value| check_settings(settings.as_object().unwrap());
        let many: Map<_, _> =
            (0..=OVERRIDES_MAX).map(|number| (format!("a{number}"), json!(true))).collect();
        for (field, value) in [
            (ENABLED, json!("yes")),
            (ACTIONS, json!([])),
            (ACTIONS, json!({"read": true})),
            (ACTIONS, json!({"all": 1})),
            (OVERRIDES, json!({"shelf": "sometimes"})),
            (OVERRIDES, json!({"": true})),
            (OVERRIDES, many.into()),
            (TTL, json!(59)),
            (TTL, json!(86_401)),
        ] {
            let refusal = check(json!({field: value})).unwrap_err();
            assert!(refusal.message.starts_with(field), "{refusal}");
        }
        let fits = json!({ENABLED: true, ACTIONS: {"destructive": true}, TTL: null,
            OVERRIDES: {"shelf.drop": "always", "shelf": false}, "anything": 1});
        assert!(check(fits).is_ok());
        assert_eq!(policy(RolePolicy::DefaultOn, json!({})).ttl_ms(), 900_000);
        assert_eq!(policy(RolePolicy::DefaultOn, json!({TTL: 1})).ttl_ms(), 60_000);
        assert!(RolePolicy::check("enforced").is_ok() && RolePolicy::check("maybe").is_err());
    }
}
