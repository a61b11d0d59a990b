//! The shop window: every app's card in memory, with an index over the active ones. A port.
//!
//! It is made of rows at the start ([`Storefront::load`]): the apps' cards, what is counted of
//! each, how often each was called. Afterwards whoever changes an app shows it here before the
//! answer leaves ([`Storefront::refresh`]), as it makes the catalogue forget it, and whoever counts
//! something tells it ([`Storefront::hear`]).
//!
//! Invariants
//! - Only active apps are found; a change that was answered is seen by every question after it.
//! - Of two words about the same counts the one after the later record counts.
//!
//! Deliberate limits: the order by counts is at most [`ORDER_AGE_MAX`] old. An app that an operator
//! has frozen stays in the window; it is neither installed nor called.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use control::app::{APP_CARD_FAMILY, App, AppCard, Status};
use extensions::Apps;
use parking_lot::{RwLock, RwLockReadGuard};
use persistence::record::SHARDS;
use persistence::{RowRange, Shard, codec};
use supervision::{Origin, Refusal, System};
use types::{AppId, Page, TenantId, UserId};

use crate::earnings::{APP_TOTAL_FAMILY, AppTotal};
use crate::listing::{Counts, LISTING_FAMILY, Told};
use crate::search::{Index, TAG, TEXT, TITLE, weigh};

/// How old the order by what is counted may be.
pub const ORDER_AGE_MAX: Duration = Duration::from_secs(1);
/// How many rows one step of loading reads.
const LOAD_STEP: usize = 1_000;

/// The orders of lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// The most called first.
    Actions = 0,
    /// The most installed first.
    Installs = 1,
    /// The best rated first.
    Rating = 2,
    /// The newest first.
    Newest = 3,
    /// By name.
    Name = 4,
}

const SORTS: [Sort; 5] = [Sort::Actions, Sort::Installs, Sort::Rating, Sort::Newest, Sort::Name];

impl Sort {
    /// The order of a name.
    pub fn named(name: &str) -> Option<Self> {
        let names = ["actions", "installs", "rating", "newest", "name"];
        let place = names.iter().position(|known| *known == name)?;
        SORTS.get(place).copied()
    }
}

/// Everything that is shown of an app.
#[derive(Clone, Debug, PartialEq)]
pub struct Card {
    /// What its developer says.
    pub app: AppCard,
    /// What is counted.
    pub counts: Counts,
    /// How often it was called, as far as that is added up.
    pub actions: u64,
    /// The record that `counts` is after.
    revision: u64,
    /// The name as lists are sorted by it: made once, not for every comparison.
    sort_name: String,
}

impl Card {
    /// The average rating, in hundredths; 0 without reviews.
    pub fn rating_hundredths(&self) -> u64 {
        (self.counts.rating_sum * 100).checked_div(self.counts.reviews).unwrap_or(0)
    }

    fn is_active(&self) -> bool {
        self.app.status == Status::Active
    }
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Question {
    /// Words, all of which must be found; empty for everything.
    pub search: String,
    /// Only this category; empty for all.
    pub category: String,
    /// The order; without one what was searched for comes by how well it fits, then by calls.
    pub sort: Option<Sort>,
    /// Which part.
    pub page: Page,
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The part that was asked for.
    pub cards: Vec<Arc<Card>>,
    /// How many there are in all.
    pub total: usize,
}

#[derive(Default)]
struct Shelves {
    numbers: HashMap<AppId, u32>,
    cards: Vec<Option<Arc<Card>>>,
    free: Vec<u32>,
    index: Index,
    /// The active apps in each order.
    orders: [Vec<u32>; 5],
    /// By number, the place of each active app in each order.
    places: [Vec<u32>; 5],
    categories: BTreeMap<String, usize>,
    /// Since when the orders are not what they should be.
    stale_since: Option<Instant>,
    /// Whether an app came, went or changed what it says.
    must_sort: bool,
}

/// The shop window. A port.
#[derive(Default)]
pub struct Storefront {
    shelves: RwLock<Shelves>,
}

impl Storefront {
    /// An empty one.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Takes in every app there is; says how many. Blocks.
    pub fn load(&self, system: &System) -> usize {
        let mut shelves = Shelves::default();
        each_row(system, APP_CARD_FAMILY, |_, card: AppCard| shelves.set(card));
        each_row(system, LISTING_FAMILY, |key, counts: Counts| {
            let id = std::str::from_utf8(key).ok().and_then(|text| AppId::new(text).ok());
            if let Some(id) = id {
                shelves.change(&id, |card| card.counts.clone_from(&counts));
            }
        });
        each_row(system, APP_TOTAL_FAMILY, |_, total: AppTotal| {
            shelves.change(&total.app, |card| card.actions = total.calls);
        });
        let count = shelves.numbers.len();
        *self.shelves.write() = shelves;
        count
    }

