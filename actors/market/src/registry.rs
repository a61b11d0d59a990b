//! The registry: apps as their developers' tools keep them. A view of the same apps as the
//! portal's, with what is only registered beside them: see [`control::registration`].
//!
//! An app's state in the registry is `provisioning` until a review has made it `active`; what is
//! suspended is `suspended`, what was given up is not there.
//!
//! Deliberate limit: nothing becomes active here. That is for a review.

use std::sync::Arc;

use control::app::{Details, Status};
use control::registration::{MergeSettings, Part, Registration, SetPart, Tools};
use serde::Serialize;
use serde_json::{Map, Value, json};
use supervision::{Address, IdempotencyKey, Origin, Refusal, System, Timestamp};
use types::{AppId, JsonBytes, Page, rfc3339};

use crate::service::{AppCreate, AppUpdate, Market, Principal, developer, owned};
use crate::storefront::Storefront;
use crate::view::ToolResponse;

/// The sections that settings have from the start.
const SETTINGS_SECTIONS: [&str; 7] =
    ["general", "models", "persona", "alerts", "router", "session", "monitoring"];
/// The version of an app that has none yet.
const NO_VERSION: &str = "0.0.0";

/// A request to register an app.
#[derive(Clone, Debug)]
pub struct Registered {
    /// The id.
    pub app_id: String,
    /// The name shown.
    pub display_name: String,
    /// The description.
    pub description: Option<String>,
    /// Free configuration.
    pub config: Option<JsonBytes>,
    /// The manifest.
    pub manifest: Option<JsonBytes>,
}

/// What to change of an app that is registered; what is absent stays.
#[derive(Clone, Debug, Default)]
pub struct RegisteredChange {
    /// The name shown.
    pub display_name: Option<String>,
    /// The description.
    pub description: Option<String>,
    /// `suspended`, or what it is already.
    pub status: Option<String>,
    /// Free configuration.
    pub config: Option<JsonBytes>,
    /// The manifest.
    pub manifest: Option<JsonBytes>,
}

/// The tools and sections of an app, to be registered.
#[derive(Clone, Debug, Default)]
pub struct ToolSet {
    /// The tools.
    pub tools: Vec<Map<String, Value>>,
    /// The sections.
    pub sections: Vec<Map<String, Value>>,
    /// The version that they are of.
    pub version: Option<String>,
}

/// An app as the registry shows it.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct RegistryApp {
    /// The id.
    pub app_id: String,
    /// The name shown.
    pub display_name: String,
    /// Who develops it.
    pub owner_id: String,
    /// `app-` and the id.
    pub namespace: String,
    /// provisioning, active or suspended.
    pub status: &'static str,
    /// Free configuration.
    #[schema(value_type = Object)]
    pub config: Value,
    /// RFC 3339.
    pub created_at: String,
    /// RFC 3339.
    pub updated_at: String,
}

/// An app as the registry's older routes show it.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct RegistryExtension {
    /// The id.
    pub id: String,
    /// The name shown.
    pub display_name: String,
    /// The description.
    pub description: String,
    /// The version that is deployed, else the manifest's.
    pub version: String,
    /// provisioning, active or suspended.
    pub status: &'static str,
    /// The manifest.
    #[schema(value_type = Object)]
    pub manifest: Value,
    /// RFC 3339.
    pub created_at: String,
    /// RFC 3339.
    pub updated_at: String,
}

/// What came of registering tools.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct ToolsRegistered {
    /// The app.
    pub app_id: String,
    /// How many tools it has registered now.
    pub tools_count: u32,
    /// How many sections.
    pub skeleton_sections_count: u32,
    /// provisioning, active or suspended.
    pub status: &'static str,
    /// The domains that its tools name, each once.
    pub domains: Vec<String>,
}

/// The tools of an app.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct RegistryTools {
    /// The app.
    pub app_id: String,
    /// What was registered; the functions of the deployed version when nothing was.
    #[schema(value_type = Vec<Object>)]
    pub tools: Value,
    /// The sections that were registered.
    #[schema(value_type = Vec<Object>)]
    pub skeleton_sections: Value,
    /// The version that they are of.
    pub version: Option<String>,
    /// How many tools.
    pub total: usize,
}

