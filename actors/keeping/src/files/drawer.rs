//! Putting files in piece by piece, and taking them out as they are read: neither way holds more
//! than a piece or two in memory.

use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
use persistence::{RowRange, Shard};
use supervision::{Origin, Refusal, System};
use types::{AppId, TenantId, owner_of_tenant};

use super::{
    AddPiece, BeginUpload, Begun, CommitUpload, FILE_BYTES_MAX, FILE_FAMILY, FilePath, Files,
    GiveUpUpload, PIECE_BYTES, PIECE_FAMILY, Piece, PieceAdded, StoredFile, file_key, piece_key,
    read, too_large,
};

/// Files of one page of a list.
pub const LISTED_MAX: usize = 1_000;

/// An upload that is under way. One that is dropped before it is committed is given up when its
/// time is over; [`Uploading::give_up`] does so at once.
pub struct Uploading {
    system: Arc<System>,
    origin: Origin,
    begun: Begun,
    pieces: u32,
    bytes: u64,
    waiting: Vec<u8>,
    digest: Context,
}

impl Uploading {
    /// Begins one. 429 and 507 as [`BeginUpload`].
    pub async fn begin(
        system: &Arc<System>,
        begun: Begun,
        origin: Origin,
    ) -> Result<Self, Refusal> {
        let address = Files::address(begun.tenant);
        let files = system.directory::<Files>();
        files.ask(&address, BeginUpload(begun.clone()), origin.clone()).await?;
        Ok(Self {
            system: Arc::clone(system),
            origin,
            begun,
            pieces: 0,
            bytes: 0,
            waiting: Vec::with_capacity(PIECE_BYTES),
            digest: Context::new(&SHA256),
        })
    }

    /// Takes more of the content. 413 and 507 as [`AddPiece`].
    pub async fn add(&mut self, mut bytes: &[u8]) -> Result<(), Refusal> {
        self.bytes += bytes.len() as u64;
        if self.bytes > FILE_BYTES_MAX {
            return Err(too_large());
        }
        self.digest.update(bytes);
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(PIECE_BYTES - self.waiting.len()));
            self.waiting.extend_from_slice(now);
            bytes = later;
            if self.waiting.len() == PIECE_BYTES {
                self.flush().await?;
            }
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), Refusal> {
        let piece = Piece(std::mem::replace(&mut self.waiting, Vec::with_capacity(PIECE_BYTES)));
        let added = PieceAdded { upload: self.begun.upload, number: self.pieces, piece };
        self.pieces += 1;
        let files = self.system.directory::<Files>();
        files.ask(&Files::address(self.begun.tenant), AddPiece(added), self.origin.clone()).await
    }

    /// Writes what is left. Answers the command that makes the file be there.
    pub async fn finish(&mut self) -> Result<CommitUpload, Refusal> {
        if !self.waiting.is_empty() {
            self.flush().await?;
        }
        let digest = self.digest.clone().finish();
        let digest = digest.as_ref().try_into().unwrap_or_default();
        let Begun { tenant, app, path, upload, .. } = &self.begun;
        Ok(CommitUpload { upload: *upload, key: file_key(*tenant, app, path), digest })
    }

    /// Removes what came so far.
    pub async fn give_up(self) {
        let give_up = GiveUpUpload(self.begun.upload);
        let (files, address) = (self.system.directory(), Files::address(self.begun.tenant));
        // Should this fail, the upload's time ends it.
        if let Err(refusal) = files.ask(&address, give_up, self.origin).await {
            tracing::debug!(%refusal, "what an upload left behind stays a while");
        }
    }
}

fn shard(tenant: TenantId) -> Shard {
    owner_of_tenant(tenant).shard()
}

/// What a file is; `None` where there is none. Blocks.
pub fn find(
    system: &System,
    (tenant, app): (TenantId, &AppId),
    path: &FilePath,
) -> Result<Option<StoredFile>, Refusal> {
    let key = file_key(tenant, app, path.as_str());
    system.row(shard(tenant), FILE_FAMILY, &key).map(|row| read(&row)).transpose()
}

/// A piece of a file; `None` once it is gone. Blocks.
pub fn piece(system: &System, tenant: TenantId, file: &StoredFile, number: u32) -> Option<Vec<u8>> {
    system.row(shard(tenant), PIECE_FAMILY, &piece_key(tenant, file.upload, number))
}

/// Files of an app whose paths begin so, in the order of their paths: at most `limit` behind a
/// path, and whether there are more. Blocks.
pub fn list(
    system: &System,
    (tenant, app): (TenantId, &AppId),
    (prefix, after): (&str, Option<&str>),
    limit: usize,
) -> Result<(Vec<(String, StoredFile)>, bool), Refusal> {
    let whole = file_key(tenant, app, "");
    let rows = system.rows(&RowRange {
        shard: shard(tenant),
        family: FILE_FAMILY,
        prefix: file_key(tenant, app, prefix),
        after: after.map(|path| file_key(tenant, app, path)),
        newest_first: false,
        limit: limit + 1,
    });
    let is_more = rows.len() > limit;
    let file = |(key, row): &(Vec<u8>, Vec<u8>)| {
        let path = key.get(whole.len()..).unwrap_or_default();
        Ok((String::from_utf8_lossy(path).into_owned(), read(row)?))
    };
    let files: Result<Vec<_>, Refusal> = rows.iter().take(limit).map(file).collect();
    Ok((files?, is_more))
}
