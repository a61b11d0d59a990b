//! `/v1/marketplace`: finding apps, installing them, reviewing them.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use market::Principal;
use market::marketplace::{
    AppDetails, AppSummary, AppsPage, DeveloperPage, InstallResponse, ReviewPage, ReviewResponse,
    ReviewSort, ReviewWords,
};
use market::storefront::{Question, Sort};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use supervision::Refusal;
use types::{CallerKind, Page};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::authenticate::{Either, Entered};
use crate::extract::{JsonBody, OptionalBody, Query};
use crate::once::Key;
use crate::openapi::tag;
use crate::paging;
use crate::problem::Problem;
use crate::visitor::Visitor;

/// How many apps and reviews a page has when not told, and at most.
const PER_PAGE_DEFAULT: usize = 20;
const PER_PAGE_MAX: usize = 50;
/// How many apps are shown first when not told, and at most.
const FEATURED_DEFAULT: usize = 6;
const FEATURED_MAX: usize = 20;
/// Characters of what is searched for, and of a category.
const SEARCH_CHARACTERS_MAX: usize = 200;
const CATEGORY_CHARACTERS_MAX: usize = 50;

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(browse_apps))
        .routes(routes!(app_details))
        .routes(routes!(featured_apps))
        .routes(routes!(app_categories))
        .routes(routes!(developer_page))
        .routes(routes!(install_app, uninstall_app))
        .routes(routes!(list_reviews, write_review))
        .routes(routes!(change_review, remove_review))
        .routes(routes!(vote_review))
}

/// The caller as the market knows callers.
pub(super) fn principal(app: &App, entered: &Entered) -> Result<Principal, Refusal> {
    let origin = app.origin(&entered.caller, entered.request);
    Ok(Principal { user: entered.user()?, tenant: entered.caller.tenant, origin })
}

fn page(number: Option<usize>, per_page: Option<usize>) -> Result<Page, Refusal> {
    paging::from_one("page", number)?;
    paging::within("per_page", per_page, PER_PAGE_MAX)?;
    Ok(Page::by_number(number, per_page, PER_PAGE_DEFAULT, PER_PAGE_MAX))
}

fn at_most(name: &str, text: &str, characters: usize) -> Result<(), Refusal> {
    let fits = text.chars().count() <= characters;
    let message = || format!("at most {characters} characters");
    fits.then_some(()).ok_or_else(|| Refusal::invalid_at("query", name, message()))
}

/// Which apps.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct AppsQuery {
    /// Words that must all be found in name, id, category, tags or description; the beginnings of
    /// words will do
    #[serde(default)]
    #[param(max_length = 200)]
    search: String,
    /// Only this category
    #[serde(default)]
    #[param(max_length = 50)]
    category: String,
    /// actions, installs, rating, newest or name. Without it what is searched for comes by how well
    /// it fits, everything else by actions
    #[serde(default)]
    sort: String,
    /// Which page, from 1
    page: Option<usize>,
    /// How many a page has: 1 to 50
    #[param(minimum = 1, maximum = 50, default = 20)]
    per_page: Option<usize>,
}

/// The active apps
#[utoipa::path(get, path = "/v1/marketplace/apps", tag = tag::GATEWAY, security(()),
    params(AppsQuery),
    responses((status = 200, body = AppsPage), (status = 401), (status = 422)))]
async fn browse_apps(
    State(app): State<App>,
    visitor: Visitor,
    Query(query): Query<AppsQuery>,
) -> Result<Json<AppsPage>, Problem> {
    at_most("search", &query.search, SEARCH_CHARACTERS_MAX)?;
    at_most("category", &query.category, CATEGORY_CHARACTERS_MAX)?;
    let wrong = || {
        let message = "actions, installs, rating, newest or name";
        Refusal::invalid_at("query", "sort", message)
    };
    let sort = match query.sort.as_str() {
        "" => None,
        name => Some(Sort::named(name).ok_or_else(wrong)?),
    };
    let page = page(query.page, query.per_page)?;
    let question = Question { search: query.search, category: query.category, sort, page };
    Ok(Json(app.market.browse(&app.system, visitor.viewer(), &question)))
}

