//! What outlives the daemon, when it starts: a swap that was cut off, the history, what this node had.

use std::path::Path;
use std::sync::Arc;

use standin_core::sync::{Id, Saved};
use standin_tree::store::Store;

use super::driver::Had;
use super::memory;

type Opened = (Arc<Store>, Saved, Option<Had>, Option<String>);

/// Undoes a swap that was cut off, and opens the history and what this node had.
pub(super) fn open(dir: &Path, journals: &Path) -> Result<Opened, String> {
    let at = |what: &str, error: std::io::Error| format!("{what}: {error}");
    crate::authority::files::private_dir(dir).map_err(|e| at(&dir.display().to_string(), e))?;
    crate::authority::files::private_dir(journals)
        .map_err(|e| at(&journals.display().to_string(), e))?;
    let recovered = standin_apply::recover(journals, &mut |_| {})
        .map_err(|error| at("a swap of files that was cut off can't be undone", error))?;
    let recovered = match recovered {
        standin_apply::Recovered::Clean => None,
        standin_apply::Recovered::Undone { generation, .. } => Some(format!(
            "generation {generation} was being put in place when standin ended; it was undone, and \
             is tried again"
        )),
    };
    let store = Store::open(dir).map_err(|error| at("the history", error))?;
    let mut saved = memory::load(dir).map_err(|error| at("what this node had", error))?;
    if recovered.is_some() {
        // nginx may have been reloaded before it was undone.
        saved.proven = None;
    }
    let known = |tip: Id| if saved.strayed { saved.disk } else { Some(tip.tree) };
    let had = saved.line.tip().and_then(|tip| Some((known(tip), memory::written(dir)?)));
    Ok((Arc::new(store), saved, had, recovered))
}
