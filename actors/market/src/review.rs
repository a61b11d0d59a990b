//! Reviews: writing, changing, voting on and taking away what people think of an app.
//!
//! Invariants
//! - One review a person and app; whoever develops the app writes none. The service has checked
//!   that the author has the app installed.
//! - One vote a person and review; nobody votes on their own. Voting again changes the vote.
//!
//! Deliberate limit: a review whose author was erased keeps its rating and shows no words.

use persistence::codec;
use supervision::{Class, Command, Handle, Need, Refusal, Turn};
use types::{AppId, Personal, UserId};

use crate::listing::{
    Listing, ListingEvent, REVIEW_BY_FAMILY, REVIEW_FAMILY, ReviewRemoved, ReviewVoted,
    ReviewWritten, ReviewsNumbered, StoredReview, Told, VOTE_FAMILY, by_key, mark, review_key,
    told, vote_key,
};

/// What a review's title is sealed as.
pub const TITLE_LABEL: &str = "review.title";
/// What a review's text is sealed as.
pub const BODY_LABEL: &str = "review.body";
/// Characters of a title.
pub const TITLE_CHARACTERS_MAX: usize = 200;
/// Characters of a text, from and to.
pub const BODY_CHARACTERS: std::ops::RangeInclusive<usize> = 20..=5_000;
/// The code of a review that has no number to get: the service takes some and asks again.
pub(crate) const NUMBERS_NEEDED: &str = "review_numbers_needed";

/// The mark of somebody who writes or votes.
pub fn person(app: &AppId, user: UserId) -> u128 {
    mark(app, &[user.0])
}

/// 422 unless somebody can review so.
pub fn check_review(
    rating: Option<u8>,
    title: Option<&str>,
    body: Option<&str>,
) -> Result<(), Refusal> {
    if rating.is_some_and(|rating| !(1..=5).contains(&rating)) {
        return Err(Refusal::invalid("rating", "must be from 1 to 5"));
    }
    if let Some(title) = title {
        types::check_line(title).map_err(|error| Refusal::invalid("title", error.to_string()))?;
        if title.chars().count() > TITLE_CHARACTERS_MAX {
            let message = format!("at most {TITLE_CHARACTERS_MAX} characters");
            return Err(Refusal::invalid("title", message));
        }
    }
    if let Some(body) = body {
        types::check_lines(body).map_err(|error| Refusal::invalid("body", error.to_string()))?;
        if !BODY_CHARACTERS.contains(&body.trim().chars().count()) {
            let (from, to) = (BODY_CHARACTERS.start(), BODY_CHARACTERS.end());
            return Err(Refusal::invalid("body", format!("{from} to {to} characters")));
        }
    }
    Ok(())
}

/// Gives the next reviews their numbers. Ignored while some are left.
#[derive(Clone, Debug)]
pub struct NumberReviews {
    /// The app.
    pub app: AppId,
    /// The first number.
    pub first: u64,
    /// How many.
    pub count: u64,
}

impl Command for NumberReviews {
    const NAME: &'static str = "number_reviews";
}

impl Handle<NumberReviews> for Listing {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, command: NumberReviews) -> Result<(), Refusal> {
        let NumberReviews { app, first, count } = command;
        if turn.state().reviews_left == 0 {
            let numbered = ReviewsNumbered { app, first, count };
            turn.record(ListingEvent::ReviewsNumbered(numbered));
        }
        Ok(())
    }
}

/// A review as it is after a change, and what is counted of its app.
#[derive(Clone, Debug)]
pub struct Reviewed {
    /// The review.
    pub review: StoredReview,
    /// What is counted.
    pub told: Told,
}

/// Writes a review. Refused (409, `already_reviewed`) when the author has one.
#[derive(Clone, Debug)]
pub struct WriteReview {
    /// The app.
    pub app: AppId,
    /// Who writes: the words are sealed under their key.
    pub user: UserId,
    /// 1 to 5.
    pub rating: u8,
    /// The title.
    pub title: String,
    /// The text.
    pub body: String,
}

impl Command for WriteReview {
    const NAME: &'static str = "write_review";
}

impl Handle<WriteReview> for Listing {
    type Reply = Reviewed;

    fn needs(command: &WriteReview) -> Vec<Need> {
        let author = person(&command.app, command.user);
        vec![Need::Row(REVIEW_BY_FAMILY, by_key(&command.app, author))]
    }

