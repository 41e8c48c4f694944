//! Brings a cluster file to all nodes: everybody looks first, then everybody takes it, or nobody does.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use tokio::io::{ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_rustls::client::TlsStream;

use super::desk::Origin;
use super::shelf::Version;
use super::{Answer, Ask, Proposal};
use crate::authority::{Next, Renewal, public_key, roster};
use crate::control::log::Severity;
use crate::link::frame::{self, JOINED_BYTES, Reader};
use crate::link::message::{Message, plain};
use crate::link::{Common, Directory, Peer, dial, hash};

/// A look at a host takes up to some seconds; a machine that is busy gets more.
const LOOKS: std::time::Duration = std::time::Duration::from_secs(30);

/// A node that has dialled is greeted at once.
const GREETS: std::time::Duration = std::time::Duration::from_secs(5);

/// Progress that may wait for whoever looks on.
const STEPS: usize = 64;

/// What is to be done.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) change: Change,
    /// The file as whoever asks calls it.
    pub(crate) name: String,
    pub(crate) without: Without,
    /// Who asked, for the log.
    pub(crate) by: String,
}

#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Change {
    /// The cluster file becomes this one.
    File(String),
    /// A node loses its fingerprint, and the others get another authority.
    Expel(String),
}

impl std::fmt::Debug for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // A cluster file may have a password.
        match self {
            Self::File(_) => f.write_str("File"),
            Self::Expel(node) => write!(f, "Expel({node})"),
        }
    }
}

/// Nodes that needn't agree; they take the file when they are back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Without {
    /// These aren't asked.
    Nodes(Vec<String>),
    /// Those that can't be reached.
    Unreachable,
}

/// One step, as the API says it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Step {
    /// `None`: the whole.
    #[serde(default)]
    pub(crate) node: Option<String>,
    /// Of a node: `looking`, `fit`, `unfit`, `unreachable`, `refused`, `left out`, `not joined`,
    /// `put out`, `taken`, `missed`. Of the whole: `done` or `refused`.
    pub(crate) state: String,
    /// Warnings, faults, or what is in the way.
    #[serde(default)]
    pub(crate) text: Option<String>,
    #[serde(default)]
    pub(crate) version: Option<u64>,
}

/// Where steps go.
pub(crate) type Steps = mpsc::Sender<Step>;

pub(crate) fn steps() -> (Steps, mpsc::Receiver<Step>) {
    mpsc::channel(STEPS)
}

async fn say(steps: &Steps, node: &str, state: &str, text: Option<String>) {
    let node = Some(node.to_owned());
    // Who asked may have gone; what was begun is finished all the same.
    let _ = steps.send(Step { node, state: state.to_owned(), text, version: None }).await;
}

/// A node that could take it.
struct Willing {
    name: String,
    line: Line,
}

/// A connection to another node, for questions.
pub(super) struct Line {
    certificate: CertificateDer<'static>,
    reader: Reader<ReadHalf<TlsStream<TcpStream>>>,
    writer: WriteHalf<TlsStream<TcpStream>>,
}

impl Line {
    /// # Errors
    /// Why the node can't be asked.
    pub(super) async fn open(peer: &Peer, common: &Common) -> Result<Self, String> {
        let mut failed = String::new();
        for attempt in 0..peer.addresses.len().max(1) {
            match dial::connect(peer, attempt, common).await {
                Ok((stream, proven)) => {
                    let (reader, writer) = tokio::io::split(stream);
                    let certificate = proven.certificate;
                    let reader = Reader::new(reader, JOINED_BYTES);
                    let mut line = Self { certificate, reader, writer };
                    return line.greeted(peer, common).await.map(|()| line);
                }
                Err(error) => failed = format!("{error:#}"),
            }
        }
        Err(failed)
    }

