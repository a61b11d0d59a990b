//! Events: what happened, under a stable name and an explicit version, for ever readable.
//!
//! Each variant of a kind's event enum wraps one payload struct. The journal stores the payload
//! alone; name and version stand in the record's header. A payload that must change becomes a new
//! version, and the old struct stays with an upcast into the new one.

#[doc(hidden)]
pub use persistence::CodecError;

/// A kind's events. Written with [`crate::events!`].
pub trait Event: Sized + Clone + Send + Sync + std::fmt::Debug + 'static {
    /// The stable name, snake_case.
    fn name(&self) -> &'static str;

    /// The version of the payload that [`Event::encode`] writes.
    fn version(&self) -> u16;

    /// The payload's bytes.
    fn encode(&self) -> Result<Vec<u8>, CodecError>;

    /// Reads a payload of any version ever written.
    fn decode(name: &str, version: u16, bytes: &[u8]) -> Result<Self, CodecError>;

    /// The same event with other numbers for its ids: see [`crate::renaming`].
    fn renamed(&self, renaming: &crate::renaming::Renaming) -> Result<Self, CodecError>;

    /// Every name with the versions that can be read: the golden files' list.
    fn catalogue() -> &'static [(&'static str, u16)];
}

/// Declares a kind's event enum: `Variant(Payload) = "name", version`, then, for each older
/// version that was ever written, `, was N as OldPayload` (with `OldPayload: Into<Payload>`).
#[macro_export]
macro_rules! events {
    ($(#[$meta:meta])* $vis:vis enum $enum:ident {
        $($(#[$doc:meta])* $variant:ident($payload:ty) = $name:literal, $version:literal
            $(, was $old_version:literal as $old:ty)*;)*
    }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq)]
        $vis enum $enum { $($(#[$doc])* $variant($payload),)* }

        impl $crate::Event for $enum {
            fn name(&self) -> &'static str {
                match self { $(Self::$variant(_) => $name,)* }
            }

            fn version(&self) -> u16 {
                match self { $(Self::$variant(_) => $version,)* }
            }

            fn encode(&self) -> Result<Vec<u8>, $crate::event::CodecError> {
                match self { $(Self::$variant(payload) => $crate::event::encode(payload),)* }
            }

            fn decode(
                name: &str,
                version: u16,
                bytes: &[u8],
            ) -> Result<Self, $crate::event::CodecError> {
                match (name, version) {
                    $(($name, $version) => Ok(Self::$variant($crate::event::decode(bytes)?)),
                    $(($name, $old_version) => {
                        Ok(Self::$variant($crate::event::decode::<$old>(bytes)?.into()))
                    })*)*
                    _ => Err($crate::event::CodecError::Unknown { name: name.to_owned(), version }),
                }
            }

            fn renamed(
                &self,
                renaming: &$crate::renaming::Renaming,
            ) -> Result<Self, $crate::event::CodecError> {
                match self { $(Self::$variant(it) => renaming.apply(it).map(Self::$variant),)* }
            }

            fn catalogue() -> &'static [(&'static str, u16)] {
                &[$(($name, $version), $(($name, $old_version),)*)*]
            }
        }
    };
}

// What the macro's expansion names.
#[doc(hidden)]
pub use persistence::codec::{decode, encode};