    fn handle(turn: &mut Turn<'_, Self>, command: WriteReview) -> Result<Reviewed, Refusal> {
        let WriteReview { app, user, rating, title, body } = command;
        let author = person(&app, user);
        if turn.found_row(REVIEW_BY_FAMILY, &by_key(&app, author)).is_some() {
            let message = "you have reviewed this app already: change that review";
            return Err(Refusal::conflict("already_reviewed", message));
        }
        if turn.state().reviews_left == 0 {
            return Err(Refusal::conflict(NUMBERS_NEEDED, "there is no number for it yet"));
        }
        let (id, now) = (turn.state().next_review, turn.now());
        let review = StoredReview {
            id,
            author,
            rating,
            title: Personal::seal(turn.keys(), user, TITLE_LABEL, &title)?,
            body: Personal::seal(turn.keys(), user, BODY_LABEL, &body)?,
            created_at: now,
            updated_at: now,
            helpful: 0,
            unhelpful: 0,
        };
        let written = ReviewWritten { app, before: None, review: review.clone() };
        turn.record(ListingEvent::ReviewWritten(written));
        Ok(Reviewed { review, told: told(turn) })
    }
}

fn found(turn: &Turn<'_, Listing>, app: &AppId, id: u64) -> Result<StoredReview, Refusal> {
    let row = turn.found_row(REVIEW_FAMILY, &review_key(app, id));
    let row = row.ok_or_else(|| Refusal::not_found("review"))?;
    codec::decode(row).map_err(|_| Refusal::crashed())
}

fn not_yours() -> Refusal {
    Refusal::new(Class::Forbidden, "not_your_review", "this review is somebody else's")
}

/// Changes what is given of one's own review.
#[derive(Clone, Debug)]
pub struct ChangeReview {
    /// The app.
    pub app: AppId,
    /// The review.
    pub id: u64,
    /// Who changes it.
    pub user: UserId,
    /// 1 to 5.
    pub rating: Option<u8>,
    /// The title.
    pub title: Option<String>,
    /// The text.
    pub body: Option<String>,
}

impl Command for ChangeReview {
    const NAME: &'static str = "change_review";
}

impl Handle<ChangeReview> for Listing {
    type Reply = Reviewed;

    fn needs(command: &ChangeReview) -> Vec<Need> {
        vec![Need::Row(REVIEW_FAMILY, review_key(&command.app, command.id))]
    }

    fn handle(turn: &mut Turn<'_, Self>, command: ChangeReview) -> Result<Reviewed, Refusal> {
        let ChangeReview { app, id, user, rating, title, body } = command;
        let mut review = found(turn, &app, id)?;
        if review.author != person(&app, user) {
            return Err(not_yours());
        }
        let before = review.ranks();
        review.rating = rating.unwrap_or(review.rating);
        if let Some(title) = title {
            review.title = Personal::seal(turn.keys(), user, TITLE_LABEL, &title)?;
        }
        if let Some(body) = body {
            review.body = Personal::seal(turn.keys(), user, BODY_LABEL, &body)?;
        }
        review.updated_at = turn.now();
        let written = ReviewWritten { app, before: Some(before), review: review.clone() };
        turn.record(ListingEvent::ReviewWritten(written));
        Ok(Reviewed { review, told: told(turn) })
    }
}

/// Says whether a review helped. The same again changes nothing.
#[derive(Clone, Debug)]
pub struct Vote {
    /// The app.
    pub app: AppId,
    /// The review.
    pub id: u64,
    /// Who votes.
    pub user: UserId,
    /// Whether it helped.
    pub helpful: bool,
}

impl Command for Vote {
    const NAME: &'static str = "vote_review";
}

impl Handle<Vote> for Listing {
    type Reply = StoredReview;

    fn needs(command: &Vote) -> Vec<Need> {
        let Vote { app, id, user, .. } = command;
        let vote = vote_key(app, *id, person(app, *user));
        vec![Need::Row(REVIEW_FAMILY, review_key(app, *id)), Need::Row(VOTE_FAMILY, vote)]
    }

    fn handle(turn: &mut Turn<'_, Self>, command: Vote) -> Result<StoredReview, Refusal> {
        let Vote { app, id, user, helpful } = command;
        let voter = person(&app, user);
        let mut review = found(turn, &app, id)?;
        if review.author == voter {
            let message = "nobody votes on their own review";
            return Err(Refusal::new(Class::Forbidden, "own_review", message));
        }
        let known = turn.found_row(VOTE_FAMILY, &vote_key(&app, id, voter));
        let known: Option<bool> = known.and_then(|row| codec::decode(row).ok());
        if known == Some(helpful) {
            return Ok(review);
        }
        let before = review.ranks();
        match known {
            Some(true) => review.helpful = review.helpful.saturating_sub(1),
            Some(false) => review.unhelpful = review.unhelpful.saturating_sub(1),
            None => {}
        }
        match helpful {
            true => review.helpful += 1,
            false => review.unhelpful += 1,
        }
        let voted = ReviewVoted { app, voter, helpful, before, review: review.clone() };
        turn.record(ListingEvent::ReviewVoted(voted));
        Ok(review)
    }
}

