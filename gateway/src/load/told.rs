//! Telling what a scenario found: a table on stdout, and JSON in a file if one is wanted.

use std::io::{self, Write as _};
use std::path::Path;

use serde::Serialize;

use super::LoadError;

/// Prints a table, and writes what was found to a file.
pub(crate) async fn tell(
    table: &str,
    found: &impl Serialize,
    file: Option<&Path>,
) -> Result<(), LoadError> {
    write!(io::stdout(), "{table}").map_err(LoadError::Print)?;
    match file {
        Some(path) => save(path, found).await,
        None => Ok(()),
    }
}

/// Writes what was found to a file, for people to read, too.
pub(crate) async fn save(path: &Path, found: &impl Serialize) -> Result<(), LoadError> {
    let failed = |source| LoadError::File { path: path.to_owned(), source };
    let text = serde_json::to_string_pretty(found).map_err(|error| failed(error.into()))?;
    tokio::fs::write(path, text + "\n").await.map_err(failed)
}
