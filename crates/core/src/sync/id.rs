//! What a generation is called, and which came of which.

use std::fmt;

/// Generations that a line remembers: who was away for more changes catches up all the same, only a
/// fork that old isn't told from an absence.
pub const LINE: usize = 64;

/// SHA-256 of a generation's manifest: two trees with the same hash are the same tree.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TreeHash(pub [u8; 32]);

impl fmt::Display for TreeHash {
    /// The first twelve digits: enough for a person, and for a command line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().take(6).try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for TreeHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A generation: its number, which rises with each change, and the hash of its tree. The same tree
/// may come again under another number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id {
    pub number: u64,
    pub tree: TreeHash,
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.number, self.tree)
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A generation and those that it came of, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Line(Vec<Id>);

/// How another line stands to ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// They end in the same generation.
    Same,
    /// Theirs came of ours, or we have none.
    Newer,
    /// Ours came of theirs: theirs lacks our last changes.
    Older,
    /// Both came of `common` and were changed apart.
    Fork { common: Id },
    /// They have nothing in common.
    Unrelated,
}

impl Line {
    /// A line from elsewhere, within its bound; what doesn't fall from one to the next isn't one.
    #[must_use]
    pub fn of(mut ids: Vec<Id>) -> Option<Self> {
        ids.truncate(LINE);
        let falls = ids.iter().zip(ids.iter().skip(1)).all(|(a, b)| a.number > b.number);
        falls.then_some(Self(ids))
    }

    /// The generation itself.
    #[must_use]
    pub fn tip(&self) -> Option<Id> {
        self.0.first().copied()
    }

    /// The one that it came of.
    #[must_use]
    pub fn parent(&self) -> Option<Id> {
        self.0.get(1).copied()
    }

    #[must_use]
    pub fn ids(&self) -> &[Id] {
        &self.0
    }

    #[must_use]
    pub fn has(&self, id: Id) -> bool {
        self.0.contains(&id)
    }

    /// The line with one more generation, whose number is above the tip's.
    #[must_use]
    pub fn then(&self, id: Id) -> Self {
        let mut ids = Vec::with_capacity(self.0.len() + 1);
        ids.push(id);
        ids.extend(self.0.iter().take(LINE - 1));
        Self(ids)
    }

    /// The line up to `id`; empty when it isn't of this line.
    #[must_use]
    pub fn back_to(&self, id: Id) -> Self {
        let from = self.0.iter().position(|one| *one == id).unwrap_or(self.0.len());
        Self(self.0.iter().skip(from).copied().collect())
    }

    #[must_use]
    pub fn relation(&self, theirs: &Self) -> Relation {
        let (Some(own), Some(other)) = (self.tip(), theirs.tip()) else { return Relation::Newer };
        if own == other {
            return Relation::Same;
        }
        if theirs.has(own) {
            return Relation::Newer;
        }
        if self.has(other) {
            return Relation::Older;
        }
        if let Some(common) = self.0.iter().find(|id| theirs.has(**id)) {
            return Relation::Fork { common: *common };
        }
        // Theirs is full, and begins after our end: we were away for longer than it remembers.
        let forgotten = theirs.0.len() == LINE
            && theirs.0.last().is_some_and(|oldest| oldest.number > own.number);
        if forgotten { Relation::Newer } else { Relation::Unrelated }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u64, tree: u8) -> Id {
        Id { number, tree: TreeHash([tree; 32]) }
    }

    fn line(ids: &[(u64, u8)]) -> Line {
        Line::of(ids.iter().map(|(number, tree)| id(*number, *tree)).collect()).unwrap()
    }

    #[test]
    fn lines_know_who_came_of_whom() {
        let ours = line(&[(3, 3), (2, 2), (1, 1)]);
        let relation = |theirs: &[(u64, u8)]| ours.relation(&line(theirs));
        assert_eq!(relation(&[(3, 3), (2, 2)]), Relation::Same);
        assert_eq!(relation(&[(5, 5), (4, 4), (3, 3)]), Relation::Newer);
        assert_eq!(relation(&[(2, 2), (1, 1)]), Relation::Older);
        assert_eq!(relation(&[(3, 9), (2, 2)]), Relation::Fork { common: id(2, 2) });
        assert_eq!(relation(&[(9, 9), (8, 8)]), Relation::Unrelated);
        assert_eq!(Line::default().relation(&ours), Relation::Newer);
    }

    #[test]
    fn a_long_absence_is_no_fork() {
        let ours = line(&[(3, 3), (2, 2)]);
        let long: Vec<Id> = (0..LINE as u64).rev().map(|i| id(10 + i, 7)).collect();
        assert_eq!(ours.relation(&Line::of(long).unwrap()), Relation::Newer);
    }

    #[test]
    fn a_line_is_bounded_and_must_fall() {
        let mut grown = Line::default();
        for number in 1..200 {
            grown = grown.then(id(number, 1));
        }
        assert_eq!(grown.ids().len(), LINE);
        assert_eq!(grown.parent(), Some(id(198, 1)));
        assert!(Line::of(vec![id(1, 1), id(2, 2)]).is_none());
        assert_eq!(grown.back_to(id(150, 1)).tip(), Some(id(150, 1)));
        assert_eq!(grown.back_to(id(1, 1)).tip(), None);
    }
}