/// What came of changing settings.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct SettingsMerged {
    /// For people.
    pub message: &'static str,
    /// The sections that were named.
    pub updated_sections: Vec<String>,
    /// Always true: settings are read anew each time.
    pub skeleton_reloaded: bool,
}

/// An active app in the catalogue.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct CatalogApp {
    /// The id.
    pub app_id: String,
    /// The name shown.
    pub display_name: String,
    /// The description.
    pub description: String,
    /// The category.
    pub category: String,
    /// The current version.
    pub version: String,
    /// Who develops it.
    pub owner_id: String,
    /// Its functions.
    pub tools: Vec<ToolResponse>,
}

/// Part of the catalogue.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Catalog {
    /// The apps, by id.
    pub apps: Vec<CatalogApp>,
    /// How many there are in all.
    pub total: usize,
}

fn status_name(status: Status) -> &'static str {
    match status {
        Status::Draft | Status::PendingReview => "provisioning",
        Status::Active => "active",
        Status::Suspended => "suspended",
        Status::Deleted => "deleted",
    }
}

fn value(part: &Option<JsonBytes>) -> Value {
    part.as_ref().map_or_else(|| json!({}), JsonBytes::value)
}

impl RegistryApp {
    fn of(app: &Details, known: &Registration) -> Self {
        Self {
            app_id: app.id.to_string(),
            display_name: app.listing.display_name.clone(),
            owner_id: app.developer.to_string(),
            namespace: format!("app-{}", app.id),
            status: status_name(app.status),
            config: value(&known.config),
            created_at: rfc3339(app.created_at),
            updated_at: rfc3339(changed_at(app, known)),
        }
    }
}

impl RegistryExtension {
    fn of(app: &Details, known: &Registration) -> Self {
        let manifest = value(&known.manifest);
        let of_manifest = || manifest["version"].as_str().unwrap_or(NO_VERSION).to_owned();
        Self {
            id: app.id.to_string(),
            display_name: app.listing.display_name.clone(),
            description: app.listing.description.clone(),
            version: app.current().map_or_else(of_manifest, |current| current.version.clone()),
            status: status_name(app.status),
            manifest,
            created_at: rfc3339(app.created_at),
            updated_at: rfc3339(changed_at(app, known)),
        }
    }
}

fn changed_at(app: &Details, known: &Registration) -> Timestamp {
    known.changed_at.map_or(app.updated_at, |at| at.max(app.updated_at))
}

/// The domains that tools name, each once.
fn domains(tools: &Value) -> Vec<String> {
    let named = |tool: &Value| tool["domain"].as_str().map(str::to_owned);
    let mut domains: Vec<_> = tools.as_array().into_iter().flatten().filter_map(named).collect();
    domains.sort_unstable();
    domains.dedup();
    domains
}

/// Where what is registered of an app stands.
type Place = (Address<Registration>, Details);

impl Market {
    async fn registered(
        &self,
        system: &Arc<System>,
        principal: &Principal,
        app_id: &str,
    ) -> Result<Place, Refusal> {
        let (address, app) = owned(system, principal, app_id).await?;
        Ok((Registration::address(&app.id, address.place().home), app))
    }

    async fn known(
        &self,
        system: &Arc<System>,
        address: &Address<Registration>,
        origin: &Origin,
    ) -> Result<Registration, Refusal> {
        system.directory::<Registration>().look(address, origin.clone(), Clone::clone).await
    }

    async fn set_parts(
        &self,
        system: &Arc<System>,
        principal: &Principal,
        (address, app): &Place,
        parts: impl IntoIterator<Item = Part>,
    ) -> Result<Registration, Refusal> {
        for part in parts {
            let set = SetPart { app: app.id.clone(), part };
            let registrations = system.directory::<Registration>();
            registrations.ask(address, set, principal.origin.clone()).await?;
        }
        self.known(system, address, &principal.origin).await
    }

