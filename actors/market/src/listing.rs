//! A listing: what the marketplace knows of an app beside what its developer says: how many have
//! it installed, what they think of it, its tags, and whether it is shown first.
//!
//! Invariants
//! - An install counts once, however often it is told: each says which of the installer's changes
//!   it is, and only a later one counts.
//! - A person has one review of an app and one vote on each review; the sum of the ratings is kept
//!   in the same turn as the review.
//! - Who installs, writes or votes stands in the developer's chain as a [`mark`] alone, which tells
//!   nobody who it is; what a review says is sealed under its author's own key and goes with it.
//!
//! Rows, in the app's shard, sealed under its developer's tenant:
//!
//! | family | key | value |
//! | --- | --- | --- |
//! | [`LISTING_FAMILY`] | the app's id | [`Counts`] |
//! | [`MARK_FAMILY`] | app, installer's mark | the last change that counted |
//! | [`REVIEW_FAMILY`] | app, review's number | [`StoredReview`] |
//! | [`REVIEW_BY_FAMILY`] | app, author's mark | the review's number |
//! | [`REVIEW_ORDER_FAMILY`] | app, order, rank, number | nothing |
//! | [`VOTE_FAMILY`] | app, number, voter's mark | whether it was helpful |
//! | [`REVIEW_RANGE_FAMILY`] | the first of a range of numbers | how many, and whose |
//! | [`DEPLOY_NOTE_FAMILY`] | app, place | [`DeployNote`] |
//!
//! Deliberate limit: votes on a review that was removed stay as rows that nobody reads.

use persistence::codec;
use persistence::record::sha256;
use serde::{Deserialize, Serialize};
use serde_json::json;
use supervision::{
    Address, Command, Entity, Handle, Home, Need, NoEffect, Refusal, RowDraft, Timestamp, Turn,
};
use types::{AppId, Personal, owner_of_app};

/// What is counted of each app.
pub const LISTING_FAMILY: &str = "listing";
/// Who has it, by mark.
pub const MARK_FAMILY: &str = "listing_mark";
/// The reviews.
pub const REVIEW_FAMILY: &str = "review";
/// The reviews by their authors.
pub const REVIEW_BY_FAMILY: &str = "review_by";
/// The reviews in the orders of lists.
pub const REVIEW_ORDER_FAMILY: &str = "review_order";
/// The votes.
pub const VOTE_FAMILY: &str = "review_vote";
/// Whose review has which number.
pub const REVIEW_RANGE_FAMILY: &str = "review_range";
/// What developers have noted of deploys elsewhere.
pub const DEPLOY_NOTE_FAMILY: &str = "deploy_note";

/// How many tags an app has.
pub const TAGS_MAX: usize = 10;
/// Characters of a tag.
pub const TAG_CHARACTERS_MAX: usize = 30;

/// Somebody within one app, without saying who: the first 128 bits of a SHA-256.
pub fn mark(app: &AppId, parts: &[u128]) -> u128 {
    let numbers: Vec<u8> = parts.iter().flat_map(|part| part.to_be_bytes()).collect();
    let digest = sha256(&[app.as_str().as_bytes(), &[0], &numbers]);
    digest.first_chunk().map_or(0, |bytes| u128::from_be_bytes(*bytes))
}

/// A key within an app: its number, then these parts.
pub(crate) fn key(app: &AppId, parts: &[&[u8]]) -> Vec<u8> {
    let mut key = app.owner_number().to_be_bytes().to_vec();
    parts.iter().for_each(|part| key.extend_from_slice(part));
    key
}

pub(crate) fn review_key(app: &AppId, id: u64) -> Vec<u8> {
    key(app, &[&id.to_be_bytes()])
}

pub(crate) fn by_key(app: &AppId, author: u128) -> Vec<u8> {
    key(app, &[&author.to_be_bytes()])
}

pub(crate) fn vote_key(app: &AppId, id: u64, voter: u128) -> Vec<u8> {
    key(app, &[&id.to_be_bytes(), &voter.to_be_bytes()])
}

/// The orders that reviews are kept in, beside that of their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Order {
    /// How many found it helpful.
    Helpful = 0,
    /// The rating.
    Rating = 1,
}

pub(crate) fn order_prefix(app: &AppId, order: Order) -> Vec<u8> {
    key(app, &[&[order as u8]])
}

