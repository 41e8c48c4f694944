//! Reloads nginx and proves that it runs with the new files: nothing that it says is believed alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hasher};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use standin_linux::process as system;

use crate::classes::Class;
use crate::journal::Way;
use crate::nginx::{Family, Master, Nginx, open_as, own_number};
use crate::pieces::Piece;
use crate::swap::Swapped;
use crate::test::Tested;
use crate::view;

const HUP: i32 = 1;

/// Between two looks at the workers: reading a few files of `/proc`.
const STEP: Duration = Duration::from_millis(1);

/// Once new workers are there, the old ones are told to go 100 ms after them.
const SLOW_STEP: Duration = Duration::from_millis(4);

/// What nginx may log during one reload and is still read.
const LOG_BYTES: u64 = 1024 * 1024;

/// A worker names itself within milliseconds of its birth, on a loaded machine within some tens.
const HEIR_STAYS: Duration = Duration::from_millis(300);

/// nginx tries five times, half a second apart, before it gives a port up.
const GIVES_UP_WITHIN: Duration = Duration::from_secs(4);

/// nginx as it was before it was told to reload.
#[derive(Debug)]
pub struct Before {
    master: Master,
    family: Family,
    logs: Watchers,
    files: Files,
}

/// nginx runs with the new files.
#[derive(Clone, Debug)]
pub struct Proven {
    pub master: u32,
    pub workers: Vec<u32>,
    /// Since the signal.
    pub first_worker_after: Duration,
    /// Since the signal, until the last old worker was leaving.
    pub took: Duration,
}

/// Why it can't be said that nginx runs with the new files.
#[derive(Clone, Debug)]
pub enum NotProven {
    /// It said no, and its old workers go on as before.
    Refused {
        class: Class,
        /// nginx's own words, from its error log.
        said: String,
    },
    /// No new workers, or old ones that don't leave, until the end.
    Late { what: String },
    /// The files are not, or are no more, those that were tested.
    Moved { what: String },
    /// There is no master that could be told.
    NoMaster { why: String },
}

impl NotProven {
    /// What kind of refusal it is.
    #[must_use]
    pub const fn class(&self) -> Class {
        match self {
            Self::Refused { class, .. } => *class,
            Self::Late { .. } | Self::Moved { .. } | Self::NoMaster { .. } => Class::Other,
        }
    }
}

impl fmt::Display for NotProven {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { class, said } => {
                write!(f, "{class}: nginx said: {}; mend: {}", said.trim(), class.mend())
            }
            Self::Late { what } => write!(f, "the reload isn't proven in time: {what}"),
            Self::Moved { what } => write!(f, "the reload proves nothing: {what}"),
            Self::NoMaster { why } => f.write_str(why),
        }
    }
}

/// A master that is told to reload what nobody has tested: hears if it refuses.
#[derive(Debug)]
pub struct Ear {
    logs: Watchers,
    speakers: Speakers,
}

impl Ear {
    /// What is logged from now on counts. Only the log that the master writes to itself is read.
    #[must_use]
    pub fn of(master: u32) -> Self {
        Self { logs: Watchers(Log::all(master, &[])), speakers: Speakers::of(master) }
    }

    /// nginx's own words, without time and number.
    pub fn refusal(&mut self) -> Option<String> {
        let line = self.logs.emergency_of(&mut self.speakers)?;
        let (_, words) = line.split_once("[emerg] ")?;
        let words = words.split_once(": ").filter(|(number, _)| number.contains('#'));
        Some(words.map_or(line.as_str(), |(_, words)| words).trim().to_owned())
    }
}

