//! A manifest as bytes and back. What comes from a peer or the disk is hostile until it has been read.
//!
//! Numbers are big-endian. `owners` is a table, so that an entry names one with two bytes; a path
//! says how much it shares with the one before.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::hash::{Hash, Hasher};
use crate::manifest::{
    Attribute, Entry, Fault, Kind, MAX_ATTRIBUTE_BYTES, MAX_ATTRIBUTES, MAX_ENTRIES, MAX_OWNERS,
    MAX_PATH, MAX_ROOTS, Manifest, Root, Time, Who,
};

/// The first bytes, with the version of this form.
const MAGIC: &[u8] = b"standin tree 1\n";

/// An encoded manifest is at most this long: 262,144 entries with paths of 200 bytes.
pub const MAX_ENCODED: usize = 96 << 20;

const DIRECTORY: u8 = b'd';
const FILE: u8 = b'f';
const SYMLINK: u8 = b'l';

impl Manifest {
    /// # Errors
    /// When it would be longer than [`MAX_ENCODED`], or has more than [`MAX_OWNERS`] owners.
    pub fn encode(&self) -> Result<Vec<u8>, Fault> {
        let mut owners: HashMap<&Who, u16> = HashMap::new();
        let mut table = Vec::new();
        for who in self.entries().flat_map(|(_, entry)| [&entry.user, &entry.group]) {
            if !owners.contains_key(who) {
                let number = u16::try_from(owners.len()).unwrap_or(u16::MAX);
                owners.insert(who, number);
                table.extend(who.id.to_be_bytes());
                short(&mut table, who.name.as_deref().unwrap_or_default().as_bytes());
            }
        }
        if owners.len() > MAX_OWNERS {
            return Err(Fault::new("more owners than standin keeps"));
        }
        let mut out = MAGIC.to_vec();
        out.extend(count(owners.len()).to_be_bytes());
        out.extend(table);
        out.extend(count(self.roots().len()).to_be_bytes());
        for root in self.roots() {
            short(&mut out, root.path.as_os_str().as_bytes());
            out.extend(count(root.entries.len()).to_be_bytes());
            let mut last: &[u8] = b"";
            for entry in &root.entries {
                let shared = last.iter().zip(&entry.path).take_while(|(a, b)| a == b).count();
                out.extend(length(shared).to_be_bytes());
                short(&mut out, entry.path.get(shared..).unwrap_or_default());
                put_kind(&mut out, &entry.kind);
                out.extend(entry.mode.to_be_bytes());
                for who in [&entry.user, &entry.group] {
                    // All of them were put into the table above.
                    out.extend(owners.get(who).copied().unwrap_or_default().to_be_bytes());
                }
                put_time(&mut out, entry.modified);
                put_attributes(&mut out, &entry.attributes);
                last = &entry.path;
            }
            if out.len() > MAX_ENCODED {
                return Err(Fault::new("a list longer than standin keeps"));
            }
        }
        Ok(out)
    }

    /// # Errors
    /// Anything but what [`Manifest::encode`] made of a list that [`Manifest::new`] takes.
    pub fn decode(bytes: &[u8]) -> Result<Self, Fault> {
        if bytes.len() > MAX_ENCODED {
            return Err(Fault::new("a list longer than standin keeps"));
        }
        let rest = bytes.strip_prefix(MAGIC).ok_or(Fault::new("no list of files"))?;
        let mut input = Input { rest, attributes: 0 };
        let owners = input.owners()?;
        let roots = input.bounded(MAX_ROOTS, 6)?;
        let roots = (0..roots).map(|_| input.root(&owners)).collect::<Result<Vec<_>, _>>()?;
        if !input.rest.is_empty() {
            return Err(Fault::new("bytes behind the end of the list"));
        }
        let manifest = Self::new(roots)?;
        // One list has one form: two nodes never keep two texts for one thing.
        if manifest.encode()?.as_slice() == bytes {
            Ok(manifest)
        } else {
            Err(Fault::new("a list that is written in another way than standin writes it"))
        }
    }
}

/// The hash of what has to be equal on all nodes.
pub(crate) fn canonical_hash(manifest: &Manifest) -> Hash {
    let mut hasher = Hasher::new();
    let mut out = Vec::with_capacity(512);
    hasher.update(b"standin generation 1\n");
    for root in manifest.roots() {
        out.clear();
        short(&mut out, root.path.as_os_str().as_bytes());
        out.extend(count(root.entries.len()).to_be_bytes());
        hasher.update(&out);
        for entry in &root.entries {
            out.clear();
            short(&mut out, &entry.path);
            put_kind(&mut out, &entry.kind);
            out.extend(entry.mode.to_be_bytes());
            for who in [&entry.user, &entry.group] {
                match &who.name {
                    Some(name) => {
                        out.push(1);
                        short(&mut out, name.as_bytes());
                    }
                    None => {
                        out.push(0);
                        out.extend(who.id.to_be_bytes());
                    }
                }
            }
            if entry.kind != Kind::Directory {
                put_time(&mut out, entry.modified);
            }
            put_attributes(&mut out, &entry.attributes);
            hasher.update(&out);
        }
    }
    hasher.finish()
}

/// Lengths and counts are within the bounds of `manifest.rs` in what [`Manifest::new`] has taken.
fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn length(number: usize) -> u16 {
    u16::try_from(number).unwrap_or(u16::MAX)
}

