//! What an app's records tell in its developer's tenant: a version that was deployed, another
//! state.

use activity::feed::{Audience, Source, Telling};
use serde_json::json;
use supervision::Event as _;

use crate::app::AppEvent;

/// Tells what an app's event means.
pub fn tell(source: &mut Source<'_>) -> Vec<Telling> {
    let header = source.header;
    let event = AppEvent::decode(&header.event, header.event_version, source.payload);
    let (name, data) = match event {
        Ok(AppEvent::Deployed(deployed)) => {
            let data = json!({"app_id": source.id(), "version": deployed.version,
                "status": deployed.status});
            ("app.deployed", data)
        }
        Ok(AppEvent::StatusSet(set)) => {
            let data = json!({"app_id": source.id(), "status": set.status, "reason": set.reason});
            ("app.status_changed", data)
        }
        _ => return Vec::new(),
    };
    vec![Telling::new(name, Audience::Tenant, data).of_family("developer:read")]
}