    /// Reads an app anew, where there is a window.
    pub async fn refresh(system: &Arc<System>, id: &AppId, origin: &Origin) -> Result<(), Refusal> {
        let Some(window) = system.find_port::<Self>() else { return Ok(()) };
        let card = match Apps::locate(system, id) {
            None => None,
            Some(address) => {
                let look = |app: &App| app.details().map(AppCard::from);
                let card = system.directory::<App>().look(&address, origin.clone(), look).await;
                card.or_else(|it| if it.is_erased() { Ok(None) } else { Err(it) })?
            }
        };
        window.show(id, card);
        Ok(())
    }

    /// Shows an app as it is now; `None` when it is gone.
    pub fn show(&self, id: &AppId, card: Option<AppCard>) {
        let mut shelves = self.shelves.write();
        match card {
            // Of two who read it at once, the one who read it last says what it is.
            Some(card) if shelves.is_older(&card) => shelves.set(card),
            Some(_) => {}
            None => shelves.take_out(id),
        }
    }

    /// Takes out every app of a tenant's.
    pub fn forget(&self, tenant: TenantId) {
        let mut shelves = self.shelves.write();
        let is_theirs = |card: &&Arc<Card>| card.app.tenant == tenant;
        let theirs = shelves.cards.iter().flatten().filter(is_theirs);
        let ids: Vec<AppId> = theirs.map(|card| card.app.id.clone()).collect();
        ids.iter().for_each(|id| shelves.take_out(id));
    }

    /// Takes in what is counted of an app, where there is a window.
    pub fn hear(system: &System, app: &AppId, told: Told) {
        let Some(window) = system.find_port::<Self>() else { return };
        window.shelves.write().change(app, |card| {
            if told.revision >= card.revision {
                (card.revision, card.counts) = (told.revision, told.counts);
            }
        });
    }

    /// Takes in how often an app was called.
    pub fn set_actions(&self, app: &AppId, calls: u64) {
        self.shelves.write().change(app, |card| card.actions = calls.max(card.actions));
    }

    /// The shelves in order.
    fn sorted(&self) -> RwLockReadGuard<'_, Shelves> {
        let shelves = self.shelves.read();
        if !shelves.must_be_sorted() {
            return shelves;
        }
        drop(shelves);
        let mut shelves = self.shelves.write();
        if shelves.must_be_sorted() {
            shelves.sort();
        }
        drop(shelves);
        self.shelves.read()
    }

    /// A page of the active apps.
    pub fn find(&self, question: &Question) -> Answer {
        self.sorted().find(question)
    }

    /// Those that are shown first, the most called first.
    pub fn featured(&self, limit: usize) -> Vec<Arc<Card>> {
        let shelves = self.sorted();
        let all = shelves.orders[Sort::Actions as usize].iter();
        let cards = all.filter_map(|number| shelves.card(*number));
        cards.filter(|card| card.counts.featured).take(limit).cloned().collect()
    }

    /// The categories of the active apps, each with how many there are.
    pub fn categories(&self) -> Vec<(String, usize)> {
        self.sorted().categories.iter().map(|(name, count)| (name.clone(), *count)).collect()
    }

    /// An app, whatever its state.
    pub fn card(&self, id: &AppId) -> Option<Arc<Card>> {
        let shelves = self.shelves.read();
        shelves.card(*shelves.numbers.get(id)?).cloned()
    }

    /// The active apps of a developer's, the most called first.
    pub fn of_developer(&self, developer: UserId) -> Vec<Arc<Card>> {
        let shelves = self.sorted();
        let all = shelves.orders[Sort::Actions as usize].iter();
        let cards = all.filter_map(|number| shelves.card(*number));
        cards.filter(|card| card.app.developer == developer).cloned().collect()
    }

