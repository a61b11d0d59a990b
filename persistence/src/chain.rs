//! A home's chain: its last link, and the frontier of the Merkle tree over all its links.
//!
//! Each record's link covers the link before it, so that no record can be changed, left out or
//! put in without breaking every later one. The links are also the leaves of a Merkle tree as in
//! RFC 9162 section 2.1 (leaf `SHA-256(0x00 ‖ link)`, node `SHA-256(0x01 ‖ left ‖ right)`); only
//! its frontier, the roots of the complete subtrees, is kept: enough to give the root at any time.

use serde::{Deserialize, Serialize};

use crate::record::{Digest, sha256};

/// How far a home's chain has come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainHead {
    /// The number of the last record, 0 for none.
    pub chain_seq: u64,
    /// The last link, zeros for none.
    pub link: Digest,
    /// Roots of the complete subtrees, the largest first: one for each 1 in `chain_seq`.
    pub frontier: Vec<Digest>,
}

impl ChainHead {
    /// Takes the next link in.
    pub fn push(&mut self, link: Digest) {
        self.link = link;
        let mut node = sha256(&[&[0], &link]);
        // Each complete pair folds into its parent: as many as the count had trailing ones.
        for _ in 0..self.chain_seq.trailing_ones() {
            let left = self.frontier.pop().unwrap_or_default();
            node = sha256(&[&[1], &left, &node]);
        }
        self.frontier.push(node);
        self.chain_seq += 1;
    }

    /// The tree's root: RFC 9162's hash of the empty string for no leaves.
    pub fn root(&self) -> Digest {
        let mut nodes = self.frontier.iter().rev();
        let Some(first) = nodes.next() else {
            return sha256(&[]);
        };
        nodes.fold(*first, |right, left| sha256(&[&[1], left, &right]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition of RFC 9162 section 2.1.1, word for word and slow.
    fn root_by_definition(leaves: &[Digest]) -> Digest {
        match leaves {
            [] => sha256(&[]),
            [leaf] => sha256(&[&[0], leaf]),
            _ => {
                let split = leaves.len().next_power_of_two() / 2;
                let (left, right) = leaves.split_at(split);
                sha256(&[&[1], &root_by_definition(left), &root_by_definition(right)])
            }
        }
    }

    #[test]
    fn the_frontier_gives_the_root_of_the_definition() {
        let mut head = ChainHead::default();
        let mut leaves = Vec::new();
        for n in 0..70_u8 {
            assert_eq!(head.root(), root_by_definition(&leaves), "{n} leaves");
            assert_eq!(head.frontier.len() as u32, head.chain_seq.count_ones());
            leaves.push(sha256(&[&[n]]));
            head.push(leaves[usize::from(n)]);
        }
    }
}
