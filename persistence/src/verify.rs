//! Walking a home's chain: every number there, every link right, the Merkle root as the head says.

use std::collections::BTreeMap;

use crate::chain::ChainHead;
use crate::engine::Direction;
use crate::journal::{Journal, decode};
use crate::layout::{META, Meta, RowKey, successor};
use crate::record::{Home, Record, SHARDS, Shard, link};
use crate::{ReadError, codec};

/// How many records one step of the walk reads.
const STEP_RECORDS: usize = 1_024;

/// What a walk found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainReport {
    /// How many records the chain has.
    pub records: u64,
    /// The last link.
    pub link: [u8; 32],
    /// The Merkle root (RFC 9162) over all links.
    pub root: [u8; 32],
}

/// Why a chain does not verify.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// It could not be read.
    #[error("the chain could not be read")]
    Read(#[from] ReadError),
    /// A record is missing.
    #[error("record {expected} is missing: the next one there is {found}")]
    Gap {
        /// The number that should come next.
        expected: u64,
        /// The number that does.
        found: u64,
    },
    /// A record was changed, or one before it.
    #[error("record {0} does not link to the one before it")]
    Broken(u64),
    /// The walk and the stored head disagree.
    #[error("the chain ends at {found}, its head says {head}")]
    Head {
        /// How many records there are.
        found: u64,
        /// How many the head counts.
        head: u64,
    },
}

/// How far a store has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Made anew when the store is created or restored.
    pub generation: u128,
    /// The number of the last commit, 0 for none.
    pub commit: u64,
    /// The rolling hash over all commits.
    pub rolling: [u8; 32],
    /// The last position of each shard.
    pub positions: Vec<u64>,
}

impl Journal {
    /// How far the store has come, as its engine says.
    pub fn standing(&self) -> Result<Standing, ReadError> {
        let Some(bytes) = self.shared.engine.get(META)? else {
            let positions = vec![0; SHARDS];
            return Ok(Standing { generation: 0, commit: 0, rolling: [0; 32], positions });
        };
        let Meta { generation, commit, rolling, positions, .. } =
            decode(&bytes, || "the store's figures".to_owned())?;
        Ok(Standing { generation, commit, rolling, positions })
    }

    /// How many rows each family has, counted a page at a time over everything.
    pub fn count_rows(&self) -> Result<BTreeMap<String, u64>, ReadError> {
        let (mut start, end) = (b"p".to_vec(), b"q".to_vec());
        let mut families = BTreeMap::new();
        loop {
            let page = self.shared.engine.scan(&start, &end, Direction::Forward, STEP_RECORDS)?;
            for (key, _) in &page {
                let family = RowKey::of_bytes(key).map(|key| key.family.into_owned());
                *families.entry(family.unwrap_or_default()).or_default() += 1;
            }
            match page.last() {
                Some((last, _)) if page.len() == STEP_RECORDS => {
                    start = [last.as_slice(), &[0]].concat();
                }
                _ => return Ok(families),
            }
        }
    }

    /// The rows of a shard in the order of their keys, of all families, after `after`.
    pub fn shard_rows(
        &self,
        shard: Shard,
        after: Option<&RowKey>,
        limit: usize,
    ) -> Result<Vec<(RowKey, Vec<u8>)>, ReadError> {
        let prefix = vec![b'p', shard.0];
        let start = after.map_or(prefix.clone(), |key| [key.bytes().as_slice(), &[0]].concat());
        let end = successor(&prefix);
        let pairs = self.shared.engine.scan(&start, &end, Direction::Forward, limit)?;
        let row = |(key, value): (Vec<u8>, Vec<u8>)| Some((RowKey::of_bytes(&key)?, value));
        Ok(pairs.into_iter().filter_map(row).collect())
    }

    /// Verifies the whole chain of `home` as it stood when this was called.
    pub fn verify_chain(&self, home: Home) -> Result<ChainReport, VerifyError> {
        let head = self.chain_head(home)?;
        let mut walked = ChainHead::default();
        while walked.chain_seq < head.chain_seq {
            let records = self.read_chain(home, walked.chain_seq + 1, false, STEP_RECORDS)?;
            if records.is_empty() {
                break;
            }
            for record in records {
                if walked.chain_seq < head.chain_seq {
                    step(&mut walked, &record)?;
                }
            }
        }
        if walked != head {
            return Err(VerifyError::Head { found: walked.chain_seq, head: head.chain_seq });
        }
        Ok(ChainReport { records: head.chain_seq, link: head.link, root: head.root() })
    }
}

fn step(walked: &mut ChainHead, record: &Record) -> Result<(), VerifyError> {
    let (expected, found) = (walked.chain_seq + 1, record.header.chain_seq);
    if found != expected {
        return Err(VerifyError::Gap { expected, found });
    }
    let header = codec::encode(&record.header)
        .map_err(|source| ReadError::Damaged { at: format!("record {found}"), source })?;
    let expected_link = link(&walked.link, &header, &record.payload);
    if expected_link != record.link {
        return Err(VerifyError::Broken(found));
    }
    walked.push(expected_link);
    Ok(())
}
