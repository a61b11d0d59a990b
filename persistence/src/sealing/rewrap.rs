//! Another master key for a folder: every data key is wrapped anew, no data is touched.
//!
//! What is derived from the master key (the names of claims, the service token) must outlive it:
//! the first master key's bytes stay as the root of those, a data key of its own wrapped like the
//! others ([`ROOT`]). They open nothing any more.
//!
//! A folder's key file changes in one step, the renaming of the new one over the old. Where the
//! master key is a file too, the new one lies beside it (`master.key.next`) before that step and
//! takes its place after it, and a start that finds it there finishes or forgets what was cut
//! short: the key file itself tells which of the two opens it. So the old master key is gone only
//! once everything is durable under the new one.
//!
//! Deliberate limit: the old file is replaced, not overwritten in place. What the disk keeps of it,
//! and what backups hold, the old key still opens.

use super::*;

/// Whose key the root of derived keys is.
pub(super) const ROOT: KeyId = KeyId { class: u8::MAX, id: 0 };

const MASTER_FILE: &str = "master.key";
const NEXT_MASTER_FILE: &str = "master.key.next";
const KEY_FILE: &str = "data-keys";

/// The master key in a folder's own file, made if there is none; without its root, for which
/// [`with_root`] opens the key file.
pub fn load_master_key(folder: &Path) -> Result<MasterKey, SealError> {
    let (path, next_path) = (folder.join(MASTER_FILE), folder.join(NEXT_MASTER_FILE));
    if next_path.exists() {
        let next = MasterKey::load_or_create(&next_path)?;
        if opens(folder, &next)? {
            put_in_place(folder, &next_path, &path)?;
        } else {
            std::fs::remove_file(&next_path).map_err(failed(&next_path, "removed"))?;
        }
    }
    MasterKey::load_or_create(&path)
}

/// The master key with the root that the folder's key file has, if it has one.
pub fn with_root(folder: &Path, master: MasterKey) -> Result<MasterKey, SealError> {
    let path = folder.join(KEY_FILE);
    if !path.exists() {
        return Ok(master);
    }
    let ring = KeyRing::open(&path, &master)?;
    let keys = ring.keys.lock();
    let root = match keys.numbers.get(&ROOT.into()) {
        Some(number) => keys.shelf.get(*number)?.map(|entry| ring.unwrap(*number, &entry)),
        None => None,
    };
    let root = root.transpose()?;
    Ok(MasterKey { root, ..master })
}

/// Puts every data key of a folder, which no process may be using, under another master key: the
/// given one, or a fresh one that takes the place of the folder's own. Answers how many there are.
pub fn rewrap(folder: &Path, old: &MasterKey, new: Option<MasterKey>) -> Result<usize, SealError> {
    let path = folder.join(KEY_FILE);
    let ring = KeyRing::open(&path, old)?;
    let is_own_file = new.is_none();
    let new = new.map_or_else(MasterKey::generate, Ok)?;
    let (bytes, count) = wrapped_anew(&ring, old, &new)?;
    let next_path = folder.join(NEXT_MASTER_FILE);
    if is_own_file {
        write_synced(&next_path, new.key.as_slice()).map_err(failed(&next_path, "written"))?;
    }
    write_synced(&path, &bytes).map_err(failed(&path, "rewritten"))?;
    if is_own_file {
        put_in_place(folder, &next_path, &folder.join(MASTER_FILE))?;
    }
    Ok(count)
}

fn failed(path: &Path, operation: &'static str) -> impl FnOnce(std::io::Error) -> SealError {
    let path = path.to_owned();
    move |source| SealError::File { path, operation, source }
}

fn put_in_place(folder: &Path, from: &Path, to: &Path) -> Result<(), SealError> {
    let synced = || File::open(folder)?.sync_all();
    std::fs::rename(from, to).and_then(|()| synced()).map_err(failed(to, "replaced"))
}

