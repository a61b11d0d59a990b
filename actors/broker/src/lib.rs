//! Secrets: what an app declares that it needs ([`declaration`]), and the values that users and
//! developers gave it ([`app_secrets`]), sealed, and opened for the app's own host alone.

pub mod app_secrets;
pub mod declaration;
mod desk;
pub mod farewell;
mod sealing;

#[cfg(test)]
mod golden;

use supervision::system::SystemBuilder;

pub use desk::{Desk, Subject};

/// Registers this crate's kinds, and the desk.
pub fn register(builder: SystemBuilder) -> SystemBuilder {
    builder.kind::<app_secrets::AppSecrets>().port(Desk::new())
}
