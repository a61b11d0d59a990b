//! What an app's records tell in its developer's tenant: a version that was deployed.

use activity::feed::{Audience, Source, Telling};
use serde_json::json;
use supervision::Event as _;

use crate::app::AppEvent;

/// Tells what an app's event means.
pub fn tell(source: &mut Source<'_>) -> Vec<Telling> {
    let header = source.header;
    let event = AppEvent::decode(&header.event, header.event_version, source.payload);
    let Ok(AppEvent::Deployed(deployed)) = event else { return Vec::new() };
    let data = json!({"app_id": source.id(), "version": deployed.version,
        "status": deployed.status});
    vec![Telling::new("app.deployed", Audience::Tenant, data).of_family("developer:read")]
}
