//! What is used and what may be: `/v1/billing/usage`, and what services ask and tell of it for a
//! user under `/v1/billing/internal`.
//!
//! Figures are those of the present calendar month (UTC), where they are no counts of what there
//! is. Deliberate limits: every tenant is on the plan [`FREE`]; agents and automations are counted
//! where they are kept, and not here.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use billing::plans::{FREE, WalletView};
use billing::wallet::{METERED_AT_ONCE_MAX, Month, TrackUsage, Wallet, Window, wallet_address};
use identity::api_key::ApiKeys;
use serde::{Deserialize, Serialize};
use supervision::Refusal;
use types::{AppId, TenantId, UserId, home_of};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::ask_once;
use crate::authenticate::{Either, Entered, Service};
use crate::extract::JsonBody;
use crate::once::Key;
use crate::openapi::tag;
use crate::problem::Problem;

const READ: &str = "wallet:read";

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(usage))
        .routes(routes!(user_limits))
        .routes(routes!(balance_of_user))
        .routes(routes!(subscription_of_user))
        .routes(routes!(track_usage))
}

/// What is used, and what may be.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
struct LimitsResponse {
    /// The plan's id
    plan: &'static str,
    /// By meter: `actions`, `own_actions` and `credits_spent` of this month, `members`, `own_keys`,
    /// `holds_open`; `credits_hour`, `credits_day`, `credits_month` and `credits_total` where the
    /// tenant has such a limit; what services have metered this month, by its name
    usage: BTreeMap<String, u64>,
    /// What may be used, by meter; what has no limit is not there
    limits: BTreeMap<String, u64>,
    /// The meters that are at their limit, or beyond it
    exceeded: Vec<String>,
}

/// What the wallet says of it.
struct Figures {
    month: Month,
    holds_open: usize,
    tenant_limits: Vec<(Window, i64, i64)>,
}

fn whole(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}

/// A key of `usage` and `limits`; what services meter comes second to what the server does.
fn response(own: &[(&str, u64)], figures: Figures, month_max: Option<u64>) -> LimitsResponse {
    let Figures { month, holds_open, tenant_limits } = figures;
    let mut usage = month.meters;
    let mut limits = BTreeMap::new();
    let month = [
        ("actions", month.actions),
        ("own_actions", month.own_actions),
        ("credits_spent", whole(month.spent)),
        ("holds_open", holds_open as u64),
    ];
    usage.extend(own.iter().chain(&month).map(|(name, used)| ((*name).to_owned(), *used)));
    limits.extend(FREE.limits().map(|(name, limit)| (name.to_owned(), whole(limit))));
    limits.extend(month_max.map(|limit| ("own_actions".to_owned(), limit)));
    for (window, used, amount) in tenant_limits {
        let name = format!("credits_{window}");
        usage.insert(name.clone(), whole(used));
        limits.insert(name, whole(amount));
    }
    let is_used_up =
        |(name, limit): &(&String, &u64)| usage.get(*name).is_some_and(|used| used >= limit);
    let exceeded = limits.iter().filter(is_used_up).map(|(name, _)| name.clone()).collect();
    LimitsResponse { plan: FREE.id, usage, limits, exceeded }
}

async fn limits_of(
    app: &App,
    entered: &Entered,
    (tenant, user): (TenantId, Option<UserId>),
) -> Result<Json<LimitsResponse>, Problem> {
    let origin = app.origin(&entered.caller, entered.request);
    let staff = app.identity.look_tenant(tenant, move |tenant| {
        let members = tenant.details.as_ref().map_or(0, |details| details.members.len());
        (members as u64, user.and_then(|user| tenant.monthly_actions_max(user)))
    });
    let (members, month_max) = staff.await?.unwrap_or_default();
    let mut own = vec![("members", members)];
    if let Some(user) = user {
        let (keys, address) = (app.system.directory::<ApiKeys>(), ApiKeys::address(user, tenant));
        let look = |keys: &ApiKeys| keys.newest_first().count() as u64;
        own.push(("own_keys", keys.look(&address, origin.clone(), look).await?));
    }
    let now = app.system.now_in(home_of(tenant));
    let look = move |wallet: &Wallet| Figures {
        month: wallet.month(user, now),
        holds_open: wallet.holds_open(),
        tenant_limits: wallet.tenant_limits(now),
    };
    let wallets = app.system.directory::<Wallet>();
    let figures = wallets.look(&wallet_address(tenant), origin, look).await?;
    Ok(Json(response(&own, figures, month_max)))
}