    /// A page of all apps in a state, or in any, by id; and how many there are.
    pub fn in_state(&self, status: Option<Status>, page: Page) -> (Vec<Arc<Card>>, usize) {
        let shelves = self.shelves.read();
        let is_in = |card: &&Arc<Card>| status.is_none_or(|status| card.app.status == status);
        let mut all: Vec<_> = shelves.cards.iter().flatten().filter(is_in).cloned().collect();
        all.sort_unstable_by(|one, other| one.app.id.cmp(&other.app.id));
        let total = all.len();
        (page.of(all), total)
    }
}

impl Shelves {
    fn card(&self, number: u32) -> Option<&Arc<Card>> {
        self.cards.get(number as usize)?.as_ref()
    }

    fn is_older(&self, card: &AppCard) -> bool {
        let known = self.numbers.get(&card.id).and_then(|number| self.card(*number));
        known.is_none_or(|known| known.app.updated_at <= card.updated_at)
    }

    fn note_change(&mut self, must_sort: bool) {
        self.must_sort |= must_sort;
        self.stale_since.get_or_insert_with(Instant::now);
    }

    fn must_be_sorted(&self) -> bool {
        self.must_sort || self.stale_since.is_some_and(|since| since.elapsed() >= ORDER_AGE_MAX)
    }

    /// Puts an app in, or changes what its developer says of it.
    fn set(&mut self, app: AppCard) {
        let id = app.id.clone();
        if self.numbers.contains_key(&id) {
            self.change(&id, |card| card.app = app);
            return;
        }
        let number = self.free.pop().unwrap_or_else(|| {
            self.cards.push(None);
            u32::try_from(self.cards.len() - 1).unwrap_or(u32::MAX)
        });
        let (counts, sort_name) = (Counts::default(), String::new());
        let card = Card { app, counts, actions: 0, revision: 0, sort_name };
        self.numbers.insert(id, number);
        self.place(number, card);
    }

    fn change(&mut self, id: &AppId, change: impl FnOnce(&mut Card)) {
        let Some(number) = self.numbers.get(id).copied() else { return };
        let Some(known) = self.card(number) else { return };
        let mut card = Card::clone(known);
        change(&mut card);
        if card == **known {
            return;
        }
        let says = |card: &Card| (card.app.clone(), card.counts.tags.clone(), card.counts.featured);
        if says(&card) == says(known) {
            self.cards[number as usize] = Some(Arc::new(card));
            return self.note_change(false);
        }
        self.place(number, card);
    }

    fn place(&mut self, number: u32, mut card: Card) {
        card.sort_name = card.app.display_name.to_lowercase();
        if card.is_active() {
            let app = &card.app;
            let tags = card.counts.tags.iter().map(|tag| (tag.as_str(), TAG));
            let texts = [
                (app.display_name.as_str(), TITLE),
                (app.id.as_str(), TITLE),
                (app.category.as_str(), TAG),
            ];
            let last = [(app.description.as_str(), TEXT)];
            self.index.put(number, weigh(texts.into_iter().chain(tags).chain(last)));
        } else {
            self.index.remove(number);
        }
        if let Some(slot) = self.cards.get_mut(number as usize) {
            *slot = Some(Arc::new(card));
        }
        self.note_change(true);
    }

    fn take_out(&mut self, id: &AppId) {
        let Some(number) = self.numbers.remove(id) else { return };
        self.index.remove(number);
        if let Some(slot) = self.cards.get_mut(number as usize) {
            *slot = None;
        }
        // Its number is free once no order names it: they are made anew before the next question.
        self.note_change(true);
        self.free.push(number);
    }

    fn sort(&mut self) {
        // What is only counted changes neither names nor categories: it is sorted by numbers alone.
        if std::mem::take(&mut self.must_sort) {
            self.sort_by_name();
        }
        let by_name = self.orders[Sort::Name as usize].clone();
        for sort in [Sort::Actions, Sort::Installs, Sort::Rating, Sort::Newest] {
            let key = |(place, number): (usize, &u32)| {
                let card = self.card(*number)?;
                let (rank, more) = match sort {
                    Sort::Actions => (card.actions, 0),
                    Sort::Installs => (card.counts.installs, 0),
                    Sort::Rating => (card.rating_hundredths(), card.counts.reviews),
                    Sort::Newest => (card.app.created_at.0.unsigned_abs(), 0),
                    Sort::Name => (0, 0),
                };
                Some((Reverse((rank, more)), place, *number))
            };
            let mut keyed: Vec<_> = by_name.iter().enumerate().filter_map(key).collect();
            keyed.sort_unstable();
            self.set_order(sort, keyed.into_iter().map(|(.., number)| number).collect());
        }
        self.stale_since = None;
    }

