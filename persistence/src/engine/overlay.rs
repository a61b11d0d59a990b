//! A file that is read, with what is written kept in memory: so redb can check its pages, and
//! repair what it then finds, without touching the file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use parking_lot::Mutex;

const BLOCK_BYTES: u64 = 4096;

#[derive(Debug)]
struct Written {
    length: u64,
    blocks: BTreeMap<u64, Vec<u8>>,
}

/// The file with the blocks that were written over it.
#[derive(Debug)]
pub(super) struct Overlay {
    file: File,
    written: Mutex<Written>,
}

impl Overlay {
    pub(super) fn over(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        Ok(Self { file, written: Mutex::new(Written { length, blocks: BTreeMap::new() }) })
    }

    /// What stands in one block; zeros behind the file's end.
    fn block(&self, written: &Written, index: u64) -> io::Result<Vec<u8>> {
        if let Some(block) = written.blocks.get(&index) {
            return Ok(block.clone());
        }
        let mut block = vec![0; BLOCK_BYTES as usize];
        let mut filled = 0;
        while filled < block.len() {
            let at = index * BLOCK_BYTES + filled as u64;
            match self.file.read_at(&mut block[filled..], at)? {
                0 => break,
                count => filled += count,
            }
        }
        Ok(block)
    }

    /// For each block of a range: its number, and where in it and in the range the overlap is.
    fn pieces(offset: u64, length: usize) -> impl Iterator<Item = (u64, usize, usize, usize)> {
        let mut done = 0;
        std::iter::from_fn(move || {
            let at = offset + done as u64;
            let within = (at % BLOCK_BYTES) as usize;
            let count = (BLOCK_BYTES as usize - within).min(length - done);
            let piece = (count > 0).then_some((at / BLOCK_BYTES, within, done, count));
            done += count;
            piece
        })
    }
}

impl redb::StorageBackend for Overlay {
    fn len(&self) -> io::Result<u64> {
        Ok(self.written.lock().length)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let written = self.written.lock();
        if offset + out.len() as u64 > written.length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for (index, within, done, count) in Self::pieces(offset, out.len()) {
            let block = self.block(&written, index)?;
            out[done..done + count].copy_from_slice(&block[within..within + count]);
        }
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.written.lock().length = length;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut written = self.written.lock();
        for (index, within, done, count) in Self::pieces(offset, data.len()) {
            let mut block = self.block(&written, index)?;
            block[within..within + count].copy_from_slice(&data[done..done + count]);
            written.blocks.insert(index, block);
        }
        Ok(())
    }
}
