//! Whether a cluster file can be this node's: its own faults, and those of this host for it.

use std::path::Path;

use standin_config::{Diagnostic, Loaded, Source};

use crate::cli::client;
use crate::control;
use crate::preflight::{self, Listen, Subject};

/// The node that looks at a file.
#[derive(Clone, Copy)]
pub(super) struct Whose<'a> {
    /// What the file has to be of, if anything.
    pub(super) cluster: Option<&'a str>,
    pub(super) node: &'a str,
    pub(super) state_dir: &'a Path,
}

/// Looks at `text` as this node would at its start. `Ok`: warnings; `Err`: all that is wrong.
///
/// What was wrong with this host for the file in force is no reason against a new one.
/// It takes a while, and must not be called on the control plane's thread.
pub(super) fn fit(
    name: &str,
    text: &str,
    whose: Whose<'_>,
    in_force: &str,
) -> Result<String, String> {
    let (new, source) = findings(name, text, whose)?;
    let (errors, warnings): (Vec<_>, Vec<_>) = new.into_iter().partition(Diagnostic::is_error);
    let known = if errors.is_empty() {
        Vec::new()
    } else {
        findings(name, in_force, Whose { cluster: None, ..whose })
            .map_or_else(|_| Vec::new(), |(found, _)| found)
    };
    let (old, new): (Vec<_>, Vec<_>) =
        errors.into_iter().partition(|one| known.iter().any(|it| it.message == one.message));
    let shown =
        |list: &[Diagnostic]| standin_config::render(list, std::slice::from_ref(&source), false);
    if new.is_empty() {
        let rest: Vec<_> = old.into_iter().chain(warnings).collect();
        return Ok(shown(&rest));
    }
    Err(shown(&new))
}

/// All that is found; `Err`: the file itself is wrong.
fn findings(
    name: &str,
    text: &str,
    Whose { cluster, node, state_dir }: Whose<'_>,
) -> Result<(Vec<Diagnostic>, Source), String> {
    let Loaded { model, diagnostics, source } = standin_config::load_bytes(name, text.as_bytes());
    let shown =
        |list: &[Diagnostic]| standin_config::render(list, std::slice::from_ref(&source), false);
    let Some(model) = model else { return Err(shown(&diagnostics)) };
    if let Some(cluster) = cluster.filter(|it| *it != model.name) {
        return Err(format!(
            "the file is of the cluster {:?}, this node is of {cluster:?}: a cluster keeps its name",
            model.name
        ));
    }
    control::fits(&model, node).map_err(|found| match found {
        control::Misfit::Found(found) => shown(&found),
        control::Misfit::Said(text) => text,
    })?;
    let Some(me) = model.node(node) else { return Ok((diagnostics, source)) };
    let subject = Subject { cluster: &model, me, text };
    let looked = client::block_on(async {
        Ok(preflight::here(Some(&subject), state_dir, Listen::Never).await)
    });
    let facts = looked.map_err(|error| format!("this host can't be looked at: {error:#}"))?;
    let mut all = diagnostics;
    all.extend(preflight::judge(Some(&subject), &facts));
    Ok((all, source))
}
