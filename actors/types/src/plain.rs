//! Text that people write for people: names, reasons, descriptions.
//!
//! What cannot be seen is no part of it: control characters, and the characters that make text
//! run or read other than it is stored (Unicode Technical Report 36, section 2.5: the overrides,
//! embeddings and isolates of UAX 9, and the marks of direction). So a name in a list, a log or
//! a terminal is what it looks like.
//!
//! Deliberate limits: letters that look alike are not told apart, and joiners within words stay,
//! because scripts and emoji need them.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, de};

/// A text is not plain, or not as long as it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlainError {
    /// It holds what cannot be seen.
    #[error("must not hold control characters or marks that change the direction of text")]
    Unseen,
    /// It is shorter or longer than its field allows.
    #[error("must have {min} to {max} characters")]
    Length {
        /// The fewest characters.
        min: usize,
        /// The most characters.
        max: usize,
    },
}

/// Whether a character is seen, or at most parts words.
fn is_seen(letter: char) -> bool {
    !letter.is_control() && !changes_direction(letter) && !is_line_end(letter)
}

fn changes_direction(letter: char) -> bool {
    matches!(letter, '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2066}'..='\u{2069}' | '\u{206a}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
        | '\u{e0000}'..='\u{e007f}')
}

/// The line and the paragraph separator, which are no control characters.
fn is_line_end(letter: char) -> bool {
    matches!(letter, '\u{2028}' | '\u{2029}')
}

/// Checks one line of text.
pub fn check_line(text: &str) -> Result<(), PlainError> {
    text.chars().all(is_seen).then_some(()).ok_or(PlainError::Unseen)
}

/// Checks text that may have several lines, with tabs.
pub fn check_lines(text: &str) -> Result<(), PlainError> {
    let is_fit = |letter| matches!(letter, '\n' | '\r' | '\t') || is_seen(letter);
    text.chars().all(is_fit).then_some(()).ok_or(PlainError::Unseen)
}

/// One line of plain text of `MIN` to `MAX` characters, not counting blanks around it. In JSON a
/// string; whatever does not fit is refused while the body is read, with the field's name.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct PlainText<const MAX: usize, const MIN: usize = 0>(String);

impl<const MAX: usize, const MIN: usize> PlainText<MAX, MIN> {
    /// The text, if it is plain and as long as it may be.
    pub fn new(text: &str) -> Result<Self, PlainError> {
        check_line(text)?;
        let text = text.trim();
        if (MIN..=MAX).contains(&text.chars().count()) {
            Ok(Self(text.to_owned()))
        } else {
            Err(PlainError::Length { min: MIN, max: MAX })
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text as an owned string.
    pub fn into_string(self) -> String {
        self.0
    }
}

impl<const MAX: usize, const MIN: usize> fmt::Display for PlainText<MAX, MIN> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<const MAX: usize, const MIN: usize> fmt::Debug for PlainText<MAX, MIN> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl<const MAX: usize, const MIN: usize> Serialize for PlainText<MAX, MIN> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de, const MAX: usize, const MIN: usize> Deserialize<'de> for PlainText<MAX, MIN> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        Self::new(&text).map_err(de::Error::custom)
    }
}

impl<const MAX: usize, const MIN: usize> utoipa::ToSchema for PlainText<MAX, MIN> {}

impl<const MAX: usize, const MIN: usize> utoipa::PartialSchema for PlainText<MAX, MIN> {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        let text = utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::String)
            .max_length(Some(MAX))
            .min_length((MIN > 0).then_some(MIN));
        text.build().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_seen_is_refused() {
        for text in ["a\0b", "a\nb", "a\tb", "\u{1b}[31m", "a\u{7f}", "\u{85}", "\u{202e}gpj.exe"] {
            assert_eq!(PlainText::<20>::new(text), Err(PlainError::Unseen), "{text:?}");
        }
        for text in ["\u{2066}a", "a\u{200f}", "\u{feff}a", "a\u{2028}b", "a\u{e0041}"] {
            assert_eq!(PlainText::<20>::new(text), Err(PlainError::Unseen), "{text:?}");
        }
        for text in ["Zoë", "שלום", "👩\u{200d}🔧", "नमस्ते", "a – b"] {
            assert_eq!(PlainText::<20>::new(text).unwrap().as_str(), text);
        }
        assert!(check_lines("one\n\ttwo\r\n").is_ok());
        assert_eq!(check_lines("one\0"), Err(PlainError::Unseen));
    }

    #[test]
    fn its_length_is_in_characters_without_the_blanks_around() {
        assert_eq!(PlainText::<3, 1>::new("  äöü ").unwrap().as_str(), "äöü");
        let length = Err(PlainError::Length { min: 1, max: 3 });
        assert_eq!(PlainText::<3, 1>::new("   "), length);
        assert_eq!(PlainText::<3, 1>::new("abcd"), length);
        let refused = serde_json::from_str::<PlainText<3, 1>>("\"abcd\"").unwrap_err();
        assert!(refused.to_string().contains("1 to 3 characters"), "{refused}");
    }
}
