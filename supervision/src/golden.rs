//! What was stored once is read for ever: a file for each event, row and state of each version
//! that was ever written, as hexadecimal bytes, in the folder `testdata` of the crate whose they
//! are. For tests.
//!
//! A file that is missing is written by running the tests with `WRITE_FIXTURES=1`; one that differs
//! is a change of the stored format, and needs a new version.

use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use persistence::codec;

use crate::entity::Entity;
use crate::event::Event;

/// A crate's files. Whatever is not as it was panics, naming the file.
pub struct Golden(PathBuf);

impl Golden {
    /// The files of the crate in this folder: `env!("CARGO_MANIFEST_DIR")`.
    pub fn of(manifest_dir: &str) -> Self {
        Self(Path::new(manifest_dir).join("testdata"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(format!("{name}.hex"))
    }

    fn read(&self, name: &str) -> Vec<u8> {
        let path = self.path(name);
        let read = std::fs::read_to_string(&path).map_err(|error| error.to_string());
        let bytes = read.and_then(|text| {
            HEXLOWER.decode(text.trim().as_bytes()).map_err(|error| error.to_string())
        });
        bytes.unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// These bytes are what the file `name` holds.
    pub fn check(&self, name: &str, bytes: &[u8]) {
        let path = self.path(name);
        if !path.exists() && std::env::var_os("WRITE_FIXTURES").is_some() {
            let written = std::fs::create_dir_all(path.parent().unwrap_or(&self.0))
                .and_then(|()| std::fs::write(&path, HEXLOWER.encode(bytes) + "\n"));
            written.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        }
        assert_eq!(self.read(name), bytes, "{name} is stored otherwise than it was");
    }

    /// There is a sample for each event, each is stored as it always was and read back, and so
    /// is what earlier versions have stored.
    pub fn check_events<E: Event + PartialEq>(&self, samples: &[E]) {
        for (name, version) in E::catalogue() {
            let file = format!("events/{name}.{version}");
            let is_it = |event: &&E| (event.name(), event.version()) == (*name, *version);
            let bytes = match samples.iter().find(is_it) {
                Some(sample) => {
                    let bytes = encoded(&file, sample.encode());
                    self.check(&file, &bytes);
                    assert_eq!(&encoded(&file, E::decode(name, *version, &bytes)), sample);
                    continue;
                }
                None => self.read(&file),
            };
            let read = encoded(&file, E::decode(name, *version, &bytes));
            assert!(read.version() > *version, "there is no sample of {file}");
        }
    }

    /// The state is stored as it always was, and read back.
    pub fn check_state<E: Entity>(&self, state: &E) {
        let name = format!("states/{}.{}", E::KIND, E::SNAPSHOT_VERSION);
        let bytes = encoded(&name, codec::encode(state));
        self.check(&name, &bytes);
        let read: E = encoded(&name, codec::decode(&bytes));
        assert_eq!(encoded(&name, codec::encode(&read)), bytes, "{name} is read otherwise");
    }
}

fn encoded<T, E: std::fmt::Display>(name: &str, result: Result<T, E>) -> T {
    result.unwrap_or_else(|error| panic!("{name}: {error}"))
}
