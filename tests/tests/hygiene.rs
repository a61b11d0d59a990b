//! Checks of the repository itself: how its files look and which crate may know which.
//!
//! Nothing here starts a server or reads version control: the source tree next to this crate is
//! what is checked. Every check is also tried on a small input that it must refuse, because a
//! check that cannot fail is worth nothing.

#[path = "hygiene/tidy.rs"]
mod tidy;

#[path = "hygiene/layering.rs"]
mod layering;

#[path = "hygiene/schemas.rs"]
mod schemas;

#[path = "hygiene/source.rs"]
mod source;
