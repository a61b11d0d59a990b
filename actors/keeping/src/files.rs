//! A tenant's files: what the runtimes of apps store under paths, in pieces.
//!
//! Where the bytes are: each piece is the payload of one record, and a row beside the others of
//! the tenant, sealed under the tenant's key. So a file is as durable as what it was acknowledged
//! with, moves and is backed up with its tenant, and no engine sees a value larger than a piece.
//! [`path`] says what a path is; [`drawer`] puts files in and takes them out.
//!
//! Invariants
//! - A file is there from the commit that ends its upload: half of one is never seen. What is at
//!   its path until then stays, and goes with that commit.
//! - What an upload leaves behind is removed when it is given up, at the latest
//!   [`UPLOAD_MS_MAX`] after it began.
//! - What all files and uploads of a tenant hold is at most [`TENANT_BYTES_MAX`].
//!
//! Deliberate limits
//! - A file is the tenant's, as documents are: who is erased takes no files along.
//! - What was removed is gone for readers at once; its records stay until they are archived.
//! - Who reads a file while another takes its place gets an answer that ends too early, never
//!   parts of both.

pub mod drawer;
pub mod path;

use std::collections::BTreeMap;

use persistence::codec;
use serde::{Deserialize, Serialize};
use serde_json::json;
use supervision::{
    Address, Class, Command, Entity, Handle, Need, NoEffect, Refusal, RowDraft, Timestamp, Turn,
};
use types::{AppId, TenantId, UserId, base32, home_of, owner_of_tenant, rfc3339};

pub use path::FilePath;

/// The family of the files' rows.
pub const FILE_FAMILY: &str = "file";
/// The family of the rows that hold pieces.
pub const PIECE_FAMILY: &str = "file_piece";
/// Bytes of a piece, but for the last of a file.
pub const PIECE_BYTES: usize = 256 * 1024;
/// Bytes of a file.
pub const FILE_BYTES_MAX: u64 = 25 * 1024 * 1024;
/// Bytes of all files and uploads of a tenant.
pub const TENANT_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// Files of a tenant.
pub const TENANT_FILES_MAX: u64 = 100_000;
/// Uploads of a tenant that are under way at once.
pub const UPLOADS_MAX: usize = 16;
/// How long an upload may take, in milliseconds.
pub const UPLOAD_MS_MAX: i64 = 10 * 60 * 1_000;
/// Bytes of a content type.
pub const CONTENT_TYPE_BYTES_MAX: usize = 200;
/// When to come back for a place among the uploads, in milliseconds.
const RETRY_MS: u64 = 2_000;

/// What a file is, as its row has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredFile {
    /// The upload that made it, which names its pieces.
    pub upload: u128,
    /// Bytes.
    pub size: u64,
    /// Pieces.
    pub pieces: u32,
    /// The SHA-256 of the whole content.
    pub digest: [u8; 32],
    /// What it says it is; never believed.
    pub content_type: String,
    /// For whom it was stored.
    pub by: Option<UserId>,
    /// When.
    pub at: Timestamp,
}

/// An upload that is under way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Upload {
    begun: Begun,
    at: Timestamp,
    pieces: u32,
    bytes: u64,
}

/// What is known of a tenant's files as a whole; each one is a row.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Files {
    tenant: Option<TenantId>,
    count: u64,
    bytes: u64,
    uploads: BTreeMap<u128, Upload>,
}

impl Files {
    /// Where they live.
    pub fn address(tenant: TenantId) -> Address<Self> {
        crate::address(&base32(tenant.0), owner_of_tenant(tenant), home_of(tenant))
    }

    /// How many files there are, and how many bytes they and the uploads hold.
    pub fn used(&self) -> (u64, u64) {
        (self.count, self.bytes_held())
    }

    fn bytes_held(&self) -> u64 {
        self.bytes + self.uploads.values().map(|upload| upload.bytes).sum::<u64>()
    }
}

/// The key of a file's row: they sort by app and path.
pub fn file_key(tenant: TenantId, app: &AppId, path: &str) -> Vec<u8> {
    [&tenant.0.to_be_bytes()[..], app.as_str().as_bytes(), &[0], path.as_bytes()].concat()
}