/// An active app with its functions and what it asks of who installs it
#[utoipa::path(get, path = "/v1/marketplace/apps/{app_id}", tag = tag::GATEWAY, security(()),
    params(("app_id" = String, Path)),
    responses((status = 200, body = AppDetails), (status = 401), (status = 404)))]
async fn app_details(
    State(app): State<App>,
    visitor: Visitor,
    Path(app_id): Path<String>,
) -> Result<Json<AppDetails>, Problem> {
    let (viewer, origin) = (visitor.viewer(), visitor.origin(&app));
    Ok(Json(app.market.details(&app.system, viewer, &app_id, &origin).await?))
}

/// How many.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct FeaturedQuery {
    /// How many at most: 1 to 20
    #[param(minimum = 1, maximum = 20, default = 6)]
    limit: Option<usize>,
}

/// The apps that are shown first
#[utoipa::path(get, path = "/v1/marketplace/featured", tag = tag::GATEWAY, security(()),
    params(FeaturedQuery),
    responses((status = 200, body = Vec<AppSummary>), (status = 401), (status = 422)))]
async fn featured_apps(
    State(app): State<App>,
    visitor: Visitor,
    Query(query): Query<FeaturedQuery>,
) -> Result<Json<Vec<AppSummary>>, Problem> {
    paging::within("limit", query.limit, FEATURED_MAX)?;
    let limit = query.limit.unwrap_or(FEATURED_DEFAULT);
    Ok(Json(app.market.featured(&app.system, visitor.viewer(), limit)))
}

/// A category of active apps.
#[derive(Serialize, ToSchema)]
struct CategoryResponse {
    /// The category, as `category` takes it
    id: String,
    name: String,
    /// How many active apps it has
    count: usize,
}

/// The categories of the active apps, by name
#[utoipa::path(get, path = "/v1/marketplace/categories", tag = tag::GATEWAY, security(()),
    responses((status = 200, body = Vec<CategoryResponse>), (status = 401)))]
async fn app_categories(State(app): State<App>, _: Visitor) -> Json<Vec<CategoryResponse>> {
    let all = app.system.port::<market::Storefront>().categories().into_iter();
    let view = |(name, count): (String, usize)| CategoryResponse { id: name.clone(), name, count };
    Json(all.map(view).collect())
}

/// A developer with active apps
#[utoipa::path(get, path = "/v1/marketplace/developer/{developer_id}", tag = tag::GATEWAY,
    security(()), params(("developer_id" = String, Path)),
    responses((status = 200, body = DeveloperPage), (status = 401), (status = 404)))]
async fn developer_page(
    State(app): State<App>,
    visitor: Visitor,
    Path(developer_id): Path<String>,
) -> Result<Json<DeveloperPage>, Problem> {
    let (viewer, origin) = (visitor.viewer(), visitor.origin(&app));
    let page = app.market.developer_page(&app.system, viewer, &developer_id, &origin);
    Ok(Json(page.await?))
}

/// What is agreed to.
#[derive(Default, Deserialize, ToSchema)]
#[serde(default)]
struct InstallRequest {
    /// The digest that a `consent_needed` has named: nothing else is agreed to
    terms: Option<String>,
}

/// Install an active app, or agree to what it asks for now
///
/// Installing pins the version and what it asks for: scopes, prices, a host. When a later version
/// asks for more, calls answer 409 `consent_needed` with the difference (`diff`) and its digest
/// (`terms`) until the app is installed again. An active app may be called by everybody whose
/// scopes cover it, installed or not. 400 `app_not_active` for any other app.
#[utoipa::path(post, path = "/v1/marketplace/apps/{app_id}/install", tag = tag::GATEWAY,
    params(("app_id" = String, Path)), request_body = Option<InstallRequest>,
    responses((status = 200, body = InstallResponse), (status = 400), (status = 401),
        (status = 403), (status = 409)))]