fn short(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend(length(bytes.len()).to_be_bytes());
    out.extend(bytes);
}

fn put_kind(out: &mut Vec<u8>, kind: &Kind) {
    match kind {
        Kind::Directory => out.push(DIRECTORY),
        Kind::File { size, hash, link } => {
            out.push(FILE);
            out.extend(size.to_be_bytes());
            out.extend(hash.as_bytes());
            out.extend(link.to_be_bytes());
        }
        Kind::Symlink { target } => {
            out.push(SYMLINK);
            short(out, target);
        }
    }
}

fn put_time(out: &mut Vec<u8>, time: Time) {
    out.extend(time.s.to_be_bytes());
    out.extend(time.ns.to_be_bytes());
}

fn put_attributes(out: &mut Vec<u8>, attributes: &[Attribute]) {
    // At most MAX_ATTRIBUTES.
    out.push(u8::try_from(attributes.len()).unwrap_or(u8::MAX));
    for attribute in attributes {
        short(out, &attribute.name);
        short(out, &attribute.value);
    }
}

/// What is still to be read.
struct Input<'a> {
    rest: &'a [u8],
    /// Bytes of attributes so far.
    attributes: usize,
}

impl<'a> Input<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Fault> {
        let (taken, rest) =
            self.rest.split_at_checked(length).ok_or(Fault::new("the list ends too early"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let (taken, rest) =
            self.rest.split_first_chunk().ok_or(Fault::new("the list ends too early"))?;
        self.rest = rest;
        Ok(*taken)
    }

    fn byte(&mut self) -> Result<u8, Fault> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn number(&mut self) -> Result<u32, Fault> {
        self.array().map(u32::from_be_bytes)
    }

    fn short(&mut self) -> Result<&'a [u8], Fault> {
        let length = u16::from_be_bytes(self.array()?);
        self.take(length.into())
    }

    /// A count of things that have at least `least` bytes each: no more than there are bytes for, so
    /// that nobody makes us reserve memory with four bytes.
    fn bounded(&mut self, most: usize, least: usize) -> Result<usize, Fault> {
        let count = self.number()? as usize;
        if count <= most && count.saturating_mul(least) <= self.rest.len() {
            Ok(count)
        } else {
            Err(Fault::new("a count beyond what follows"))
        }
    }

    fn owners(&mut self) -> Result<Vec<Who>, Fault> {
        let count = self.bounded(MAX_OWNERS, 6)?;
        let one = |_| {
            let id = self.number()?;
            let name = self.short()?;
            let name = str::from_utf8(name).map_err(|_| Fault::new("an owner without a text"))?;
            Ok(Who { id, name: (!name.is_empty()).then(|| Arc::from(name)) })
        };
        (0..count).map(one).collect()
    }

    fn root(&mut self, owners: &[Who]) -> Result<Root, Fault> {
        let path = PathBuf::from(OsStr::from_bytes(self.short()?));
        let count = self.bounded(MAX_ENTRIES, 24)?;
        let mut entries: Vec<Entry> = Vec::with_capacity(count);
        for _ in 0..count {
            let last = entries.last().map_or(&b""[..], |entry| &entry.path);
            entries.push(self.entry(last, owners)?);
        }
        Ok(Root { path, entries })
    }

    fn entry(&mut self, last: &[u8], owners: &[Who]) -> Result<Entry, Fault> {
        let shared = u16::from_be_bytes(self.array()?);
        let shared = last.get(..shared.into()).ok_or(Fault::new("a path that shares too much"))?;
        let path = [shared, self.short()?].concat();
        if path.len() > MAX_PATH {
            return Err(Fault::new("a path longer than the kernel takes"));
        }
        let kind = self.kind()?;
        let mode = u16::from_be_bytes(self.array()?);
        let mut who = || {
            let number = u16::from_be_bytes(self.array()?);
            owners.get(usize::from(number)).cloned().ok_or(Fault::new("an owner without an entry"))
        };
        let (user, group) = (who()?, who()?);
        let modified = Time { s: i64::from_be_bytes(self.array()?), ns: self.number()? };
        let attributes = self.byte()?;
        if usize::from(attributes) > MAX_ATTRIBUTES {
            return Err(Fault::new("more attributes than standin keeps"));
        }
        let attributes = (0..attributes).map(|_| self.attribute()).collect::<Result<_, _>>()?;
        Ok(Entry { path: path.into(), kind, mode, user, group, modified, attributes })
    }

    fn kind(&mut self) -> Result<Kind, Fault> {
        match self.byte()? {
            DIRECTORY => Ok(Kind::Directory),
            FILE => Ok(Kind::File {
                size: u64::from_be_bytes(self.array()?),
                hash: Hash::from_bytes(self.array()?),
                link: self.number()?,
            }),
            SYMLINK => Ok(Kind::Symlink { target: self.short()?.into() }),
            _ => Err(Fault::new("an entry of an unknown kind")),
        }
    }

    fn attribute(&mut self) -> Result<Attribute, Fault> {
        let (name, value) = (self.short()?, self.short()?);
        self.attributes += name.len() + value.len();
        if self.attributes > MAX_ATTRIBUTE_BYTES {
            return Err(Fault::new("more bytes of attributes than standin keeps"));
        }
        Ok(Attribute { name: name.into(), value: value.into() })
    }
}
