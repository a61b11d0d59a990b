//! What an app asks of whoever uses it: scopes, prices and a host; and what a later version asks
//! more of.
//!
//! Scopes are the capabilities that the envelope names and, for each kind of function that it has,
//! `APP:read`, `APP:write` or `APP:destructive`. Prices are the app's own, without the platform's
//! fee. The host is where calls leave to: scheme, name and port.
//!
//! Deliberate limit: a function that is new costs more than before when it costs more than the
//! price that functions without one of their own had.

use std::collections::{BTreeMap, BTreeSet};

use extensions::CompiledApp;
use extensions::ir::{ActionType, PANEL_PREFIX};
use persistence::codec;
use persistence::record::sha256;
use serde::{Deserialize, Serialize};

/// What an app asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// What it may do.
    pub scopes: BTreeSet<String>,
    /// What each function and panel costs, in credits.
    pub prices: BTreeMap<String, i64>,
    /// What a function without a price of its own costs, in credits.
    pub price_default: i64,
    /// Where its own code runs; `None` when it has none.
    pub host: Option<String>,
}

/// A price that was raised.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct PriceRaised {
    /// The function.
    pub function: String,
    /// What it cost, in credits.
    pub from: i64,
    /// What it costs, in credits.
    pub to: i64,
}

/// What a version asks more of than was agreed to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct TermsDiff {
    /// Scopes that were not asked for.
    pub scopes_added: Vec<String>,
    /// Prices that were lower.
    pub prices_raised: Vec<PriceRaised>,
    /// A host that calls did not leave to.
    pub hosts_added: Vec<String>,
}

impl TermsDiff {
    /// Whether nothing more is asked for.
    pub fn is_empty(&self) -> bool {
        self.scopes_added.is_empty() && self.prices_raised.is_empty() && self.hosts_added.is_empty()
    }
}

impl Terms {
    /// What an app asks for as it stands.
    pub fn of(app: &CompiledApp) -> Self {
        let Some(ir) = &app.ir else { return Self::default() };
        let scope = |action: ActionType| format!("{}:{}", app.id, action.name());
        let mut scopes: BTreeSet<String> = ir.capabilities.iter().cloned().collect();
        scopes.extend(ir.functions.iter().map(|function| scope(function.action_type)));
        if !ir.panels.is_empty() {
            scopes.insert(scope(ActionType::Read));
        }
        let functions = ir.functions.iter().map(|function| function.name.clone());
        let panels = ir.panels.iter().map(|panel| format!("{PANEL_PREFIX}{}", panel.id));
        let prices = functions.chain(panels).map(|name| (name.clone(), app.prices.of(&name)));
        Self {
            scopes,
            prices: prices.collect(),
            // No function is called so.
            price_default: app.prices.of(""),
            host: app.host.url.as_deref().map(origin_of),
        }
    }

    /// SHA-256 of all of it: two that are the same have the same.
    pub fn digest(&self) -> [u8; 32] {
        // Numbers and texts of bounded length always encode.
        sha256(&[&codec::encode(self).unwrap_or_default()])
    }

    /// What `next` asks more of.
    pub fn widened_by(&self, next: &Self) -> TermsDiff {
        let raised = next.prices.iter().filter_map(|(function, to)| {
            let from = self.prices.get(function).copied().unwrap_or(self.price_default);
            (*to > from).then(|| PriceRaised { function: function.clone(), from, to: *to })
        });
        let host = next.host.iter().filter(|host| self.host.as_ref() != Some(host));
        TermsDiff {
            scopes_added: next.scopes.difference(&self.scopes).cloned().collect(),
            prices_raised: raised.collect(),
            hosts_added: host.cloned().collect(),
        }
    }
}

/// A URL up to its path.
fn origin_of(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    format!("{scheme}://{}", &rest[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(scopes: &[&str], prices: &[(&str, i64)], host: Option<&str>) -> Terms {
        Terms {
            scopes: scopes.iter().map(|it| (*it).to_owned()).collect(),
            prices: prices.iter().map(|(name, price)| ((*name).to_owned(), *price)).collect(),
            price_default: 1,
            host: host.map(str::to_owned),
        }
    }

    #[test]
    fn only_what_is_more_is_told() {
        let old =
            terms(&["a:read", "store"], &[("add", 2), ("list", 1)], Some("https://a.example"));
        let narrower = terms(&["a:read"], &[("add", 1)], None);
        assert!(old.widened_by(&narrower).is_empty());
        let wider = terms(
            &["a:read", "a:write", "store"],
            &[("add", 3), ("list", 1), ("cheap", 1), ("dear", 2)],
            Some("https://b.example"),
        );
        let diff = old.widened_by(&wider);
        assert_eq!(diff.scopes_added, ["a:write"]);
        let raised: Vec<_> =
            diff.prices_raised.iter().map(|it| (it.function.as_str(), it.from, it.to)).collect();
        assert_eq!(raised, [("add", 2, 3), ("dear", 1, 2)]);
        assert_eq!(diff.hosts_added, ["https://b.example"]);
        assert_eq!(old.digest(), old.clone().digest());
        assert_ne!(old.digest(), wider.digest());
    }

    #[test]
    fn a_host_is_the_same_wherever_on_it_calls_go() {
        for url in
            ["https://a.example:8443/call", "https://a.example:8443?x", "https://a.example:8443"]
        {
            assert_eq!(origin_of(url), "https://a.example:8443");
        }
    }
}
