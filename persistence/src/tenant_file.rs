//! One tenant in a file that leaves the installation: parts of bytes, each encrypted, behind a
//! manifest in the clear.
//!
//! The file is one of checksummed blocks ([`crate::blocks`]), `bwtenant`:
//!
//! | block | body |
//! | --- | --- |
//! | header | format (u16, bincode), then the [`Manifest`] in bincode, then the key check |
//! | part | nonce (12), ciphertext and tag of one part, whose kind is the block's |
//! | end | the same of how many parts there were (u64, bincode) |
//!
//! Everything but the manifest is sealed with AES-256-GCM under an [`ExportKey`] of 32 random bytes
//! that is made for this one file, told once, and stored nowhere by who wrote it. No key of the
//! installation is in the file or can be had from it. A part is bound to the manifest, to its kind
//! and to its number, so that parts of two files cannot be mixed, and the end to their count, so
//! that none can be left off. The key check is one-way from the key (HKDF-SHA256): a wrong key is
//! told from a damaged file before anything is opened.
//!
//! What the parts say is for the layers above. Limits: a part has at most [`PART_BYTES_MAX`].

use std::path::Path;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::blocks::{BlockError, BlockReader, BlockWriter, END, Sort};
use crate::codec::{self, CodecError};
use crate::record::{Digest, sha256};
use crate::sealing::{MasterKey, SealError, open_with, seal_with};

/// The newest format that this build reads, and the one it writes.
pub const TENANT_FILE_FORMAT: u16 = 1;
/// The most bytes of a part in clear: above the largest record.
pub const PART_BYTES_MAX: usize = 60 * 1024 * 1024;

const SORT: Sort = Sort { magic: b"bwtenant", name: "a tenant that Bailiwick has exported" };
const HEADER: u8 = 1;
/// Kinds of parts begin here.
const FIRST_PART: u8 = 16;
const CHECK_LABEL: &str = "bailiwick export key check";

/// Why there is no tenant's file, or why it is none.
#[derive(Debug, thiserror::Error)]
pub enum TenantFileError {
    /// The file.
    #[error(transparent)]
    File(#[from] BlockError),
    /// What it holds does not decode, or cannot be encoded.
    #[error("an exported value does not decode: {0}")]
    Codec(#[from] CodecError),
    /// The cryptographic library failed.
    #[error(transparent)]
    Library(SealError),
    /// It was sealed under another key.
    #[error("this is not the key that the file was sealed under")]
    WrongKey,
    /// A part was changed, moved or left out by somebody who made the checksums anew.
    #[error("the file was changed: part {0} does not open")]
    Tampered(u64),
}

/// The key of one file. It is shown as 64 hex digits, and never prints itself.
#[derive(Clone)]
pub struct ExportKey(Zeroizing<[u8; 32]>);

impl ExportKey {
    /// A new one.
    pub fn generate() -> Result<Self, TenantFileError> {
        let mut bytes = Zeroizing::new([0; 32]);
        aws_lc_rs::rand::fill(bytes.as_mut_slice())
            .map_err(|_| TenantFileError::Library(SealError::Library("draw random bytes")))?;
        Ok(Self(bytes))
    }

    /// The key of these bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes: for showing them once, and for sealing them.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    fn cipher(&self) -> MasterKey {
        MasterKey::from_bytes(*self.0)
    }

    fn check(&self) -> Result<Digest, TenantFileError> {
        let check = self.cipher().derive(CHECK_LABEL).map_err(TenantFileError::Library)?;
        Ok(*check)
    }
}

impl std::fmt::Debug for ExportKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("ExportKey([redacted])")
    }
}

/// What a file says of itself in the clear.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The version of the product that wrote it.
    pub product: String,
    /// The tenant.
    pub tenant: u128,
    /// The generation of the store that it was in.
    pub installation: u128,
    /// When it was exported, in milliseconds since 1970.
    pub exported_ms: i64,
    /// How many records of the tenant's chain it stands for: all up to this number.
    pub records: u64,
    /// The last of their links.
    pub link: Digest,
    /// The Merkle root (RFC 9162) over all of them.
    pub root: Digest,
}

#[derive(Serialize, Deserialize)]
struct FileHeader {
    manifest: Manifest,
    check: Digest,
}

/// What a part is bound to.
fn context(header: &Digest, kind: u8, number: u64) -> Vec<u8> {
    [header.as_slice(), &[kind], &number.to_be_bytes()].concat()
}

