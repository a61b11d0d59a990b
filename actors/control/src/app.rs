//! An app: its developer, what it shows of itself, its price, and the versions deployed of it.
//!
//! Invariants
//! - An app has one developer for ever, and its id is never given to another.
//! - A version is immutable: the same version is deployed again with the same content or not at
//!   all. The digests of the last [`VERSIONS_MAX`] older versions are remembered.
//! - The price changes only while nobody but the developer can call it: as a draft or suspended.
//!
//! Deliberate limits
//! - Only the current version's envelope is kept here; older ones stand in the journal alone.
//! - The envelope is opaque: whoever deploys has read it strictly.
//! - Reviews decide by [`SetStatus`]; who may decide is up to whoever asks.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use serde_json::json;
use supervision::{Address, Command, Entity, Handle, NoEffect, Refusal, RowDraft, Timestamp, Turn};
use types::{AppId, JsonBytes, SharePercent, TenantId, UserId, home_of, owner_of_app};

use crate::pricing::{Prices, PricingModel};

mod card;
mod host;
use card::card_row;
pub use card::{APP_CARD_FAMILY, AppCard};
pub use host::{
    HOST_URL_BYTES_MAX, Host, HostKey, HostKeyMade, HostReply, HostSet, KEY_OVERLAP_MS,
    KEY_OVERLAP_MS_MAX, KEYS_MAX, RotateHostKey, SetHost,
};

/// How many older versions are remembered by their digests.
pub const VERSIONS_MAX: usize = 50;
/// Bytes of an envelope's JSON text.
pub const ENVELOPE_TEXT_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Characters of a version.
pub const VERSION_CHARACTERS_MAX: usize = 128;

/// The state of an app.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Only its developer can call it.
    #[default]
    Draft,
    /// As a draft, and somebody shall look at it.
    PendingReview,
    /// Everybody can call it.
    Active,
    /// Taken back: only its developer can call it.
    Suspended,
    /// Given up by its developer: it is there for nobody, and its id is never given again.
    Deleted,
}

impl Status {
    /// The name in answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Draft => "draft",
            Self::PendingReview => "pending_review",
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Deleted => "deleted",
        }
    }

    /// The state of a name.
    pub fn named(name: &str) -> Option<Self> {
        let all = [Self::Draft, Self::PendingReview, Self::Active, Self::Suspended, Self::Deleted];
        all.into_iter().find(|status| status.name() == name)
    }

    fn may_become(self, next: Self) -> bool {
        matches!(
            (self, next),
            (Self::Draft, Self::PendingReview)
                | (Self::PendingReview, Self::Active | Self::Draft)
                | (Self::Active, Self::Suspended)
                | (Self::Suspended, Self::Active | Self::Draft | Self::PendingReview)
        ) || (next == Self::Deleted && self != Self::Deleted)
    }
}

/// What an app shows of itself, and what it costs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Listing {
    /// The name shown.
    pub display_name: String,
    /// The description; may be empty.
    pub description: String,
    /// The category.
    pub category: String,
    /// The icon; may be empty.
    pub icon: String,
    /// Where its source is.
    pub git_url: String,
    /// How it is paid for.
    pub pricing_model: PricingModel,
    /// What it costs: see [`crate::pricing`].
    pub pricing_config: Option<JsonBytes>,
    /// The developer's share of the price.
    pub revenue_split_dev: SharePercent,
}

impl Listing {
    fn prices_like(&self, other: &Self) -> bool {
        self.pricing_model == other.pricing_model
            && self.pricing_config == other.pricing_config
            && self.revenue_split_dev == other.revenue_split_dev
    }
}

/// A version that was deployed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Version {
    /// As the app calls it.
    pub version: String,
    /// SHA-256 of the envelope as it was deployed.
    pub digest: [u8; 32],
    /// When.
    pub deployed_at: Timestamp,
}

/// What is known of an app.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Details {
    /// The id.
    pub id: AppId,
    /// Who develops it.
    pub developer: UserId,
    /// The developer's tenant, in whose chain the app's records are.
    pub tenant: TenantId,
    /// What it shows of itself.
    pub listing: Listing,
    /// Its state.
    pub status: Status,
    /// Why it was rejected, until it is submitted again.
    pub reject_reason: Option<String>,
    /// The versions, the oldest first; the last is the current one.
    pub versions: VecDeque<Version>,
    /// The current version's envelope.
    pub ir: Option<JsonBytes>,
    /// Since when.
    pub created_at: Timestamp,
    /// The last change.
    pub updated_at: Timestamp,
    /// Its own host.
    pub host: Host,
}

