//! What is wrong with a tenant's file, or with its coming here, in stable codes.

use persistence::BlockError;
use persistence::tenant_file::TenantFileError;
use supervision::{Class, Refusal};

/// 500: what must work did not. `what` is for the log.
pub(crate) fn failed(what: &str, error: &dyn std::fmt::Display) -> Refusal {
    tracing::error!(%error, what, "moving a tenant failed");
    Refusal::new(Class::Crashed, "internal_error", "this could not be done; it was noted")
}

/// 422: the file holds what no export has.
pub(crate) fn unfit(reason: &dyn std::fmt::Display) -> Refusal {
    let message = format!("the file is no export that could be imported: {reason}");
    Refusal::new(Class::Invalid, "export_unfit", message)
}

/// What is wrong with a file, without naming where it lies.
pub(crate) fn of_file(error: TenantFileError) -> Refusal {
    let refused = |code, message: String| Refusal::new(Class::Invalid, code, message);
    match error {
        TenantFileError::WrongKey => {
            refused("wrong_export_key", "this is not the key that the file was sealed under".into())
        }
        TenantFileError::File(BlockError::Foreign { expected, .. }) => {
            refused("not_an_export", format!("the file is not {expected}"))
        }
        TenantFileError::File(BlockError::CutShort { at, .. }) => {
            refused("export_cut_short", format!("the file is cut short at byte {at}"))
        }
        TenantFileError::File(BlockError::Damaged { at, .. }) => {
            refused("export_damaged", format!("the file is damaged at byte {at}"))
        }
        TenantFileError::File(BlockError::Newer { found, known, .. }) => {
            let message = format!("the file has format {found}, this build reads up to {known}");
            refused("export_too_new", message)
        }
        TenantFileError::Tampered(part) => {
            refused("export_damaged", format!("the file was changed: part {part} does not open"))
        }
        TenantFileError::Codec(error) => unfit(&error),
        TenantFileError::File(BlockError::Exists(path)) => {
            let message = format!("{} exists already", path.display());
            Refusal::conflict("file_exists", message)
        }
        error => failed("a tenant's file", &error),
    }
}
