//! The Merkle tree of RFC 6962, section 2.1, as the row of perfect subtrees on its right edge.
//!
//! Must never be fed anything but record bytes as they are stored.

use tlog_tiles::tlog::{EMPTY_HASH, Hash, node_hash, record_hash};

/// Size and right edge of the tree: enough to append and to compute the root.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tree {
    size: u64,
    edge: Vec<(u64, Hash)>,
}

impl Tree {
    /// Number of leaves.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Adds a leaf: `SHA-256(0x00 || record)`.
    pub fn push(&mut self, record: &[u8]) {
        let mut node = (1, record_hash(record));
        while let Some(left) = self.edge.pop_if(|left| left.0 == node.0) {
            node = (left.0 * 2, node_hash(left.1, node.1));
        }
        self.edge.push(node);
        self.size += 1;
    }

    /// The root over all leaves; that of no leaves is `SHA-256("")`.
    pub fn root(&self) -> Hash {
        let mut edge = self.edge.iter().rev();
        let Some(last) = edge.next() else { return EMPTY_HASH };
        edge.fold(last.1, |right, left| node_hash(left.1, right))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition of RFC 6962, written down as it stands there.
    fn by_definition(leaves: &[Vec<u8>]) -> Hash {
        match leaves {
            [] => EMPTY_HASH,
            [one] => record_hash(one),
            many => {
                let split = many.len().next_power_of_two() / 2;
                node_hash(by_definition(&many[..split]), by_definition(&many[split..]))
            }
        }
    }

    #[test]
    fn the_root_is_that_of_the_definition_at_every_size() {
        let leaves: Vec<Vec<u8>> = (0..130u32).map(|n| n.to_be_bytes().to_vec()).collect();
        let mut tree = Tree::default();
        for size in 0..leaves.len() {
            assert_eq!(tree.root(), by_definition(&leaves[..size]), "size {size}");
            tree.push(&leaves[size]);
        }
    }

    #[test]
    fn the_empty_root_is_the_hash_of_nothing() {
        assert_eq!(Tree::default().root().to_string(), "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=");
    }
}