async fn install_app(
    State(app): State<App>,
    Either(entered): Either,
    Path(app_id): Path<String>,
    key: Key,
    body: OptionalBody<InstallRequest>,
) -> Result<Json<Value>, Problem> {
    let principal = principal(&app, &entered)?;
    let key = key.of(&entered.caller, &format!("install {app_id}"), &body.bytes);
    let terms = body.value.terms.as_deref();
    let installed = app.market.install(&app.system, &principal, &app_id, terms, key.as_ref());
    Ok(Json(installed.await?))
}

/// Take an app off
#[utoipa::path(delete, path = "/v1/marketplace/apps/{app_id}/install", tag = tag::GATEWAY,
    params(("app_id" = String, Path)),
    responses((status = 200, body = InstallResponse), (status = 401), (status = 403),
        (status = 404)))]
async fn uninstall_app(
    State(app): State<App>,
    Either(entered): Either,
    Path(app_id): Path<String>,
) -> Result<Json<InstallResponse>, Problem> {
    let principal = principal(&app, &entered)?;
    Ok(Json(app.market.uninstall(&app.system, &principal, &app_id).await?))
}

/// Which reviews.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ReviewsQuery {
    /// helpful, newest, oldest, highest or lowest
    #[serde(default)]
    #[param(default = "helpful")]
    sort: String,
    /// Which page, from 1
    page: Option<usize>,
    /// How many a page has: 1 to 50
    #[param(minimum = 1, maximum = 50, default = 20)]
    per_page: Option<usize>,
}

/// What others think of an active app
#[utoipa::path(get, path = "/v1/marketplace/apps/{app_id}/reviews", tag = tag::GATEWAY,
    security(()), params(("app_id" = String, Path), ReviewsQuery),
    responses((status = 200, body = ReviewPage), (status = 401), (status = 404), (status = 422)))]
async fn list_reviews(
    State(app): State<App>,
    visitor: Visitor,
    Path(app_id): Path<String>,
    Query(query): Query<ReviewsQuery>,
) -> Result<Json<ReviewPage>, Problem> {
    let wrong = || {
        let message = "helpful, newest, oldest, highest or lowest";
        Refusal::invalid_at("query", "sort", message)
    };
    let sort = match query.sort.as_str() {
        "" => ReviewSort::Helpful,
        name => ReviewSort::named(name).ok_or_else(wrong)?,
    };
    let page = page(query.page, query.per_page)?;
    Ok(Json(app.market.reviews(&app.system, visitor.viewer(), &app_id, sort, page)?))
}

/// A review to be written.
#[derive(Deserialize, ToSchema)]
struct ReviewCreate {
    /// 1 to 5
    #[schema(minimum = 1, maximum = 5)]
    rating: u8,
    /// Up to 200 characters
    #[serde(default)]
    #[schema(max_length = 200)]
    title: String,
    /// 20 to 5,000 characters
    #[schema(min_length = 20, max_length = 5_000)]
    body: String,
}

/// Review an app that one has installed
///
/// One review a person and app; an app is not reviewed by its own developer or tenant. Refused: 403
/// `not_installed` and `own_app`, 409 `already_reviewed`.
#[utoipa::path(post, path = "/v1/marketplace/apps/{app_id}/reviews", tag = tag::GATEWAY,
    params(("app_id" = String, Path)), request_body = ReviewCreate,
    responses((status = 200, body = ReviewResponse), (status = 401), (status = 403),
        (status = 404), (status = 409), (status = 422)))]