    /// Registers an app: as [`Market::create_app`], as a draft that costs nothing.
    pub async fn register_app(
        &self,
        system: &Arc<System>,
        principal: &Principal,
        request: Registered,
        idempotency: Option<&IdempotencyKey>,
    ) -> Result<(RegistryApp, RegistryExtension), Refusal> {
        let Registered { app_id, display_name, description, config, manifest } = request;
        let create = AppCreate {
            git_url: format!("registry:{app_id}"),
            app_id: app_id.clone(),
            display_name,
            description: description.unwrap_or_default(),
            category: "general".to_owned(),
            icon: String::new(),
            pricing_model: "free".to_owned(),
            pricing_config: None,
        };
        self.create_app(system, principal, create, idempotency).await?;
        let place = self.registered(system, principal, &app_id).await?;
        let parts = [config.map(Part::Config), manifest.map(Part::Manifest)];
        let known = self.set_parts(system, principal, &place, parts.into_iter().flatten()).await?;
        Ok((RegistryApp::of(&place.1, &known), RegistryExtension::of(&place.1, &known)))
    }

    /// A developer's apps in a state of the registry, or in any, the oldest first.
    pub async fn registry_apps(
        &self,
        system: &Arc<System>,
        principal: &Principal,
        status: Option<&str>,
    ) -> Result<Vec<(RegistryApp, RegistryExtension)>, Refusal> {
        developer(system, principal).await?;
        let mut all = Vec::new();
        for app in self.list_apps(system, principal).await? {
            let (address, app) = self.registered(system, principal, &app.app_id).await?;
            if status.is_none_or(|status| status == status_name(app.status)) {
                let known = self.known(system, &address, &principal.origin).await?;
                all.push((RegistryApp::of(&app, &known), RegistryExtension::of(&app, &known)));
            }
        }
        Ok(all)
    }

    /// One of a developer's apps; 404 for others.
    pub async fn registry_app(
        &self,
        system: &Arc<System>,
        principal: &Principal,
        app_id: &str,
    ) -> Result<(RegistryApp, RegistryExtension), Refusal> {
        let (address, app) = self.registered(system, principal, app_id).await?;
        let known = self.known(system, &address, &principal.origin).await?;
        Ok((RegistryApp::of(&app, &known), RegistryExtension::of(&app, &known)))
    }

    /// Changes an app. 409 `needs_review` for `active`, 422 for a state that is none.
    pub async fn change_registered(
        &self,
        system: &Arc<System>,
        principal: &Principal,
        app_id: &str,
        change: RegisteredChange,
    ) -> Result<(RegistryApp, RegistryExtension), Refusal> {
        let place = self.registered(system, principal, app_id).await?;
        let RegisteredChange { display_name, description, status, config, manifest } = change;
        let now = status_name(place.1.status);
        let leads_to = match status.as_deref() {
            None => None,
            Some(wanted) if wanted == now => None,
            Some("suspended") => Some(Status::Suspended),
            Some("active" | "provisioning") => {
                let message = format!("it is {now}: submit it, and a review makes it active");
                return Err(Refusal::conflict("needs_review", message));
            }
            Some(_) => {
                let message = "provisioning, active or suspended; DELETE gives it up";
                return Err(Refusal::invalid("status", message));
            }
        };
        if display_name.is_some() || description.is_some() {
            let update = AppUpdate { display_name, description, ..AppUpdate::default() };
            self.update_app(system, principal, app_id, update, None).await?;
        }
        let parts = [config.map(Part::Config), manifest.map(Part::Manifest)];
        self.set_parts(system, principal, &place, parts.into_iter().flatten()).await?;
        if let Some(status) = leads_to {
            self.set_status(system, &place.1.id, status, None, &principal.origin).await?;
        }
        self.registry_app(system, principal, app_id).await
    }

    /// Gives an app up for good.
    pub async fn unregister_app(
        &self,
        system: &Arc<System>,
        principal: &Principal,
        app_id: &str,
    ) -> Result<Value, Refusal> {
        self.delete_app(system, principal, app_id, app_id).await?;
        Ok(json!({"app_id": app_id, "status": "deleted", "message": "the app is given up"}))
    }

