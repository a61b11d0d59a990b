//! The strict binary form that agent tokens are made of: big-endian numbers, and texts behind their
//! length.
//!
//! Invariants
//! - Whatever was read was written in the only way that there is: a reader that has not come to the
//!   end of its bytes has read nothing ([`Reader::end`]).
//! - Reading allocates what it answers and nothing else; no length is believed before the bytes are
//!   there.
//!
//! Deliberate limit: no tags and no versions of fields. Another layout is another version of the
//! whole.

/// Reads fields from bytes, one after the other. `None` wherever they are not as they must be.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<&'a [u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| *byte)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(|bytes| u16::from_be_bytes(*bytes))
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(|bytes| u64::from_be_bytes(*bytes))
    }

    pub(crate) fn u128(&mut self) -> Option<u128> {
        self.array().map(|bytes| u128::from_be_bytes(*bytes))
    }

    /// Bytes behind their length in one byte.
    pub(crate) fn short(&mut self) -> Option<&'a [u8]> {
        let length = self.u8()?;
        self.take(length.into())
    }

    /// Bytes behind their length in two.
    pub(crate) fn long(&mut self) -> Option<&'a [u8]> {
        let length = self.u16()?;
        self.take(length.into())
    }

    /// That there is nothing more.
    pub(crate) fn end(self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

/// Writes what [`Reader::short`] reads; `None` when it is longer than 255 bytes.
pub(crate) fn put_short(bytes: &mut Vec<u8>, field: &[u8]) -> Option<()> {
    bytes.push(u8::try_from(field.len()).ok()?);
    bytes.extend_from_slice(field);
    Some(())
}

/// Writes what [`Reader::long`] reads; `None` when it is longer than 65,535 bytes.
pub(crate) fn put_long(bytes: &mut Vec<u8>, field: &[u8]) -> Option<()> {
    bytes.extend_from_slice(&u16::try_from(field.len()).ok()?.to_be_bytes());
    bytes.extend_from_slice(field);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_nothing_may_be_left_or_missing() {
        let mut bytes = Vec::new();
        put_short(&mut bytes, b"ab").unwrap();
        put_long(&mut bytes, b"cde").unwrap();
        bytes.extend_from_slice(&7_u64.to_be_bytes());
        let mut reader = Reader::new(&bytes);
        assert_eq!((reader.short(), reader.long()), (Some(&b"ab"[..]), Some(&b"cde"[..])));
        assert!(reader.end().is_none());
        assert_eq!((reader.u64(), reader.end()), (Some(7), Some(())));
        assert!(Reader::new(&bytes[..2]).short().is_none());
        assert!(put_short(&mut Vec::new(), &[0; 256]).is_none());
    }
}