    fn sort_by_name(&mut self) {
        let cards = self.cards.iter().enumerate();
        let active = cards.filter_map(|(number, card)| Some((number as u32, card.as_ref()?)));
        let mut keyed: Vec<_> = active
            .filter(|(_, card)| card.is_active())
            .map(|(number, card)| (card.sort_name.as_str(), &card.app.id, number))
            .collect();
        keyed.sort_unstable();
        let order: Vec<u32> = keyed.into_iter().map(|(.., number)| number).collect();
        let mut categories: BTreeMap<String, usize> = BTreeMap::new();
        for card in order.iter().filter_map(|number| self.card(*number)) {
            *categories.entry(card.app.category.clone()).or_default() += 1;
        }
        self.categories = categories;
        self.set_order(Sort::Name, order);
    }

    fn set_order(&mut self, sort: Sort, order: Vec<u32>) {
        let mut places = vec![u32::MAX; self.cards.len()];
        for (place, number) in order.iter().enumerate() {
            places[*number as usize] = place as u32;
        }
        self.places[sort as usize] = places;
        self.orders[sort as usize] = order;
    }

    fn find(&self, question: &Question) -> Answer {
        let Question { search, category, sort, page } = question;
        let fits = |number: &u32| {
            category.is_empty()
                || self.card(*number).is_some_and(|card| card.app.category == *category)
        };
        let order = sort.unwrap_or(Sort::Actions) as usize;
        let (numbers, total) = match self.index.find(search) {
            None if category.is_empty() => {
                let order = &self.orders[order];
                (page.of(order.iter().copied()), order.len())
            }
            None => {
                let found: Vec<u32> = self.orders[order].iter().copied().filter(fits).collect();
                let total = found.len();
                (page.of(found), total)
            }
            Some(found) => {
                let places = &self.places[order];
                let key = |(number, score): (u32, u16)| {
                    // In an order that was asked for, how well it fits is of no matter.
                    let score = if sort.is_none() { score } else { 0 };
                    (Reverse(score), places.get(number as usize).copied(), number)
                };
                let found = found.into_iter().filter(|(number, _)| fits(number));
                let mut keyed: Vec<_> = found.map(key).collect();
                let total = keyed.len();
                let end = page.offset.saturating_add(page.limit);
                if end < total {
                    // What comes after the page need not be in order.
                    keyed.select_nth_unstable(end);
                    keyed.truncate(end);
                }
                keyed.sort_unstable();
                (page.of(keyed.into_iter().map(|(.., number)| number)), total)
            }
        };
        Answer { cards: numbers.iter().filter_map(|it| self.card(*it)).cloned().collect(), total }
    }
}

