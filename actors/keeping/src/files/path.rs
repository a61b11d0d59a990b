//! A file's path: names with slashes between them, in one spelling.

use supervision::Refusal;

/// Bytes of a path.
pub const PATH_BYTES_MAX: usize = 512;
/// Names in a path.
pub const PATH_DEPTH_MAX: usize = 32;

/// A path in its one spelling: no slash at either end, none twice, no `.` and no `..`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FilePath(String);

impl FilePath {
    /// The path that a text means. 422 for what leads upwards, is empty or too long, or holds a
    /// control character or a backslash.
    pub fn new(text: &str) -> Result<Self, Refusal> {
        let unfit = |message: &str| Err(Refusal::invalid("path", message));
        if text.len() > PATH_BYTES_MAX {
            return unfit(&format!("a path has at most {PATH_BYTES_MAX} bytes"));
        }
        if text.chars().any(|letter| letter.is_control() || letter == '\\') {
            return unfit("a path holds no control characters and no backslash");
        }
        let names = text.split('/').filter(|name| !matches!(*name, "" | "."));
        let names: Vec<&str> = names.collect();
        if names.contains(&"..") {
            return unfit("a path does not lead upwards");
        }
        match names.len() {
            0 => unfit("a path names a file"),
            depth if depth > PATH_DEPTH_MAX => {
                unfit(&format!("a path has at most {PATH_DEPTH_MAX} names"))
            }
            _ => Ok(Self(names.join("/"))),
        }
    }

    /// The beginning of paths that a text means: as it is, but for slashes before it.
    pub fn prefix(text: &str) -> Result<String, Refusal> {
        if text.len() > PATH_BYTES_MAX || text.chars().any(char::is_control) {
            return Err(Refusal::invalid_at("query", "prefix", "is the beginning of no path"));
        }
        Ok(text.trim_start_matches('/').to_owned())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last of its names.
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_one_spelling() {
        for text in ["a/b.txt", "/a/b.txt", "a//b.txt", "./a/./b.txt", "a/b.txt/"] {
            let path = FilePath::new(text).unwrap();
            assert_eq!((path.as_str(), path.name()), ("a/b.txt", "b.txt"), "{text}");
        }
        let dots = FilePath::new("a/...").unwrap();
        assert_eq!(dots.as_str(), "a/...", "a name of three dots leads nowhere");
    }

    #[test]
    fn a_path_leads_nowhere_else() {
        let (long, deep) = ("x".repeat(PATH_BYTES_MAX + 1), "x/".repeat(PATH_DEPTH_MAX + 1));
        for text in ["", "/", ".", "..", "../a", "a/../../b", "a\\b", "a\0b", "a\nb", &long, &deep]
        {
            assert_eq!(FilePath::new(text).unwrap_err().code, "validation_error", "{text:?}");
        }
    }
}
