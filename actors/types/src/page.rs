//! Pages of lists: `limit` and `offset`, or `page` and `per_page`, or a cursor on append-only sets.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The longest cursor, in bytes of the key it holds.
pub const CURSOR_BYTES_MAX: usize = 512;

/// Which part of a list is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// How many items at most.
    pub limit: usize,
    /// How many to leave out before them.
    pub offset: usize,
}

impl Page {
    /// A page by `limit` and `offset`; `limit` is `default` when not given, and from 1 to `max`.
    pub fn by_offset(
        limit: Option<usize>,
        offset: Option<usize>,
        default: usize,
        max: usize,
    ) -> Self {
        let limit = limit.unwrap_or(default).clamp(1, max.max(1));
        Self { limit, offset: offset.unwrap_or(0) }
    }

    /// A page by its number, from 1, and size.
    pub fn by_number(
        page: Option<usize>,
        per_page: Option<usize>,
        default: usize,
        max: usize,
    ) -> Self {
        let limit = per_page.unwrap_or(default).clamp(1, max.max(1));
        let pages_before = page.unwrap_or(1).saturating_sub(1);
        Self { limit, offset: pages_before.saturating_mul(limit) }
    }

    /// This page's number, from 1.
    pub fn number(self) -> usize {
        self.offset / self.limit.max(1) + 1
    }

    /// The items of this page.
    pub fn of<T>(self, items: impl IntoIterator<Item = T>) -> Vec<T> {
        items.into_iter().skip(self.offset).take(self.limit).collect()
    }
}

/// Where a page ended: the last key, opaque to callers. It grants nothing; the reader of the list
/// checks whose rows it reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor(pub Vec<u8>);

/// A text is no cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is not a cursor that a list has given")]
pub struct CursorError;

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64URL_NOPAD.encode(&self.0))
    }
}

impl FromStr for Cursor {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Self, CursorError> {
        let key = BASE64URL_NOPAD.decode(text.as_bytes()).map_err(|_| CursorError)?;
        if key.is_empty() || key.len() > CURSOR_BYTES_MAX {
            Err(CursorError)
        } else {
            Ok(Self(key))
        }
    }
}

impl Serialize for Cursor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cursor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

impl utoipa::ToSchema for Cursor {}

impl utoipa::PartialSchema for Cursor {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        String::schema()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_of_paging_give_the_same_items() {
        let items = 0..100;
        let by_offset = Page::by_offset(Some(10), Some(20), 50, 200);
        let by_number = Page::by_number(Some(3), Some(10), 50, 200);
        assert_eq!(by_offset, by_number);
        assert_eq!(by_offset.number(), 3);
        assert_eq!(by_offset.of(items), (20..30).collect::<Vec<_>>());
    }

    #[test]
    fn a_page_is_never_empty_nor_beyond_the_limit() {
        assert_eq!(Page::by_offset(None, None, 50, 200), Page { limit: 50, offset: 0 });
        assert_eq!(Page::by_offset(Some(0), None, 50, 200).limit, 1);
        assert_eq!(Page::by_offset(Some(1_000), None, 50, 200).limit, 200);
        assert_eq!(Page::by_number(Some(0), None, 50, 200).offset, 0);
        let far = Page::by_number(Some(usize::MAX), Some(200), 50, 200);
        assert!(far.of(0..10).is_empty());
    }

    #[test]
    fn a_cursor_is_read_back_and_anything_else_is_refused() {
        let cursor = Cursor(vec![0, 255, 7]);
        assert_eq!(cursor.to_string().parse(), Ok(cursor));
        let long = Cursor(vec![0; CURSOR_BYTES_MAX + 1]).to_string();
        for text in ["", "a b", "=", long.as_str()] {
            assert_eq!(text.parse::<Cursor>(), Err(CursorError));
        }
    }
}
