//! A generation's trees, built beside the live ones.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use standin_apply::{Refusal, Staged, retire};
use standin_core::sync::{Id, Trouble};
use standin_tree::build::{Builder, Written};
use standin_tree::manifest::{Manifest, Root};

use super::few::Few;
use super::ground::{Ground, Live, shown};

/// Trees that were built beside the live ones; who doesn't swap them in clears them away.
#[derive(Default)]
pub(super) struct Stage {
    pub(super) staged: Staged,
    pub(super) built: Vec<(Root, PathBuf)>,
    /// What those will be of which only what differs was built.
    pub(super) few: Vec<Root>,
    paths: Vec<PathBuf>,
    pub(super) written: Written,
}

/// Why nothing was exchanged.
pub(super) struct Refused {
    pub(super) failure: Failure,
    /// It may be for the way in which it was tried, not for the files.
    pub(super) way: bool,
    /// It is for the files that nginx has read.
    pub(super) files: bool,
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        Self { failure, way: false, files: false }
    }
}

impl Refused {
    pub(super) fn by_test(why: &Refusal) -> Self {
        let failure = refusal(why);
        let files = failure.0 == Trouble::Refused;
        Self { failure, way: !why.is_of_the_files(), files }
    }

    /// There is another way only where it was tried in parts.
    pub(super) fn of(self, stage: &Stage) -> Self {
        Self { way: self.way && stage.is_in_parts(), ..self }
    }
}

impl Stage {
    pub(super) fn is_in_parts(&self) -> bool {
        self.staged.roots.iter().any(|root| root.parts.is_some())
    }

    /// Only while the new trees lie there, not the old ones.
    pub(super) fn clear(&self) {
        for path in &self.paths {
            // What is left is removed by the next attempt at the same generation, or the next start.
            let _ = remove(path);
        }
    }
}

pub(super) type Failure = (Trouble, String);

pub(super) fn passing(what: impl std::fmt::Display) -> Failure {
    (Trouble::Passing, what.to_string())
}

pub(super) fn refusal(refusal: &Refusal) -> Failure {
    let trouble = match refusal {
        Refusal::BadFile { .. } => Trouble::Refused,
        // Another host's DNS, another process's port: they pass without anybody telling.
        Refusal::NameNotFound { .. }
        | Refusal::Address { .. }
        | Refusal::Late { .. }
        | Refusal::Unable { .. } => Trouble::Passing,
    };
    (trouble, refusal.to_string())
}

impl Ground {
    /// Builds the trees beside the live ones, whole, with what `exclude` leaves alone here; or, of a
    /// large one that lies there, only what differs, if it is `few`.
    pub(super) fn stage(
        &self,
        (id, wanted): (Id, &Manifest),
        live: Option<&Live>,
        few: bool,
        drift: &mut Vec<String>,
    ) -> Result<Stage, Failure> {
        let mut stage = Stage::default();
        let filled = self.fill(&mut stage, (id, wanted), live, few, drift);
        if filled.is_err() {
            stage.clear();
        }
        filled.map(|()| stage)
    }

    fn fill(
        &self,
        stage: &mut Stage,
        (id, wanted): (Id, &Manifest),
        live: Option<&Live>,
        few: bool,
        drift: &mut Vec<String>,
    ) -> Result<(), Failure> {
        let mut builder = Builder::new(&self.store);
        for root in wanted.roots().iter().filter(|root| !root.entries.is_empty()) {
            let real = real(&root.path);
            let at =
                beside(&real, id).ok_or_else(|| passing("the root directory can't be shared"))?;
            let exclude = self.spec.exclude();
            let found;
            let differs = match live.filter(|_| few) {
                Some(live) => match live.few.iter().find(|few| few.is_of(&root.path)) {
                    Some(known) => Some(known),
                    None => {
                        found = Few::of(&live.scan, root, exclude);
                        found.as_ref()
                    }
                },
                None => None,
            };
            if let Some(none) = differs.filter(|it| it.is_nothing()) {
                stage.few.extend(none.outcome(None));
                continue;
            }
            if at.symlink_metadata().is_ok() {
                // What an attempt before this one left, unless an old tree was swapped to there.
                standin_apply::recover(&self.journals, &mut |_| {}).map_err(passing)?;
                let edited = retire(&self.journals, &mut |_| {}).map_err(passing)?;
                drift.extend(edited.iter().map(shown));
                remove(&at).map_err(passing)?;
            }
            stage.paths.push(at.clone());
            let known = live.and_then(|it| it.before.iter().find(|(path, _)| *path == real));
            let before = known.map(|(_, marks)| marks.clone());
            if let Some(few) = differs {
                let reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
                let before = before.or_else(|| Some(few.before(&reader, &self.spec)));
                drop(reader);
                few.build(&mut builder, root, &at).map_err(passing)?;
                let outcome = few.outcome(Some(&at));
                stage.few.push(outcome.ok_or_else(|| passing("what was built can't be read"))?);
                let parts = Some(few.parts());
                stage.staged.roots.push(standin_apply::Root {
                    path: real,
                    staged: at,
                    before,
                    parts,
                });
                continue;
            }
            builder.build(root, &at, None).map_err(passing)?;
            if let Some(live) = live {
                let left_out: Vec<_> =
                    live.scan.left_out.iter().filter(|it| it.root == root.path).cloned().collect();
                let refused = builder.carry(&left_out, &real, &at).map_err(passing)?;
                if let Some(first) = refused.first() {
                    let (path, what) = (first.path.display(), &first.what);
                    return Err(passing(format!("{path} can't be brought along: {what}")));
                }
            }
            stage.built.push((root.clone(), at.clone()));
            let parts = None;
            stage.staged.roots.push(standin_apply::Root { path: real, staged: at, before, parts });
        }
        stage.written = builder.written();
        stage.staged.generation = format!("{}-{}", id.number, id.tree);
        Ok(())
    }
}

/// With every symbolic link on the way resolved, also where the last name isn't there.
pub(super) fn real(path: &Path) -> PathBuf {
    std::fs::canonicalize(path).unwrap_or_else(|_| {
        let parent = path.parent().and_then(|parent| std::fs::canonicalize(parent).ok());
        match (parent, path.file_name()) {
            (Some(parent), Some(name)) => parent.join(name),
            _ => path.to_owned(),
        }
    })
}

/// A place for a staged tree, in the same directory.
pub(super) fn beside(path: &Path, id: Id) -> Option<PathBuf> {
    let mut name = std::ffi::OsString::from(format!("{}-", standin_apply::HIDDEN));
    name.push(path.file_name()?);
    name.push(format!("-{}-{}", id.number, id.tree));
    Some(path.with_file_name(name))
}

pub(super) fn remove(path: &Path) -> io::Result<()> {
    let removed = match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => standin_apply::remove_tree(path),
        Ok(_) => std::fs::remove_file(path),
        Err(error) => Err(error),
    };
    removed.or_else(|error| match error.kind() {
        io::ErrorKind::NotFound => Ok(()),
        _ => Err(io::Error::new(error.kind(), format!("{}: {error}", path.display()))),
    })
}