impl Details {
    /// The current version; `None` until one is deployed.
    pub fn current(&self) -> Option<&Version> {
        self.versions.back()
    }
}

/// An app.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct App {
    details: Option<Details>,
}

impl App {
    /// Where an app lives that a developer of `tenant` creates. An existing app is found by its id:
    /// [`supervision::System::locate`].
    pub fn address(id: &AppId, tenant: TenantId) -> Address<Self> {
        let address = Address::new(id.as_str(), owner_of_app(id), home_of(tenant));
        // A slug is neither empty, nor too long, nor unprintable.
        address.unwrap_or_else(|| panic!("{id} has no address"))
    }

    /// What is known of it; `None` when there is no such app, or no more.
    pub fn details(&self) -> Option<&Details> {
        self.details.as_ref().filter(|app| app.status != Status::Deleted)
    }

    /// Who develops it, and in which tenant; of an app that was deleted, too.
    pub fn developer(&self) -> Option<(UserId, TenantId)> {
        self.details.as_ref().map(|app| (app.developer, app.tenant))
    }

    fn existing(&self) -> Result<&Details, Refusal> {
        self.details().ok_or_else(|| Refusal::not_found("app"))
    }
}

/// The app was created.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Created {
    /// The id.
    pub id: AppId,
    /// Who develops it.
    pub developer: UserId,
    /// The developer's tenant.
    pub tenant: TenantId,
    /// What it shows of itself.
    pub listing: Listing,
}

/// A version was deployed and is the current one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Deployed {
    /// As the app calls it.
    pub version: String,
    /// SHA-256 of the envelope.
    pub digest: [u8; 32],
    /// The envelope.
    pub ir: JsonBytes,
    /// The app's state from then on.
    pub status: Status,
}

/// It shows itself otherwise, or costs something else.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Updated {
    /// All of it.
    pub listing: Listing,
}

/// Its state has changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StatusSet {
    /// The state.
    pub status: Status,
    /// Why, for people.
    pub reason: Option<String>,
}

supervision::events! {
    /// What happens to an app.
    pub enum AppEvent {
        /// Created.
        Created(Created) = "created", 1;
        /// A version was deployed.
        Deployed(Deployed) = "deployed", 1;
        /// Shown or priced otherwise.
        Updated(Updated) = "updated", 1;
        /// Another state.
        StatusSet(StatusSet) = "status_set", 1;
        /// Another host.
        HostSet(HostSet) = "host_set", 1;
        /// Another key for requests to it.
        HostKeyMade(HostKeyMade) = "host_key_made", 1;
    }
}

impl Entity for App {
    const KIND: &'static str = "app";
    const SNAPSHOT_VERSION: u16 = 2;
    type Event = AppEvent;
    type Effect = NoEffect;

    fn apply(&mut self, event: &AppEvent, at: Timestamp) {
        if let AppEvent::Created(created) = event {
            self.details = Some(Details {
                id: created.id.clone(),
                developer: created.developer,
                tenant: created.tenant,
                listing: created.listing.clone(),
                status: Status::Draft,
                reject_reason: None,
                versions: VecDeque::new(),
                ir: None,
                created_at: at,
                updated_at: at,
                host: Host::default(),
            });
        }
        let Some(app) = &mut self.details else { return };
        app.updated_at = at;
        match event {
            AppEvent::Created(_) => {}
            AppEvent::Deployed(deployed) => {
                let Deployed { version, digest, ir, status } = deployed.clone();
                // A version that is deployed again moves to the end.
                app.versions.retain(|known| known.version != version);
                app.versions.push_back(Version { version, digest, deployed_at: at });
                if app.versions.len() > VERSIONS_MAX + 1 {
                    app.versions.pop_front();
                }
                (app.ir, app.status) = (Some(ir), status);
            }
            AppEvent::Updated(updated) => app.listing = updated.listing.clone(),
            AppEvent::StatusSet(set) => {
                let rejected = (app.status, set.status) == (Status::PendingReview, Status::Draft);
                app.reject_reason = set.reason.clone().filter(|_| rejected);
                app.status = set.status;
            }
            AppEvent::HostSet(set) => app.host.set(set),
            AppEvent::HostKeyMade(made) => app.host.add_key(made, at),
        }
    }

    fn rows(&self, event: &AppEvent, at: Timestamp, rows: &mut Vec<RowDraft>) {
        card_row(self.details.as_ref(), event, at, rows);
    }

