//! What an app of the marketplace has done for everybody: for services that show it.

use std::sync::Arc;

use control::app::Status;
use persistence::codec;
use serde::Serialize;
use supervision::{Refusal, System};
use types::{AppId, owner_of_tenant};

use crate::bookkeeper::range;
use crate::earnings::{DAY_FAMILY, DayTotal, day_prefix};
use crate::portal::{DayResponse, blocking};
use crate::service::Market;
use crate::storefront::Storefront;

/// How many days are shown.
const DAYS_SHOWN: usize = 30;

/// What an app has done for everybody.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct AppFigures {
    /// The app.
    pub app_id: String,
    /// Calls, failed ones too.
    pub total_actions: u64,
    /// How many have it installed.
    pub install_count: u64,
    /// The average rating; 0 without reviews.
    pub avg_rating: f64,
    /// How many reviews there are.
    pub review_count: u64,
    /// The last 30 days with calls, the newest first.
    pub by_day: Vec<DayResponse>,
}

impl Market {
    /// The figures of an active app; 404 for others.
    pub async fn figures(&self, system: &Arc<System>, app_id: &str) -> Result<AppFigures, Refusal> {
        let missing = || Refusal::not_found("app");
        let id = AppId::new(app_id).map_err(|_| missing())?;
        let card = system.port::<Storefront>().card(&id);
        let card = card.filter(|card| card.app.status == Status::Active).ok_or_else(missing)?;
        let (reading, developer) = (Arc::clone(system), card.app.developer);
        let shard = owner_of_tenant(card.app.tenant).shard();
        let days = blocking(move || {
            let prefix = day_prefix(developer, &id);
            let rows = reading.rows(&range(shard, DAY_FAMILY, prefix, true, DAYS_SHOWN));
            let read = |value: &Vec<u8>| codec::decode::<DayTotal>(value).ok();
            rows.iter().filter_map(|(_, value)| read(value)).collect::<Vec<_>>()
        });
        Ok(AppFigures {
            app_id: app_id.to_owned(),
            total_actions: card.actions,
            install_count: card.counts.installs,
            avg_rating: card.rating_hundredths() as f64 / 100.0,
            review_count: card.counts.reviews,
            by_day: days.await?.iter().map(DayResponse::from).collect(),
        })
    }
}
