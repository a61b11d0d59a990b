//! What callers see of the marketplace.

use extensions::CompiledApp;
use persistence::KeyRing;
use serde::Serialize;
use supervision::Timestamp;
use types::{AppId, UserId, rfc3339};

use crate::install::{DisabledBy, InstallRow};
use crate::listing::StoredReview;
use crate::review::{BODY_LABEL, TITLE_LABEL};
use crate::storefront::Card;
use crate::view::ToolResponse;

/// Characters of a short description.
const SHORT_CHARACTERS_MAX: usize = 160;

/// An active app in a list.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct AppSummary {
    /// The id.
    pub app_id: String,
    /// The name shown.
    pub display_name: String,
    /// The beginning of the description.
    pub short_description: String,
    /// The category.
    pub category: String,
    /// The icon.
    pub icon: String,
    /// The current version.
    pub version: String,
    /// Who develops it.
    pub developer_id: String,
    /// free, per_action or subscription.
    pub pricing_model: &'static str,
    /// How many have it installed.
    pub install_count: u64,
    /// How often it was called.
    pub action_count: u64,
    /// The average rating; 0 without reviews.
    pub avg_rating: f64,
    /// How many reviews there are.
    pub review_count: u64,
    /// Whether it is shown first.
    pub featured: bool,
    /// Its tags.
    pub tags: Vec<String>,
    /// Whether it is part of the server.
    pub system: bool,
    /// Whether the caller has it installed; null without a user's credential.
    pub is_installed: Option<bool>,
}

impl AppSummary {
    pub(crate) fn of(card: &Card, is_installed: Option<bool>) -> Self {
        let (app, counts) = (&card.app, &card.counts);
        let first_line = app.description.lines().next().unwrap_or_default();
        Self {
            app_id: app.id.to_string(),
            display_name: app.display_name.clone(),
            short_description: first_line.chars().take(SHORT_CHARACTERS_MAX).collect(),
            category: app.category.clone(),
            icon: app.icon.clone(),
            version: app.version.clone(),
            developer_id: app.developer.to_string(),
            pricing_model: app.pricing_model.name(),
            install_count: counts.installs,
            action_count: card.actions,
            avg_rating: card.rating_hundredths() as f64 / 100.0,
            review_count: counts.reviews,
            featured: counts.featured,
            tags: counts.tags.clone(),
            system: false,
            is_installed,
        }
    }
}

/// A page of active apps.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct AppsPage {
    /// The apps.
    pub apps: Vec<AppSummary>,
    /// How many there are in all.
    pub total: usize,
    /// Which page this is, from 1.
    pub page: usize,
    /// How many a page has.
    pub per_page: usize,
}

/// An active app with all that is shown of it.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct AppDetails {
    /// As in lists.
    #[serde(flatten)]
    pub app: AppSummary,
    /// The whole description.
    pub long_description: String,
    /// Its functions.
    pub tools: Vec<ToolResponse>,
    /// What it asks of who installs it: scopes.
    pub scopes: Vec<String>,
    /// Where calls leave to; null when they do not.
    pub host: Option<String>,
    /// RFC 3339.
    pub created_at: String,
    /// RFC 3339.
    pub updated_at: String,
}

impl AppDetails {
    pub(crate) fn of(card: &Card, app: AppSummary, compiled: &CompiledApp) -> Self {
        let terms = crate::terms::Terms::of(compiled);
        let functions = compiled.ir.iter().flat_map(|ir| &ir.functions);
        Self {
            app,
            long_description: card.app.description.clone(),
            tools: functions.map(ToolResponse::from).collect(),
            scopes: terms.scopes.into_iter().collect(),
            host: terms.host,
            created_at: rfc3339(card.app.created_at),
            updated_at: rfc3339(card.app.updated_at),
        }
    }
}

/// A developer with active apps.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct DeveloperPage {
    /// The developer.
    pub developer_id: String,
    /// What they are called.
    pub nickname: Option<String>,
    /// Their active apps, the most called first.
    pub apps: Vec<AppSummary>,
}

/// What installing or taking off came to.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct InstallResponse {
    /// The app.
    pub app_id: String,
    /// Whether it is installed now.
    pub installed: bool,
    /// How many have it installed.
    pub install_count: u64,
}

