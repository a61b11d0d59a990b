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
mod shelf;

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

use self::shelf::{ENTRY_BYTES, Entry, Shelf, decode_entry, encode_entry, entry_label, place_of};
use crate::generations::Generations;

const BLOB_VERSION: u8 = 1;
const BLOB_HEAD_BYTES: usize = 1 + 4 + 8 + 8;
const TAG_BYTES: usize = 16;
const FILE_MAGIC: &[u8; 8] = b"bwkeys\0\x01";
/// How many data keys stay unwrapped in memory, at most twice over.
const LOADED_KEYS_MAX: usize = 2_048;
/// How many older salts of one key stay derived in memory, at most twice over.
const SALTS_MAX: usize = 4;

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

/// A [`KeyId`] without the gaps that memory would leave in it: there is one for every key.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Packed {
    class: u8,
    id: [u8; 16],
}

impl From<KeyId> for Packed {
    fn from(id: KeyId) -> Self {
        Self { class: id.class, id: id.id.to_be_bytes() }
    }
}

struct Keys {
    /// Of all that were not erased.
    numbers: HashMap<Packed, u32>,
    shelf: Shelf,
    loaded: Generations<u32, Arc<LoadedKey>>,
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
        let whole = ring.load(path, File::open(path).map_err(failed("opened"))?)? as u64;
        let file = OpenOptions::new().append(true).open(path).map_err(failed("opened"))?;
        if whole < file.metadata().map_err(failed("opened"))?.len() {
            // The last append was cut short, so nothing was sealed under it yet.
            file.set_len(whole).map_err(failed("trimmed"))?;
        }
        Ok(Self { path: Some(path.to_owned()), file: Mutex::new(Some(file)), ..ring })
    }

    /// Opens the key file at `path` to read with, and never writes it: new keys are kept nowhere.
    pub fn open_read_only(path: &Path, master: &MasterKey) -> Result<Self, SealError> {
        let ring = Self::in_memory(master)?;
        let failed = |source| SealError::File { path: path.to_owned(), operation: "read", source };
        ring.load(path, File::open(path).map_err(failed)?)?;
        Ok(ring)
    }

    /// How many keys there are, those that were erased with them.
    pub fn count(&self) -> u64 {
        self.keys.lock().shelf.len() as u64
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
            shelf: Shelf::default(),
            loaded: Generations::new(LOADED_KEYS_MAX),
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

    /// Finds out what `file` has, and how many bytes of it are whole entries.
    fn load(&self, path: &Path, mut file: File) -> Result<usize, SealError> {
        let mut bytes = Vec::new();
        let failed = |source| SealError::File { path: path.to_owned(), operation: "read", source };
        file.read_to_end(&mut bytes).map_err(failed)?;
        let damaged = |at| SealError::Damaged(path.to_owned(), at);
        let body = bytes.strip_prefix(FILE_MAGIC).ok_or_else(|| damaged(0))?;
        let (entries, _cut_short) = body.as_chunks::<ENTRY_BYTES>();
        let mut keys = self.keys.lock();
        for (number, entry) in entries.iter().enumerate() {
            let entry = decode_entry(number as u32, entry);
            let Some(entry) = entry.ok_or_else(|| damaged(place_of(number)))? else { continue };
            if keys.numbers.is_empty() {
                let opened = self.unwrap(number as u32, &entry);
                opened.map_err(|_| SealError::MasterKey(path.to_owned()))?;
            }
            keys.numbers.insert(entry.id.into(), number as u32);
        }
        keys.shelf = Shelf::of(path, file, entries.len());
        Ok(place_of(entries.len()))
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
        let number = keys.shelf.len() as u32;
        let data_key = random_key()?;
        keys.shelf.push(&self.wrap(number, id, &data_key)?);
        keys.numbers.insert(id.into(), number);
        keys.loaded.insert(number, Arc::new(LoadedKey::new(data_key)?));
        Ok(number)
    }

    fn loaded(&self, keys: &mut Keys, number: u32) -> Result<Option<Arc<LoadedKey>>, SealError> {
        if let Some(key) = keys.loaded.get_mut(&number) {
            return Ok(Some(key.clone()));
        }
        let Some(entry) = keys.shelf.get(number)? else { return Ok(None) };
        let key = Arc::new(LoadedKey::new(self.unwrap(number, &entry)?)?);
        keys.loaded.insert(number, key.clone());
        Ok(Some(key))
    }

    /// Seals `plain` under the key of `id`, made if it has none, bound to `aad`.
    pub fn seal(&self, id: KeyId, aad: &[u8], plain: &[u8]) -> Result<Vec<u8>, SealError> {
        let (number, key) = {
            let mut keys = self.keys.lock();
            let number = match keys.numbers.get(&id.into()) {
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
        let (Some(file), Some(path)) = (file.as_mut(), &self.path) else { return Ok(()) };
        // They stay where they are until the file has them: somebody may ask for one meanwhile.
        let new = self.keys.lock().shelf.unfiled().to_vec();
        if new.is_empty() {
            return Ok(());
        }
        file.write_all(&new).and_then(|()| file.sync_data()).map_err(|source| {
            self.failed.store(true, Ordering::Release);
            SealError::File { path: path.clone(), operation: "extended", source }
        })?;
        self.keys.lock().shelf.note_filed(new.len());
        Ok(())
    }

    /// The number of the key of `id`, if it has one.
    pub fn number_of(&self, id: KeyId) -> Option<u32> {
        self.keys.lock().numbers.get(&id.into()).copied()
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
        let packed = ids.iter().map(|id| Packed::from(*id));
        let erased: Vec<u32> = packed.filter_map(|id| keys.numbers.remove(&id)).collect();
        for number in &erased {
            keys.loaded.remove(number);
        }
        keys.shelf.erase_unfiled(&erased);
        let Some(path) = self.path.as_ref().filter(|_| !erased.is_empty()) else {
            return Ok(erased);
        };
        let failed = |source| {
            self.failed.store(true, Ordering::Release);
            SealError::File { path: path.clone(), operation: "rewritten", source }
        };
        let mut bytes = std::fs::read(path).map_err(failed)?;
        bytes.truncate(place_of(keys.shelf.filed()));
        bytes.extend_from_slice(keys.shelf.unfiled());
        for number in &erased {
            let at = place_of(*number as usize);
            bytes[at..at + ENTRY_BYTES].copy_from_slice(&encode_entry(*number, None));
        }
        write_synced(path, &bytes).map_err(failed)?;
        // The file now has them all.
        keys.shelf = Shelf::of(path, File::open(path).map_err(failed)?, keys.shelf.len());
        *file = Some(OpenOptions::new().append(true).open(path).map_err(failed)?);
        Ok(erased)
    }
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
    fn a_key_that_has_left_memory_is_read_again_wherever_it_lies() {
        let folder = tempfile::tempdir().unwrap();
        let (path, master) = (folder.path().join("keys"), MasterKey::generate().unwrap());
        let ring = KeyRing::open(&path, &master).unwrap();
        let ann = ring.seal(ANN, b"here", b"a").unwrap();
        let crowd = |class: u8| {
            for id in 0..=2 * LOADED_KEYS_MAX as u128 {
                ring.seal(KeyId { class, id }, b"here", b"").unwrap();
            }
        };
        crowd(7);
        assert_eq!(plain(&ring, &ann), Opened::Plain(b"a".to_vec()), "the file has it not yet");
        ring.sync().unwrap();
        crowd(8);
        assert_eq!(plain(&ring, &ann), Opened::Plain(b"a".to_vec()), "the file has it");
        let count = 2 * (2 * LOADED_KEYS_MAX as u64 + 1) + 1;
        // Erased while the file has only some of them.
        assert!(ring.erase(ANN).unwrap());
        let bob = ring.seal(BOB, b"here", b"b").unwrap();
        ring.sync().unwrap();
        for ring in [ring, KeyRing::open_read_only(&path, &master).unwrap()] {
            assert_eq!(ring.count(), count + 1);
            assert_eq!((plain(&ring, &ann), ring.number_of(ANN)), (Opened::Erased, None));
            assert_eq!(plain(&ring, &bob), Opened::Plain(b"b".to_vec()));
            let last = KeyId { class: 8, id: 0 };
            assert_eq!(ring.number_of(last), Some((count / 2 + 1) as u32));
        }
    }

    #[test]
    fn a_key_that_was_erased_without_a_file_is_gone() {
        let ring = KeyRing::in_memory(&MasterKey::generate().unwrap()).unwrap();
        let (ann, bob) =
            (ring.seal(ANN, b"here", b"a").unwrap(), ring.seal(BOB, b"here", b"b").unwrap());
        assert!(ring.erase(ANN).unwrap());
        assert_eq!(plain(&ring, &ann), Opened::Erased);
        assert_eq!(plain(&ring, &bob), Opened::Plain(b"b".to_vec()));
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
