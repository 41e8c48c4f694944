//! Trees by their names, and what is special about each of them.

use std::collections::BTreeMap;

use standin_core::sync::TreeHash;

use crate::clock::Nanos;

/// Below so many per cent of its files a tree counts as a mass deletion.
const LEFT_AT_LEAST: u64 = 70;

/// What is true of a tree, wherever it lies. Hosts are bits.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Facts {
    /// Files in it.
    pub(super) files: u64,
    /// The newest time of anything in it.
    pub(super) newest: Nanos,
    /// Whose test refuses it.
    pub(super) refused: u8,
    /// Whose nginx refuses it at the reload only.
    pub(super) unloadable: u8,
    /// Who wants to be asked first.
    pub(super) asks: u8,
    /// Half of one, half of another.
    pub(super) half: bool,
}

#[derive(Debug, Default)]
pub(super) struct Trees {
    facts: BTreeMap<TreeHash, Facts>,
    made: u64,
}

impl Trees {
    pub(super) fn make(&mut self, facts: Facts) -> TreeHash {
        self.made += 1;
        let mut name = [0; 32];
        name[..8].copy_from_slice(&self.made.to_be_bytes());
        // The first six bytes are what a person sees.
        name.rotate_left(2);
        let tree = TreeHash(name);
        self.facts.insert(tree, facts);
        tree
    }

    pub(super) fn facts(&self, tree: TreeHash) -> Facts {
        self.facts.get(&tree).copied().unwrap_or_default()
    }

    /// Whether so much of `before` is gone that an operator has to be asked.
    pub(super) fn lost(&self, before: TreeHash, now: TreeHash) -> bool {
        self.facts(now).files * 100 < self.facts(before).files * LEFT_AT_LEAST
    }

    /// Whether a host's nginx serves it once it lies there.
    pub(super) fn good(&self, tree: TreeHash, host: u8) -> bool {
        let facts = self.facts(tree);
        !facts.half && (facts.refused | facts.unloadable) & bit(host) == 0
    }
}

pub(super) const fn bit(host: u8) -> u8 {
    1 << host
}
