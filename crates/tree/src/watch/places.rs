//! Which directory each inotify watch belongs to, and which hints concern the tree.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Dir, FileType, Mode, OFlags, openat};
use standin_linux::inotify::{Hint, Inotify};

use crate::manifest::MAX_DEPTH;
use crate::read::{Directory, Spec};
use crate::stamp::open_directory;

/// One watched directory.
#[derive(Debug, Default)]
struct Watched {
    /// It is part of a root: the root, and the path in it.
    within: Option<Within>,
    /// Names in it that are roots.
    names: Vec<Vec<u8>>,
}

/// The watches of one tree.
#[derive(Debug)]
pub(super) struct Places {
    inotify: Inotify,
    watched: HashMap<i32, Watched>,
    /// Those that the walk under way has come to.
    seen: HashSet<i32>,
    /// Directories that the walk under way has come to and nobody had watched.
    fresh: usize,
    /// The first watch that was refused in this walk.
    refused: Option<io::Error>,
}

/// A directory of the tree: its root, and the path in it.
type Within = (PathBuf, Vec<u8>);

impl Places {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            inotify: Inotify::new()?,
            watched: HashMap::new(),
            seen: HashSet::new(),
            fresh: 0,
            refused: None,
        })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }

    /// Before a walk: the directories that hold the roots, so that a root that comes, goes or is
    /// exchanged is seen.
    pub(super) fn begin(&mut self, spec: &Spec) {
        self.seen.clear();
        self.fresh = 0;
        self.refused = None;
        for root in spec.roots() {
            self.hold(root);
            if let Ok(real) = root.canonicalize()
                && real != *root
            {
                self.hold(&real);
            }
        }
    }

    fn hold(&mut self, path: &Path) {
        let Some((parent, name)) = path.parent().zip(path.file_name()) else { return };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        // A directory that isn't there can't be watched; the next full scan looks again.
        let Ok(fd) = openat(CWD, parent, flags, Mode::empty()) else { return };
        if let Some(watched) = self.add(fd.as_fd())
            && !watched.names.iter().any(|known| known == name.as_bytes())
        {
            watched.names.push(name.as_bytes().to_vec());
        }
    }

    /// In a walk: a directory that is about to be listed.
    pub(super) fn directory(&mut self, directory: Directory<'_>) {
        let known = self.watched.len();
        if let Some(watched) = self.add(directory.fd) {
            watched.within = Some((directory.root.to_owned(), directory.relative.to_vec()));
            self.fresh += usize::from(self.watched.len() > known);
        }
    }

    /// How many directories the last walk has found that nobody had watched: whether it was quiet in
    /// them before isn't known.
    pub(super) const fn fresh(&self) -> usize {
        self.fresh
    }

    /// A directory that has just come, and all below it: watched from now on, not only from the next
    /// walk on. Else a burst in it would look like quiet time.
    fn enter(&mut self, (root, relative): &Within, spec: &Spec, depth: usize) {
        let path = root.join(Path::new(std::ffi::OsStr::from_bytes(relative)));
        // What has gone again, or can't be read, is the next walk's business.
        let Ok(fd) = open_directory(CWD, path.as_os_str().as_bytes()) else { return };
        let Some(watched) = self.add(fd.as_fd()) else { return };
        watched.within = Some((root.clone(), relative.clone()));
        let Ok(listed) = Dir::read_from(&fd) else { return };
        for entry in listed.flatten().filter(|entry| entry.file_type() == FileType::Directory) {
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." && depth < MAX_DEPTH {
                let below = joined(relative, name);
                if !spec.exclude().exclude(root, &below) {
                    self.enter(&(root.clone(), below), spec, depth + 1);
                }
            }
        }
    }

    fn add(&mut self, fd: BorrowedFd<'_>) -> Option<&mut Watched> {
        match self.inotify.watch(fd) {
            Ok(watch) => {
                let watched = self.watched.entry(watch).or_default();
                if self.seen.insert(watch) {
                    *watched = Watched::default();
                }
                Some(watched)
            }
            Err(error) => {
                self.refused.get_or_insert(error);
                None
            }
        }
    }

    /// After a whole walk: what it didn't come to is no part of the tree any more. Gives the first
    /// refusal.
    pub(super) fn end(&mut self) -> Option<io::Error> {
        let (inotify, seen) = (&self.inotify, &self.seen);
        self.watched.retain(|watch, _| {
            let stays = seen.contains(watch);
            if !stays {
                inotify.forget(*watch);
            }
            stays
        });
        self.refused.take()
    }

    pub(super) fn count(&self) -> usize {
        self.watched.len()
    }

    /// Takes the hints that wait; whether one of them concerns the tree.
    pub(super) fn take(&mut self, spec: &Spec) -> io::Result<bool> {
        let (inotify, watched) = (&mut self.inotify, &mut self.watched);
        let mut concerned = false;
        let mut come: HashSet<Within> = HashSet::new();
        inotify.take(|hint| {
            concerned |= match hint {
                Hint::Overflow => true,
                Hint::Ended { watch } => {
                    watched.remove(&watch).is_some_and(|it| it.within.is_some())
                }
                Hint::Changed { watch, name, folder } => {
                    let place = watched.get(&watch);
                    let concerns = place.is_some_and(|place| concerns(place, name, spec));
                    let within = place.and_then(|place| place.within.as_ref());
                    if let (true, true, Some((root, relative)), Some(name)) =
                        (folder, concerns, within, name)
                    {
                        come.insert((root.clone(), joined(relative, name)));
                    }
                    concerns
                }
            };
        })?;
        for within in come {
            self.enter(&within, spec, 0);
        }
        Ok(concerned)
    }
}

fn joined(relative: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = relative.to_vec();
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend(name);
    path
}

fn concerns(place: &Watched, name: Option<&[u8]>, spec: &Spec) -> bool {
    let Some(name) = name else { return place.within.is_some() };
    if place.names.iter().any(|root| root == name) {
        return true;
    }
    let Some((root, relative)) = &place.within else { return false };
    !spec.exclude().exclude(root, &joined(relative, name))
}
