//! Tenants that leave for another installation, come from one, or are copied as sandboxes.
//!
//! [`export`] writes a tenant's chain into a file ([`persistence::tenant_file`]); the private
//! `carried` says, kind by kind, what goes along. [`tenant_import`] is the process of coming here:
//! the file is read through before anything is written (`examine`), and then told again record by
//! record (`carry`), once its members' addresses are theirs (`reserving`). [`history`] verifies the
//! old chain. [`sandbox`] is copies with their own clocks; [`copies`] says what becomes of them
//! when their tenant is frozen or erased. [`service::Portability`] is what the gateway and the
//! command line call.

mod carried;
mod carry;
pub mod copies;
mod examine;
pub mod export;
#[cfg(test)]
mod golden;
pub mod history;
mod parts;
mod problems;
mod reserving;
pub mod sandbox;
pub mod service;
pub mod tenant_import;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use supervision::system::SystemBuilder;

pub use service::{Imported, Incoming, Outgoing, Portability};

/// Registers this crate's kinds, and its port.
pub fn register(builder: SystemBuilder, portability: &Arc<Portability>) -> SystemBuilder {
    builder
        .kind::<tenant_import::TenantImport>()
        .kind::<sandbox::Sandbox>()
        .kind::<sandbox::Sandboxes>()
        .port(portability.clone())
}