/// Looks at nginx before its reload; the new files are live already.
///
/// # Errors
/// Why there is nothing to prove anything with.
pub fn look(nginx: &Nginx, tested: &Tested, swapped: &Swapped) -> Result<Before, NotProven> {
    let master = nginx.hold().map_err(|why| NotProven::NoMaster { why })?;
    let family = settled(&master);
    if !family.heirs.is_empty() {
        let heirs = format!("{:?}", family.heirs);
        return Err(NotProven::Refused {
            class: Class::UpgradePending,
            said: format!("master {} has started the new master {heirs}", master.pid),
        });
    }
    if family.workers.is_empty() && family.leaving.is_empty() {
        let why = format!("master {} has no workers, so no reload can be proven", master.pid);
        return Err(NotProven::NoMaster { why });
    }
    let files = Files::of(&master, tested)?;
    same_trees(&master, swapped)?;
    let logs = Watchers::of(&master, tested);
    Ok(Before { master, family, logs, files })
}

/// A child that was forked just now still has its master's title; an heir keeps it.
fn settled(master: &Master) -> Family {
    let end = Instant::now() + HEIR_STAYS;
    loop {
        let family = master.family();
        if family.heirs.is_empty() || Instant::now() >= end {
            return family;
        }
        std::thread::sleep(SLOW_STEP);
    }
}

/// Has nginx read its files again without comparing them: after old ones were put back.
///
/// # Errors
/// As [`reload_and_prove`].
pub fn reload(nginx: &Nginx, tested: &Tested, patience: Duration) -> Result<Proven, NotProven> {
    let master = nginx.hold().map_err(|why| NotProven::NoMaster { why })?;
    let (family, logs) = (master.family(), Watchers::of(&master, tested));
    let files = Files(BTreeMap::new());
    let mut before = Before { master, family, logs, files };
    signalled(&mut before, patience)
}

/// What stands where this master looks is what was tested.
pub(crate) fn standing(
    master: &Master,
    tested: &Tested,
    swapped: &Swapped,
) -> Result<(), NotProven> {
    Files::of(master, tested)?;
    same_trees(master, swapped)
}

fn signalled(before: &mut Before, patience: Duration) -> Result<Proven, NotProven> {
    let why = format!("master {} was gone before it could be told", before.master.pid);
    // What was logged until now answers something else.
    before.logs.0.iter_mut().for_each(Log::skip);
    let told = Instant::now();
    before.master.fd.signal(HUP).map_err(|_| NotProven::NoMaster { why })?;
    watch(before, told, patience)
}

/// Tells nginx to reload, and waits until it is proven.
///
/// # Errors
/// Why it isn't. After `Refused` the old workers run on untouched.
pub fn reload_and_prove(
    mut before: Before,
    tested: &Tested,
    swapped: &Swapped,
    patience: Duration,
) -> Result<Proven, NotProven> {
    let proven = signalled(&mut before, patience)?;
    // What nginx has read lies between these two looks.
    let now = Files::of(&before.master, tested)?;
    if let Some(file) = before.files.differs(&now) {
        let what = format!("{} was changed while nginx read it", file.display());
        return Err(NotProven::Moved { what });
    }
    same_trees(&before.master, swapped)?;
    Ok(proven)
}

/// Waits for new workers and for the old ones to leave.
fn watch(before: &mut Before, told: Instant, patience: Duration) -> Result<Proven, NotProven> {
    let pid = before.master.pid;
    let mut speakers = Speakers::of(pid);
    let mut first = None;
    loop {
        let alive = before.master.fd.alive();
        let family = before.master.family();
        let old = |worker: &u32| before.family.workers.contains(worker);
        let new: Vec<u32> = family.workers.iter().copied().filter(|it| !old(it)).collect();
        let staying: Vec<u32> = family.workers.iter().copied().filter(old).collect();
        if !new.is_empty() && first.is_none() {
            first = Some(told.elapsed());
        }
        speakers.meet(&family.workers);
        if let Some(said) = before.logs.emergency_of(&mut speakers) {
            return Err(refused(before, &mut speakers, &said, first.is_some()));
        }
        if !alive {
            let why = format!("master {pid} ended at the reload; its error log says why");
            return Err(NotProven::NoMaster { why });
        }
        if let Some(first_worker_after) = first
            && !new.is_empty()
            && staying.is_empty()
        {
            let took = told.elapsed();
            return Ok(Proven { master: pid, workers: new, first_worker_after, took });
        }
        if told.elapsed() >= patience {
            let took = told.elapsed().as_millis();
            let what = match first {
                None => format!("no new worker after {took} ms"),
                Some(_) => format!("after {took} ms the old workers {staying:?} don't leave"),
            };
            return Err(NotProven::Late { what: what + &speakers.others() });
        }
        std::thread::sleep(if first.is_some() { SLOW_STEP } else { STEP });
    }
}