fn order_keys(app: &AppId, ranks: Ranks, id: u64) -> [Vec<u8>; 2] {
    let at = |order, rank: u32| {
        [order_prefix(app, order), rank.to_be_bytes().to_vec(), id.to_be_bytes().to_vec()].concat()
    };
    [at(Order::Helpful, ranks.helpful), at(Order::Rating, u32::from(ranks.rating))]
}

/// What is counted of an app.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// How many have it installed.
    pub installs: u64,
    /// The sum of all ratings.
    pub rating_sum: u64,
    /// How many reviews there are.
    pub reviews: u64,
    /// Whether it is shown first.
    pub featured: bool,
    /// Its tags.
    pub tags: Vec<String>,
}

/// What is counted, and after which record: the later one counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The number of the listing's last record.
    pub revision: u64,
    /// What is counted.
    pub counts: Counts,
}

/// What a review's places in the orders follow from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ranks {
    /// 1 to 5.
    pub rating: u8,
    /// How many found it helpful.
    pub helpful: u32,
}

/// A review as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StoredReview {
    /// Its number, unique over the installation.
    pub id: u64,
    /// Its author's mark.
    pub author: u128,
    /// 1 to 5.
    pub rating: u8,
    /// The title, sealed.
    pub title: Personal,
    /// What it says, sealed.
    pub body: Personal,
    /// Since when.
    pub created_at: Timestamp,
    /// The last change of what it says.
    pub updated_at: Timestamp,
    /// How many found it helpful.
    pub helpful: u32,
    /// How many did not.
    pub unhelpful: u32,
}

impl StoredReview {
    pub(crate) fn ranks(&self) -> Ranks {
        Ranks { rating: self.rating, helpful: self.helpful }
    }
}

/// A deploy elsewhere, as a developer has noted it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeployNote {
    /// What was deployed.
    pub commit_sha: String,
    /// success, warning or failed.
    pub status: String,
    /// Why it failed.
    pub error_message: String,
    /// When it was noted.
    pub at: Timestamp,
}

/// A listing.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Listing {
    pub(crate) counts: Counts,
    /// The number that the next review gets, and how many are left from there.
    pub(crate) next_review: u64,
    pub(crate) reviews_left: u64,
    /// How many numbers it was ever given.
    pub(crate) numbers: u64,
    deploys: u64,
}

impl Listing {
    /// Where the listing of an app lives whose records are in `home`.
    pub fn address(app: &AppId, home: Home) -> Address<Self> {
        let address = Address::new(app.as_str(), owner_of_app(app), home);
        // A slug is neither empty, nor too long, nor unprintable.
        address.unwrap_or_else(|| panic!("{app} has no address"))
    }

    /// What is counted.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// How many numbers for reviews to take next; `None` while some are left.
    pub(crate) fn numbers_wanted(&self) -> Option<u64> {
        (self.reviews_left == 0).then_some(self.numbers.clamp(16, 1 << 20))
    }
}

/// Somebody installed the app, or took it off.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InstallCounted {
    /// The app.
    pub app: AppId,
    /// Who, by mark.
    pub installer: u128,
    /// Which of the installer's changes it is.
    pub number: u64,
    /// Whether it is installed now.
    pub installed: bool,
    /// Whether it was before.
    pub was_installed: bool,
}

/// Reviews get the numbers from `first` on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReviewsNumbered {
    /// The app.
    pub app: AppId,
    /// The first number.
    pub first: u64,
    /// How many.
    pub count: u64,
}

/// A review was written or written anew.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReviewWritten {
    /// The app.
    pub app: AppId,
    /// Its places before; `None` for a new one.
    pub before: Option<Ranks>,
    /// The review.
    pub review: StoredReview,
}

/// Somebody said whether a review helped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReviewVoted {
    /// The app.
    pub app: AppId,
    /// Who, by mark.
    pub voter: u128,
    /// Whether it did.
    pub helpful: bool,
    /// Its places before.
    pub before: Ranks,
    /// The review.
    pub review: StoredReview,
}

/// A review was taken away.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReviewRemoved {
    /// The app.
    pub app: AppId,
    /// Its number.
    pub id: u64,
    /// Its author's mark.
    pub author: u128,
    /// Its places.
    pub before: Ranks,
}

/// It is shown first from now on, or no more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Featured {
    /// The app.
    pub app: AppId,
    /// Whether it is.
    pub featured: bool,
}

/// It has these tags from now on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tagged {
    /// The app.
    pub app: AppId,
    /// All of them.
    pub tags: Vec<String>,
}

/// A developer noted a deploy elsewhere.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeployNoted {
    /// The app.
    pub app: AppId,
    /// The deploy.
    pub note: DeployNote,
}