/// Writes a tenant's file. One that is dropped before its end leaves nothing.
pub struct TenantFileWriter {
    writer: BlockWriter,
    key: MasterKey,
    header: Digest,
    parts: u64,
}

impl TenantFileWriter {
    /// Begins the file that will be at `path`, which must not exist.
    pub fn create(
        path: &Path,
        manifest: Manifest,
        key: &ExportKey,
    ) -> Result<Self, TenantFileError> {
        Self::create_in_format(TENANT_FILE_FORMAT, path, manifest, key)
    }

    fn create_in_format(
        format: u16,
        path: &Path,
        manifest: Manifest,
        key: &ExportKey,
    ) -> Result<Self, TenantFileError> {
        let header = FileHeader { manifest, check: key.check()? };
        let header = [codec::encode(&format)?, codec::encode(&header)?].concat();
        let mut writer = BlockWriter::create(path, SORT)?;
        writer.write(HEADER, &header)?;
        Ok(Self { writer, key: key.cipher(), header: sha256(&[&header]), parts: 0 })
    }

    fn seal(&self, kind: u8, plain: &[u8]) -> Result<Vec<u8>, TenantFileError> {
        let context = context(&self.header, kind, self.parts);
        seal_with(&self.key, &context, plain).map_err(TenantFileError::Library)
    }

    /// Writes a part; `kind` is the layer's above, up to 200.
    pub fn write(&mut self, kind: u8, plain: &[u8]) -> Result<(), TenantFileError> {
        if plain.len() > PART_BYTES_MAX {
            return Err(CodecError::Short(PART_BYTES_MAX).into());
        }
        let kind = FIRST_PART.saturating_add(kind);
        let sealed = self.seal(kind, plain)?;
        self.writer.write(kind, &sealed)?;
        self.parts += 1;
        Ok(())
    }

    /// How many bytes are written so far.
    pub fn bytes(&self) -> u64 {
        self.writer.bytes()
    }

    /// Writes the end, makes the file durable and gives it its name. Answers its length in bytes
    /// and its digest.
    pub fn finish(self) -> Result<(u64, Digest), TenantFileError> {
        let end = self.seal(END, &codec::encode(&self.parts)?)?;
        Ok(self.writer.finish(&end)?)
    }
}

/// Reads a tenant's file from its beginning to its end.
pub struct TenantFileReader {
    reader: BlockReader,
    key: MasterKey,
    header: Digest,
    manifest: Manifest,
    parts: u64,
}

impl TenantFileReader {
    /// Opens a file, and looks whether this is its key.
    pub fn open(path: &Path, key: &ExportKey) -> Result<Self, TenantFileError> {
        let (reader, bytes, header) = open_header(path)?;
        if header.check != key.check()? {
            return Err(TenantFileError::WrongKey);
        }
        let (key, manifest) = (key.cipher(), header.manifest);
        Ok(Self { reader, key, header: sha256(&[&bytes]), manifest, parts: 0 })
    }

    /// What the file says of itself.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// How far it was read, in bytes.
    pub fn at(&self) -> u64 {
        self.reader.at()
    }

    /// The next part, with the kind that it was written with; `None` behind the end, which must be
    /// reached before anything that was read is believed.
    pub fn next_part(&mut self) -> Result<Option<(u8, Vec<u8>)>, TenantFileError> {
        let Some(block) = self.reader.next()? else { return Ok(None) };
        let context = context(&self.header, block.kind, self.parts);
        let tampered = TenantFileError::Tampered(self.parts);
        let Ok(plain) = open_with(&self.key, &context, &block.body) else { return Err(tampered) };
        if block.kind == END {
            let is_whole = codec::decode::<u64>(&plain)? == self.parts;
            return if is_whole { Ok(None) } else { Err(tampered) };
        }
        self.parts += 1;
        let kind = block.kind.checked_sub(FIRST_PART).ok_or(tampered)?;
        Ok(Some((kind, plain)))
    }
}

