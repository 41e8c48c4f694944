//! What operators see of the shared files, and what must not come from others.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use standin_core::sync::{Id, Job, Ordered, State, Step, TreeHash, Trouble};
use standin_tree::changes::changes;
use standin_tree::manifest::{Kind, Manifest};
use standin_tree::read::Scan;
use standin_tree::store::{Origin, Store};
use standin_tree::watch::Limit;

use super::driver::{Driver, own};
use super::made::Lens;
use super::wire::hex;
use super::{Reply, powers};
use crate::api::types::sync::{Apply, Change, Diff, Generation, Kept, Node, Problem, Sync};
use crate::control::time::rfc3339;

/// Paths that a diff lists; nobody reads more.
const LISTED: usize = 1000;

impl Driver {
    pub(super) fn status(&self) -> Result<Sync, String> {
        let running = self.running.as_ref().ok_or("no files are shared")?;
        let view = running.replica.view();
        let mut own = node(&view.node, true, Some(&view.state));
        own.writes = view.writing;
        own.current = running.replica.current(&view.node);
        let mut nodes = vec![own];
        for (name, peer) in &view.peers {
            let mut one = node(name, peer.connected, peer.state.as_ref());
            one.writes = view.state.writer.as_ref() == Some(name);
            one.current = running.replica.current(name);
            nodes.push(one);
        }
        let spec = &running.spec;
        let (outside, also_line) = self.outside_status();
        let notes = running.limit.iter().chain(&running.unreadable).chain(&running.fault).cloned();
        Ok(Sync {
            node: view.node,
            writer: view.state.writer,
            roots: spec.roots().iter().map(|root| root.display().to_string()).collect(),
            nodes,
            targets: self.pusher.targets(),
            apply: view.ordered.as_ref().map(apply),
            doing: view.busy.as_ref().map(doing),
            notes: notes.collect(),
            tickets: self.tickets_status(),
            outside,
            also_line,
        })
    }

    pub(super) fn history(&self, reply: Reply<Vec<Kept>>) {
        let Some(running) = &self.running else { return };
        let store = Arc::clone(&running.store);
        let view = running.replica.view();
        let (line, disk) = (view.line, running.disk.as_ref().map(|disk| disk.tree));
        tokio::task::spawn_blocking(move || {
            let mut kept = Vec::new();
            for one in store.generations().iter().rev() {
                let (mut files, mut bytes) = (0, 0);
                if let Ok(manifest) = store.manifest(&one.id) {
                    for (_, entry) in manifest.entries() {
                        if let Kind::File { size, .. } = entry.kind {
                            files += 1;
                            bytes += size;
                        }
                    }
                }
                let id = Id { number: one.id.number, tree: TreeHash(*one.id.hash.as_bytes()) };
                kept.push(Kept {
                    generation: (one.origin == Origin::Generation).then_some(id.number),
                    tree: hex(&id.tree.0),
                    at: rfc3339(SystemTime::UNIX_EPOCH + Duration::from_millis(one.when_ms)),
                    files,
                    bytes,
                    why: one.why.clone(),
                    on_disk: line.tip() == Some(id) && disk == Some(id.tree),
                });
            }
            // Who asked may have gone; the same below.
            let _ = reply.send(Ok(kept));
        });
    }