/// What the tenant has used, and what it may use
#[utoipa::path(get, path = "/v1/billing/usage", tag = tag::GATEWAY,
    responses((status = 200, body = LimitsResponse), (status = 401), (status = 403)))]
async fn usage(
    State(app): State<App>,
    Either(entered): Either,
) -> Result<Json<LimitsResponse>, Problem> {
    entered.require(READ)?;
    limits_of(&app, &entered, (entered.caller.tenant, entered.caller.user)).await
}

/// A member of the tenant that the service acts in: without one, the user's own. 404 for others.
pub(super) async fn member(
    app: &App,
    entered: &Entered,
    text: &str,
) -> Result<(TenantId, UserId), Refusal> {
    let user: UserId = text.parse().map_err(|_| Refusal::not_found("user"))?;
    let named = entered.caller.tenant;
    let tenant = if named == TenantId::SYSTEM { user.direct_tenant() } else { named };
    app.identity.member(tenant, user).await.map(|_| (tenant, user))
}

/// What a user has used, and what they may use, in the service's tenant or their own
#[utoipa::path(get, path = "/v1/billing/internal/user-limits/{user_id}", tag = tag::GATEWAY,
    params(("user_id" = String, Path)), security(("service_token" = [])),
    responses((status = 200, body = LimitsResponse), (status = 401), (status = 403),
        (status = 404)))]
async fn user_limits(
    State(app): State<App>,
    Service(entered): Service,
    Path(user_id): Path<String>,
) -> Result<Json<LimitsResponse>, Problem> {
    let (tenant, user) = member(&app, &entered, &user_id).await?;
    limits_of(&app, &entered, (tenant, Some(user))).await
}

/// The balance that a user spends from, in the service's tenant or their own
#[utoipa::path(get, path = "/v1/billing/internal/balance/{user_id}", tag = tag::GATEWAY,
    params(("user_id" = String, Path)), security(("service_token" = [])),
    responses((status = 200, body = WalletView), (status = 401), (status = 403), (status = 404)))]
async fn balance_of_user(
    State(app): State<App>,
    Service(entered): Service,
    Path(user_id): Path<String>,
) -> Result<Json<WalletView>, Problem> {
    let (tenant, _) = member(&app, &entered, &user_id).await?;
    let now = app.system.now_in(home_of(tenant));
    let origin = app.origin(&entered.caller, entered.request);
    let look = move |wallet: &Wallet| wallet.balance(now);
    let wallets = app.system.directory::<Wallet>();
    let balance = wallets.look(&wallet_address(tenant), origin, look).await?;
    Ok(Json(WalletView::new(&balance, &FREE)))
}

/// What a tenant has subscribed to.
#[derive(Serialize, ToSchema)]
struct SubscriptionView {
    /// The plan's id
    plan: &'static str,
    /// `active`
    status: &'static str,
    /// RFC 3339
    started_at: Option<String>,
    /// RFC 3339; null for what does not end by itself
    expires_at: Option<String>,
}

/// What a user's tenant has subscribed to: the service's tenant, or the user's own
#[utoipa::path(get, path = "/v1/billing/internal/subscription/{user_id}", tag = tag::GATEWAY,
    params(("user_id" = String, Path)), security(("service_token" = [])),
    responses((status = 200, body = SubscriptionView), (status = 401), (status = 403),
        (status = 404)))]
