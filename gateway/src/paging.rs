//! The pages of lists: one reader of `limit`, `offset`, `page` and `per_page` for all of them, so
//! that a number that is none, or out of range, is the same 422 everywhere.

use serde::Deserialize;
use supervision::Refusal;
use types::Page;
use utoipa::IntoParams;

/// How many items a page has when not told.
pub const PAGE_DEFAULT: usize = 50;
/// The most items of a page.
pub const PAGE_MAX: usize = 200;

/// A page of a list. Take it with [`crate::extract::Query`].
#[derive(Clone, Copy, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// How many at most: 1 to 200, default 50
    limit: Option<usize>,
    /// How many to leave out first
    offset: Option<usize>,
}

impl PageQuery {
    /// The query of a list that has further parameters.
    pub fn new(limit: Option<usize>, offset: Option<usize>) -> Self {
        Self { limit, offset }
    }

    /// The page, of [`PAGE_DEFAULT`] to [`PAGE_MAX`] items. 422 for a `limit` out of range.
    pub fn page(self) -> Result<Page, Refusal> {
        self.page_within(PAGE_DEFAULT, PAGE_MAX)
    }

    /// The same for a list with limits of its own.
    pub fn page_within(self, default: usize, max: usize) -> Result<Page, Refusal> {
        within("limit", self.limit, max)?;
        Ok(Page::by_offset(self.limit, self.offset, default, max))
    }
}

/// Refuses (422, naming the parameter) a number of items that is not from 1 to `max`.
pub fn within(name: &str, items: Option<usize>, max: usize) -> Result<(), Refusal> {
    let fits = items.is_none_or(|items| (1..=max).contains(&items));
    let message = || format!("must be from 1 to {max}");
    fits.then_some(()).ok_or_else(|| Refusal::invalid_at("query", name, message()))
}

/// Refuses (422) a page's number that is not from 1 on.
pub fn from_one(name: &str, page: Option<usize>) -> Result<(), Refusal> {
    let fits = page.is_none_or(|page| page > 0);
    fits.then_some(()).ok_or_else(|| Refusal::invalid_at("query", name, "must be 1 or more"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_within_its_limits_or_refused() {
        let query = |limit| PageQuery { limit, offset: Some(3) };
        assert_eq!(query(None).page().unwrap(), Page { limit: PAGE_DEFAULT, offset: 3 });
        assert_eq!(query(Some(PAGE_MAX)).page().unwrap().limit, PAGE_MAX);
        for limit in [0, PAGE_MAX + 1] {
            let refusal = query(Some(limit)).page().unwrap_err();
            assert!(refusal.message.starts_with("limit: must be from 1 to 200"), "{refusal}");
            assert!(refusal.facts.unwrap().contains("\"query\""));
        }
        assert!(from_one("page", Some(0)).is_err() && from_one("page", Some(1)).is_ok());
    }
}
