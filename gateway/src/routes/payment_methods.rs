//! The methods that a tenant keeps at the payment provider: `/v1/billing/payment-methods`, the page
//! on which they are kept, and what invoices say.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use billing::payments::account::{
    BillingAccount, Conclude, NoteMethods, PROFILE_CHARACTERS_MAX, Profile, SetProfile,
};
use billing::payments::provider::Method;
use billing::plan_limits::Plans;
use serde::{Deserialize, Serialize};
use supervision::Refusal;
use types::{PlainText, TenantId};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::topups::{PAY, UrlResponse, port};
use super::usage::member;
use crate::app::App;
use crate::ask_once;
use crate::authenticate::{Either, Entered, Service};
use crate::extract::JsonBody;
use crate::once::{self, Key, Once};
use crate::openapi::tag;
use crate::problem::Problem;

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(methods))
        .routes(routes!(set_up_method))
        .routes(routes!(delete_method))
        .routes(routes!(make_default))
        .routes(routes!(methods_of_user))
        .routes(routes!(billing_portal))
        .routes(routes!(set_profile))
}

async fn methods_of(
    app: &App,
    entered: &Entered,
    tenant: TenantId,
) -> Result<Json<Vec<Method>>, Problem> {
    let origin = app.origin(&entered.caller, entered.request);
    Ok(Json(port(app).methods(&app.system, tenant, &origin).await?))
}

/// The payment methods
#[utoipa::path(get, path = "/v1/billing/payment-methods", tag = tag::GATEWAY,
    responses((status = 200, body = Vec<Method>), (status = 401), (status = 403)))]
async fn methods(
    State(app): State<App>,
    Either(entered): Either,
) -> Result<Json<Vec<Method>>, Problem> {
    entered.require(PAY)?;
    methods_of(&app, &entered, entered.caller.tenant).await
}

/// The payment methods of the tenant that a user spends from, the service's or their own
#[utoipa::path(get, path = "/v1/billing/internal/payment-methods/{uid}", tag = tag::GATEWAY,
    params(("uid" = String, Path)), security(("service_token" = [])),
    responses((status = 200, body = Vec<Method>), (status = 401), (status = 403),
        (status = 404)))]
async fn methods_of_user(
    State(app): State<App>,
    Service(entered): Service,
    Path(uid): Path<String>,
) -> Result<Json<Vec<Method>>, Problem> {
    let (tenant, _) = member(&app, &entered, &uid).await?;
    methods_of(&app, &entered, tenant).await
}

/// With which a method is added.
#[derive(Serialize, ToSchema)]
struct SetupResponse {
    /// For the payer's program
    client_secret: String,
    publishable_key: String,
}

/// Let the payer's program add a payment method
///
/// Where no money moves (`pk_sandbox_…`), the page `/sandbox/checkout/{client_secret}` takes its
/// place, with the cards `pm_sandbox_visa`, `pm_sandbox_declined` and `pm_sandbox_action`.
#[utoipa::path(post, path = "/v1/billing/payment-methods/setup", tag = tag::GATEWAY,
    responses((status = 200, body = SetupResponse), (status = 401), (status = 403),
        (status = 409), (status = 503)))]
async fn set_up_method(
    State(app): State<App>,
    Either(entered): Either,
    key: Key,
) -> Result<Response, Problem> {
    entered.require(PAY)?;
    let (payments, tenant) = (port(&app), entered.caller.tenant);
    payments.check_real(&app.system, tenant)?;
    let key = key.of(&entered.caller, "set_up_method", &[]);
    let id = once::id_for(&app, key.as_ref());
    let address = BillingAccount::address(tenant);
    let begun = once::begin_as(&app, key, address.place()).await?;
    if let Once::Answered(response) = begun {
        return Ok(response);
    }
    let origin = app.origin(&entered.caller, entered.request);
    let customer = payments.customer(&app.system, tenant, &origin).await?;
    let secret = payments.provider().set_up(customer, id).await.map_err(Refusal::from)?;
    let publishable_key = payments.provider().publishable_key().to_owned();
    let view = move |()| SetupResponse { client_secret: secret.0, publishable_key };
    begun.conclude(&app, &address, Conclude, origin, (StatusCode::OK, view)).await
}

/// A method that the tenant keeps, the customer whose it is, and all of them.
async fn kept(
    app: &App,
    entered: &Entered,
    method: &str,
) -> Result<(String, Vec<Method>), Refusal> {
    let (payments, tenant) = (port(app), entered.caller.tenant);
    let origin = app.origin(&entered.caller, entered.request);
    let methods = payments.methods(&app.system, tenant, &origin).await?;
    if !methods.iter().any(|kept| kept.id == method) {
        return Err(Refusal::not_found("payment method"));
    }
    Ok((payments.customer(&app.system, tenant, &origin).await?, methods))
}

/// What came of it.
#[derive(Serialize, ToSchema)]
struct MethodResponse {
    id: String,
    deleted: bool,
}

/// Take a payment method away
///
/// The only card of a plan that is paid by card stays: 409 `card_needed`.
#[utoipa::path(delete, path = "/v1/billing/payment-methods/{pm_id}", tag = tag::GATEWAY,
    params(("pm_id" = String, Path)),
    responses((status = 200, body = MethodResponse), (status = 401), (status = 403),
        (status = 404), (status = 409), (status = 503)))]