async fn write_review(
    State(app): State<App>,
    Either(entered): Either,
    Path(app_id): Path<String>,
    key: Key,
    body: JsonBody<ReviewCreate>,
) -> Result<Json<Value>, Problem> {
    let principal = principal(&app, &entered)?;
    let key = key.of(&entered.caller, &format!("write_review {app_id}"), &body.bytes);
    let ReviewCreate { rating, title, body } = body.value;
    let words = ReviewWords { rating: Some(rating), title: Some(title), body: Some(body) };
    let written = app.market.write_review(&app.system, &principal, &app_id, words, key.as_ref());
    Ok(Json(written.await?))
}

/// What to change of a review; what is absent stays.
#[derive(Default, Deserialize, ToSchema)]
#[serde(default)]
struct ReviewUpdate {
    /// 1 to 5
    #[schema(minimum = 1, maximum = 5)]
    rating: Option<u8>,
    /// Up to 200 characters
    title: Option<String>,
    /// 20 to 5,000 characters
    body: Option<String>,
}

/// Change one's own review
#[utoipa::path(put, path = "/v1/marketplace/reviews/{review_id}", tag = tag::GATEWAY,
    params(("review_id" = String, Path)), request_body = ReviewUpdate,
    responses((status = 200, body = ReviewResponse), (status = 401), (status = 403),
        (status = 404), (status = 422)))]
async fn change_review(
    State(app): State<App>,
    Either(entered): Either,
    Path(review_id): Path<String>,
    key: Key,
    body: JsonBody<ReviewUpdate>,
) -> Result<Json<Value>, Problem> {
    let principal = principal(&app, &entered)?;
    let key = key.of(&entered.caller, &format!("change_review {review_id}"), &body.bytes);
    let ReviewUpdate { rating, title, body } = body.value;
    let words = ReviewWords { rating, title, body };
    let market = &app.market;
    let changed = market.change_review(&app.system, &principal, &review_id, words, key.as_ref());
    Ok(Json(changed.await?))
}

/// Take one's own review away; the service token for nobody, or an operator, takes any away
#[utoipa::path(delete, path = "/v1/marketplace/reviews/{review_id}", tag = tag::GATEWAY,
    params(("review_id" = String, Path)),
    responses((status = 204), (status = 401), (status = 403), (status = 404)))]
async fn remove_review(
    State(app): State<App>,
    Either(entered): Either,
    Path(review_id): Path<String>,
) -> Result<StatusCode, Problem> {
    let origin = app.origin(&entered.caller, entered.request);
    let is_service = entered.caller.kind == CallerKind::Service;
    let is_steward = entered.caller.is_operator() || (is_service && entered.caller.user.is_none());
    let user = if is_steward { None } else { Some(entered.user()?) };
    app.market.remove_review(&app.system, user, &review_id, &origin).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn yes() -> bool {
    true
}

/// Whether a review helped.
#[derive(Deserialize, ToSchema)]
struct ReviewVoteRequest {
    /// Whether it did
    #[serde(default = "yes")]
    helpful: bool,
}

/// Say whether a review helped: one vote each, which may be changed; nobody votes on their own
#[utoipa::path(post, path = "/v1/marketplace/reviews/{review_id}/vote", tag = tag::GATEWAY,
    params(("review_id" = String, Path)), request_body = ReviewVoteRequest,
    responses((status = 200, body = ReviewResponse), (status = 401), (status = 403),
        (status = 404)))]
async fn vote_review(
    State(app): State<App>,
    Either(entered): Either,
    Path(review_id): Path<String>,
    key: Key,
    body: JsonBody<ReviewVoteRequest>,
) -> Result<Json<Value>, Problem> {
    let principal = principal(&app, &entered)?;
    let key = key.of(&entered.caller, &format!("vote_review {review_id}"), &body.bytes);
    let (market, helpful) = (&app.market, body.value.helpful);
    let voted = market.vote(&app.system, &principal, &review_id, helpful, key.as_ref());
    Ok(Json(voted.await?))
}