    async fn greeted(&mut self, peer: &Peer, common: &Common) -> Result<(), String> {
        let greeting = tokio::time::timeout(GREETS, self.reader.next()).await;
        let greeting = greeting.map_err(|_| "it didn't greet in time".to_owned())?;
        match greeting.map_err(|error| crate::link::tls::words(&error))? {
            Message::Hello(theirs) if theirs.node != peer.name => {
                Err(format!("it calls itself {:?}", plain(&theirs.node)))
            }
            Message::Hello(theirs) if theirs.cluster != common.directory.borrow().cluster => {
                Err(format!("it is of the cluster {:?}", plain(&theirs.cluster)))
            }
            Message::Hello(_) => Ok(()),
            Message::Refused { why } => Err(format!("it refuses: {}", plain(&why))),
            _ => Err("it didn't greet first".to_owned()),
        }
    }

    /// # Errors
    /// Why there is no answer.
    pub(super) async fn ask(&mut self, ask: Ask) -> Result<Answer, String> {
        let asking = async {
            frame::send(&mut self.writer, &Message::Ask(ask)).await?;
            self.reader.next().await
        };
        let answer = tokio::time::timeout(LOOKS, asking).await;
        match answer.map_err(|_| "it didn't answer in time".to_owned())? {
            Ok(Message::Answer(answer)) => Ok(answer),
            Ok(Message::Refused { .. }) => {
                Err("its standin is too old to take a cluster file over the link: upgrade it first"
                    .to_owned())
            }
            Ok(_) => Err("it answered something else".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// What is proposed.
struct Plan<'a> {
    order: &'a Order,
    text: &'a str,
    next: Option<Arc<Next>>,
    version: &'a Version,
    base: u64,
}

impl Plan<'_> {
    fn own_renewal(&self, common: &Common, node: &str) -> Result<Option<Renewal>, String> {
        let Some(next) = &self.next else { return Ok(None) };
        let key = public_key(&common.identity.certificate);
        let renewal = key.and_then(|key| next.of(node, key).ok());
        renewal.map(Some).ok_or_else(|| "this node's key is of another kind".to_owned())
    }
}

/// The text that a change leads to, and the next authority if it takes one.
fn changed(
    common: &Common,
    directory: &Directory,
    change: &Change,
) -> Result<(String, Option<Arc<Next>>), String> {
    let name = match change {
        Change::File(text) => return Ok((text.clone(), None)),
        Change::Expel(name) => name,
    };
    if *name == directory.node {
        return Err(format!("{name} is this node: expel it from another one"));
    }
    let file = std::fs::read_to_string(&common.desk.file);
    let file = file.map_err(|error| format!("{}: {error}", common.desk.file.display()))?;
    let text = roster::expel(&file, name)?;
    let next = Next::new(&common.desk.keys, &directory.cluster);
    let next = next.map_err(|error| format!("there is no new authority: {error:#}"))?;
    Ok((text, Some(Arc::new(next))))
}

/// What the cluster has agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::link) struct Decided {
    /// That all nodes have, or will have.
    pub(in crate::link) version: Version,
    /// Else they had it before.
    pub(in crate::link) changed: bool,
}

/// Does it.
///
/// # Errors
/// Why nothing was changed on any node.
pub(in crate::link) async fn apply(
    common: &Common,
    order: Order,
    steps: &Steps,
) -> Result<Decided, String> {
    let Ok(_alone) = common.desk.applying.try_lock() else {
        return Err("another file is being applied from this node".to_owned());
    };
    let directory = common.directory.borrow().clone();
    let own = common.desk.version();
    let known = common.board.view(&directory).peers;
    let highest = known.values().filter_map(|peer| Some(peer.summary.as_ref()?.number)).max();
    if let Some(newer) = highest.filter(|it| *it > own.number) {
        return Err(format!(
            "another node has version {newer}, this one has {}; it takes it in a moment, then look \
             at what it says and try again",
            own.number
        ));
    }
    let (text, next) = changed(common, &directory, &order.change)?;
    let summaries = known.values().filter_map(|peer| peer.summary.as_ref());
    let others = summaries.map(|summary| (summary.number, summary.file.as_str()));
    let file = matches!(order.change, Change::File(_));
    if file && is_everywhere(&text, &own, &directory.file, others) {
        return Ok(Decided { version: own, changed: false });
    }
    let version = Version {
        number: own.number.saturating_add(1),
        sha256: hash(text.as_bytes()),
        by: directory.node.clone(),
    };
    let plan = Plan { order: &order, text: &text, next, version: &version, base: own.number };
    let (willing, fit) = propose(common, &directory, &plan, steps).await;
    if let Err(why) = fit {
        for mut one in willing {
            // Who doesn't hear it forgets it by itself.
            let _ = one.line.ask(Ask::Abort { version: version.clone() }).await;
        }
        return Err(why);
    }
    // From here it is decided: whoever misses the rest fetches the higher version.
    let node = directory.node.as_str();
    let renewal = plan.own_renewal(common, node)?;
    let problem = common.desk.take(text.clone(), version.clone(), renewal, node).await?;
    say(steps, node, "taken", problem).await;
    commit(willing, &version, steps).await;
    let number = version.number;
    let by = &order.by;
    let words = match &order.change {
        Change::File(_) => format!("version {number} of the cluster file was applied by {by}"),
        Change::Expel(node) => format!(
            "{node} was expelled by {by}: version {number} of the cluster file, another authority"
        ),
    };
    common.tell(Severity::Notice, "file_applied", None, words);
    Ok(Decided { version, changed: true })
}

/// Whether a text is the version that this node has, and in force here and on all `others` whose version
/// and file are known.
fn is_everywhere<'a>(
    text: &str,
    own: &Version,
    in_force: &str,
    mut others: impl Iterator<Item = (u64, &'a str)>,
) -> bool {
    let has_it = |(number, file): (u64, &str)| number == own.number && file == own.sha256;
    own.sha256 == hash(text.as_bytes()) && has_it((own.number, in_force)) && others.all(has_it)
}

/// Asks everybody whether it fits; those that could take it, and whether it may go on.
async fn propose(
    common: &Common,
    directory: &Directory,
    plan: &Plan<'_>,
    steps: &Steps,
) -> (Vec<Willing>, Result<(), String>) {
    let order = plan.order;
    let mut asking = JoinSet::new();
    for peer in &directory.peers {
        if !remains(peer, plan.text) {
            say(steps, &peer.name, "put out", None).await;
            continue;
        }
        if peer.fingerprint.is_none() {
            say(steps, &peer.name, "not joined", None).await;
            continue;
        }
        if matches!(&order.without, Without::Nodes(names) if names.contains(&peer.name)) {
            say(steps, &peer.name, "left out", None).await;
            continue;
        }
        say(steps, &peer.name, "looking", None).await;
        let (peer, common, steps) = (peer.clone(), common.clone(), steps.clone());
        let proposal = Proposal {
            version: plan.version.clone(),
            base: plan.base,
            name: order.name.clone(),
            text: plan.text.to_owned(),
            renewal: None,
        };
        let next = plan.next.clone();
        let lenient = order.without == Without::Unreachable;
        asking.spawn(async move { ask_one(peer, proposal, next, &common, lenient, &steps).await });
    }
    say(steps, &directory.node, "looking", None).await;
    let mut bad = Vec::new();
    match common.desk.looked(&order.name, plan.text, directory, Origin::Here).await {
        Ok(warnings) => say(steps, &directory.node, "fit", some(warnings)).await,
        Err(faults) => {
            bad.push(directory.node.clone());
            say(steps, &directory.node, "unfit", Some(faults)).await;
        }
    }
    let mut willing = Vec::new();
    while let Some(asked) = asking.join_next().await {
        match asked {
            Ok(Ok(one)) => willing.extend(one),
            Ok(Err(name)) => bad.push(name),
            Err(error) => bad.push(error.to_string()),
        }
    }
    bad.sort();
    let fit = if bad.is_empty() {
        Ok(())
    } else {
        Err(format!("not every node can take it ({}): nothing was changed", bad.join(", ")))
    };
    (willing, fit)
}

/// A node that the file doesn't have any more isn't asked whether it likes that.
fn remains(peer: &Peer, text: &str) -> bool {
    let model = standin_config::load("", text).model;
    model.is_none_or(|new| new.node(&peer.name).is_some_and(|node| node.fingerprint.is_some()))
        || peer.fingerprint.is_none()
}

/// `Ok(None)`: it needn't agree. `Err`: the name of who stands in the way.
async fn ask_one(
    peer: Peer,
    mut proposal: Proposal,
    next: Option<Arc<Next>>,
    common: &Common,
    lenient: bool,
    steps: &Steps,
) -> Result<Option<Willing>, String> {
    let name = peer.name.clone();
    let mut line = match Line::open(&peer, common).await {
        Ok(line) => line,
        Err(why) => {
            say(steps, &name, "unreachable", Some(plain(&why))).await;
            return if lenient { Ok(None) } else { Err(name) };
        }
    };
    if let Some(next) = next {
        let renewal = public_key(&line.certificate).and_then(|key| next.of(&name, key).ok());
        if renewal.is_none() {
            say(steps, &name, "refused", Some("its key is of another kind".to_owned())).await;
            return Err(name);
        }
        proposal.renewal = renewal;
    }
    match line.ask(Ask::Propose(proposal)).await {
        Ok(Answer::Fit { warnings }) => {
            say(steps, &name, "fit", some(shown(&warnings))).await;
            Ok(Some(Willing { name, line }))
        }
        Ok(Answer::Unfit { faults }) => {
            say(steps, &name, "unfit", Some(shown(&faults))).await;
            Err(name)
        }
        Ok(Answer::No { why }) => {
            say(steps, &name, "refused", Some(plain(&why))).await;
            Err(name)
        }
        Ok(_) => {
            say(steps, &name, "refused", Some("it answered something else".to_owned())).await;
            Err(name)
        }
        Err(why) => {
            say(steps, &name, "unreachable", Some(plain(&why))).await;
            if lenient { Ok(None) } else { Err(name) }
        }
    }
}

async fn commit(willing: Vec<Willing>, version: &Version, steps: &Steps) {
    let mut taking = JoinSet::new();
    for Willing { name, mut line } in willing {
        let (version, steps) = (version.clone(), steps.clone());
        taking.spawn(async move {
            let (state, text) = match line.ask(Ask::Commit { version }).await {
                Ok(Answer::Taken { problem }) => ("taken", problem.as_deref().map(shown)),
                Ok(Answer::No { why }) => ("missed", Some(plain(&why))),
                Ok(_) => ("missed", None),
                Err(why) => ("missed", Some(plain(&why))),
            };
            say(&steps, &name, state, text).await;
        });
    }
    while taking.join_next().await.is_some() {}
}

fn some(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

/// Lines of another machine, for a terminal: no control characters, and not without end.
fn shown(text: &str) -> String {
    const LINES: usize = 400;
    let lines = text.lines().take(LINES).map(plain);
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_all_have_is_no_change() {
        let sha256 = hash(b"text");
        let own = Version { number: 3, sha256: sha256.clone(), by: "n1".to_owned() };
        let has_it = (3, sha256.as_str());
        let all = |text, in_force: &str, others: &[(u64, &str)]| {
            is_everywhere(text, &own, in_force, others.iter().copied())
        };
        assert!(all("text", &sha256, &[has_it, has_it]));
        assert!(all("text", &sha256, &[]), "who is away fetches the version when it is back");
        assert!(!all("other", &sha256, &[has_it]));
        assert!(!all("text", "edited", &[has_it]), "this node doesn't run with its version");
        assert!(!all("text", &sha256, &[has_it, (3, "edited")]), "n3 doesn't");
        assert!(!all("text", &sha256, &[(2, "older")]));
    }
}
