//! Encryption at rest, a key each: what belongs to one tenant, or is personal to one user, is
//! sealed under that one's own key, and erasing the key erases the data.
//!
//! A sealed blob: version (1 byte), key number (u32), salt (8), counter (u64), AES-256-GCM
//! ciphertext and tag. The cipher's key is HKDF-SHA256 of the data key with the salt, drawn anew
//! each time a data key is loaded, and the nonce is the counter: no nonce is ever used twice
//! under one cipher key, however many records a hot stream has. Every blob is bound to its place
//! (the associated data), so that it cannot be moved.
//!
//! Data keys are wrapped by the master key in a key file outside the engine and its backups. New
//! keys are appended and synced before the first commit that uses them; erasing one rewrites the
//! file without it.

mod rewrap;

pub use rewrap::{load_master_key, rewrap, with_root};

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::{hkdf, rand};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::generations::Generations;

const BLOB_VERSION: u8 = 1;
const BLOB_HEAD_BYTES: usize = 1 + 4 + 8 + 8;
const TAG_BYTES: usize = 16;
const FILE_MAGIC: &[u8; 8] = b"bwkeys\0\x01";
const ENTRY_BYTES: usize = 17 + 4 + 12 + 32 + TAG_BYTES + 4;
/// How many data keys stay unwrapped in memory, at most twice over.
const LOADED_KEYS_MAX: usize = 2_048;
/// How many older salts of one key stay derived in memory, at most twice over.
const SALTS_MAX: usize = 4;

/// Stands for an erased key, so that its number is never given again.
const TOMBSTONE: KeyId = KeyId { class: 0, id: 0 };

/// Whose key: a class and an id, as [`crate::OwnerKey`] has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct KeyId {
    /// What kind of owner.
    pub class: u8,
    /// Its id.
    pub id: u128,
}

/// What opening a blob gave.
#[derive(Debug, PartialEq, Eq)]
pub enum Opened {
    /// The plaintext.
    Plain(Vec<u8>),
    /// Its key was erased, and with it this.
    Erased,
}

/// Sealing or opening failed.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The key file could not be written before: what it holds is not known.
    #[error("the key file could not be written before; start anew")]
    Failed,
    /// The key file could not be read or written.
    #[error("the key file {path} could not be {operation}")]
    File {
        /// Which file.
        path: PathBuf,
        /// What was tried.
        operation: &'static str,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The master key does not open this key file.
    #[error("the master key does not open the key file {0}: it was sealed under another")]
    MasterKey(PathBuf),
    /// The key file is damaged.
    #[error("the key file {0} is damaged at byte {1}")]
    Damaged(PathBuf, usize),
    /// The blob was changed, moved, or sealed under another key.
    #[error("a sealed value does not open: it was changed, moved, or sealed under another key")]
    Tampered,
    /// The key file does not have the key that this was sealed under.
    #[error("a sealed value needs a key that the key file does not have: is it an older copy?")]
    UnknownKey,
    /// The cryptographic library refused (no memory, no randomness).
    #[error("the cryptographic library failed to {0}")]
    Library(&'static str),
}

/// The key that wraps all others. Never written by this module, never shown.
#[derive(Clone)]
pub struct MasterKey {
    key: Zeroizing<[u8; 32]>,
    /// What other keys are derived from, if it is not the key itself.
    root: Option<Zeroizing<[u8; 32]>>,
}

impl MasterKey {
    /// A master key of 32 random bytes.
    pub fn generate() -> Result<Self, SealError> {
        Ok(Self { key: random_key()?, root: None })
    }

    /// A master key from bytes that the operator keeps.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self { key: Zeroizing::new(bytes), root: None }
    }

    /// Reads the key from `path`, or makes one there, readable by the owner only.
    pub fn load_or_create(path: &Path) -> Result<Self, SealError> {
        let failed =
            |operation| move |source| SealError::File { path: path.to_owned(), operation, source };
        match std::fs::read(path) {
            Ok(bytes) => match <[u8; 32]>::try_from(bytes.as_slice()) {
                Ok(bytes) => Ok(Self::from_bytes(bytes)),
                Err(_) => Err(SealError::Damaged(path.to_owned(), bytes.len())),
            },
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let key = Self::generate()?;
                write_synced(path, key.key.as_slice()).map_err(failed("written"))?;
                Ok(key)
            }
            Err(error) => Err(failed("read")(error)),
        }
    }

    fn cipher(&self) -> Result<LessSafeKey, SealError> {
        cipher(self.key.as_slice())
    }

    /// A key for another purpose, named by `label`: one-way, so that neither reveals the other.
    pub fn derive(&self, label: &str) -> Result<Zeroizing<[u8; 32]>, SealError> {
        let root = self.root.as_ref().unwrap_or(&self.key);
        expand(root.as_slice(), label.as_bytes(), b"bailiwick purpose key")
    }
}

