//! Journeys over HTTP: what a stranger with a client does, and what must come back.
//!
//! Each test starts a server of its own and stops it. Registering hashes a password, which is slow
//! on purpose, so a test makes few users and does much with them.
#![expect(clippy::unwrap_used, reason = "a journey that does not get on has failed")]

#[path = "journeys/accounts.rs"]
mod accounts;

#[path = "journeys/sessions.rs"]
mod sessions;

#[path = "journeys/factors.rs"]
mod factors;

#[path = "journeys/keys.rs"]
mod keys;

#[path = "../../actors/identity/tests/corpus/mod.rs"]
mod corpus;

#[path = "journeys/tenants.rs"]
mod tenants;
#[path = "journeys/tokens.rs"]
mod tokens;

#[path = "journeys/roles.rs"]
mod roles;

#[path = "journeys/users.rs"]
mod users;

#[path = "journeys/devices.rs"]
mod devices;

#[path = "journeys/taking_back.rs"]
mod taking_back;

#[path = "journeys/wallets.rs"]
mod wallets;

#[path = "journeys/limits.rs"]
mod limits;

#[path = "journeys/plans.rs"]
mod plans;

#[path = "journeys/apps.rs"]
mod apps;

#[path = "journeys/audit.rs"]
mod audit;

#[path = "journeys/registry.rs"]
mod registry;

#[path = "journeys/confirmations.rs"]
mod confirmations;

#[path = "journeys/hosts.rs"]
mod hosts;

#[path = "journeys/store.rs"]
mod store;

#[path = "journeys/runtimes.rs"]
mod runtimes;

#[path = "journeys/secrets.rs"]
mod secrets;
#[path = "journeys/webhooks.rs"]
mod webhooks;

#[path = "journeys/hostile.rs"]
mod hostile;

#[path = "journeys/oauth.rs"]
mod oauth;

#[path = "journeys/endings.rs"]
mod endings;
#[path = "journeys/leaving.rs"]
mod leaving;
#[path = "journeys/marketplace.rs"]
mod marketplace;
#[path = "journeys/refusals.rs"]
mod refusals;

#[path = "journeys/earnings.rs"]
mod earnings;
#[path = "journeys/portal.rs"]
mod portal;
#[path = "journeys/statement.rs"]
mod statement;

#[path = "journeys/repetition.rs"]
mod repetition;

#[path = "journeys/isolation.rs"]
mod isolation;

#[path = "journeys/bad_input.rs"]
mod bad_input;

#[path = "journeys/backups.rs"]
mod backups;

#[path = "journeys/engines.rs"]
mod engines;
#[path = "journeys/portability.rs"]
mod portability;

#[path = "journeys/refused_starts.rs"]
mod refused_starts;

#[path = "journeys/mail.rs"]
mod mail;

#[path = "journeys/strictness.rs"]
mod strictness;

#[path = "journeys/services.rs"]
mod services;

#[path = "journeys/events.rs"]
mod events;

#[path = "journeys/operators.rs"]
mod operators;

#[path = "journeys/connections.rs"]
mod connections;

#[path = "journeys/tls.rs"]
mod tls;

#[path = "journeys/storage.rs"]
mod storage;

#[path = "journeys/erasure.rs"]
mod erasure;
#[path = "journeys/freezes.rs"]
mod freezes;

#[path = "journeys/copies.rs"]
mod copies;
#[path = "journeys/tasks.rs"]
mod tasks;

#[path = "journeys/agencies.rs"]
mod agencies;

#[path = "journeys/agents.rs"]
mod agents_of_tenants;
#[path = "journeys/automations.rs"]
mod automations;
#[path = "journeys/payments.rs"]
mod payments;