    fn observe(&self) -> serde_json::Value {
        let Some(app) = &self.details else { return json!({"exists": false}) };
        json!({
            "developer": app.developer,
            "tenant": app.tenant,
            "status": app.status,
            "version": app.current().map(|current| &current.version),
            "versions": app.versions.len(),
            "envelope_bytes": app.ir.as_ref().map(|ir| ir.as_str().len()),
            "pricing_model": app.listing.pricing_model,
            "pricing_config": app.listing.pricing_config,
            "revenue_split_dev": app.listing.revenue_split_dev,
            "host_url": app.host.url,
            "host_keys": app.host.keys,
        })
    }
}

/// Creates the app as a draft. Repeated by the same developer it changes nothing; refused (409,
/// `app_id_taken`) when it is another's.
#[derive(Clone, Debug)]
pub struct Create {
    /// The id.
    pub id: AppId,
    /// Who develops it.
    pub developer: UserId,
    /// The developer's tenant.
    pub tenant: TenantId,
    /// What it shows of itself.
    pub listing: Listing,
}

impl Command for Create {
    const NAME: &'static str = "create";
}

impl Handle<Create> for App {
    type Reply = Details;

    fn handle(turn: &mut Turn<'_, Self>, command: Create) -> Result<Details, Refusal> {
        let Create { id, developer, tenant, listing } = command;
        match &turn.state().details {
            Some(app)
                if app.developer == developer
                    && app.tenant == tenant
                    && app.status != Status::Deleted =>
            {
                return Ok(app.clone());
            }
            Some(_) => {
                return Err(Refusal::conflict("app_id_taken", "this app id is already in use"));
            }
            None => {}
        }
        Prices::read(listing.pricing_model, listing.pricing_config.as_ref())?;
        turn.record(AppEvent::Created(Created { id, developer, tenant, listing }));
        turn.state().existing().cloned()
    }
}

/// Deploys a version. With the content it has already it changes nothing, unless another version
/// was deployed since or it is submitted now; with other content it is refused (409,
/// `version_exists`).
#[derive(Clone, Debug)]
pub struct Deploy {
    /// As the app calls it.
    pub version: String,
    /// The envelope, which was read strictly.
    pub ir: JsonBytes,
    /// SHA-256 of the envelope.
    pub digest: [u8; 32],
    /// Whether a draft stays one; otherwise it is submitted for review.
    pub dev_mode: bool,
}

/// How a [`Deploy`] went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeployReceipt {
    /// The version.
    pub version: String,
    /// The app's state now.
    pub status: Status,
    /// Whether it stood so already.
    pub unchanged: bool,
}

impl Command for Deploy {
    const NAME: &'static str = "deploy";
}

impl Handle<Deploy> for App {
    type Reply = DeployReceipt;

    fn handle(turn: &mut Turn<'_, Self>, command: Deploy) -> Result<DeployReceipt, Refusal> {
        let Deploy { version, ir, digest, dev_mode } = command;
        let app = turn.state().existing()?;
        if version.is_empty() || version.chars().count() > VERSION_CHARACTERS_MAX {
            let message = format!("1 to {VERSION_CHARACTERS_MAX} characters");
            return Err(Refusal::invalid("version", message));
        }
        if ir.as_str().len() > ENVELOPE_TEXT_BYTES_MAX {
            let message = format!("at most {ENVELOPE_TEXT_BYTES_MAX} bytes");
            return Err(Refusal::invalid("ir_dict", message));
        }
        let known = app.versions.iter().find(|known| known.version == version);
        if known.is_some_and(|known| known.digest != digest) {
            let message = format!(
                "version {version} was deployed with other content; versions are immutable, \
                 raise app.version"
            );
            let facts = json!({"version": version, "status": app.status});
            return Err(Refusal::conflict("version_exists", message).with_facts(&facts));
        }
        let status = match app.status {
            Status::Draft if !dev_mode => Status::PendingReview,
            status => status,
        };
        let is_current = app.current().is_some_and(|current| current.version == version);
        let unchanged = is_current && status == app.status;
        if !unchanged {
            let deployed = Deployed { version: version.clone(), digest, ir, status };
            turn.record(AppEvent::Deployed(deployed));
        }
        Ok(DeployReceipt { version, status, unchanged })
    }
}