/// Takes a review away: its author, or whoever keeps the marketplace.
#[derive(Clone, Debug)]
pub struct RemoveReview {
    /// The app.
    pub app: AppId,
    /// The review.
    pub id: u64,
    /// Its author; `None` for whoever keeps the marketplace.
    pub user: Option<UserId>,
}

impl Command for RemoveReview {
    const NAME: &'static str = "remove_review";
}

impl Handle<RemoveReview> for Listing {
    type Reply = Told;

    fn needs(command: &RemoveReview) -> Vec<Need> {
        vec![Need::Row(REVIEW_FAMILY, review_key(&command.app, command.id))]
    }

    fn handle(turn: &mut Turn<'_, Self>, command: RemoveReview) -> Result<Told, Refusal> {
        let RemoveReview { app, id, user } = command;
        let review = found(turn, &app, id)?;
        if user.is_some_and(|user| person(&app, user) != review.author) {
            return Err(not_yours());
        }
        let (author, before) = (review.author, review.ranks());
        turn.record(ListingEvent::ReviewRemoved(ReviewRemoved { app, id, author, before }));
        Ok(told(turn))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;
    use supervision::RowDraft;
    use supervision::testkit::Given;

    use super::*;
    use crate::listing::REVIEW_ORDER_FAMILY;

    fn app() -> AppId {
        AppId::new("shelf").unwrap()
    }

    /// A listing with the rows that it has written.
    struct Kept {
        given: Given<Listing>,
        rows: HashMap<(&'static str, Vec<u8>), Vec<u8>>,
    }

    impl Kept {
        fn new() -> Self {
            let number = NumberReviews { app: app(), first: 100, count: 1_000 };
            Self { given: Given::nothing().when(number).then(), rows: HashMap::new() }
        }

        fn ask<C>(&mut self, command: C) -> Result<<Listing as Handle<C>>::Reply, Refusal>
        where
            C: Command,
            Listing: Handle<C>,
        {
            let mut given = std::mem::take(&mut self.given);
            for need in Listing::needs(&command) {
                let Need::Row(family, key) = need else { continue };
                if let Some(value) = self.rows.get(&(family, key.clone())) {
                    given = given.row(family, &key, value);
                }
            }
            let then = given.when(command);
            self.given = then.given;
            for RowDraft { family, key, value } in then.rows {
                match value {
                    Some(value) => self.rows.insert((family, key), value),
                    None => self.rows.remove(&(family, key)),
                };
            }
            then.outcome
        }

        fn write(&mut self, user: u128, rating: u8) -> Result<StoredReview, Refusal> {
            let (title, body) = ("Good".to_owned(), "It does what it says it does".to_owned());
            let review = WriteReview { app: app(), user: UserId(user), rating, title, body };
            self.ask(review).map(|reviewed| reviewed.review)
        }

        fn vote(&mut self, user: u128, id: u64, helpful: bool) -> Result<StoredReview, Refusal> {
            self.ask(Vote { app: app(), id, user: UserId(user), helpful })
        }

        fn count(&self, family: &str) -> usize {
            self.rows.keys().filter(|(known, _)| *known == family).count()
        }
    }

    fn code<T: std::fmt::Debug>(outcome: Result<T, Refusal>) -> String {
        outcome.unwrap_err().code
    }

    #[test]
    fn a_person_has_one_review_and_one_vote_on_each() {
        let mut kept = Kept::new();
        let first = kept.write(1, 5).unwrap();
        assert_eq!(first.id, 100);
        assert_eq!(code(kept.write(1, 1)), "already_reviewed");
        assert_eq!(code(kept.vote(1, 100, true)), "own_review");
        assert_eq!(kept.vote(2, 100, true).unwrap().helpful, 1);
        assert_eq!(kept.vote(2, 100, true).unwrap().helpful, 1, "once");
        let changed = kept.vote(2, 100, false).unwrap();
        assert_eq!((changed.helpful, changed.unhelpful), (0, 1));
        assert_eq!(code(kept.vote(2, 999, true)), "not_found");
        assert_eq!(
            code(kept.ask(RemoveReview { app: app(), id: 100, user: Some(UserId(2)) })),
            "not_your_review"
        );
        let change = |user: u128| ChangeReview {
            app: app(),
            id: 100,
            user: UserId(user),
            rating: Some(2),
            title: None,
            body: None,
        };
        assert_eq!(code(kept.ask(change(2))), "not_your_review");
        let reviewed = kept.ask(change(1)).unwrap();
        assert_eq!((reviewed.told.counts.rating_sum, reviewed.told.counts.reviews), (2, 1));
        let left = kept.ask(RemoveReview { app: app(), id: 100, user: None }).unwrap();
        assert_eq!((left.counts.rating_sum, left.counts.reviews), (0, 0));
        assert_eq!(kept.count(REVIEW_ORDER_FAMILY), 0);
        assert_eq!(kept.write(1, 4).unwrap().id, 101, "a number is not given twice");
    }

    #[test]
    fn the_words_are_their_authors_and_go_with_the_key() {
        let mut kept = Kept::new();
        let review = kept.write(1, 5).unwrap();
        let keys = kept.given.keys();
        assert_eq!(review.title.open(keys, TITLE_LABEL).as_deref(), Some("Good"));
        let key = persistence::KeyId { class: supervision::address::USER_KEY_CLASS, id: 1 };
        keys.erase(key).unwrap();
        assert_eq!(review.body.open(keys, BODY_LABEL), None);
    }

    #[test]
    fn a_review_without_a_number_waits_for_one() {
        let mut kept = Kept { given: Given::nothing(), rows: HashMap::new() };
        assert_eq!(code(kept.write(1, 5)), NUMBERS_NEEDED);
        assert_eq!(kept.given.state().numbers_wanted(), Some(16));
        kept.ask(NumberReviews { app: app(), first: 7, count: 16 }).unwrap();
        kept.ask(NumberReviews { app: app(), first: 50, count: 16 }).unwrap();
        assert_eq!(kept.write(1, 5).unwrap().id, 7, "the numbers that came first");
    }

    #[test]
    fn what_is_no_review_is_refused() {
        let long = "x".repeat(5_001);
        for (rating, title, body) in [
            (Some(0), None, None),
            (Some(6), None, None),
            (None, Some("a\nb"), None),
            (None, None, Some("too short")),
            (None, None, Some(long.as_str())),
        ] {
            assert_eq!(code(check_review(rating, title, body)), "validation_error");
        }
        assert!(check_review(Some(5), Some(""), Some("twenty characters and more")).is_ok());
    }

    proptest! {
        /// Whatever people do, the sums are those of the reviews that are there.
        #[test]
        fn the_sums_are_those_of_the_reviews(
            acts in prop::collection::vec((0..5_u8, 1..6_u128, 1..6_u8), 1..60),
        ) {
            let mut kept = Kept::new();
            let mut ids: HashMap<u128, u64> = HashMap::new();
            for (act, user, rating) in acts {
                let id = ids.get(&user).copied().unwrap_or(100);
                let _ = match act {
                    0 | 1 => kept.write(user, rating).map(|review| {
                        ids.insert(user, review.id);
                    }),
                    2 => kept.vote(user, u64::from(rating) + 99, rating % 2 == 0).map(drop),
                    3 => {
                        let (app, user) = (app(), UserId(user));
                        let (rating, title, body) = (Some(rating), None, None);
                        kept.ask(ChangeReview { app, id, user, rating, title, body }).map(drop)
                    }
                    _ => {
                        let user = Some(UserId(user));
                        kept.ask(RemoveReview { app: app(), id, user }).map(drop)
                    }
                };
            }
            let reviews = kept.rows.iter().filter(|((family, _), _)| *family == REVIEW_FAMILY);
            let reviews: Vec<StoredReview> =
                reviews.map(|(_, value)| codec::decode(value).unwrap()).collect();
            let counts = kept.given.state().counts();
            let sum: u64 = reviews.iter().map(|review| u64::from(review.rating)).sum();
            prop_assert_eq!((counts.reviews, counts.rating_sum), (reviews.len() as u64, sum));
            prop_assert_eq!(kept.count(REVIEW_ORDER_FAMILY), 2 * reviews.len());
            let votes: u32 = reviews.iter().map(|it| it.helpful + it.unhelpful).sum();
            prop_assert!(votes as usize <= kept.count(VOTE_FAMILY));
        }
    }
}