fn open_header(path: &Path) -> Result<(BlockReader, Vec<u8>, FileHeader), TenantFileError> {
    let mut reader = BlockReader::open(path, SORT)?;
    let foreign = || BlockError::Foreign { path: path.to_owned(), expected: SORT.name };
    let block = reader.next()?.filter(|block| block.kind == HEADER).ok_or_else(foreign)?;
    let (found, length) = codec::decode_prefix::<u16>(&block.body)?;
    if found != TENANT_FILE_FORMAT {
        let (path, known) = (path.to_owned(), TENANT_FILE_FORMAT);
        return Err(BlockError::Newer { path, found, known }.into());
    }
    let header = codec::decode(&block.body[length..])?;
    Ok((reader, block.body, header))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        Manifest {
            product: "0.1.0".to_owned(),
            tenant: 5,
            installation: 6,
            exported_ms: 7,
            records: 8,
            link: [9; 32],
            root: [10; 32],
        }
    }

    fn read(path: &Path, key: &ExportKey) -> Result<Vec<(u8, Vec<u8>)>, TenantFileError> {
        let mut reader = TenantFileReader::open(path, key)?;
        assert_eq!(reader.manifest(), &manifest());
        let mut parts = Vec::new();
        while let Some(part) = reader.next_part()? {
            parts.push(part);
        }
        Ok(parts)
    }

    fn written(path: &Path, key: &ExportKey, format: u16) {
        let mut writer = TenantFileWriter::create_in_format(format, path, manifest(), key).unwrap();
        writer.write(0, b"a secret of the tenant").unwrap();
        writer.write(3, b"").unwrap();
        writer.finish().unwrap();
    }

    #[test]
    fn parts_come_back_under_their_key_and_nothing_shows_without_it() {
        let folder = tempfile::tempdir().unwrap();
        let (path, key) = (folder.path().join("one"), ExportKey::generate().unwrap());
        written(&path, &key, TENANT_FILE_FORMAT);
        let expected = [(0, b"a secret of the tenant".to_vec()), (3, Vec::new())];
        assert_eq!(read(&path, &key).unwrap(), expected);
        let other = ExportKey::generate().unwrap();
        assert!(matches!(read(&path, &other), Err(TenantFileError::WrongKey)));
        let bytes = std::fs::read(&path).unwrap();
        for secret in [b"a secret".as_slice(), key.bytes()] {
            assert!(!bytes.windows(secret.len()).any(|window| window == secret));
        }
        assert_eq!(format!("{key:?}"), "ExportKey([redacted])");
    }

    #[test]
    fn every_cut_and_every_changed_byte_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let (path, key) = (folder.path().join("one"), ExportKey::generate().unwrap());
        written(&path, &key, TENANT_FILE_FORMAT);
        let whole = std::fs::read(&path).unwrap();
        for at in 0..whole.len() {
            std::fs::write(&path, &whole[..at]).unwrap();
            let cut = read(&path, &key).unwrap_err();
            let is_told = matches!(
                cut,
                TenantFileError::File(BlockError::CutShort { .. } | BlockError::Foreign { .. })
            );
            assert!(is_told, "cut at {at}: {cut}");
            let mut changed = whole.clone();
            changed[at] ^= 1;
            std::fs::write(&path, &changed).unwrap();
            assert!(matches!(read(&path, &key), Err(TenantFileError::File(_))), "changed at {at}");
        }
    }

    #[test]
    fn a_newer_format_is_told_from_a_damaged_file() {
        let folder = tempfile::tempdir().unwrap();
        let (path, key) = (folder.path().join("one"), ExportKey::generate().unwrap());
        written(&path, &key, TENANT_FILE_FORMAT + 1);
        let error = read(&path, &key).unwrap_err();
        assert!(matches!(error, TenantFileError::File(BlockError::Newer { found: 2, .. })));
    }

    #[test]
    fn who_makes_checksums_anew_cannot_leave_out_move_or_mix_parts() {
        let folder = tempfile::tempdir().unwrap();
        let (path, key) = (folder.path().join("one"), ExportKey::generate().unwrap());
        written(&path, &key, TENANT_FILE_FORMAT);
        let mut reader = BlockReader::open(&path, SORT).unwrap();
        let mut blocks = Vec::new();
        while let Some(block) = reader.next().unwrap() {
            blocks.push(block);
        }
        let forged = folder.path().join("forged");
        for order in [vec![0, 1], vec![0, 2], vec![0], vec![0, 2, 1], vec![0, 1, 1, 2]] {
            let mut writer = BlockWriter::create(&forged, SORT).unwrap();
            for index in order {
                writer.write(blocks[index].kind, &blocks[index].body).unwrap();
            }
            writer.finish(&blocks[3].body).unwrap();
            assert!(matches!(read(&forged, &key), Err(TenantFileError::Tampered(_))));
            std::fs::remove_file(&forged).unwrap();
        }
    }
}