/// Seals `plain` under `key` itself, for keys that are not kept in a ring: nonce (12 random
/// bytes), ciphertext and tag.
pub fn seal_with(key: &MasterKey, aad: &[u8], plain: &[u8]) -> Result<Vec<u8>, SealError> {
    let mut nonce = [0; 12];
    rand::fill(&mut nonce).map_err(|_| SealError::Library("draw random bytes"))?;
    let mut bytes = [nonce.as_slice(), plain].concat();
    let unique = Nonce::assume_unique_for_key(nonce);
    let tag = key.cipher()?.seal_in_place_separate_tag(unique, Aad::from(aad), &mut bytes[12..]);
    bytes.extend_from_slice(tag.map_err(|_| SealError::Library("seal"))?.as_ref());
    Ok(bytes)
}

/// Opens what [`seal_with`] sealed with the same key and `aad`.
pub fn open_with(key: &MasterKey, aad: &[u8], blob: &[u8]) -> Result<Vec<u8>, SealError> {
    let (nonce, ciphertext) = blob.split_first_chunk::<12>().ok_or(SealError::Tampered)?;
    let mut bytes = ciphertext.to_vec();
    let nonce = Nonce::assume_unique_for_key(*nonce);
    let plain = key.cipher()?.open_in_place(nonce, Aad::from(aad), &mut bytes);
    let length = plain.map_err(|_| SealError::Tampered)?.len();
    bytes.truncate(length);
    Ok(bytes)
}

fn random_key() -> Result<Zeroizing<[u8; 32]>, SealError> {
    let mut bytes = Zeroizing::new([0; 32]);
    rand::fill(bytes.as_mut_slice()).map_err(|_| SealError::Library("draw random bytes"))?;
    Ok(bytes)
}

fn cipher(key: &[u8]) -> Result<LessSafeKey, SealError> {
    let key = UnboundKey::new(&AES_256_GCM, key);
    Ok(LessSafeKey::new(key.map_err(|_| SealError::Library("set up AES-256-GCM"))?))
}

fn expand(key: &[u8], salt: &[u8], info: &[u8]) -> Result<Zeroizing<[u8; 32]>, SealError> {
    let mut out = Zeroizing::new([0; 32]);
    hkdf::Salt::new(hkdf::HKDF_SHA256, salt)
        .extract(key)
        .expand(&[info], hkdf::HKDF_SHA256)
        .and_then(|okm| okm.fill(out.as_mut_slice()))
        .map_err(|_| SealError::Library("derive a key"))?;
    Ok(out)
}

