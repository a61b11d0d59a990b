//! What a developer asks for a call.
//!
//! The configuration is a JSON object: `{"default": 1, "functions": {"add_book": 2}}`, prices in
//! whole credits. What `functions` does not name costs `default`, which is 0 when it is absent.
//! `tool_prices` is read as `functions` where that is absent. Other keys are kept and not read.
//!
//! Deliberate limit: only the model `per_action` charges for calls. A subscription has no price a
//! call.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use supervision::Refusal;
use types::JsonBytes;

/// The most that one call may cost, in credits.
pub const PRICE_MAX: i64 = 1_000_000;
/// How many functions a configuration may price.
pub const PRICED_FUNCTIONS_MAX: usize = 256;
/// Bytes of a configuration.
pub const PRICING_BYTES_MAX: usize = 64 * 1024;

/// How an app is paid for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PricingModel {
    /// Not at all.
    #[default]
    Free,
    /// By the call.
    PerAction,
    /// By the month.
    Subscription,
}

impl PricingModel {
    /// The name in answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::PerAction => "per_action",
            Self::Subscription => "subscription",
        }
    }

    /// The model of a name.
    pub fn named(name: &str) -> Option<Self> {
        let all = [Self::Free, Self::PerAction, Self::Subscription];
        all.into_iter().find(|model| model.name() == name)
    }
}

/// What each function costs its caller, beside the platform's fee.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prices {
    default: i64,
    functions: HashMap<String, i64>,
}

impl Prices {
    /// Reads a configuration; refused (422) when a price is no whole number from 0 to
    /// [`PRICE_MAX`].
    pub fn read(model: PricingModel, config: Option<&JsonBytes>) -> Result<Self, Refusal> {
        let Some(config) = config else { return Ok(Self::default()) };
        if config.as_str().len() > PRICING_BYTES_MAX {
            return Err(wrong(format!("at most {PRICING_BYTES_MAX} bytes")));
        }
        let config = config.value();
        let Some(config) = config.as_object() else {
            return if config.is_null() { Ok(Self::default()) } else { Err(wrong("an object")) };
        };
        let default = config.get("default").map_or(Ok(0), price)?;
        let functions = config.get("functions").or_else(|| config.get("tool_prices"));
        let functions = match functions {
            None | Some(Value::Null) => HashMap::new(),
            Some(Value::Object(named)) if named.len() <= PRICED_FUNCTIONS_MAX => {
                let priced = named.iter().map(|(name, value)| Ok((name.clone(), price(value)?)));
                priced.collect::<Result<_, Refusal>>()?
            }
            Some(_) => {
                let message = format!("functions: an object of at most {PRICED_FUNCTIONS_MAX}");
                return Err(wrong(message));
            }
        };
        Ok(match model {
            PricingModel::PerAction => Self { default, functions },
            PricingModel::Free | PricingModel::Subscription => Self::default(),
        })
    }

    /// What a call of a function costs, in credits.
    pub fn of(&self, function: &str) -> i64 {
        self.functions.get(function).copied().unwrap_or(self.default)
    }
}

fn price(value: &Value) -> Result<i64, Refusal> {
    let price = value.as_i64().filter(|price| (0..=PRICE_MAX).contains(price));
    price.ok_or_else(|| wrong(format!("prices are whole numbers from 0 to {PRICE_MAX}")))
}

fn wrong(message: impl Into<String>) -> Refusal {
    Refusal::invalid("pricing_config", message)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn prices(model: PricingModel, config: Value) -> Result<Prices, String> {
        let config = JsonBytes::from(config);
        Prices::read(model, Some(&config)).map_err(|refusal| refusal.code)
    }

    #[test]
    fn a_function_costs_its_own_price_or_the_default() {
        let config = json!({"default": 1, "functions": {"add_book": 2}});
        let read = prices(PricingModel::PerAction, config.clone()).unwrap();
        assert_eq!([read.of("add_book"), read.of("books")], [2, 1]);
        let free = prices(PricingModel::Free, config).unwrap();
        assert_eq!([free.of("add_book"), free.of("books")], [0, 0]);
        let older = prices(PricingModel::PerAction, json!({"tool_prices": {"a": 5}})).unwrap();
        assert_eq!([older.of("a"), older.of("b")], [5, 0]);
        assert_eq!(prices(PricingModel::PerAction, Value::Null), Ok(Prices::default()));
    }

    #[test]
    fn what_is_no_price_is_refused_whatever_the_model() {
        for config in [
            json!([]),
            json!({"default": -1}),
            json!({"default": 1.5}),
            json!({"default": "1"}),
            json!({"functions": {"a": PRICE_MAX + 1}}),
            json!({"functions": []}),
        ] {
            let refused = prices(PricingModel::Free, config.clone());
            assert_eq!(refused, Err("validation_error".to_owned()), "{config}");
        }
    }

    #[test]
    fn a_model_is_found_by_the_name_it_shows() {
        for model in [PricingModel::Free, PricingModel::PerAction, PricingModel::Subscription] {
            assert_eq!(PricingModel::named(model.name()), Some(model));
            assert_eq!(json!(model), model.name());
        }
        assert_eq!(PricingModel::named("gift"), None);
    }
}