/// Changes what is given of the listing. The price changes only in a draft or a suspended app
/// (409, `pricing_locked`).
#[derive(Clone, Debug, Default)]
pub struct Update {
    /// The name shown.
    pub display_name: Option<String>,
    /// The description.
    pub description: Option<String>,
    /// The category.
    pub category: Option<String>,
    /// The icon.
    pub icon: Option<String>,
    /// Where its source is.
    pub git_url: Option<String>,
    /// How it is paid for.
    pub pricing_model: Option<PricingModel>,
    /// What it costs.
    pub pricing_config: Option<JsonBytes>,
    /// The developer's share of the price.
    pub revenue_split_dev: Option<SharePercent>,
}

impl Command for Update {
    const NAME: &'static str = "update";
}

impl Handle<Update> for App {
    type Reply = Details;

    fn handle(turn: &mut Turn<'_, Self>, command: Update) -> Result<Details, Refusal> {
        let app = turn.state().existing()?;
        let old = &app.listing;
        let listing = Listing {
            display_name: command.display_name.unwrap_or_else(|| old.display_name.clone()),
            description: command.description.unwrap_or_else(|| old.description.clone()),
            category: command.category.unwrap_or_else(|| old.category.clone()),
            icon: command.icon.unwrap_or_else(|| old.icon.clone()),
            git_url: command.git_url.unwrap_or_else(|| old.git_url.clone()),
            pricing_model: command.pricing_model.unwrap_or(old.pricing_model),
            pricing_config: command.pricing_config.or_else(|| old.pricing_config.clone()),
            revenue_split_dev: command.revenue_split_dev.unwrap_or(old.revenue_split_dev),
        };
        if listing == *old {
            return Ok(app.clone());
        }
        if !listing.prices_like(old) && !matches!(app.status, Status::Draft | Status::Suspended) {
            let message = "the price changes only while the app is a draft or suspended";
            let facts = json!({"status": app.status});
            return Err(Refusal::conflict("pricing_locked", message).with_facts(&facts));
        }
        Prices::read(listing.pricing_model, listing.pricing_config.as_ref())?;
        turn.record(AppEvent::Updated(Updated { listing }));
        turn.state().existing().cloned()
    }
}

/// The developer's tier is another: a share that was one of the tiers that were left, or is more
/// than the new one's, becomes the new one's. Callers pay the same, so the app's state is of no
/// matter; a share that the developer has lowered stays.
#[derive(Clone, Debug)]
pub struct FitShare {
    /// The shares of the tiers that were left.
    pub from: Vec<SharePercent>,
    /// The share of the new tier.
    pub to: SharePercent,
}

impl Command for FitShare {
    const NAME: &'static str = "fit_share";
}

impl Handle<FitShare> for App {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, command: FitShare) -> Result<(), Refusal> {
        let FitShare { from, to } = command;
        let mut listing = turn.state().existing()?.listing.clone();
        let share = listing.revenue_split_dev;
        if share != to && (from.contains(&share) || share > to) {
            listing.revenue_split_dev = to;
            turn.record(AppEvent::Updated(Updated { listing }));
        }
        Ok(())
    }
}

/// Moves the app to another state: submitted, approved, rejected with a reason, suspended, taken
/// up again. What the present state does not lead to is refused (409, `wrong_status`). Only what
/// was deployed is submitted.
#[derive(Clone, Debug)]
pub struct SetStatus {
    /// The state.
    pub status: Status,
    /// Why, for people.
    pub reason: Option<String>,
}

impl Command for SetStatus {
    const NAME: &'static str = "set_status";
}

impl Handle<SetStatus> for App {
    type Reply = Details;

    fn handle(turn: &mut Turn<'_, Self>, command: SetStatus) -> Result<Details, Refusal> {
        let SetStatus { status, reason } = command;
        let app = turn.state().existing()?;
        if app.status == status {
            return Ok(app.clone());
        }
        let facts = json!({"status": app.status, "deployed": app.current().is_some()});
        if !app.status.may_become(status) {
            let message = format!("{} does not become {}", app.status.name(), status.name());
            return Err(Refusal::conflict("wrong_status", message).with_facts(&facts));
        }
        let needs_version = !matches!(status, Status::Draft | Status::Deleted);
        if app.current().is_none() && needs_version {
            let message = "nothing is deployed yet";
            return Err(Refusal::conflict("not_deployed", message).with_facts(&facts));
        }
        turn.record(AppEvent::StatusSet(StatusSet { status, reason }));
        // What was deleted just now is told once more.
        turn.state().details.clone().ok_or_else(|| Refusal::not_found("app"))
    }
}
