//! What a replica must not forget, on disk.

use std::io;
use std::path::Path;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use standin_core::sync::{Saved, TreeHash};

use super::ground::Translation;
use super::wire::{self, IdSaid, ProblemSaid};
use crate::authority::files;

const NAME: &str = "replica.json";

const TRANSLATION: &str = "translation";

/// Longer than a line of generations is.
const BYTES: u64 = 256 * 1024;

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct OnDisk {
    line: Vec<IdSaid>,
    proven: Option<IdSaid>,
    strayed: bool,
    disk: Option<String>,
    highest: u64,
    held: bool,
    problem: Option<ProblemSaid>,
}

/// What was written; nothing where nothing was.
///
/// # Errors
/// It is there and can't be read: what this node had isn't known then.
pub(crate) fn load(dir: &Path) -> io::Result<Saved> {
    let path = dir.join(NAME);
    let damaged =
        || io::Error::new(io::ErrorKind::InvalidData, format!("{} is damaged", path.display()));
    match std::fs::metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Saved::default()),
        Err(error) => return Err(error),
        Ok(meta) if meta.len() > BYTES => return Err(damaged()),
        Ok(_) => {}
    }
    let on_disk: OnDisk = serde_json::from_slice(&std::fs::read(&path)?).map_err(|_| damaged())?;
    Ok(Saved {
        line: wire::line(&on_disk.line).ok_or_else(damaged)?,
        proven: on_disk.proven.as_ref().and_then(IdSaid::id),
        strayed: on_disk.strayed,
        disk: on_disk.disk.as_deref().and_then(wire::unhex).map(TreeHash),
        highest: on_disk.highest,
        held: on_disk.held,
        problem: on_disk.problem.as_ref().and_then(ProblemSaid::problem),
    })
}

/// When that was.
pub(crate) fn written(dir: &Path) -> Option<SystemTime> {
    std::fs::metadata(dir.join(NAME)).and_then(|meta| meta.modified()).ok()
}

/// # Errors
/// As write(2); what was there before is there still.
pub(crate) fn save(dir: &Path, saved: &Saved) -> io::Result<()> {
    let on_disk = OnDisk {
        line: wire::line_said(&saved.line),
        proven: saved.proven.map(IdSaid::from),
        strayed: saved.strayed,
        disk: saved.disk.map(|tree| wire::hex(&tree.0)),
        highest: saved.highest,
        held: saved.held,
        problem: saved.problem.clone().map(ProblemSaid::from),
    };
    files::write_atomically(&dir.join(NAME), &serde_json::to_vec(&on_disk)?, 0o600)
}

/// What this host made of the generation in place; `None` where nothing was written, or damage: the
/// next reading then finds drift, which is kept and put right.
pub(crate) fn translation(dir: &Path) -> Option<Translation> {
    let text = std::fs::read_to_string(dir.join(TRANSLATION)).ok()?;
    let (own, tree) = text.trim().split_once(' ')?;
    Some(Translation { own: TreeHash(wire::unhex(own)?), tree: TreeHash(wire::unhex(tree)?) })
}

/// # Errors
/// As write(2).
pub(crate) fn save_translation(dir: &Path, translation: Translation) -> io::Result<()> {
    let text = format!("{} {}\n", wire::hex(&translation.own.0), wire::hex(&translation.tree.0));
    files::write_atomically(&dir.join(TRANSLATION), text.as_bytes(), 0o600)
}

#[cfg(test)]
mod tests {
    use standin_core::sync::{Id, Line, Problem, TreeHash, Trouble};

    use super::*;

    #[test]
    fn what_is_saved_is_loaded_and_damage_is_told() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(load(dir.path()).unwrap(), Saved::default());
        let id = Id { number: 7, tree: TreeHash([7; 32]) };
        let saved = Saved {
            line: Line::of(vec![id]).unwrap(),
            proven: Some(id),
            strayed: true,
            disk: Some(TreeHash([8; 32])),
            highest: 9,
            held: true,
            problem: Some(Problem { id, trouble: Trouble::Undone, why: "n3: no".to_owned() }),
        };
        save(dir.path(), &saved).unwrap();
        assert_eq!(load(dir.path()).unwrap(), saved);
        std::fs::write(dir.path().join(NAME), "{\"line\":[{\"number\":1,").unwrap();
        assert!(load(dir.path()).unwrap_err().to_string().contains("damaged"));
    }
}
