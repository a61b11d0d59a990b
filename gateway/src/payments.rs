//! Which payment provider the settings name: Stripe with a secret key, else the embedded sandbox if
//! the settings want it, else none.

use std::sync::Arc;

use billing::payments::Payments;
use billing::payments::provider::PaymentProvider;
use billing::payments::sandbox::Sandbox;
use billing::payments::stripe::{Stripe, StripeSettings};
use billing::payments::unconfigured::Unconfigured;
use billing::subscription::collecting::Collector;
use extensions::outgoing::Outgoing as _;
use supervision::System;
use supervision::system::SystemBuilder;
use zeroize::Zeroizing;

use crate::config::ServeArgs;
use crate::egress::{Egress, Rules};

/// The secret key, from the settings or a file.
fn secret_key(args: &ServeArgs) -> Result<Option<Zeroizing<String>>, String> {
    if let Some(key) = &args.stripe_secret_key {
        return Ok(Some(Zeroizing::new(key.0.clone())));
    }
    let Some(path) = &args.stripe_secret_key_file else { return Ok(None) };
    let unread = |error| format!("{}: {error}", path.display());
    let text = Zeroizing::new(std::fs::read_to_string(path).map_err(unread)?);
    let line = text.lines().next().unwrap_or_default().trim();
    Ok(Some(Zeroizing::new(line.to_owned())))
}

/// Puts payments in. Says what is wrong with the settings.
pub(crate) fn put_in(
    args: &ServeArgs,
    builder: SystemBuilder,
    public_url: &str,
) -> Result<SystemBuilder, String> {
    let (builder, provider): (_, Arc<dyn PaymentProvider>) = match secret_key(args)? {
        Some(secret_key) => (builder, Arc::new(stripe(args, secret_key)?)),
        None if args.dev || args.sandbox_payments => {
            let sandbox = Arc::new(Sandbox::new(public_url));
            (builder.port(sandbox.clone()), sandbox)
        }
        None => (builder, Arc::new(Unconfigured)),
    };
    let payments = Arc::new(Payments::new(provider, public_url));
    let collector = Collector::new(payments.clone());
    Ok(builder.port(payments).port(collector))
}

fn stripe(args: &ServeArgs, secret_key: Zeroizing<String>) -> Result<Stripe, String> {
    if secret_key.is_empty() {
        return Err("the secret key is empty".to_owned());
    }
    let missing = || "give the publishable key as well".to_owned();
    let publishable_key = args.stripe_publishable_key.clone().ok_or_else(missing)?;
    let webhook_secret = args.stripe_webhook_secret.as_ref();
    let webhook_secret = webhook_secret.map(|it| it.0.clone()).unwrap_or_default();
    if webhook_secret.is_empty() {
        tracing::warn!("without --stripe-webhook-secret payments are looked at, never heard of");
    }
    let rules = Rules { private: args.dev, ports: args.egress_ports.clone() };
    let egress = Egress::new(rules);
    let api_base = args.stripe_api_base.clone();
    egress.check(&format!("{}/v1", api_base.trim_end_matches('/')))?;
    let webhook_secret = Zeroizing::new(webhook_secret);
    let settings = StripeSettings { secret_key, publishable_key, webhook_secret, api_base };
    Ok(Stripe::new(Arc::new(egress), settings))
}

/// Hands them the system, and what the start must know.
pub(crate) fn attach(system: &Arc<System>) {
    system.port::<Payments>().attach(system);
}

/// How the start says who moves the money.
pub fn said(system: &System) -> String {
    let payments = system.port::<Payments>();
    let provider = payments.provider();
    match provider.name() {
        "none" => "none: see --stripe-secret-key and --sandbox-payments".to_owned(),
        name if provider.is_real() => name.to_owned(),
        name => format!("{name}: no money moves"),
    }
}
