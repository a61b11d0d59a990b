//! `/v1/operator/tenants/{id}/users`: who belongs to a tenant, as the console shows it: without
//! addresses and names, which an operator has no need of.

use axum::Json;
use axum::extract::{Path, State};
use identity::membership::MemberFilter;
use serde::Serialize;
use supervision::Refusal;
use types::{UserId, rfc3339};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::authenticate::Operator;
use crate::extract::Query;
use crate::openapi::tag;
use crate::paging::PageQuery;
use crate::problem::Problem;

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(users_of_tenant))
}

/// A tenant's user.
#[derive(Serialize, ToSchema)]
struct UserItem {
    user_id: UserId,
    role: String,
    /// In this tenant and altogether
    is_active: bool,
    email_verified: bool,
    /// How many second factors there are
    factors: usize,
    created_at: String,
    /// That this process saw
    last_login: Option<String>,
}

/// A page of users.
#[derive(Serialize, ToSchema)]
struct TenantUsersResponse {
    items: Vec<UserItem>,
    /// How many there are in all
    total: usize,
    /// Whether the tenant asks for a second factor
    require_second_factor: bool,
}

/// The users of a tenant, the oldest account first, without addresses and names
#[utoipa::path(get, path = "/v1/operator/tenants/{id}/users", tag = tag::OPERATOR,
    params(("id" = String, Path), PageQuery),
    responses((status = 200, body = TenantUsersResponse), (status = 401), (status = 403),
        (status = 404), (status = 422)))]
async fn users_of_tenant(
    State(app): State<App>,
    Operator(_entered): Operator,
    Path(id): Path<String>,
    Query(query): Query<PageQuery>,
) -> Result<Json<TenantUsersResponse>, Problem> {
    let tenant = app.identity.tenant_named(&id).await?;
    let tenant = tenant.ok_or_else(|| Refusal::not_found("tenant"))?;
    let page = query.page()?;
    let (users, total) = app.identity.members(tenant, MemberFilter::default(), page).await?;
    let mut items = Vec::with_capacity(users.len());
    for user in users {
        let (factors, _) = app.identity.factors(user.id).await?;
        items.push(UserItem {
            user_id: user.id,
            role: user.role,
            is_active: user.active,
            email_verified: user.email_verified,
            factors: factors.len(),
            created_at: rfc3339(user.created_at),
            last_login: user.last_login.map(rfc3339),
        });
    }
    let require_second_factor = app.identity.requires_second_factor(tenant).await?;
    Ok(Json(TenantUsersResponse { items, total, require_second_factor }))
}