/// An emergency was logged: waits until nginx has given up, so that it can't succeed later.
fn refused(before: &mut Before, speakers: &mut Speakers, said: &str, loaded: bool) -> NotProven {
    let class = Class::of(said);
    let end = Instant::now() + GIVES_UP_WITHIN;
    let mut last = said.to_owned();
    while class == Class::PortTaken && !last.contains("could not bind") && Instant::now() < end {
        std::thread::sleep(SLOW_STEP);
        last = before.logs.emergency_of(speakers).unwrap_or(last);
    }
    let now = before.master.family();
    let untouched = before.family.workers.iter().all(|worker| now.workers.contains(worker));
    if loaded || !untouched {
        let what = format!("new workers run, but nginx said: {}", said.trim());
        return NotProven::Late { what };
    }
    NotProven::Refused { class, said: said.to_owned() }
}

/// The master sees the staged trees where it looks for them.
fn same_trees(master: &Master, swapped: &Swapped) -> Result<(), NotProven> {
    for plan in &swapped.journal.plans {
        let moved =
            |what: &str| NotProven::Moved { what: format!("{}: {what}", plan.path.display()) };
        let places = || {
            let seen = view::of(Some(master.pid), &plan.path);
            seen.map(|seen| seen.places).map_err(|error| moved(&error.to_string()))
        };
        let shows = |place: &Path, new: u64| {
            let below = place.strip_prefix("/").unwrap_or(place);
            let there = Path::new(&format!("/proc/{}/root", master.pid)).join(below);
            fs::symlink_metadata(there).is_ok_and(|found| found.ino() == new)
        };
        match &plan.way {
            Way::Whole { new, .. } => {
                if !places()?.iter().any(|place| shows(place, *new)) {
                    return Err(moved("nginx's master doesn't see the new tree there"));
                }
            }
            // Others were looked through file by file, as far as they are of the configuration.
            Way::Pieces { pieces, .. } if plan.is_in_parts() => {
                let (places, root) = (places()?, &plan.path);
                for (target, new) in pieces.iter().filter_map(Piece::new_inode) {
                    let below = target.strip_prefix(root).unwrap_or_else(|_| Path::new(""));
                    if !places.iter().any(|place| shows(&view::joined(place, below), new)) {
                        let target = target.display();
                        return Err(moved(&format!("nginx's master doesn't see the new {target}")));
                    }
                }
            }
            Way::Pieces { .. } => {}
        }
    }
    Ok(())
}

/// Every file of the configuration as the master sees it.
#[derive(Debug, PartialEq, Eq)]
struct Files(BTreeMap<PathBuf, (u64, u64, String)>);

impl Files {
    /// # Errors
    /// When one differs from what was tested.
    fn of(master: &Master, tested: &Tested) -> Result<Self, NotProven> {
        let mut files = BTreeMap::new();
        for (path, mark_then) in &tested.files {
            let moved =
                |what: &str| NotProven::Moved { what: format!("{} {what}", path.display()) };
            let mut file = open_as(master.pid, path)
                .map_err(|error| moved(&format!("isn't what nginx would read: {error}")))?;
            let looked = file.metadata().and_then(|found| Ok((found, mark(&mut file)?)));
            let (found, now) = looked.map_err(|error| moved(&format!("can't be read: {error}")))?;
            if now != *mark_then {
                return Err(moved("isn't the file that was tested: nginx sees another one"));
            }
            files.insert(path.clone(), (found.dev(), found.ino(), now));
        }
        Ok(Self(files))
    }

    /// The first file that is another one, or has other bytes.
    fn differs<'n>(&self, now: &'n Self) -> Option<&'n PathBuf> {
        now.0.iter().find(|(path, found)| self.0.get(*path) != Some(found)).map(|(path, _)| path)
    }
}