impl InstallResponse {
    pub(crate) fn of(app: &AppId, installed: bool, install_count: u64) -> Self {
        Self { app_id: app.to_string(), installed, install_count }
    }
}

/// An app that a user has installed or switched off.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct ExtensionEntry {
    /// The app.
    pub app_id: String,
    /// The name shown; the id when it is not there any more.
    pub display_name: String,
    /// granted, or denied: it is switched off, is not there any more, or asks for more than was
    /// agreed to.
    pub access: &'static str,
    /// Whether it is installed.
    pub installed: bool,
    /// Whether it is switched off.
    pub disabled: bool,
    /// user or admin.
    pub disabled_by: Option<DisabledBy>,
    /// Whether it asks for more than was agreed to: install it again to accept.
    pub consent_needed: bool,
    /// The version that was agreed to.
    pub version: String,
    /// RFC 3339.
    pub installed_at: Option<String>,
    /// The functions of the current version.
    pub functions: Vec<ToolResponse>,
}

impl ExtensionEntry {
    pub(crate) fn of(
        id: &AppId,
        row: &InstallRow,
        card: Option<&Card>,
        compiled: Option<&CompiledApp>,
        consent_needed: bool,
    ) -> Self {
        let is_granted = row.disabled.is_none() && compiled.is_some() && !consent_needed;
        let functions = compiled.and_then(|app| app.ir.as_ref());
        let functions = functions.iter().flat_map(|ir| &ir.functions).map(ToolResponse::from);
        let name = card.filter(|_| compiled.is_some()).map(|card| card.app.display_name.clone());
        Self {
            app_id: id.to_string(),
            display_name: name.unwrap_or_else(|| id.to_string()),
            access: if is_granted { "granted" } else { "denied" },
            installed: row.terms.is_some(),
            disabled: row.disabled.is_some(),
            disabled_by: row.disabled,
            consent_needed,
            version: row.version.clone(),
            installed_at: row.terms.map(|_| rfc3339(row.at)),
            functions: functions.collect(),
        }
    }
}

/// A user who has an app installed.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct ExtensionUser {
    /// The user.
    pub user_id: String,
    /// RFC 3339.
    pub installed_at: String,
}

impl ExtensionUser {
    pub(crate) fn new(user: UserId, at: Timestamp) -> Self {
        Self { user_id: user.to_string(), installed_at: rfc3339(at) }
    }
}

/// A review.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct ReviewResponse {
    /// Unique over the installation, below 2^53.
    pub id: u64,
    /// The app.
    pub app_id: String,
    /// 1 to 5.
    pub rating: u8,
    /// The title; empty once its author was erased.
    pub title: String,
    /// The text; empty once its author was erased.
    pub body: String,
    /// Whether its author was erased.
    pub erased: bool,
    /// Whether it is the caller's own.
    pub is_mine: bool,
    /// How many found it helpful.
    pub helpful_count: u32,
    /// How many did not.
    pub unhelpful_count: u32,
    /// RFC 3339.
    pub created_at: String,
    /// RFC 3339.
    pub updated_at: String,
}

impl ReviewResponse {
    pub(crate) fn of(
        keys: &KeyRing,
        app: &AppId,
        review: &StoredReview,
        mine: Option<u128>,
    ) -> Self {
        let body = review.body.open(keys, BODY_LABEL);
        Self {
            id: review.id,
            app_id: app.to_string(),
            rating: review.rating,
            title: review.title.open(keys, TITLE_LABEL).unwrap_or_default(),
            erased: body.is_none(),
            body: body.unwrap_or_default(),
            is_mine: mine == Some(review.author),
            helpful_count: review.helpful,
            unhelpful_count: review.unhelpful,
            created_at: rfc3339(review.created_at),
            updated_at: rfc3339(review.updated_at),
        }
    }
}

/// A page of an app's reviews.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct ReviewPage {
    /// The reviews.
    pub reviews: Vec<ReviewResponse>,
    /// How many there are in all.
    pub total: u64,
    /// The average rating; 0 without reviews.
    pub avg_rating: f64,
    /// Which page this is, from 1.
    pub page: usize,
    /// How many a page has.
    pub per_page: usize,
}