supervision::events! {
    /// What happens to a listing.
    pub enum ListingEvent {
        /// An install more or less.
        InstallCounted(InstallCounted) = "install_tallied", 1;
        /// Numbers for reviews.
        ReviewsNumbered(ReviewsNumbered) = "reviews_numbered", 1;
        /// A review, or a change of one.
        ReviewWritten(ReviewWritten) = "review_written", 1;
        /// A vote.
        ReviewVoted(ReviewVoted) = "review_voted", 1;
        /// A review less.
        ReviewRemoved(ReviewRemoved) = "review_removed", 1;
        /// Shown first, or no more.
        Featured(Featured) = "featured", 1;
        /// Other tags.
        Tagged(Tagged) = "tagged", 1;
        /// A deploy elsewhere.
        DeployNoted(DeployNoted) = "deploy_noted", 1;
    }
}

impl ListingEvent {
    /// The app that it is about.
    pub fn app(&self) -> &AppId {
        match self {
            Self::InstallCounted(it) => &it.app,
            Self::ReviewsNumbered(it) => &it.app,
            Self::ReviewWritten(it) => &it.app,
            Self::ReviewVoted(it) => &it.app,
            Self::ReviewRemoved(it) => &it.app,
            Self::Featured(it) => &it.app,
            Self::Tagged(it) => &it.app,
            Self::DeployNoted(it) => &it.app,
        }
    }
}

impl Counts {
    /// Takes in what an event changes of it. Says whether it did.
    fn take_in(&mut self, event: &ListingEvent) -> bool {
        let before = self.clone();
        match event {
            ListingEvent::InstallCounted(it) => {
                let change = i64::from(it.installed) - i64::from(it.was_installed);
                self.installs = self.installs.saturating_add_signed(change);
            }
            ListingEvent::ReviewWritten(it) => {
                let (new, old) = (it.review.rating, it.before.map(|ranks| ranks.rating));
                self.reviews += u64::from(old.is_none());
                self.rating_sum += u64::from(new);
                self.rating_sum = self.rating_sum.saturating_sub(u64::from(old.unwrap_or(0)));
            }
            ListingEvent::ReviewRemoved(it) => {
                self.reviews = self.reviews.saturating_sub(1);
                self.rating_sum = self.rating_sum.saturating_sub(u64::from(it.before.rating));
            }
            ListingEvent::Featured(it) => self.featured = it.featured,
            ListingEvent::Tagged(it) => self.tags.clone_from(&it.tags),
            ListingEvent::ReviewsNumbered(_)
            | ListingEvent::ReviewVoted(_)
            | ListingEvent::DeployNoted(_) => {}
        }
        *self != before
    }
}

impl Entity for Listing {
    const KIND: &'static str = "listing";
    type Event = ListingEvent;
    type Effect = NoEffect;

    fn apply(&mut self, event: &ListingEvent, _: Timestamp) {
        self.counts.take_in(event);
        match event {
            ListingEvent::ReviewsNumbered(it) => {
                (self.next_review, self.reviews_left) = (it.first, it.count);
                self.numbers += it.count;
            }
            ListingEvent::ReviewWritten(it) if it.before.is_none() => {
                self.next_review = it.review.id + 1;
                self.reviews_left = self.reviews_left.saturating_sub(1);
            }
            ListingEvent::DeployNoted(_) => self.deploys += 1,
            _ => {}
        }
    }

    fn rows(&self, event: &ListingEvent, _: Timestamp, rows: &mut Vec<RowDraft>) {
        let mut counts = self.counts.clone();
        if counts.take_in(event) {
            put(rows, LISTING_FAMILY, event.app().as_str().as_bytes().to_vec(), &counts);
        }
        match event {
            ListingEvent::InstallCounted(it) => {
                let key = by_key(&it.app, it.installer);
                put(rows, MARK_FAMILY, key, &(it.number, it.installed));
            }
            ListingEvent::ReviewsNumbered(it) => {
                let key = it.first.to_be_bytes().to_vec();
                put(rows, REVIEW_RANGE_FAMILY, key, &(it.count, it.app.clone()));
            }
            ListingEvent::ReviewWritten(it) => {
                review_rows(&it.app, it.before, &it.review, rows);
                put(rows, REVIEW_BY_FAMILY, by_key(&it.app, it.review.author), &it.review.id);
            }
            ListingEvent::ReviewVoted(it) => {
                review_rows(&it.app, Some(it.before), &it.review, rows);
                let key = vote_key(&it.app, it.review.id, it.voter);
                put(rows, VOTE_FAMILY, key, &it.helpful);
            }
            ListingEvent::ReviewRemoved(it) => {
                remove(rows, REVIEW_FAMILY, review_key(&it.app, it.id));
                remove(rows, REVIEW_BY_FAMILY, by_key(&it.app, it.author));
                for key in order_keys(&it.app, it.before, it.id) {
                    remove(rows, REVIEW_ORDER_FAMILY, key);
                }
            }
            ListingEvent::DeployNoted(it) => {
                let place = (self.deploys + 1).to_be_bytes();
                put(rows, DEPLOY_NOTE_FAMILY, key(&it.app, &[&place]), &it.note);
            }
            ListingEvent::Featured(_) | ListingEvent::Tagged(_) => {}
        }
    }