async fn subscription_of_user(
    State(app): State<App>,
    Service(entered): Service,
    Path(user_id): Path<String>,
) -> Result<Json<SubscriptionView>, Problem> {
    member(&app, &entered, &user_id).await?;
    let (started_at, expires_at) = (None, None);
    Ok(Json(SubscriptionView { plan: FREE.id, status: "active", started_at, expires_at }))
}

/// What a service has metered.
#[derive(Deserialize, ToSchema)]
struct UsageTrackRequest {
    /// Whose use it was
    user_id: String,
    /// In which tenant; `default` is the one that the service acts in, or the user's own
    tenant_id: String,
    /// What: 1 to 64 of `a-z`, `0-9` and `_`, a letter first
    meter: String,
    /// How much, in the meter's own unit
    #[serde(default = "one")]
    #[schema(minimum = 1, default = 1)]
    quantity: i64,
    /// The extension that it was used by
    #[serde(default)]
    extension_id: Option<AppId>,
}

fn one() -> i64 {
    1
}

/// What was metered.
#[derive(Serialize, ToSchema)]
struct TrackedResponse {
    meter: String,
    quantity: u64,
}

/// Meter something; it shows in the tenant's usage of this month
#[utoipa::path(post, path = "/v1/billing/internal/usage/track", tag = tag::GATEWAY,
    request_body = UsageTrackRequest, security(("service_token" = [])),
    responses((status = 200, body = TrackedResponse), (status = 401), (status = 403),
        (status = 404), (status = 409), (status = 422)))]
async fn track_usage(
    State(app): State<App>,
    Service(mut entered): Service,
    key: Key,
    body: JsonBody<UsageTrackRequest>,
) -> Result<Response, Problem> {
    let UsageTrackRequest { user_id, tenant_id, meter, quantity, extension_id } = body.value;
    if entered.caller.tenant == TenantId::SYSTEM {
        // Nobody's tenant is named in the headers: then it may be in the body.
        let is_named = !matches!(tenant_id.as_str(), "" | "default");
        if is_named {
            let missing = |_| Refusal::not_found("tenant");
            entered.caller.tenant = tenant_id.parse().map_err(missing)?;
        }
    } else {
        entered.tenant_named(&tenant_id)?;
    }
    let (tenant, user) = member(&app, &entered, &user_id).await?;
    app.identity.admit_service(tenant, Some(user)).await?;
    let quantity = u64::try_from(quantity)
        .map_err(|_| Refusal::invalid("quantity", format!("from 1 to {METERED_AT_ONCE_MAX}")))?;
    let app_id = extension_id.or(entered.caller.app.clone());
    let command = TrackUsage { meter: meter.clone(), quantity, user, app: app_id };
    let operation = format!("track_usage {tenant}");
    let view = move |()| TrackedResponse { meter, quantity };
    ask_once!(
        app,
        key,
        entered,
        &operation,
        body.bytes,
        wallet_address(tenant),
        command,
        StatusCode::OK,
        view
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meters_at_their_limit_are_told_and_a_services_meter_hides_none_of_ours() {
        let meters = [("actions".to_owned(), 7), ("pages".to_owned(), 3)];
        let month = Month { own_actions: 5, spent: 40, meters: meters.into(), ..Month::default() };
        let tenant_limits = vec![(Window::Day, 40, 40), (Window::Total, 40, 41)];
        let figures = Figures { month, holds_open: 1, tenant_limits };
        let told = response(&[("members", 2)], figures, Some(5));
        assert_eq!(told.exceeded, ["credits_day", "own_actions"]);
        assert_eq!((told.usage["actions"], told.usage["pages"]), (0, 3));
        assert_eq!((told.limits["credits_total"], told.limits["own_actions"]), (41, 5));
        assert_eq!(told.limits["api_keys"], 10, "the plan's");
        assert!(told.limits.keys().all(|name| name != "members"));
    }
}
