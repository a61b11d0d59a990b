//! Journeys over HTTP: what a stranger with a client does, and what must come back.
//!
//! Each test starts a server of its own and stops it. Registering hashes a password, which is slow
//! on purpose, so a test makes few users and does much with them.
#![expect(clippy::unwrap_used, reason = "a journey that does not get on has failed")]

#[path = "journeys/accounts.rs"]
mod accounts;

#[path = "journeys/sessions.rs"]
mod sessions;

#[path = "journeys/wallets.rs"]
mod wallets;

#[path = "journeys/apps.rs"]
mod apps;

#[path = "journeys/repetition.rs"]
mod repetition;

#[path = "journeys/isolation.rs"]
mod isolation;

#[path = "journeys/bad_input.rs"]
mod bad_input;

#[path = "journeys/backups.rs"]
mod backups;

#[path = "journeys/refused_starts.rs"]
mod refused_starts;