fn write_synced(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let temporary = path.with_extension("tmp");
    let _ = std::fs::remove_file(&temporary);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

/// A data key, unwrapped, with the cipher it seals under now.
struct LoadedKey {
    data_key: Zeroizing<[u8; 32]>,
    salt: [u8; 8],
    current: LessSafeKey,
    counter: AtomicU64,
    older: Mutex<Generations<[u8; 8], Arc<LessSafeKey>>>,
}

impl LoadedKey {
    fn new(data_key: Zeroizing<[u8; 32]>) -> Result<Self, SealError> {
        let mut salt = [0; 8];
        rand::fill(&mut salt).map_err(|_| SealError::Library("draw random bytes"))?;
        let current = cipher(expand(data_key.as_slice(), &salt, b"bailiwick seal")?.as_slice())?;
        let older = Mutex::new(Generations::new(SALTS_MAX));
        Ok(Self { data_key, salt, current, counter: AtomicU64::new(0), older })
    }

    fn open(
        &self,
        salt: [u8; 8],
        nonce: Nonce,
        aad: &[u8],
        ciphertext: &mut [u8],
    ) -> Option<usize> {
        if salt == self.salt {
            let plain = self.current.open_in_place(nonce, Aad::from(aad), ciphertext).ok()?;
            return Some(plain.len());
        }
        let cached = self.older.lock().get_mut(&salt).cloned();
        let key = match cached {
            Some(key) => key,
            None => {
                let key = expand(self.data_key.as_slice(), &salt, b"bailiwick seal").ok()?;
                let key = Arc::new(cipher(key.as_slice()).ok()?);
                self.older.lock().insert(salt, key.clone());
                key
            }
        };
        Some(key.open_in_place(nonce, Aad::from(aad), ciphertext).ok()?.len())
    }
}

fn nonce_of(counter: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&counter.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

struct Entry {
    id: KeyId,
    nonce: [u8; 12],
    wrapped: [u8; 32 + TAG_BYTES],
}

const TOMBSTONE_ENTRY: Entry =
    Entry { id: TOMBSTONE, nonce: [0; 12], wrapped: [0; 32 + TAG_BYTES] };

struct Keys {
    numbers: HashMap<KeyId, u32>,
    /// By key number; `None` once erased.
    entries: Vec<Option<Entry>>,
    loaded: Generations<u32, Arc<LoadedKey>>,
    /// Encoded entries that the key file does not have yet.
    pending: Vec<u8>,
}

/// Every data key, by owner. Shared by all who seal and open.
pub struct KeyRing {
    path: Option<PathBuf>,
    master: LessSafeKey,
    keys: Mutex<Keys>,
    file: Mutex<Option<File>>,
    /// Set for good once the key file could not be written.
    failed: AtomicBool,
}

impl KeyRing {
    /// Opens the key file at `path`, or makes it.
    pub fn open(path: &Path, master: &MasterKey) -> Result<Self, SealError> {
        let ring = Self::in_memory(master)?;
        let failed =
            |operation| move |source| SealError::File { path: path.to_owned(), operation, source };
        if !path.exists() {
            write_synced(path, FILE_MAGIC).map_err(failed("created"))?;
        }
        let mut file =
            OpenOptions::new().read(true).append(true).open(path).map_err(failed("opened"))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(failed("read"))?;
        let whole = ring.load(path, &bytes)?;
        if whole < bytes.len() {
            // The last append was cut short, so nothing was sealed under it yet.
            file.set_len(whole as u64).map_err(failed("trimmed"))?;
        }
        Ok(Self { path: Some(path.to_owned()), file: Mutex::new(Some(file)), ..ring })
    }

    /// Opens the key file at `path` to read with, and never writes it: new keys are kept nowhere.
    pub fn open_read_only(path: &Path, master: &MasterKey) -> Result<Self, SealError> {
        let ring = Self::in_memory(master)?;
        let failed = |source| SealError::File { path: path.to_owned(), operation: "read", source };
        ring.load(path, &std::fs::read(path).map_err(failed)?)?;
        Ok(ring)
    }

    /// How many keys there are, those that were erased with them.
    pub fn count(&self) -> u64 {
        self.keys.lock().entries.len() as u64
    }

    /// The number of the key that a blob is sealed under; `None` if it is no sealed blob.
    pub(crate) fn key_number(blob: &[u8]) -> Option<u32> {
        let (version, rest) = blob.split_first()?;
        let number = rest.first_chunk::<4>()?;
        (*version == BLOB_VERSION).then(|| u32::from_be_bytes(*number))
    }

    /// A key ring that keeps no file: for tests.
    pub fn in_memory(master: &MasterKey) -> Result<Self, SealError> {
        let keys = Keys {
            numbers: HashMap::new(),
            entries: Vec::new(),
            loaded: Generations::new(LOADED_KEYS_MAX),
            pending: Vec::new(),
        };
        let (keys, file) = (Mutex::new(keys), Mutex::new(None));
        Ok(Self {
            path: None,
            master: master.cipher()?,
            keys,
            file,
            failed: AtomicBool::new(false),
        })
    }

    fn load(&self, path: &Path, bytes: &[u8]) -> Result<usize, SealError> {
        if !bytes.starts_with(FILE_MAGIC) {
            return Err(SealError::Damaged(path.to_owned(), 0));
        }
        let mut keys = self.keys.lock();
        let mut at = FILE_MAGIC.len();
        for chunk in bytes[at..].chunks(ENTRY_BYTES) {
            if chunk.len() < ENTRY_BYTES {
                break;
            }
            let damaged = || SealError::Damaged(path.to_owned(), at);
            let (number, entry) = decode_entry(chunk).ok_or_else(damaged)?;
            let index = number as usize;
            if keys.entries.len() <= index {
                keys.entries.resize_with(index + 1, || None);
            }
            at += ENTRY_BYTES;
            if entry.id == TOMBSTONE {
                continue;
            }
            if keys.numbers.is_empty() {
                let opened = self.unwrap(number, &entry);
                opened.map_err(|_| SealError::MasterKey(path.to_owned()))?;
            }
            keys.numbers.insert(entry.id, number);
            keys.entries[index] = Some(entry);
        }
        Ok(at)
    }

    fn unwrap(&self, number: u32, entry: &Entry) -> Result<Zeroizing<[u8; 32]>, SealError> {
        let mut bytes = Zeroizing::new(entry.wrapped.to_vec());
        let nonce = Nonce::assume_unique_for_key(entry.nonce);
        let aad = Aad::from(entry_label(entry.id, number));
        self.master.open_in_place(nonce, aad, &mut bytes).map_err(|_| SealError::Tampered)?;
        let mut key = Zeroizing::new([0; 32]);
        key.copy_from_slice(&bytes[..32]);
        Ok(key)
    }

    fn wrap(&self, number: u32, id: KeyId, data_key: &[u8; 32]) -> Result<Entry, SealError> {
        let mut nonce = [0; 12];
        rand::fill(&mut nonce).map_err(|_| SealError::Library("draw random bytes"))?;
        let mut bytes = Zeroizing::new(data_key.to_vec());
        let aad = Aad::from(entry_label(id, number));
        let unique = Nonce::assume_unique_for_key(nonce);
        let tag = self.master.seal_in_place_separate_tag(unique, aad, &mut bytes);
        let tag = tag.map_err(|_| SealError::Library("wrap a key"))?;
        let mut wrapped = [0; 32 + TAG_BYTES];
        wrapped[..32].copy_from_slice(&bytes);
        wrapped[32..].copy_from_slice(tag.as_ref());
        Ok(Entry { id, nonce, wrapped })
    }

    fn create(&self, keys: &mut Keys, id: KeyId) -> Result<u32, SealError> {
        let number = keys.entries.len() as u32;
        let data_key = random_key()?;
        let entry = self.wrap(number, id, &data_key)?;
        if self.path.is_some() {
            keys.pending.extend_from_slice(&encode_entry(number, &entry));
        }
        keys.entries.push(Some(entry));
        keys.numbers.insert(id, number);
        keys.loaded.insert(number, Arc::new(LoadedKey::new(data_key)?));
        Ok(number)
    }

    fn loaded(&self, keys: &mut Keys, number: u32) -> Result<Option<Arc<LoadedKey>>, SealError> {
        if let Some(key) = keys.loaded.get_mut(&number) {
            return Ok(Some(key.clone()));
        }
        // An erased key has left a tombstone: a number that was never given is a lost key file.
        let Some(entry) = keys.entries.get(number as usize).ok_or(SealError::UnknownKey)? else {
            return Ok(None);
        };
        let key = Arc::new(LoadedKey::new(self.unwrap(number, entry)?)?);
        keys.loaded.insert(number, key.clone());
        Ok(Some(key))
    }

    /// Seals `plain` under the key of `id`, made if it has none, bound to `aad`.
    pub fn seal(&self, id: KeyId, aad: &[u8], plain: &[u8]) -> Result<Vec<u8>, SealError> {
        let (number, key) = {
            let mut keys = self.keys.lock();
            let number = match keys.numbers.get(&id) {
                Some(number) => *number,
                None => self.create(&mut keys, id)?,
            };
            (number, self.loaded(&mut keys, number)?)
        };
        let key = key.ok_or(SealError::Library("find a key it has just made"))?;
        let counter = key.counter.fetch_add(1, Ordering::Relaxed);
        let mut blob = Vec::with_capacity(BLOB_HEAD_BYTES + plain.len() + TAG_BYTES);
        blob.push(BLOB_VERSION);
        blob.extend_from_slice(&number.to_be_bytes());
        blob.extend_from_slice(&key.salt);
        blob.extend_from_slice(&counter.to_be_bytes());
        blob.extend_from_slice(plain);
        let body = &mut blob[BLOB_HEAD_BYTES..];
        let tag = key.current.seal_in_place_separate_tag(nonce_of(counter), Aad::from(aad), body);
        let tag = tag.map_err(|_| SealError::Library("seal"))?;
        blob.extend_from_slice(tag.as_ref());
        Ok(blob)
    }

    /// Opens a blob that was sealed with the same `aad`.
    pub fn open_blob(&self, aad: &[u8], blob: &[u8]) -> Result<Opened, SealError> {
        let (head, ciphertext) =
            blob.split_at_checked(BLOB_HEAD_BYTES).ok_or(SealError::Tampered)?;
        let (Some(number), Some(salt), Some(counter)) = (
            head[1..].first_chunk::<4>(),
            head[5..].first_chunk::<8>(),
            head[13..].first_chunk::<8>(),
        ) else {
            return Err(SealError::Tampered);
        };
        if head[0] != BLOB_VERSION {
            return Err(SealError::Tampered);
        }
        let key = self.loaded(&mut self.keys.lock(), u32::from_be_bytes(*number))?;
        let Some(key) = key else {
            return Ok(Opened::Erased);
        };
        let mut bytes = ciphertext.to_vec();
        let nonce = nonce_of(u64::from_be_bytes(*counter));
        let length = key.open(*salt, nonce, aad, &mut bytes).ok_or(SealError::Tampered)?;
        bytes.truncate(length);
        Ok(Opened::Plain(bytes))
    }

    /// Makes new keys durable. The writer calls this before each commit.
    pub fn sync(&self) -> Result<(), SealError> {
        let mut file = self.file.lock();
        // Whoever meets a failure, nothing may be sealed under keys that are in no file: the
        // writer sees it at its next commit, and the process ends.
        if self.failed.load(Ordering::Acquire) {
            return Err(SealError::Failed);
        }
        let pending = std::mem::take(&mut self.keys.lock().pending);
        let (Some(file), Some(path), false) = (file.as_mut(), &self.path, pending.is_empty())
        else {
            return Ok(());
        };
        file.write_all(&pending).and_then(|()| file.sync_data()).map_err(|source| {
            self.failed.store(true, Ordering::Release);
            SealError::File { path: path.clone(), operation: "extended", source }
        })
    }

    /// The number of the key of `id`, if it has one.
    pub fn number_of(&self, id: KeyId) -> Option<u32> {
        self.keys.lock().numbers.get(&id).copied()
    }

    /// Erases the key of `id` for good: the file is rewritten without it and synced before this
    /// returns. Says whether there was one.
    pub fn erase(&self, id: KeyId) -> Result<bool, SealError> {
        Ok(!self.erase_all(&[id])?.is_empty())
    }

    /// As [`KeyRing::erase`], for several at once, which rewrites the file once. Answers the
    /// numbers of those that there were.
    pub fn erase_all(&self, ids: &[KeyId]) -> Result<Vec<u32>, SealError> {
        let mut file = self.file.lock();
        let mut keys = self.keys.lock();
        let erased: Vec<u32> = ids.iter().filter_map(|id| keys.numbers.remove(id)).collect();
        for number in &erased {
            keys.entries[*number as usize] = None;
            keys.loaded.remove(number);
        }
        let Some(path) = self.path.as_ref().filter(|_| !erased.is_empty()) else {
            return Ok(erased);
        };
        let failed = |source| {
            self.failed.store(true, Ordering::Release);
            SealError::File { path: path.clone(), operation: "rewritten", source }
        };
        let mut bytes = FILE_MAGIC.to_vec();
        for (number, entry) in keys.entries.iter().enumerate() {
            let entry = entry.as_ref().unwrap_or(&TOMBSTONE_ENTRY);
            bytes.extend_from_slice(&encode_entry(number as u32, entry));
        }
        write_synced(path, &bytes).map_err(failed)?;
        // The file now has them all.
        keys.pending.clear();
        *file = Some(OpenOptions::new().append(true).open(path).map_err(failed)?);
        Ok(erased)
    }
}

fn entry_label(id: KeyId, number: u32) -> [u8; 21] {
    let mut label = [0; 21];
    label[0] = id.class;
    label[1..17].copy_from_slice(&id.id.to_be_bytes());
    label[17..].copy_from_slice(&number.to_be_bytes());
    label
}

fn encode_entry(number: u32, entry: &Entry) -> Vec<u8> {
    let mut bytes = entry_label(entry.id, number).to_vec();
    bytes.extend_from_slice(&entry.nonce);
    bytes.extend_from_slice(&entry.wrapped);
    bytes.extend_from_slice(&crc32fast::hash(&bytes).to_be_bytes());
    bytes
}

fn decode_entry(bytes: &[u8]) -> Option<(u32, Entry)> {
    let (body, checksum) = bytes.split_last_chunk::<4>()?;
    if u32::from_be_bytes(*checksum) != crc32fast::hash(body) {
        return None;
    }
    let (class, body) = body.split_first()?;
    let (id, body) = body.split_first_chunk::<16>()?;
    let (number, body) = body.split_first_chunk::<4>()?;
    let (nonce, body) = body.split_first_chunk::<12>()?;
    let wrapped = *body.first_chunk::<48>()?;
    let id = KeyId { class: *class, id: u128::from_be_bytes(*id) };
    Some((u32::from_be_bytes(*number), Entry { id, nonce: *nonce, wrapped }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_erased_number_is_never_given_again() {
        let folder = tempfile::tempdir().unwrap();
        let (path, master) = (folder.path().join("keys"), MasterKey::generate().unwrap());
        let ring = KeyRing::open(&path, &master).unwrap();
        let ann = ring.seal(ANN, b"here", b"a").unwrap();
        ring.erase(ANN).unwrap();
        let ring = KeyRing::open(&path, &master).unwrap();
        ring.seal(BOB, b"here", b"b").unwrap();
        assert_eq!(plain(&ring, &ann), Opened::Erased);
    }

    const ANN: KeyId = KeyId { class: 1, id: 1 };
    const BOB: KeyId = KeyId { class: 1, id: 2 };

    fn plain(ring: &KeyRing, blob: &[u8]) -> Opened {
        ring.open_blob(b"here", blob).unwrap()
    }

    #[test]
    fn what_is_sealed_opens_in_its_place_only_and_after_a_restart_too() {
        let folder = tempfile::tempdir().unwrap();
        let (path, master) = (folder.path().join("keys"), MasterKey::generate().unwrap());
        let ring = KeyRing::open(&path, &master).unwrap();
        let blob = ring.seal(ANN, b"here", b"tea").unwrap();
        assert_ne!(blob, ring.seal(ANN, b"here", b"tea").unwrap());
        assert!(matches!(ring.open_blob(b"there", &blob), Err(SealError::Tampered)));
        for at in 0..blob.len() {
            let mut bent = blob.clone();
            bent[at] ^= 1;
            assert!(!matches!(ring.open_blob(b"here", &bent), Ok(Opened::Plain(_))), "byte {at}");
        }
        ring.sync().unwrap();
        let ring = KeyRing::open(&path, &master).unwrap();
        assert_eq!(plain(&ring, &blob), Opened::Plain(b"tea".to_vec()));
        let other = MasterKey::generate().unwrap();
        assert!(matches!(KeyRing::open(&path, &other), Err(SealError::MasterKey(_))));
    }

    #[test]
    fn an_erased_key_is_gone_from_the_file_and_the_others_stay() {
        let folder = tempfile::tempdir().unwrap();
        let (path, master) = (folder.path().join("keys"), MasterKey::generate().unwrap());
        let ring = KeyRing::open(&path, &master).unwrap();
        let (ann, bob) =
            (ring.seal(ANN, b"here", b"a").unwrap(), ring.seal(BOB, b"here", b"b").unwrap());
        ring.sync().unwrap();
        assert_eq!(ring.number_of(ANN), Some(0));
        let nobody = KeyId { class: 1, id: 3 };
        assert_eq!(ring.erase_all(&[ANN, nobody]).unwrap(), [0]);
        assert_eq!((ring.number_of(ANN), ring.erase(ANN).unwrap()), (None, false));
        for ring in [ring, KeyRing::open(&path, &master).unwrap()] {
            assert_eq!(plain(&ring, &ann), Opened::Erased);
            assert_eq!(plain(&ring, &bob), Opened::Plain(b"b".to_vec()));
        }
    }

    #[test]
    fn a_key_file_cut_short_in_its_last_entry_opens_without_it() {
        let folder = tempfile::tempdir().unwrap();
        let (path, master) = (folder.path().join("keys"), MasterKey::generate().unwrap());
        let ring = KeyRing::open(&path, &master).unwrap();
        let ann = ring.seal(ANN, b"here", b"a").unwrap();
        ring.seal(BOB, b"here", b"b").unwrap();
        ring.sync().unwrap();
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 3]).unwrap();
        let ring = KeyRing::open(&path, &master).unwrap();
        assert_eq!(plain(&ring, &ann), Opened::Plain(b"a".to_vec()));
        std::fs::write(&path, [&bytes[..30], &[!bytes[30]], &bytes[31..]].concat()).unwrap();
        assert!(matches!(KeyRing::open(&path, &master), Err(SealError::Damaged(_, 8))));
    }
}