/// The key of a piece's row.
pub fn piece_key(tenant: TenantId, upload: u128, number: u32) -> Vec<u8> {
    let (tenant, upload) = (tenant.0.to_be_bytes(), upload.to_be_bytes());
    [&tenant[..], &upload, &number.to_be_bytes()].concat()
}

/// The bytes of a piece.
#[derive(Clone, PartialEq, Eq)]
pub struct Piece(pub Vec<u8>);

impl std::fmt::Debug for Piece {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl Serialize for Piece {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Piece {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::deserialize(deserializer).map(Self)
    }
}

/// An upload begins.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Begun {
    /// Its id.
    pub upload: u128,
    /// Whose files.
    pub tenant: TenantId,
    /// Of which app.
    pub app: AppId,
    /// Where it will be.
    pub path: String,
    /// What it says it is.
    pub content_type: String,
    /// For whom.
    pub by: Option<UserId>,
}

/// A piece came.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PieceAdded {
    /// Of which upload.
    pub upload: u128,
    /// From 0.
    pub number: u32,
    /// Its bytes.
    pub piece: Piece,
}

/// The upload is whole: the file is there, and what was at its path is not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FileStored {
    /// Which upload.
    pub upload: u128,
    /// The SHA-256 of the whole content.
    pub digest: [u8; 32],
    /// What was there before.
    pub replaced: Option<StoredFile>,
}

/// An upload came to nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UploadGivenUp {
    /// Which.
    pub upload: u128,
}

/// A file is gone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FileRemoved {
    /// Of which app.
    pub app: AppId,
    /// Where it was.
    pub path: String,
    /// What it was.
    pub file: StoredFile,
}

supervision::events! {
    /// What happens to a tenant's files.
    pub enum FilesEvent {
        /// An upload begins.
        Begun(Begun) = "upload_begun", 1;
        /// A piece came.
        Added(PieceAdded) = "piece_added", 1;
        /// A file is there.
        Stored(FileStored) = "file_stored", 1;
        /// An upload came to nothing.
        GivenUp(UploadGivenUp) = "upload_given_up", 1;
        /// A file is gone.
        Removed(FileRemoved) = "file_removed", 1;
    }
}

impl Upload {
    fn file(&self, digest: [u8; 32], at: Timestamp) -> StoredFile {
        let Begun { upload, content_type, by, .. } = self.begun.clone();
        let (size, pieces) = (self.bytes, self.pieces);
        StoredFile { upload, size, pieces, digest, content_type, by, at }
    }

    fn key(&self) -> Vec<u8> {
        file_key(self.begun.tenant, &self.begun.app, &self.begun.path)
    }
}

fn row(family: &'static str, key: Vec<u8>, value: Option<Vec<u8>>) -> RowDraft {
    RowDraft { family, key, value }
}

fn without_pieces(tenant: TenantId, upload: u128, pieces: u32, rows: &mut Vec<RowDraft>) {
    let key = |number| piece_key(tenant, upload, number);
    rows.extend((0..pieces).map(|number| row(PIECE_FAMILY, key(number), None)));
}

impl Entity for Files {
    const KIND: &'static str = "files";
    type Event = FilesEvent;
    type Effect = NoEffect;

    fn apply(&mut self, event: &FilesEvent, at: Timestamp) {
        match event {
            FilesEvent::Begun(begun) => {
                self.tenant = Some(begun.tenant);
                let upload = Upload { begun: begun.clone(), at, pieces: 0, bytes: 0 };
                self.uploads.insert(begun.upload, upload);
            }
            FilesEvent::Added(PieceAdded { upload, number, piece }) => {
                if let Some(upload) = self.uploads.get_mut(upload) {
                    upload.pieces = number + 1;
                    upload.bytes += piece.0.len() as u64;
                }
            }
            FilesEvent::Stored(FileStored { upload, replaced, .. }) => {
                let Some(upload) = self.uploads.remove(upload) else { return };
                let before = replaced.as_ref().map_or(0, |file| file.size);
                self.bytes = (self.bytes + upload.bytes).saturating_sub(before);
                self.count += u64::from(replaced.is_none());
            }
            FilesEvent::GivenUp(UploadGivenUp { upload }) => {
                self.uploads.remove(upload);
            }
            FilesEvent::Removed(FileRemoved { file, .. }) => {
                self.bytes = self.bytes.saturating_sub(file.size);
                self.count = self.count.saturating_sub(1);
            }
        }
    }