    /// Replaces the tools that an app has registered.
    pub async fn register_tools(
        &self,
        system: &Arc<System>,
        principal: &Principal,
        app_id: &str,
        registered: ToolSet,
    ) -> Result<ToolsRegistered, Refusal> {
        let ToolSet { tools, sections, version } = registered;
        let place = self.registered(system, principal, app_id).await?;
        let counts = (tools.len() as u32, sections.len() as u32);
        let (tools, sections) = (json!(tools), json!(sections));
        let part = Part::Tools(Tools {
            tools: JsonBytes::from(&tools),
            tools_count: counts.0,
            sections: JsonBytes::from(&sections),
            sections_count: counts.1,
            version,
        });
        self.set_parts(system, principal, &place, [part]).await?;
        Ok(ToolsRegistered {
            app_id: place.1.id.to_string(),
            tools_count: counts.0,
            skeleton_sections_count: counts.1,
            status: status_name(place.1.status),
            domains: domains(&tools),
        })
    }

    /// The tools of one of a developer's apps.
    pub async fn registered_tools(
        &self,
        system: &Arc<System>,
        principal: &Principal,
        app_id: &str,
    ) -> Result<RegistryTools, Refusal> {
        let (address, app) = self.registered(system, principal, app_id).await?;
        let known = self.known(system, &address, &principal.origin).await?;
        let (tools, skeleton_sections, version) = match known.tools {
            Some(tools) => (tools.tools.value(), tools.sections.value(), tools.version),
            None => {
                let deployed = self.get_app(system, principal, app_id).await?.tools_json;
                let version = app.current().map(|current| current.version.clone());
                (json!(deployed), json!([]), version)
            }
        };
        let total = tools.as_array().map_or(0, Vec::len);
        let app_id = app.id.to_string();
        Ok(RegistryTools { app_id, tools, skeleton_sections, version, total })
    }

    /// The settings of one of a developer's apps, with a member for each of the seven sections.
    pub async fn registered_settings(
        &self,
        system: &Arc<System>,
        principal: &Principal,
        app_id: &str,
    ) -> Result<Value, Refusal> {
        let (address, _) = self.registered(system, principal, app_id).await?;
        let known = self.known(system, &address, &principal.origin).await?;
        let mut all: Map<String, Value> =
            SETTINGS_SECTIONS.map(|section| (section.to_owned(), json!({}))).into_iter().collect();
        if let Value::Object(set) = value(&known.settings) {
            all.extend(set);
        }
        Ok(Value::Object(all))
    }

    /// Merges changes into the settings of one of a developer's apps.
    pub async fn merge_settings(
        &self,
        system: &Arc<System>,
        principal: &Principal,
        app_id: &str,
        changes: Map<String, Value>,
    ) -> Result<SettingsMerged, Refusal> {
        let (address, app) = self.registered(system, principal, app_id).await?;
        let updated_sections = changes.keys().cloned().collect();
        let changes = JsonBytes::from(Value::Object(changes));
        let merge = MergeSettings { app: app.id, changes };
        let registrations = system.directory::<Registration>();
        registrations.ask(&address, merge, principal.origin.clone()).await?;
        let message = "the settings are merged";
        Ok(SettingsMerged { message, updated_sections, skeleton_reloaded: true })
    }

    /// The active apps with their functions, by id.
    pub async fn catalog(
        &self,
        system: &Arc<System>,
        page: Page,
        origin: &Origin,
    ) -> Result<Catalog, Refusal> {
        let (cards, total) = system.port::<Storefront>().in_state(Some(Status::Active), page);
        let mut apps = Vec::with_capacity(cards.len());
        for card in cards {
            let id: &AppId = &card.app.id;
            // One that is being changed just now may have no version that can be read.
            let compiled = self.apps.find(system, id, origin).await.ok();
            let functions = compiled.iter().flat_map(|app| app.ir.iter());
            let functions = functions.flat_map(|ir| &ir.functions);
            apps.push(CatalogApp {
                app_id: id.to_string(),
                display_name: card.app.display_name.clone(),
                description: card.app.description.clone(),
                category: card.app.category.clone(),
                version: card.app.version.clone(),
                owner_id: card.app.developer.to_string(),
                tools: functions.map(ToolResponse::from).collect(),
            });
        }
        Ok(Catalog { apps, total })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_domains_of_tools_are_told_once() {
        let tools = json!([{"domain": "b"}, {"name": "x"}, {"domain": "a"}, {"domain": "b"}]);
        assert_eq!(domains(&tools), ["a", "b"]);
    }
}
