//! An app's card: what lists show of it, as a row, so that a list of all apps is read without
//! waking one of them.
//!
//! Invariant: the card says what the app's events say, and is committed with them. An app that was
//! deleted has none.

use persistence::codec;
use serde::{Deserialize, Serialize};
use supervision::{RowDraft, Timestamp};
use types::{AppId, TenantId, UserId};

use super::{AppEvent, Created, Details, Status};
use crate::pricing::PricingModel;

/// The family of the cards: the key is the app's id.
pub const APP_CARD_FAMILY: &str = "app_card";

/// What lists show of an app.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AppCard {
    /// The id.
    pub id: AppId,
    /// Who develops it.
    pub developer: UserId,
    /// The developer's tenant.
    pub tenant: TenantId,
    /// Its state.
    pub status: Status,
    /// The name shown.
    pub display_name: String,
    /// The description; may be empty.
    pub description: String,
    /// The category.
    pub category: String,
    /// The icon; may be empty.
    pub icon: String,
    /// The current version; empty until one is deployed.
    pub version: String,
    /// How it is paid for.
    pub pricing_model: PricingModel,
    /// Since when.
    pub created_at: Timestamp,
    /// The last change.
    pub updated_at: Timestamp,
}

impl From<&Details> for AppCard {
    fn from(app: &Details) -> Self {
        Self {
            id: app.id.clone(),
            developer: app.developer,
            tenant: app.tenant,
            status: app.status,
            display_name: app.listing.display_name.clone(),
            description: app.listing.description.clone(),
            category: app.listing.category.clone(),
            icon: app.listing.icon.clone(),
            version: app.current().map(|it| it.version.clone()).unwrap_or_default(),
            pricing_model: app.listing.pricing_model,
            created_at: app.created_at,
            updated_at: app.updated_at,
        }
    }
}

impl AppCard {
    fn created(created: &Created, at: Timestamp) -> Self {
        let listing = created.listing.clone();
        Self {
            id: created.id.clone(),
            developer: created.developer,
            tenant: created.tenant,
            status: Status::Draft,
            display_name: listing.display_name,
            description: listing.description,
            category: listing.category,
            icon: listing.icon,
            version: String::new(),
            pricing_model: listing.pricing_model,
            created_at: at,
            updated_at: at,
        }
    }

    fn change(&mut self, event: &AppEvent) {
        match event {
            AppEvent::Deployed(deployed) => {
                self.version.clone_from(&deployed.version);
                self.status = deployed.status;
            }
            AppEvent::Updated(updated) => {
                let listing = updated.listing.clone();
                self.display_name = listing.display_name;
                self.description = listing.description;
                self.category = listing.category;
                self.icon = listing.icon;
                self.pricing_model = listing.pricing_model;
            }
            AppEvent::StatusSet(set) => self.status = set.status,
            AppEvent::Created(_) | AppEvent::HostSet(_) | AppEvent::HostKeyMade(_) => {}
        }
    }
}

/// The card after an event; `before` is the app before it.
pub(super) fn card_row(
    before: Option<&Details>,
    event: &AppEvent,
    at: Timestamp,
    rows: &mut Vec<RowDraft>,
) {
    let card = match event {
        AppEvent::Created(created) => Some(AppCard::created(created, at)),
        _ => before.map(AppCard::from),
    };
    let Some(mut card) = card else { return };
    card.change(event);
    card.updated_at = at;
    let key = card.id.as_str().as_bytes().to_vec();
    let is_there = card.status != Status::Deleted;
    // Texts of bounded length and numbers always encode.
    let value = is_there.then(|| codec::encode(&card).ok()).flatten();
    rows.push(RowDraft { family: APP_CARD_FAMILY, key, value });
}

#[cfg(test)]
mod tests {
    use supervision::testkit::Given;
    use types::{JsonBytes, SharePercent};

    use super::*;
    use crate::app::{App, Create, Deploy, Listing, SetStatus, Update};

    fn create() -> Create {
        let listing = Listing {
            display_name: "Shelf".to_owned(),
            description: String::new(),
            category: "general".to_owned(),
            icon: String::new(),
            git_url: "https://example.test/shelf".to_owned(),
            pricing_model: PricingModel::Free,
            pricing_config: None,
            revenue_split_dev: SharePercent::new(70).unwrap(),
        };
        let (developer, tenant) = (UserId(1), TenantId(1));
        Create { id: AppId::new("shelf").unwrap(), developer, tenant, listing }
    }

    fn card(rows: &[RowDraft]) -> Option<AppCard> {
        let row = rows.last().unwrap();
        assert_eq!((row.family, row.key.as_slice()), (APP_CARD_FAMILY, &b"shelf"[..]));
        row.value.as_ref().map(|value| codec::decode(value).unwrap())
    }

    #[test]
    fn a_card_says_what_the_app_says_and_goes_with_it() {
        let then = Given::<App>::nothing().when(create());
        assert_eq!(card(&then.rows).unwrap().status, Status::Draft);
        let ir = JsonBytes::from(serde_json::json!({}));
        let deploy = Deploy { version: "1.0".to_owned(), ir, digest: [1; 32], dev_mode: false };
        let then = then.then().when(deploy);
        let deployed = card(&then.rows).unwrap();
        assert_eq!(deployed, AppCard::from(then.given.state().details().unwrap()));
        let update = Update { category: Some("books".to_owned()), ..Update::default() };
        let then = then.then().when(update);
        assert_eq!(card(&then.rows).unwrap().category, "books");
        let delete = SetStatus { status: Status::Deleted, reason: None };
        let then = then.then().when(delete);
        assert_eq!(card(&then.rows), None);
        let given = then.then();
        assert!(given.state().details().is_none());
        assert_eq!(given.when(create()).refused().0, "app_id_taken", "its id stays taken");
    }
}