    fn rows(&self, event: &FilesEvent, at: Timestamp, rows: &mut Vec<RowDraft>) {
        let Some(tenant) = self.tenant else { return };
        match event {
            FilesEvent::Begun(_) => {}
            FilesEvent::Added(PieceAdded { upload, number, piece }) => {
                let key = piece_key(tenant, *upload, *number);
                rows.push(row(PIECE_FAMILY, key, Some(piece.0.clone())));
            }
            FilesEvent::Stored(FileStored { upload, digest, replaced }) => {
                let Some(upload) = self.uploads.get(upload) else { return };
                let value = codec::encode(&upload.file(*digest, at)).ok();
                rows.push(row(FILE_FAMILY, upload.key(), value));
                if let Some(file) = replaced {
                    without_pieces(tenant, file.upload, file.pieces, rows);
                }
            }
            FilesEvent::GivenUp(UploadGivenUp { upload: id }) => {
                let pieces = self.uploads.get(id).map_or(0, |upload| upload.pieces);
                without_pieces(tenant, *id, pieces, rows);
            }
            FilesEvent::Removed(FileRemoved { app, path, file }) => {
                rows.push(row(FILE_FAMILY, file_key(tenant, app, path), None));
                without_pieces(tenant, file.upload, file.pieces, rows);
            }
        }
    }

    fn next_deadline(&self) -> Option<Timestamp> {
        self.uploads.values().map(|upload| upload.at.plus_ms(UPLOAD_MS_MAX)).min()
    }

    fn due(turn: &mut Turn<'_, Self>) {
        let now = turn.now();
        let uploads = turn.state().uploads.iter();
        let late = uploads.filter(|(_, upload)| upload.at.plus_ms(UPLOAD_MS_MAX) <= now);
        let late: Vec<u128> = late.map(|(id, _)| *id).collect();
        for upload in late {
            turn.record(FilesEvent::GivenUp(UploadGivenUp { upload }));
        }
    }

    fn observe(&self) -> serde_json::Value {
        let upload = |it: &Upload| {
            let (app, since) = (&it.begun.app, rfc3339(it.at));
            json!({"app": app, "bytes": it.bytes, "since": since})
        };
        json!({"files": self.count, "bytes": self.bytes,
            "uploads": self.uploads.values().map(upload).collect::<Vec<_>>()})
    }
}

/// Begins an upload. 429 when too many are under way, 507 when the tenant has too much.
#[derive(Clone, Debug)]
pub struct BeginUpload(pub Begun);

impl Command for BeginUpload {
    const NAME: &'static str = "begin_upload";
}

impl Handle<BeginUpload> for Files {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, BeginUpload(begun): BeginUpload) -> Result<(), Refusal> {
        let files = turn.state();
        if files.uploads.len() >= UPLOADS_MAX {
            let message = format!("{UPLOADS_MAX} uploads of this tenant are under way");
            let refusal = Refusal::new(Class::TooMany, "too_many_uploads", message);
            return Err(refusal.retry_after(RETRY_MS));
        }
        if files.count >= TENANT_FILES_MAX || files.bytes_held() >= TENANT_BYTES_MAX {
            return Err(full(files));
        }
        turn.record(FilesEvent::Begun(begun));
        Ok(())
    }
}

fn full(files: &Files) -> Refusal {
    let message = format!(
        "a tenant has at most {TENANT_FILES_MAX} files of {TENANT_BYTES_MAX} bytes together"
    );
    let facts = json!({"files": files.count, "bytes": files.bytes_held()});
    Refusal::new(Class::LowSpace, "storage_quota_exceeded", message).with_facts(&facts)
}

/// The code of a refusal that a file is too large.
pub const FILE_TOO_LARGE: &str = "file_too_large";

/// 413 for the gateway: a file is larger than any may be.
pub fn too_large() -> Refusal {
    let message = format!("a file has at most {FILE_BYTES_MAX} bytes");
    Refusal::new(Class::Invalid, FILE_TOO_LARGE, message)
}

/// Adds a piece. 507 when the tenant has too much, [`FILE_TOO_LARGE`], 409 `upload_ended`.
#[derive(Clone, Debug)]
pub struct AddPiece(pub PieceAdded);

impl Command for AddPiece {
    const NAME: &'static str = "add_piece";
}