    pub(super) fn diff(&self, node: Option<String>, reply: Reply<Diff>) {
        let Some(running) = &self.running else { return };
        let view = running.replica.view();
        if let (Some(name), Some(settings)) = (&node, &self.settings) {
            let nodes = &settings.values.nodes;
            if !nodes.contains_key(name) {
                let nodes: Vec<&str> = nodes.keys().map(String::as_str).collect();
                let why = format!("no node is called {name}; there are: {}", nodes.join(", "));
                // Who asked may have gone.
                let _ = reply.send(Err(why));
                return;
            }
        }
        let store = Arc::clone(&running.store);
        let applied = view.state.applied;
        let here = format!("generation {}", applied.map_or(0, |id| id.number));
        let theirs = node.as_ref().map(|name| {
            let state = view.peers.get(name).and_then(|peer| peer.state.as_ref());
            (name.clone(), state.and_then(|state| state.applied))
        });
        let disk = running.disk.as_ref().map(|disk| Arc::clone(&disk.scan));
        tokio::task::spawn_blocking(move || {
            let kept = |id: Option<Id>| id.and_then(|id| store.manifest(&own(id)).ok());
            let found = match theirs {
                None => {
                    let before = kept(applied).unwrap_or_default();
                    disk.map(|disk| {
                        difference((&here, &before), ("what lies on disk", &disk.manifest))
                    })
                    .ok_or_else(|| "the files haven't been read yet".to_owned())
                }
                Some((name, id)) => match (kept(id), kept(applied)) {
                    (Some(theirs), Some(ours)) => {
                        let from = format!("{name}'s generation {}", id.map_or(0, |id| id.number));
                        Ok(difference((&from, &theirs), (&format!("this node's {here}"), &ours)))
                    }
                    _ => Err(format!(
                        "what {name} has isn't in the history of this node; `standin sync status` \
                         says which generation it is"
                    )),
                },
            };
            let _ = reply.send(found);
        });
    }

    /// The tree that an operator means.
    pub(super) fn tree_of(&self, meant: Option<&str>) -> Result<TreeHash, String> {
        let running = self.running.as_ref().ok_or("no files are shared")?;
        let Some(meant) = meant else {
            let parent = running.replica.view().line.parent();
            return parent.map(|id| id.tree).ok_or_else(|| "there is no earlier one".to_owned());
        };
        let generations = running.store.generations();
        let number = meant.parse::<u64>().ok();
        let mut found: BTreeMap<TreeHash, ()> = BTreeMap::new();
        for one in &generations {
            let tree = TreeHash(*one.id.hash.as_bytes());
            let numbered = one.origin == Origin::Generation && Some(one.id.number) == number;
            if numbered || meant.len() >= 6 && hex(&tree.0).starts_with(meant) {
                found.insert(tree, ());
            }
        }
        match (found.len(), found.into_keys().next()) {
            (1, Some(tree)) => Ok(tree),
            (0, _) => Err(format!("{meant} isn't in the history: standin sync history")),
            _ => Err(format!("{meant} may mean several; name the tree: standin sync history")),
        }
    }
}

fn difference((from, old): (&str, &Manifest), (to, new): (&str, &Manifest)) -> Diff {
    let all = changes(old, new);
    Diff {
        from: from.to_owned(),
        to: to.to_owned(),
        left_out: all.len().saturating_sub(LISTED) as u64,
        changes: all
            .into_iter()
            .take(LISTED)
            .map(|change| Change {
                path: change.path.display().to_string(),
                what: change.what.to_string(),
            })
            .collect(),
    }
}

fn generation(id: Option<Id>) -> Option<Generation> {
    id.map(|id| Generation { number: id.number, tree: hex(&id.tree.0) })
}

fn node(name: &str, connected: bool, state: Option<&State>) -> Node {
    let mut node = Node { name: name.to_owned(), connected, ..Node::default() };
    let Some(state) = state else { return node };
    node.desired = generation(state.desired);
    node.staged = generation(state.staged);
    node.tested = generation(state.tested);
    node.applied = generation(state.applied);
    node.proven = generation(state.proven);
    node.drift = state.drift.map(|tree| hex(&tree.0));
    node.problem = state.problem.as_ref().map(|problem| Problem {
        generation: generation(Some(problem.id)).unwrap_or_default(),
        kind: problem.trouble.to_string(),
        why: problem.why.clone(),
    });
    node.held.clone_from(&state.held);
    node
}