/// Size and hash of a file's bytes: tells two states of it apart, nobody forges them here.
pub(crate) fn mark(file: &mut File) -> io::Result<String> {
    let mut hash = DefaultHasher::new();
    let mut size = 0_u64;
    let mut buffer = [0; 16 * 1024];
    loop {
        let read = file.read(&mut buffer)?;
        let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else { break };
        size += read as u64;
        hash.write(bytes);
    }
    Ok(format!("{size}-{:016x}", hash.finish()))
}

/// The error logs of a master, of which only what is new is read.
#[derive(Debug)]
pub(crate) struct Watchers(Vec<Log>);

impl Watchers {
    pub(crate) fn of(master: &Master, tested: &Tested) -> Self {
        Self(Log::all(master.pid, &tested.logs))
    }

    /// The next new line that says `[emerg]`, whoever wrote it.
    fn emergency(&mut self) -> Option<String> {
        self.0.iter_mut().find_map(Log::emergency)
    }

    /// The next one of a master and its children.
    pub(crate) fn emergency_of(&mut self, speakers: &mut Speakers) -> Option<String> {
        // Once is enough for all lines that are there: they may be many.
        let mut looked = false;
        while let Some(line) = self.emergency() {
            if speakers.said(&line, &mut looked) {
                return Some(line);
            }
        }
        None
    }
}

/// Whose words in an error log count: many an nginx logs to the same file, and so does an `nginx -t`.
#[derive(Debug)]
pub(crate) struct Speakers {
    master: u32,
    /// The processes that are known, by our numbers.
    met: BTreeSet<u32>,
    /// The numbers that they know themselves by, and log.
    numbers: BTreeSet<u32>,
    /// The last line of somebody else's.
    other: Option<String>,
}

impl Speakers {
    pub(crate) fn of(master: u32) -> Self {
        let mut this = Self { master, met: BTreeSet::new(), numbers: BTreeSet::new(), other: None };
        this.meet(&[master]);
        this
    }

    pub(crate) fn meet(&mut self, pids: &[u32]) {
        for pid in pids {
            if self.met.insert(*pid) {
                self.numbers.extend(own_number(*pid));
            }
        }
    }

    /// Whether the master or a child of it wrote the line.
    fn said(&mut self, line: &str, looked: &mut bool) -> bool {
        // What has no number came by the master's standard error.
        let Some(number) = speaker(line) else { return true };
        if !self.numbers.contains(&number) && !std::mem::replace(looked, true) {
            self.meet(&system::children(self.master));
        }
        let ours = self.numbers.contains(&number);
        if !ours {
            self.other = Some(line.trim().to_owned());
        }
        ours
    }

    /// For what doesn't come through: a process that ended at once isn't known by its number.
    pub(crate) fn others(&self) -> String {
        let of = |line: &String| format!("; meanwhile another process logged: {line}");
        self.other.as_ref().map_or_else(String::new, of)
    }
}

/// The number of the process that wrote a line: `… [emerg] 1234#1234: …`.
fn speaker(line: &str) -> Option<u32> {
    let (_, rest) = line.split_once("[emerg] ")?;
    let (number, _) = rest.split_once('#')?;
    number.parse().ok()
}

/// The new part of an error log.
#[derive(Debug)]
struct Log {
    /// As the master sees it; `None` for what it has open now.
    path: Option<PathBuf>,
    master: u32,
    identity: Option<(u64, u64)>,
    read_to: u64,
    /// The beginning of a line that isn't complete.
    rest: String,
}

impl Log {
    /// What the master has as its standard error, and what the new configuration names.
    fn all(master: u32, named: &[PathBuf]) -> Vec<Self> {
        let mut logs: Vec<Self> = Vec::new();
        let paths = std::iter::once(None).chain(named.iter().cloned().map(Some));
        for path in paths {
            let (identity, read_to) = (None, 0);
            let mut log = Self { path, master, identity, read_to, rest: String::new() };
            match log.open().and_then(|file| file.metadata()) {
                Ok(found) if !found.is_file() => continue,
                Ok(found) => {
                    log.identity = Some((found.dev(), found.ino()));
                    log.read_to = found.len();
                }
                // A log that is yet to be made is read from its beginning.
                Err(_) if log.path.is_some() => {}
                Err(_) => continue,
            }
            if log.identity.is_none() || logs.iter().all(|known| known.identity != log.identity) {
                logs.push(log);
            }
        }
        logs
    }