impl Handle<AddPiece> for Files {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, AddPiece(added): AddPiece) -> Result<(), Refusal> {
        let files = turn.state();
        let upload = files.uploads.get(&added.upload).ok_or_else(upload_ended)?;
        let bytes = added.piece.0.len() as u64;
        if added.number != upload.pieces || added.piece.0.len() > PIECE_BYTES {
            return Err(Refusal::invalid("file", "this is not the next piece"));
        }
        if upload.bytes + bytes > FILE_BYTES_MAX {
            return Err(too_large());
        }
        if files.bytes_held() + bytes > TENANT_BYTES_MAX {
            return Err(full(files));
        }
        turn.record(FilesEvent::Added(added));
        Ok(())
    }
}

fn upload_ended() -> Refusal {
    Refusal::conflict("upload_ended", "this upload took too long and was given up")
}

/// Ends an upload: the file is there. Answers it. 409 `upload_ended`.
#[derive(Clone, Debug)]
pub struct CommitUpload {
    /// Which.
    pub upload: u128,
    /// The key of the file's row, which says what it takes the place of.
    pub key: Vec<u8>,
    /// The SHA-256 of all that came.
    pub digest: [u8; 32],
}

impl Command for CommitUpload {
    const NAME: &'static str = "store_file";
}

impl Handle<CommitUpload> for Files {
    type Reply = StoredFile;

    fn needs(command: &CommitUpload) -> Vec<Need> {
        vec![Need::Row(FILE_FAMILY, command.key.clone())]
    }

    fn handle(turn: &mut Turn<'_, Self>, command: CommitUpload) -> Result<StoredFile, Refusal> {
        let CommitUpload { upload: id, key, digest } = command;
        let upload = turn.state().uploads.get(&id).ok_or_else(upload_ended)?;
        if upload.key() != key {
            return Err(upload_ended());
        }
        let replaced = turn.found_row(FILE_FAMILY, &key).map(read).transpose()?;
        let file = upload.file(digest, turn.now());
        turn.record(FilesEvent::Stored(FileStored { upload: id, digest, replaced }));
        Ok(file)
    }
}

/// Reads a file's row.
pub fn read(row: &[u8]) -> Result<StoredFile, Refusal> {
    codec::decode(row).map_err(|_| Refusal::crashed())
}

/// Gives an upload up. No change when it has ended.
#[derive(Clone, Debug)]
pub struct GiveUpUpload(pub u128);

impl Command for GiveUpUpload {
    const NAME: &'static str = "give_up_upload";
    const ESSENTIAL: bool = true;
}

impl Handle<GiveUpUpload> for Files {
    type Reply = ();

    fn handle(
        turn: &mut Turn<'_, Self>,
        GiveUpUpload(upload): GiveUpUpload,
    ) -> Result<(), Refusal> {
        if turn.state().uploads.contains_key(&upload) {
            turn.record(FilesEvent::GivenUp(UploadGivenUp { upload }));
        }
        Ok(())
    }
}

/// Removes a file. Answers what it was; 404 where there is none.
#[derive(Clone, Debug)]
pub struct RemoveFile {
    /// In which tenant.
    pub tenant: TenantId,
    /// Of which app.
    pub app: AppId,
    /// Where it is.
    pub path: FilePath,
}

impl RemoveFile {
    fn key(&self) -> Vec<u8> {
        file_key(self.tenant, &self.app, self.path.as_str())
    }
}

impl Command for RemoveFile {
    const NAME: &'static str = "remove_file";
    const ESSENTIAL: bool = true;
}

impl Handle<RemoveFile> for Files {
    type Reply = StoredFile;

    fn needs(command: &RemoveFile) -> Vec<Need> {
        vec![Need::Row(FILE_FAMILY, command.key())]
    }

    fn handle(turn: &mut Turn<'_, Self>, command: RemoveFile) -> Result<StoredFile, Refusal> {
        let row = turn.found_row(FILE_FAMILY, &command.key());
        let file = read(row.ok_or_else(|| Refusal::not_found("file"))?)?;
        let RemoveFile { app, path, .. } = command;
        let path = path.as_str().to_owned();
        turn.record(FilesEvent::Removed(FileRemoved { app, path, file: file.clone() }));
        Ok(file)
    }
}

#[cfg(test)]
#[path = "files/tests.rs"]
mod tests;
