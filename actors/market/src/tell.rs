//! What this crate's records tell to readers of the feed, and what actions they stand for.

use activity::feed::{Audience, Source, Telling};
use activity::{ActionItem, ActionStatus, ActionType};
use serde_json::json;
use supervision::Event as _;

use crate::earnings::EarningsEvent;
use crate::install::InstallEvent;
use crate::listing::ListingEvent;
use crate::portal::PayoutResponse;

/// What reading one's earnings needs of a key.
const READ: &str = "developer:read";

/// Tells what an install's event means, to its user.
pub fn tell_install(source: &mut Source<'_>) -> Vec<Telling> {
    let header = source.header;
    let event = InstallEvent::decode(&header.event, header.event_version, source.payload);
    let telling = |name, holder: &crate::install::Holder, data| {
        let telling = Telling::new(name, Audience::UserAndAdmins(holder.user), data);
        vec![telling.of_family("marketplace:read").of_family("me:read")]
    };
    match event {
        Ok(InstallEvent::Installed(it)) => {
            let data = json!({"app_id": it.holder.app, "user_id": it.holder.user,
                "version": it.grant.version});
            telling("marketplace.app_installed", &it.holder, data)
        }
        Ok(InstallEvent::Uninstalled(it)) => {
            let data = json!({"app_id": it.holder.app, "user_id": it.holder.user});
            telling("marketplace.app_uninstalled", &it.holder, data)
        }
        Ok(InstallEvent::Switched(it)) => {
            let data = json!({"app_id": it.holder.app, "user_id": it.holder.user,
                "disabled": it.disabled.is_some()});
            telling("marketplace.app_switched", &it.holder, data)
        }
        _ => Vec::new(),
    }
}

/// Tells what a listing's event means, in its developer's tenant.
pub fn tell_listing(source: &mut Source<'_>) -> Vec<Telling> {
    let header = source.header;
    let event = ListingEvent::decode(&header.event, header.event_version, source.payload);
    let Ok(ListingEvent::ReviewWritten(it)) = event else { return Vec::new() };
    let data = json!({"app_id": it.app, "review_id": it.review.id, "rating": it.review.rating});
    let name = if it.before.is_none() { "app.reviewed" } else { "app.review_changed" };
    vec![Telling::new(name, Audience::Tenant, data).of_family(READ)]
}

/// Tells what becomes of a developer's payouts.
pub fn tell_earnings(source: &mut Source<'_>) -> Vec<Telling> {
    let header = source.header;
    let event = EarningsEvent::decode(&header.event, header.event_version, source.payload);
    let (name, payout) = match event {
        Ok(EarningsEvent::PayoutRequested(it)) => ("payout.requested", it.payout),
        Ok(EarningsEvent::PayoutDecided(it)) => ("payout.decided", it.payout),
        _ => return Vec::new(),
    };
    let view = PayoutResponse::from(&payout);
    let data = json!({"payout_id": view.id, "amount_tokens": view.amount_tokens,
        "amount_usd": view.amount_usd, "status": view.status});
    vec![Telling::new(name, Audience::UserAndAdmins(payout.developer), data).of_family(READ)]
}

fn item(app: Option<String>, tool: &str, action_type: ActionType) -> Vec<ActionItem> {
    vec![ActionItem {
        confirmation: None,
        app_id: app,
        tool_name: tool.to_owned(),
        action_type,
        status: ActionStatus::Success,
        price: 0,
        error: None,
        index: 0,
    }]
}

/// The action that an install's record stands for.
pub fn describe_install(event: &str, version: u16, payload: &[u8]) -> Vec<ActionItem> {
    let (app, tool) = match InstallEvent::decode(event, version, payload) {
        Ok(InstallEvent::Installed(it)) => (it.holder.app, "install"),
        Ok(InstallEvent::Uninstalled(it)) => (it.holder.app, "uninstall"),
        Ok(InstallEvent::Switched(it)) => (it.holder.app, "switch_app"),
        _ => return Vec::new(),
    };
    item(Some(app.to_string()), tool, ActionType::System)
}

/// The action that a listing's record stands for.
pub fn describe_listing(event: &str, version: u16, payload: &[u8]) -> Vec<ActionItem> {
    let Ok(decoded) = ListingEvent::decode(event, version, payload) else { return Vec::new() };
    item(Some(decoded.app().to_string()), event, ActionType::System)
}

#[cfg(test)]
mod tests {
    use types::{AppId, TenantId, UserId};

    use super::*;
    use crate::install::{Holder, Uninstalled};
    use crate::listing::{Featured, ListingEvent};

    #[test]
    fn an_action_names_the_app_that_it_is_about() {
        let app = AppId::new("shelf").unwrap();
        let holder = Holder { tenant: TenantId(1), user: UserId(2), app: app.clone() };
        let event = InstallEvent::Uninstalled(Uninstalled { holder, number: 2 });
        let items = describe_install(event.name(), event.version(), &event.encode().unwrap());
        assert_eq!(
            (items[0].app_id.as_deref(), items[0].tool_name.as_str()),
            (Some("shelf"), "uninstall")
        );
        let event = ListingEvent::Featured(Featured { app, featured: true });
        let items = describe_listing(event.name(), event.version(), &event.encode().unwrap());
        assert_eq!(
            (items[0].app_id.as_deref(), items[0].tool_name.as_str()),
            (Some("shelf"), "featured")
        );
        assert!(describe_listing("featured", 1, &[9]).is_empty());
    }
}
