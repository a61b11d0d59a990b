//! What callers see of developers and their apps: exactly the documented keys.

use control::app::{Details, Version};
use extensions::ir;
use serde::Serialize;
use serde_json::Value;
use types::rfc3339;

use crate::developer::Profile;
use crate::listing::DeployNote;

/// A developer's profile.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct DeveloperProfileResponse {
    /// The user.
    pub imperal_id: String,
    /// The e-mail address; empty once it was erased.
    pub email: String,
    /// The nickname.
    pub nickname: Option<String>,
    /// The tier.
    pub tier: String,
    /// How many apps there are.
    pub apps_count: usize,
    /// What was earned so far, in credits.
    pub total_earnings: i64,
    /// RFC 3339.
    pub registered_at: Option<String>,
}

impl DeveloperProfileResponse {
    pub(crate) fn of(profile: &Profile, email: String, total_earnings: i64) -> Self {
        Self {
            imperal_id: profile.user.to_string(),
            email,
            nickname: profile.nickname.clone(),
            tier: profile.tier.name().to_owned(),
            apps_count: profile.apps.len(),
            total_earnings,
            registered_at: Some(rfc3339(profile.registered_at)),
        }
    }
}

/// An app, as its developer sees it.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct AppResponse {
    /// The id.
    pub app_id: String,
    /// The developer.
    pub developer_id: String,
    /// The name shown.
    pub display_name: String,
    /// The description.
    pub description: String,
    /// The category.
    pub category: String,
    /// The icon.
    pub icon: String,
    /// Where its source is.
    pub git_url: String,
    /// draft, pending_review, active or suspended.
    pub status: String,
    /// Why it was rejected.
    pub reject_reason: Option<String>,
    /// free, per_action or subscription.
    pub pricing_model: String,
    /// What it costs.
    pub pricing_config: Option<Value>,
    /// The developer's share of the price, in percent.
    pub revenue_split_dev: u8,
    /// RFC 3339.
    pub created_at: String,
    /// RFC 3339.
    pub updated_at: String,
}

impl From<&Details> for AppResponse {
    fn from(app: &Details) -> Self {
        let listing = &app.listing;
        Self {
            app_id: app.id.to_string(),
            developer_id: app.developer.to_string(),
            display_name: listing.display_name.clone(),
            description: listing.description.clone(),
            category: listing.category.clone(),
            icon: listing.icon.clone(),
            git_url: listing.git_url.clone(),
            status: app.status.name().to_owned(),
            reject_reason: app.reject_reason.clone(),
            pricing_model: listing.pricing_model.name().to_owned(),
            pricing_config: listing.pricing_config.as_ref().map(|config| config.value()),
            revenue_split_dev: listing.revenue_split_dev.percent(),
            created_at: rfc3339(app.created_at),
            updated_at: rfc3339(app.updated_at),
        }
    }
}

/// A function, as clients list it.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct ToolResponse {
    /// The function.
    pub name: String,
    /// read, write or destructive.
    pub action_type: String,
    /// The description.
    pub description: String,
}

impl From<&ir::Function> for ToolResponse {
    fn from(function: &ir::Function) -> Self {
        Self {
            name: function.name.clone(),
            action_type: function.action_type.name().to_owned(),
            description: function.description.clone(),
        }
    }
}

/// An app with the functions of its current version.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct AppDetailResponse {
    /// The app.
    #[serde(flatten)]
    pub app: AppResponse,
    /// Its functions; empty until a version is deployed.
    pub tools_json: Vec<ToolResponse>,
}

/// A version that was deployed.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct DeployResponse {
    /// success, warning or failed; what is deployed here and fails is not there.
    pub status: String,
    /// RFC 3339.
    pub deployed_at: String,
    /// The version, as the app calls it.
    pub commit_sha: String,
    /// Why it failed.
    pub error_message: String,
}

impl From<DeployNote> for DeployResponse {
    fn from(note: DeployNote) -> Self {
        let DeployNote { commit_sha, status, error_message, at } = note;
        Self { status, deployed_at: rfc3339(at), commit_sha, error_message }
    }
}

impl From<&Version> for DeployResponse {
    fn from(version: &Version) -> Self {
        Self {
            status: "success".to_owned(),
            deployed_at: rfc3339(version.deployed_at),
            commit_sha: version.version.clone(),
            error_message: String::new(),
        }
    }
}

/// What came of submitting an app for review.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct AppSubmitResponse {
    /// pending_review, or failed.
    pub status: String,
    /// What was looked at.
    pub checks: Vec<SubmitCheck>,
}

/// Something that was looked at before a review.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct SubmitCheck {
    /// What.
    pub check: &'static str,
    /// Whether it is as it should be.
    pub ok: bool,
}
