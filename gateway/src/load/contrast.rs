//! What probes find alone, and then beside a load: how scenarios measure that tell what somebody
//! does to others.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};
use tokio::time::sleep;

use super::client::{Prepared, Target};
use super::probe::{self, Pair, probed};
use super::runner::Profile;
use super::{LoadError, progress};

/// The time between two requests of one probe.
const PROBE_PERIOD: Duration = Duration::from_millis(20);

/// What became of the load's requests: how many ended in each way.
pub(crate) type Ends<K> = BTreeMap<K, u64>;

/// Measures the probes for as long as the profile says without the load, and then as long beside
/// it; the load is told when it is over. The first while of either is not counted.
pub(crate) async fn contrast<R>(
    target: &Target,
    probes: &[(&'static str, Prepared)],
    profile: &Profile,
    load: impl AsyncFnOnce(Instant) -> R,
) -> Result<(Vec<Pair>, R), LoadError> {
    let Profile { duration, warm_up, .. } = *profile;
    progress::say(&format!("measuring {duration:?} of quiet, then {duration:?} beside the load"));
    // What is done for the first time takes longer.
    probed(target, probes, PROBE_PERIOD, sleep(warm_up)).await?;
    let (quiet, ()) = probed(target, probes, PROBE_PERIOD, sleep(duration)).await?;
    let measured = async {
        sleep(warm_up).await;
        probed(target, probes, PROBE_PERIOD, sleep(duration)).await
    };
    let end = Instant::now() + warm_up + duration;
    let (load, loaded) = tokio::join!(load(end), measured);
    Ok((probe::pairs(probes, quiet, loaded?.0), load))
}

/// All ends of many connections.
pub(crate) fn sum<K: Ord>(each: Vec<Ends<K>>) -> Ends<K> {
    let mut all = Ends::new();
    for (end, count) in each.into_iter().flatten() {
        *all.entry(end).or_default() += count;
    }
    all
}

/// What the probes found, by their names, with and without the load that is called so.
pub(crate) fn json(load: &str, pairs: &[Pair]) -> Value {
    let found = pairs.iter().map(|pair| {
        let mut found = Map::new();
        found.insert("quiet".to_owned(), pair.quiet.json());
        found.insert(load.to_owned(), pair.loaded.json());
        found.insert("ratio".to_owned(), json!(pair.ratio()));
        (pair.name.to_owned(), Value::Object(found))
    });
    Value::Object(found.collect())
}