    fn observe(&self) -> serde_json::Value {
        json!({"installs": self.counts.installs, "reviews": self.counts.reviews,
            "rating_sum": self.counts.rating_sum, "featured": self.counts.featured,
            "tags": self.counts.tags, "deploys_noted": self.deploys})
    }
}

fn review_rows(
    app: &AppId,
    before: Option<Ranks>,
    review: &StoredReview,
    rows: &mut Vec<RowDraft>,
) {
    for key in before.into_iter().flat_map(|ranks| order_keys(app, ranks, review.id)) {
        remove(rows, REVIEW_ORDER_FAMILY, key);
    }
    for key in order_keys(app, review.ranks(), review.id) {
        put(rows, REVIEW_ORDER_FAMILY, key, &());
    }
    put(rows, REVIEW_FAMILY, review_key(app, review.id), review);
}

pub(crate) fn put(
    rows: &mut Vec<RowDraft>,
    family: &'static str,
    key: Vec<u8>,
    value: &impl Serialize,
) {
    // Numbers and texts of bounded length always encode; if not, the turn crashes unrecorded.
    let value = codec::encode(value).unwrap_or_else(|error| panic!("a row of {family}: {error}"));
    rows.push(RowDraft { family, key, value: Some(value) });
}

pub(crate) fn remove(rows: &mut Vec<RowDraft>, family: &'static str, key: Vec<u8>) {
    rows.push(RowDraft { family, key, value: None });
}

/// What is counted now.
pub(crate) fn told(turn: &Turn<'_, Listing>) -> Told {
    Told { revision: turn.seq(), counts: turn.state().counts.clone() }
}

/// Counts an install or the end of one. What is not later than what was counted before changes
/// nothing.
#[derive(Clone, Debug)]
pub struct CountInstall {
    /// The app.
    pub app: AppId,
    /// Who, by mark.
    pub installer: u128,
    /// Which of the installer's changes it is.
    pub number: u64,
    /// Whether it is installed now.
    pub installed: bool,
}

impl Command for CountInstall {
    const NAME: &'static str = "count_install";
    const ESSENTIAL: bool = true;
}

impl Handle<CountInstall> for Listing {
    type Reply = Told;

    fn needs(command: &CountInstall) -> Vec<Need> {
        vec![Need::Row(MARK_FAMILY, by_key(&command.app, command.installer))]
    }

    fn handle(turn: &mut Turn<'_, Self>, command: CountInstall) -> Result<Told, Refusal> {
        let CountInstall { app, installer, number, installed } = command;
        let known = turn.found_row(MARK_FAMILY, &by_key(&app, installer));
        let known: Option<(u64, bool)> = known.and_then(|row| codec::decode(row).ok());
        let (last, was_installed) = known.unwrap_or_default();
        if number > last {
            let counted = InstallCounted { app, installer, number, installed, was_installed };
            turn.record(ListingEvent::InstallCounted(counted));
        }
        Ok(told(turn))
    }
}

/// Shows the app first from now on, or no more.
#[derive(Clone, Debug)]
pub struct Feature {
    /// The app.
    pub app: AppId,
    /// Whether it is shown first.
    pub featured: bool,
}

impl Command for Feature {
    const NAME: &'static str = "feature";
}

impl Handle<Feature> for Listing {
    type Reply = Told;

    fn handle(turn: &mut Turn<'_, Self>, command: Feature) -> Result<Told, Refusal> {
        let Feature { app, featured } = command;
        if turn.state().counts.featured != featured {
            turn.record(ListingEvent::Featured(Featured { app, featured }));
        }
        Ok(told(turn))
    }
}