fn apply(ordered: &Ordered) -> Apply {
    Apply {
        generation: generation(ordered.id),
        step: ordered.step.to_string(),
        over: ordered.over(),
        failed: match &ordered.step {
            Step::Failed(why) => Some(why.clone()),
            _ => None,
        },
        nodes: ordered.nodes.clone(),
        skipped: ordered.skipped.clone(),
    }
}

fn doing(job: &Job) -> String {
    match job {
        Job::Take(id) => format!("keeping generation {id}"),
        Job::Keep(tree) => format!("keeping {tree}, which lies on disk, in the history"),
        Job::Fetch { id, from } => format!("fetching generation {id} from {from}"),
        Job::Test(id) => format!("testing generation {id}"),
        Job::Apply { id, .. } => format!("putting generation {id} in place"),
        Job::Load(id) => format!("having nginx load generation {id}"),
    }
}

pub(super) fn limit(limit: &Limit) -> String {
    let Limit { setting, value, had, raised_to, why } = limit;
    match raised_to {
        Some(to) => format!("{setting} was {value}, too low for the shared files; raised to {to}"),
        None => format!(
            "{setting} is {value}: after {had} watches the kernel said {why}. The files are looked at \
             every few seconds instead; mend: sysctl -w {setting}={}",
            value.saturating_mul(4)
        ),
    }
}

/// What a generation could do beyond serving that neither the one before could nor what `lies` on this
/// node's disk, nor an operator of this node has approved.
pub(super) fn unapproved(
    store: &Store,
    lens: &Lens,
    manifest: &Manifest,
    before: Option<Id>,
    lies: Option<&Scan>,
    dir: &Path,
) -> BTreeSet<String> {
    // Of the files as nginx would read them; those that can't be filled in are never live.
    let filled = |manifest: Manifest| lens.resolved(store, &manifest).unwrap_or(manifest);
    let manifest = filled(manifest.clone());
    let before = before.and_then(|before| store.manifest(&own(before)).ok());
    let before = before.map(filled).unwrap_or_default();
    let roots = |of: &Manifest| of.roots().iter().map(|root| root.path.clone()).collect::<Vec<_>>();
    // What was there already brings nothing new; of ten thousand files one has changed. With other
    // roots the same words may mean something else.
    let mut known = HashSet::new();
    if roots(&before) == roots(&manifest) {
        known.extend(before.contents().into_keys());
    }
    let mut new = powers::of(store, &manifest, &known);
    if !new.is_empty() {
        // Who has put it here has said yes; else a node that joins would be asked for what it runs with.
        for there in [Some(&before), lies.map(|scan| &scan.manifest)].into_iter().flatten() {
            let known = powers::of(store, there, &HashSet::new());
            new.retain(|one| !known.contains(one));
        }
        let approved = powers::approved(dir);
        new.retain(|one| !approved.contains(one));
    }
    new
}

/// Asks for an approval, where there is something to approve.
pub(super) fn ask_for(new: &BTreeSet<String>) -> Result<(), (Trouble, String)> {
    if new.is_empty() {
        return Ok(());
    }
    let list: Vec<&str> = new.iter().take(20).map(String::as_str).collect();
    Err((
        Trouble::Approval,
        format!(
            "it brings what runs code in nginx, a module that no package put there, or what shows files \
             of this host: {}. If that is meant, say so once on this node: standin approve",
            list.join(", ")
        ),
    ))
}

/// Refuses what must not come from others.
pub(super) fn judge(manifest: &Manifest, roots: &[PathBuf]) -> Result<(), (Trouble, String)> {
    let others = manifest.roots().iter().map(|root| &root.path);
    let strange: Vec<String> = others
        .filter(|path| !roots.contains(path))
        .map(|path| path.display().to_string())
        .collect();
    if strange.is_empty() {
        return Ok(());
    }
    Err((
        Trouble::Refused,
        format!(
            "it brings {}, which this node's cluster file doesn't name; add it to [sync] paths or \
             also here, and standin reload",
            strange.join(", ")
        ),
    ))
}