    /// Goes to its end.
    fn skip(&mut self) {
        self.rest.clear();
        let found = self.open().and_then(|file| file.metadata());
        let found = found.ok().filter(fs::Metadata::is_file);
        self.identity = found.as_ref().map(|found| (found.dev(), found.ino()));
        // One that is yet to be made is read from its beginning.
        self.read_to = found.map_or(0, |found| found.len());
    }

    fn open(&self) -> io::Result<File> {
        match &self.path {
            Some(path) => open_as(self.master, path),
            None => File::open(format!("/proc/{}/fd/2", self.master)),
        }
    }

    /// The next line that was read already.
    fn line(&mut self) -> Option<String> {
        while let Some(end) = self.rest.find('\n') {
            let line: String = self.rest.drain(..=end).collect();
            if line.contains("[emerg]") {
                return Some(line);
            }
        }
        None
    }

    /// The next new line that says `[emerg]`.
    fn emergency(&mut self) -> Option<String> {
        if let Some(line) = self.line() {
            return Some(line);
        }
        let mut file = self.open().ok()?;
        let found = file.metadata().ok().filter(fs::Metadata::is_file)?;
        let identity = (found.dev(), found.ino());
        if self.identity != Some(identity) || found.len() < self.read_to {
            // Rotated, emptied or new meanwhile.
            self.identity = Some(identity);
            self.read_to = 0;
        }
        if found.len() <= self.read_to {
            return None;
        }
        file.seek(SeekFrom::Start(self.read_to)).ok()?;
        let mut bytes = Vec::new();
        let read = file.take(LOG_BYTES).read_to_end(&mut bytes).ok()?;
        self.read_to += read as u64;
        self.rest.push_str(&String::from_utf8_lossy(&bytes));
        self.line()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn what_another_process_logs_is_no_refusal() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("error.log");
        let me = std::process::id();
        let mut file = File::create(&path).unwrap();
        let mut say = |text: &str| writeln!(file, "2026/11/29 08:00:00 {text}").unwrap();
        say(&format!("[emerg] {me}#{me}: of the reload before"));
        let (identity, rest) = (None, String::new());
        let log = Log { path: Some(path.clone()), master: me, identity, read_to: 0, rest };
        let mut logs = Watchers(vec![log]);
        logs.0.iter_mut().for_each(Log::skip);
        let mut speakers = Speakers::of(me);
        assert_eq!(logs.emergency_of(&mut speakers), None, "it is older");
        // No process has this number: 4,194,304 is the highest that Linux gives.
        say("[emerg] 4194305#4194305: bind() to 0.0.0.0:80 failed (98: Address already in use)");
        say(&format!("[notice] {me}#{me}: reconfiguring"));
        assert_eq!(logs.emergency_of(&mut speakers), None);
        assert!(speakers.others().contains("logged: 2026/11/29"), "{}", speakers.others());
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        say(&format!("[emerg] {0}#{0}: setgid(33) failed", child.id()));
        say(&format!("[emerg] {me}#{me}: *7 unknown directive"));
        let said = [logs.emergency_of(&mut speakers), logs.emergency_of(&mut speakers)];
        let words = ["setgid(33) failed", "unknown directive"];
        child.kill().unwrap();
        child.wait().unwrap();
        for (said, words) in said.iter().zip(words) {
            assert!(said.as_ref().is_some_and(|said| said.contains(words)), "{said:?}");
        }
        // Emptied by a rotation that copies.
        fs::write(&path, format!("[emerg] {me}#{me}: anew\n")).unwrap();
        assert!(logs.emergency_of(&mut speakers).is_some());
    }
}
