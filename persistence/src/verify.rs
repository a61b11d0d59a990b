//! Walking a home's chain: every number there, every link right, the Merkle root as the head says.

use crate::chain::ChainHead;
use crate::journal::Journal;
use crate::record::{Home, Record, link};
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

impl Journal {
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