/// Gives the app these tags.
#[derive(Clone, Debug)]
pub struct SetTags {
    /// The app.
    pub app: AppId,
    /// All of them: at most [`TAGS_MAX`] of at most [`TAG_CHARACTERS_MAX`] characters.
    pub tags: Vec<String>,
}

impl Command for SetTags {
    const NAME: &'static str = "set_tags";
}

impl Handle<SetTags> for Listing {
    type Reply = Told;

    fn handle(turn: &mut Turn<'_, Self>, command: SetTags) -> Result<Told, Refusal> {
        let SetTags { app, tags } = command;
        if turn.state().counts.tags != tags {
            turn.record(ListingEvent::Tagged(Tagged { app, tags }));
        }
        Ok(told(turn))
    }
}

/// 422 unless these can be an app's tags.
pub fn check_tags(tags: &[String]) -> Result<(), Refusal> {
    let fits = |tag: &String| {
        (1..=TAG_CHARACTERS_MAX).contains(&tag.chars().count()) && types::check_line(tag).is_ok()
    };
    let message =
        || format!("at most {TAGS_MAX} of 1 to {TAG_CHARACTERS_MAX} characters in one line each");
    let fit = tags.len() <= TAGS_MAX && tags.iter().all(fits);
    fit.then_some(()).ok_or_else(|| Refusal::invalid("tags", message()))
}

/// Notes a deploy elsewhere.
#[derive(Clone, Debug)]
pub struct NoteDeploy {
    /// The app.
    pub app: AppId,
    /// The deploy; its time is set here.
    pub note: DeployNote,
}

impl Command for NoteDeploy {
    const NAME: &'static str = "note_deploy";
}

impl Handle<NoteDeploy> for Listing {
    type Reply = DeployNote;

    fn handle(turn: &mut Turn<'_, Self>, command: NoteDeploy) -> Result<DeployNote, Refusal> {
        let NoteDeploy { app, note } = command;
        let note = DeployNote { at: turn.now(), ..note };
        turn.record(ListingEvent::DeployNoted(DeployNoted { app, note: note.clone() }));
        Ok(note)
    }
}

#[cfg(test)]
mod tests {
    use supervision::testkit::Given;

    use super::*;

    fn app() -> AppId {
        AppId::new("shelf").unwrap()
    }

    /// A repetition comes with the row that the first one left.
    fn count(
        given: Given<Listing>,
        installer: u128,
        number: u64,
        installed: bool,
        row: Option<(u64, bool)>,
    ) -> (u64, Given<Listing>) {
        let given = match row {
            Some(row) => {
                let value = codec::encode(&row).unwrap();
                given.row(MARK_FAMILY, &by_key(&app(), installer), &value)
            }
            None => given,
        };
        let command = CountInstall { app: app(), installer, number, installed };
        let (told, given) = given.when(command).reply();
        (told.counts.installs, given)
    }

    #[test]
    fn an_install_counts_once_and_a_late_word_not_at_all() {
        let (installs, given) = count(Given::nothing(), 1, 1, true, None);
        assert_eq!(installs, 1);
        let (installs, given) = count(given, 1, 1, true, Some((1, true)));
        assert_eq!(installs, 1, "told twice");
        let (installs, given) = count(given, 2, 1, true, None);
        assert_eq!(installs, 2);
        let (installs, given) = count(given, 1, 3, true, Some((1, true)));
        assert_eq!(installs, 2, "taken off and put on again");
        let (installs, given) = count(given, 1, 2, false, Some((3, true)));
        assert_eq!(installs, 2, "what was overtaken");
        let (installs, given) = count(given, 1, 4, false, Some((3, true)));
        assert_eq!(installs, 1);
        assert_eq!(given.state().counts().installs, 1);
    }

    #[test]
    fn a_mark_is_of_one_person_in_one_app() {
        let other = AppId::new("notes").unwrap();
        let marks =
            [mark(&app(), &[1]), mark(&app(), &[2]), mark(&other, &[1]), mark(&app(), &[1, 2])];
        let distinct: std::collections::BTreeSet<_> = marks.into_iter().collect();
        assert_eq!((distinct.len(), mark(&app(), &[1])), (4, marks[0]));
    }

    #[test]
    fn tags_are_few_short_lines() {
        let tags = |texts: &[&str]| texts.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>();
        assert!(check_tags(&tags(&["books", "reading list"])).is_ok());
        for wrong in [tags(&[""]), tags(&["a\nb"]), vec!["x".repeat(31)], vec!["x".to_owned(); 11]]
        {
            assert_eq!(check_tags(&wrong).unwrap_err().code, "validation_error");
        }
    }
}