fn opens(folder: &Path, master: &MasterKey) -> Result<bool, SealError> {
    let path = folder.join(KEY_FILE);
    if !path.exists() {
        return Ok(false);
    }
    match KeyRing::open(&path, master) {
        // Without a root nothing was wrapped anew, whichever key that would have been.
        Ok(ring) => Ok(ring.keys.lock().numbers.contains_key(&ROOT.into())),
        Err(SealError::MasterKey(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The key file under the new master key, and how many data keys it has.
fn wrapped_anew(
    ring: &KeyRing,
    old: &MasterKey,
    new: &MasterKey,
) -> Result<(Vec<u8>, usize), SealError> {
    let other = KeyRing::in_memory(new)?;
    let keys = ring.keys.lock();
    let mut bytes = FILE_MAGIC.to_vec();
    let mut count = 0;
    let mut add = |number: u32, entry: Option<&Entry>| {
        bytes.extend_from_slice(&encode_entry(number, entry));
    };
    let next = keys.shelf.len() as u32;
    for number in 0..next {
        let Some(entry) = keys.shelf.get(number)? else {
            add(number, None);
            continue;
        };
        let data_key = ring.unwrap(number, &entry)?;
        add(number, Some(&other.wrap(number, entry.id, &data_key)?));
        count += 1;
    }
    if !keys.numbers.contains_key(&ROOT.into()) {
        add(next, Some(&other.wrap(next, ROOT, &old.key)?));
    } else {
        count -= 1;
    }
    Ok((bytes, count))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANN: KeyId = KeyId { class: 1, id: 1 };
    const BOB: KeyId = KeyId { class: 2, id: 2 };

    fn load(folder: &Path) -> MasterKey {
        with_root(folder, load_master_key(folder).unwrap()).unwrap()
    }

    struct Folder {
        folder: tempfile::TempDir,
        blob: Vec<u8>,
        erased: Vec<u8>,
        derived: [u8; 32],
    }

    impl Folder {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let master = load(folder.path());
            let ring = KeyRing::open(&folder.path().join(KEY_FILE), &master).unwrap();
            let erased = ring.seal(ANN, b"here", b"a").unwrap();
            let blob = ring.seal(BOB, b"here", b"b").unwrap();
            ring.sync().unwrap();
            ring.erase(ANN).unwrap();
            let derived = *master.derive("claims").unwrap();
            Self { folder, blob, erased, derived }
        }

        fn path(&self) -> &Path {
            self.folder.path()
        }

        fn bytes(&self, name: &str) -> Vec<u8> {
            std::fs::read(self.path().join(name)).unwrap()
        }

        /// All is there under `master`, and nothing has come back.
        fn check(&self, master: &MasterKey) {
            assert_eq!(*master.derive("claims").unwrap(), self.derived);
            let ring = KeyRing::open(&self.path().join(KEY_FILE), master).unwrap();
            let open = |blob: &[u8]| ring.open_blob(b"here", blob).unwrap();
            assert_eq!(open(&self.blob), Opened::Plain(b"b".to_vec()));
            assert_eq!(open(&self.erased), Opened::Erased);
            let fresh = ring.seal(ANN, b"here", b"c").unwrap();
            assert_eq!(open(&fresh), Opened::Plain(b"c".to_vec()));
        }
    }

    #[test]
    fn every_data_key_opens_under_the_new_master_key_only_and_derived_keys_stay() {
        let folder = Folder::new();
        for _ in 0..2 {
            let old = load(folder.path());
            assert_eq!(rewrap(folder.path(), &old, None).unwrap(), 1);
            let opened = KeyRing::open(&folder.path().join(KEY_FILE), &old);
            assert!(matches!(opened, Err(SealError::MasterKey(_))));
            assert!(!folder.path().join(NEXT_MASTER_FILE).exists());
            folder.check(&load(folder.path()));
        }
    }

    #[test]
    fn a_given_master_key_is_replaced_by_a_given_one() {
        let folder = Folder::new();
        let old = load(folder.path());
        let new = || MasterKey::from_bytes([9; 32]);
        rewrap(folder.path(), &old, Some(new())).unwrap();
        folder.check(&with_root(folder.path(), new()).unwrap());
        assert!(matches!(with_root(folder.path(), old), Err(SealError::MasterKey(_))));
    }

    #[test]
    fn a_rewrap_that_was_cut_short_is_finished_or_forgotten_by_the_next_start() {
        let folder = Folder::new();
        let before = (folder.bytes(MASTER_FILE), folder.bytes(KEY_FILE));
        rewrap(folder.path(), &load(folder.path()), None).unwrap();
        let after = (folder.bytes(MASTER_FILE), folder.bytes(KEY_FILE));
        let write = |name: &str, bytes: &[u8]| {
            std::fs::write(folder.path().join(name), bytes).unwrap();
        };
        for (key_file, master) in [(&before.1, &before.0), (&after.1, &after.0)] {
            write(MASTER_FILE, &before.0);
            write(NEXT_MASTER_FILE, &after.0);
            write(KEY_FILE, key_file);
            folder.check(&load(folder.path()));
            assert_eq!(folder.bytes(MASTER_FILE), *master);
            assert!(!folder.path().join(NEXT_MASTER_FILE).exists());
        }
    }
}