async fn delete_method(
    State(app): State<App>,
    Either(entered): Either,
    Path(pm_id): Path<String>,
) -> Result<Json<MethodResponse>, Problem> {
    entered.require(PAY)?;
    let (payments, tenant) = (port(&app), entered.caller.tenant);
    let origin = app.origin(&entered.caller, entered.request);
    let (customer, methods) = kept(&app, &entered, &pm_id).await?;
    let is_only = methods.len() == 1;
    if is_only && Plans(&app.system).needs_card(tenant, origin.clone()).await? {
        let message = "this is the only card, and the plan is paid by it; add another first";
        return Err(Refusal::conflict("card_needed", message).into());
    }
    payments.provider().detach(customer, pm_id.clone()).await.map_err(Refusal::from)?;
    payments.methods(&app.system, tenant, &origin).await?;
    Ok(Json(MethodResponse { id: pm_id, deleted: true }))
}

/// Make a payment method the default
#[utoipa::path(put, path = "/v1/billing/payment-methods/{pm_id}/default", tag = tag::GATEWAY,
    params(("pm_id" = String, Path)),
    responses((status = 200, body = Vec<Method>), (status = 401), (status = 403),
        (status = 404), (status = 503)))]
async fn make_default(
    State(app): State<App>,
    Either(entered): Either,
    Path(pm_id): Path<String>,
    key: Key,
) -> Result<Response, Problem> {
    entered.require(PAY)?;
    let (payments, tenant) = (port(&app), entered.caller.tenant);
    let address = BillingAccount::address(tenant);
    let operation = format!("make_default {pm_id}");
    let begun = once::begin(&app, key, &entered.caller, address.place(), &operation, &[]).await?;
    if let Once::Answered(response) = begun {
        return Ok(response);
    }
    let origin = app.origin(&entered.caller, entered.request);
    let (customer, _) = kept(&app, &entered, &pm_id).await?;
    payments.provider().set_default(customer, pm_id).await.map_err(Refusal::from)?;
    let methods = payments.methods(&app.system, tenant, &origin).await?;
    let (note, view) = (NoteMethods { methods: methods.clone() }, move |()| methods);
    begun.conclude(&app, &address, note, origin, (StatusCode::OK, view)).await
}

/// The payment provider's page on which methods are kept
#[utoipa::path(post, path = "/v1/billing/portal", tag = tag::GATEWAY,
    responses((status = 200, body = UrlResponse), (status = 401), (status = 403),
        (status = 409), (status = 503)))]
async fn billing_portal(
    State(app): State<App>,
    Either(entered): Either,
) -> Result<Json<UrlResponse>, Problem> {
    entered.require(PAY)?;
    let (payments, tenant) = (port(&app), entered.caller.tenant);
    payments.check_real(&app.system, tenant)?;
    let origin = app.origin(&entered.caller, entered.request);
    let customer = payments.customer(&app.system, tenant, &origin).await?;
    let back = payments.return_url();
    let url = payments.provider().portal(customer, back).await.map_err(Refusal::from)?;
    Ok(Json(UrlResponse { url }))
}

type ProfileText = PlainText<PROFILE_CHARACTERS_MAX>;

/// What invoices say.
#[derive(Deserialize, ToSchema)]
struct ProfileRequest {
    /// Who receives them
    #[schema(value_type = String, max_length = 200)]
    name: ProfileText,
    /// The company, if it is one
    #[serde(default = "empty")]
    #[schema(value_type = String, max_length = 200)]
    company: ProfileText,
    /// Its VAT number
    #[serde(default = "empty")]
    #[schema(value_type = String, max_length = 200)]
    vat: ProfileText,
    /// ISO 3166-1, two letters; empty for none
    #[serde(default = "empty")]
    #[schema(value_type = String, max_length = 2)]
    country: ProfileText,
}

fn empty() -> ProfileText {
    // No characters at all are plain, and within every limit.
    ProfileText::new("").unwrap_or_else(|error| panic!("an empty text: {error}"))
}

/// What invoices say now.
#[derive(Serialize, ToSchema)]
struct ProfileResponse {
    name: String,
    company: String,
    vat: String,
    country: String,
}

/// Say what invoices say
#[utoipa::path(put, path = "/v1/billing/profile", tag = tag::GATEWAY,
    request_body = ProfileRequest,
    responses((status = 200, body = ProfileResponse), (status = 401), (status = 403),
        (status = 422)))]
async fn set_profile(
    State(app): State<App>,
    Either(entered): Either,
    key: Key,
    body: JsonBody<ProfileRequest>,
) -> Result<Response, Problem> {
    entered.require(PAY)?;
    let user = entered.user()?;
    let ProfileRequest { name, company, vat, country } = body.value;
    let country = country.into_string().to_ascii_uppercase();
    let is_code = country.len() == 2 && country.bytes().all(|it| it.is_ascii_uppercase());
    if !country.is_empty() && !is_code {
        return Err(Refusal::invalid("country", "must be two letters, as ISO 3166-1 has").into());
    }
    let (name, company, vat) = (name.into_string(), company.into_string(), vat.into_string());
    let profile = Profile { name, company, vat, country };
    let Profile { name, company, vat, country } = profile.clone();
    let view = move |()| ProfileResponse { name, company, vat, country };
    ask_once!(
        app,
        key,
        entered,
        "set_billing_profile",
        body.bytes,
        BillingAccount::address(entered.caller.tenant),
        SetProfile { user, profile },
        StatusCode::OK,
        view
    )
}