/// Every row of a family, in every shard. Blocks. A row that does not decode is passed over: it is
/// of a record that a later version has written.
pub(crate) fn each_row<T: serde::de::DeserializeOwned>(
    system: &System,
    family: &'static str,
    mut row: impl FnMut(&[u8], T),
) {
    for shard in 0..SHARDS {
        let mut after = None;
        loop {
            let range = RowRange {
                shard: Shard(shard as u8),
                family,
                prefix: Vec::new(),
                after,
                newest_first: false,
                limit: LOAD_STEP,
            };
            let rows = system.rows(&range);
            for (key, value) in &rows {
                if let Ok(value) = codec::decode(value) {
                    row(key, value);
                }
            }
            after = rows.last().map(|(key, _)| key.clone());
            if rows.len() < LOAD_STEP {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use control::pricing::PricingModel;
    use supervision::Timestamp;

    use super::*;

    fn card(number: u32, name: &str, category: &str) -> AppCard {
        AppCard {
            id: AppId::new(&format!("app-{number}")).unwrap(),
            developer: UserId(1),
            tenant: TenantId(u128::from(number % 2)),
            status: Status::Active,
            display_name: name.to_owned(),
            description: format!("What {name} does for you"),
            category: category.to_owned(),
            icon: String::new(),
            version: "1.0.0".to_owned(),
            pricing_model: PricingModel::Free,
            created_at: Timestamp(i64::from(number)),
            updated_at: Timestamp(1),
        }
    }

    fn window(cards: &[(&str, &str)]) -> Storefront {
        let window = Storefront::default();
        for (number, (name, category)) in cards.iter().enumerate() {
            let card = card(number as u32, name, category);
            window.show(&card.id.clone(), Some(card));
        }
        window
    }

    fn ask(search: &str, category: &str, sort: Option<Sort>) -> Question {
        let page = Page { limit: 10, offset: 0 };
        Question { search: search.to_owned(), category: category.to_owned(), sort, page }
    }

    fn names(window: &Storefront, question: &Question) -> Vec<String> {
        window.find(question).cards.iter().map(|card| card.app.display_name.clone()).collect()
    }

    #[test]
    fn only_active_apps_are_found_and_a_change_is_seen_at_once() {
        let window = window(&[("Shelf", "books"), ("Notes", "text"), ("Atlas", "books")]);
        let by_name = |category: &str| ask("", category, Some(Sort::Name));
        assert_eq!(names(&window, &by_name("")), ["Atlas", "Notes", "Shelf"]);
        assert_eq!(names(&window, &by_name("books")), ["Atlas", "Shelf"]);
        assert_eq!(window.categories(), [("books".to_owned(), 2), ("text".to_owned(), 1)]);
        let mut gone = card(2, "Atlas", "books");
        (gone.status, gone.updated_at) = (Status::Suspended, Timestamp(2));
        window.show(&gone.id.clone(), Some(gone.clone()));
        assert_eq!(names(&window, &by_name("books")), ["Shelf"]);
        let older = card(2, "Atlas", "books");
        window.show(&older.id.clone(), Some(older));
        assert_eq!(names(&window, &by_name("books")), ["Shelf"], "an older word");
        assert_eq!(window.in_state(Some(Status::Suspended), Page { limit: 5, offset: 0 }).1, 1);
        window.forget(TenantId(0));
        assert_eq!(names(&window, &by_name("")), ["Notes"]);
        let new = card(7, "Weather", "sky");
        window.show(&new.id.clone(), Some(new));
        assert_eq!(names(&window, &by_name("")), ["Notes", "Weather"], "in a place that was free");
        assert!(names(&window, &ask("atlas", "", None)).is_empty());
    }

    #[test]
    fn what_fits_best_comes_first_unless_an_order_is_asked_for() {
        let window = window(&[("Shelf of notes", "a"), ("Notes", "a"), ("Notepad", "notes")]);
        for (number, calls) in [(0, 5), (1, 1), (2, 9)] {
            window.set_actions(&AppId::new(&format!("app-{number}")).unwrap(), calls);
        }
        let best = names(&window, &ask("notes", "", None));
        assert_eq!(best, ["Shelf of notes", "Notes", "Notepad"], "whole words in titles, by calls");
        let newest = names(&window, &ask("note", "", Some(Sort::Newest)));
        assert_eq!(newest, ["Notepad", "Notes", "Shelf of notes"]);
        let page = Question { page: Page { limit: 1, offset: 1 }, ..ask("notes", "", None) };
        let answer = window.find(&page);
        assert_eq!((answer.total, answer.cards[0].app.display_name.as_str()), (3, "Notes"));
    }

    #[test]
    fn the_later_count_stands_whenever_it_is_heard() {
        let window = window(&[("Shelf", "a")]);
        let id = AppId::new("app-0").unwrap();
        let tell = |revision, installs| {
            let counts = Counts { installs, featured: true, ..Counts::default() };
            let told = Told { revision, counts };
            window.shelves.write().change(&id, |card| {
                if told.revision >= card.revision {
                    (card.revision, card.counts) = (told.revision, told.counts);
                }
            });
        };
        tell(2, 7);
        tell(1, 3);
        let card = window.card(&id).unwrap();
        assert_eq!((card.counts.installs, window.featured(3).len()), (7, 1));
        assert_eq!(window.of_developer(UserId(1)).len(), 1);
        assert!(window.of_developer(UserId(2)).is_empty());
    }
}
