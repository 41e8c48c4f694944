//! The record of one generation: who made it, when, from what, why; and its manifest.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use crate::hash::Hash;
use crate::manifest::Manifest;

/// Parents of one generation: two where a fork was joined.
pub const MAX_PARENTS: usize = 8;

/// Bytes of the reason.
pub const MAX_WHY: usize = 512;

/// Bytes of a node's name.
const MAX_NODE: usize = 63;

/// Bytes of a record before its manifest.
const MAX_HEADER: usize = 4096;

const MAGIC: &str = "standin generation 1";

/// A generation by number and content. The same content may come again under another number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id {
    pub number: u64,
    /// [`Manifest::hash`].
    pub hash: Hash,
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.number, self.hash.short())
    }
}

/// Where a record comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// The writer's tree: what all nodes should have.
    Generation,
    /// What a node had instead, before it was overwritten.
    Drift,
}

impl Origin {
    const fn word(self) -> &'static str {
        match self {
            Self::Generation => "generation",
            Self::Drift => "drift",
        }
    }
}

/// What is known of a generation besides its manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generation {
    pub id: Id,
    pub origin: Origin,
    /// At most [`MAX_PARENTS`].
    pub parents: Vec<Id>,
    /// The name of the node whose tree it is.
    pub node: String,
    /// Milliseconds since 1970, by that node's clock.
    pub when_ms: u64,
    /// One line, at most [`MAX_WHY`] bytes.
    pub why: String,
}

impl Generation {
    pub(super) fn file_name(&self) -> String {
        format!("{:020}-{}-{}", self.id.number, self.id.hash, self.origin.word())
    }

    /// # Errors
    /// More parents, a longer name or reason, or more lines than a record may have.
    pub fn check(&self) -> Result<(), &'static str> {
        let line = |text: &str| !text.chars().any(char::is_control);
        if self.parents.len() > MAX_PARENTS {
            return Err("a generation with too many parents");
        }
        if self.node.is_empty() || self.node.len() > MAX_NODE || !line(&self.node) {
            return Err("a generation of a node without a proper name");
        }
        if self.why.len() > MAX_WHY || !line(&self.why) {
            return Err("a generation whose reason is no single short line");
        }
        Ok(())
    }

    pub(super) fn header(&self) -> String {
        let Self { id, origin, parents, node, when_ms, why } = self;
        let mut text = format!(
            "{MAGIC}\nnumber {}\nhash {}\nkind {}\nnode {node}\nwhen_ms {when_ms}\nwhy {why}\n",
            id.number,
            id.hash,
            origin.word()
        );
        for parent in parents {
            text.push_str(&format!("parent {} {}\n", parent.number, parent.hash));
        }
        text.push('\n');
        text
    }

    fn parse(header: &str) -> Option<Self> {
        let mut lines = header.lines();
        if lines.next()? != MAGIC {
            return None;
        }
        let mut value = |key: &str| lines.next()?.strip_prefix(key)?.strip_prefix(' ');
        let number = value("number")?.parse().ok()?;
        let hash = Hash::parse(value("hash")?)?;
        let origin = match value("kind")? {
            "generation" => Origin::Generation,
            "drift" => Origin::Drift,
            _ => return None,
        };
        let node = value("node")?.to_owned();
        let when_ms = value("when_ms")?.parse().ok()?;
        let why = value("why")?.to_owned();
        let parent = |line: &str| {
            let (number, hash) = line.strip_prefix("parent ")?.split_once(' ')?;
            Some(Id { number: number.parse().ok()?, hash: Hash::parse(hash)? })
        };
        let parents = lines.map(parent).collect::<Option<Vec<_>>>()?;
        let found = Self { id: Id { number, hash }, origin, parents, node, when_ms, why };
        found.check().is_ok().then_some(found)
    }
}

/// All records of a directory, sorted by time, and the names of those that can't be read.
pub(super) fn load_all(folder: &Path) -> io::Result<(Vec<Generation>, Vec<String>)> {
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for file in fs::read_dir(folder)? {
        let file = file?;
        let name = file.file_name().to_string_lossy().into_owned();
        let mut head = Vec::new();
        File::open(file.path())?.take(MAX_HEADER as u64).read_to_end(&mut head)?;
        let parsed = split(&head).and_then(|(header, _)| Generation::parse(header));
        match parsed.filter(|generation| generation.file_name() == name) {
            Some(generation) => good.push(generation),
            None => bad.push(name),
        }
    }
    sort(&mut good);
    Ok((good, bad))
}

/// By time, then by number: clocks of nodes differ, numbers of forks too.
pub(super) fn sort(generations: &mut [Generation]) {
    generations.sort_by_key(|generation| (generation.when_ms, generation.id));
}

fn split(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let end = bytes.windows(2).position(|pair| pair == b"\n\n")?;
    let (header, rest) = bytes.split_at_checked(end)?;
    Some((str::from_utf8(header).ok()?, rest.get(2..)?))
}

/// The manifest of a record's bytes, if it is the one that the record names.
pub(super) fn manifest(bytes: &[u8], hash: &Hash) -> Result<Manifest, String> {
    let (_, rest) = split(bytes).ok_or("no record of a generation")?;
    let manifest = Manifest::decode(rest).map_err(|fault| fault.to_string())?;
    let found = manifest.hash();
    if found == *hash { Ok(manifest) } else { Err(format!("its hash is {found} now")) }
}
