//! The tester: a process of its own in which a staged tree stands in its real place, for nobody else.
//!
//! It reads one request, moves into a copy of the master's mounts, shows the staged trees where
//! nginx looks for them, lays memory over whatever `nginx -t` would write, forbids bind(2), and runs
//! the master's own program with its own arguments. nginx passes over `EADDRINUSE` when it tests,
//! so names are looked up in the real network and yet no address is taken.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use standin_config::nginx::title::{Arguments, Title};
use standin_config::nginx::{self as reader, Build, Listen, ListenAddress, NginxConfig};
use standin_linux::child::User;
use standin_linux::glob::glob;
use standin_linux::private::{self, Loose, Program, Surroundings};
use standin_linux::process as system;

use crate::fields::{self, Values, Writer, of_path};
use crate::parts::{self, Part};
use crate::proof::mark;
use crate::{view, writes};

/// A request names a few paths.
const REQUEST_BYTES: u64 = 1024 * 1024;

/// nginx stops at the first error; warnings of thousands of servers may come before it.
const SAID_BYTES: u64 = 64 * 1024;

/// How often a running test is looked at.
const STEP: Duration = Duration::from_millis(1);

/// Listeners that are tried before the test; each costs some microseconds.
const LISTENERS: usize = 4096;

/// A program, and the user that it is run as.
struct Runner {
    program: PathBuf,
    /// Kept open: the path leads through it.
    _open: Option<Program>,
    /// `None` is root.
    user: Option<User>,
}

impl Runner {
    fn of(request: &Request) -> Result<Self, String> {
        let words = |error: io::Error| format!("nginx's program: {error}");
        match (request.master, &request.binary) {
            (Some(master), _) => {
                let user = User::of_process(master).map_err(words)?;
                if user.uid() == 0 {
                    // Its own program, also when another one lies there by now.
                    let open = Program::of(master).map_err(words)?;
                    return Ok(Self { program: open.path(), _open: Some(open), user: None });
                }
                // Somebody else's program is never run as root. By its path: who has changed users
                // can't look into its own /proc.
                let program = system::executable(master).map_err(words)?;
                Ok(Self { program, _open: None, user: Some(user) })
            }
            (None, Some(binary)) => Ok(Self { program: binary.clone(), _open: None, user: None }),
            (None, None) => Err("nginx doesn't run, and no binary is known".into()),
        }
    }
}

/// What is to be tested.
#[derive(Clone, Debug, Default)]
pub(crate) struct Request {
    pub(crate) master: Option<u32>,
    /// Of the master, so that its number can't have come to mean another process.
    pub(crate) started: u64,
    pub(crate) binary: Option<PathBuf>,
    /// Where no master tells.
    pub(crate) conf: Option<PathBuf>,
    pub(crate) prefix: Option<PathBuf>,
    pub(crate) patience_ms: u64,
    /// The real path of each root, and the tree that shall stand there.
    pub(crate) trees: Vec<(PathBuf, PathBuf)>,
    /// The same where only parts of the tree are there, to be shown over the live one.
    pub(crate) parts: Vec<(PathBuf, PathBuf, Vec<Part>)>,
}

impl Request {
    pub(crate) fn write(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        let number = |number: u64| number.to_string().into_bytes();
        let master = number(self.master.unwrap_or_default().into());
        writer.record(&[b"master", &master, &number(self.started)]);
        let paths = [("binary", &self.binary), ("conf", &self.conf), ("prefix", &self.prefix)];
        for (word, path) in paths {
            if let Some(path) = path {
                writer.record(&[word.as_bytes(), of_path(path)]);
            }
        }
        writer.record(&[b"patience", &number(self.patience_ms)]);
        for (path, staged) in &self.trees {
            writer.record(&[b"tree", of_path(path), of_path(staged)]);
        }
        for (path, staged, parts) in &self.parts {
            writer.record(&[b"parts", of_path(path), of_path(staged)]);
            for part in parts {
                let word = part.change.word().as_bytes();
                writer.record(&[b"part", word, of_path(&part.path)]);
            }
        }
        writer.bytes()
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let mut request = Self::default();
        for record in fields::read(bytes)? {
            let mut values = Values::of(&record);
            match values.text()? {
                "master" => {
                    request.master = Some(values.number()?).filter(|pid| *pid != 0);
                    request.started = values.number()?;
                }
                "binary" => request.binary = Some(values.path()?),
                "conf" => request.conf = Some(values.path()?),
                "prefix" => request.prefix = Some(values.path()?),
                "patience" => request.patience_ms = values.number()?,
                "tree" => request.trees.push((values.path()?, values.path()?)),
                "parts" => request.parts.push((values.path()?, values.path()?, Vec::new())),
                "part" => request.parts.last_mut()?.2.push(Part::read(&mut values)?),
                _ => return None,
            }
        }
        let absolute = |path: &PathBuf| path.is_absolute();
        let mut trees = request.trees.iter().map(|(path, staged)| (path, staged));
        let mut parts = request.parts.iter().map(|(path, staged, _)| (path, staged));
        let whole = |(path, staged)| absolute(path) && absolute(staged);
        (trees.all(whole) && parts.all(whole)).then_some(request)
    }
}

/// How a test ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Good,
    Bad,
    /// It didn't end in time.
    Late,
    /// A listener's address can't be had.
    Address,
    /// It couldn't be made.
    Unable,
}

impl Verdict {
    pub(crate) const WORDS: [(&str, Self); 5] = [
        ("good", Self::Good),
        ("bad", Self::Bad),
        ("late", Self::Late),
        ("address", Self::Address),
        ("unable", Self::Unable),
    ];
}

/// What the tester found.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) verdict: Verdict,
    /// nginx's own words, or why it couldn't be tested.
    pub(crate) said: String,
    /// As the master sees them: what it will log to.
    pub(crate) logs: Vec<PathBuf>,
    /// The files of the configuration, as the master sees them, each with its mark.
    pub(crate) files: Vec<(PathBuf, String)>,
}

impl Answer {
    const fn only(verdict: Verdict, said: String) -> Self {
        Self { verdict, said, logs: Vec::new(), files: Vec::new() }
    }

    fn write(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        let word = Verdict::WORDS.iter().find(|(_, verdict)| *verdict == self.verdict);
        let word = word.map_or("unable", |(word, _)| *word);
        writer.record(&[b"verdict", word.as_bytes(), self.said.as_bytes()]);
        for log in &self.logs {
            writer.record(&[b"log", of_path(log)]);
        }
        for (file, mark) in &self.files {
            writer.record(&[b"file", of_path(file), mark.as_bytes()]);
        }
        writer.bytes()
    }

    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let mut answer = None;
        for record in fields::read(bytes)? {
            let mut values = Values::of(&record);
            match (values.text()?, &mut answer) {
                ("verdict", answer @ None) => {
                    let word = values.text()?;
                    let known = Verdict::WORDS.iter().find(|(known, _)| *known == word)?;
                    let said = String::from_utf8_lossy(values.bytes()?).into_owned();
                    *answer = Some(Self::only(known.1, said));
                }
                ("log", Some(answer)) => answer.logs.push(values.path()?),
                ("file", Some(answer)) => {
                    answer.files.push((values.path()?, values.text()?.to_owned()));
                }
                _ => return None,
            }
        }
        answer
    }
}

/// Answers one request. The calling process must have one thread, and ends afterwards: it is left in
/// surroundings that are nobody's.
///
/// # Errors
/// What reading the request and writing the answer say.
pub fn serve(input: &mut dyn Read, output: &mut dyn Write) -> io::Result<()> {
    let mut bytes = Vec::new();
    input.take(REQUEST_BYTES).read_to_end(&mut bytes)?;
    let answer = match Request::read(&bytes) {
        Some(request) => answer(&request).unwrap_or_else(|why| Answer::only(Verdict::Unable, why)),
        None => Answer::only(Verdict::Unable, "the tester doesn't understand the request".into()),
    };
    output.write_all(&answer.write())?;
    output.flush()
}

fn answer(request: &Request) -> Result<Answer, String> {
    let end = Instant::now() + Duration::from_millis(request.patience_ms);
    let title = request.master.and_then(system::title);
    let arguments = match (request.master, title.as_deref().and_then(Title::parse)) {
        (None, _) => {
            let (conf, prefix) = (request.conf.clone(), request.prefix.clone());
            Arguments { conf, prefix, ..Arguments::default() }
        }
        (Some(master), Some(Title::Master(arguments)))
            if system::start_time_ticks(master) == Some(request.started) =>
        {
            arguments
        }
        (Some(master), _) => {
            return Err(format!("process {master} is no master of nginx any more"));
        }
    };
    let program = Runner::of(request)?;
    let start = request.master.and_then(|pid| fs::read_link(format!("/proc/{pid}/cwd")).ok());
    let start = start.unwrap_or_else(|| PathBuf::from("/"));
    let bound = request.master.map(|master| system::listening_tcp(master).unwrap_or_default());
    // What it says of itself is the same before and after, where it finds its libraries here.
    let here = request.master.is_none_or(system::same_mount_namespace);
    let begun = (here && program.user.is_none()).then(|| begin(&program, &["-V"]));
    let again = enter(request)?;
    let places: Vec<PathBuf> = again.iter().map(|shown| shown.place.clone()).collect();
    let memory = again.iter().filter(|shown| shown.in_memory).map(|shown| shown.place.clone());
    let memory: Vec<PathBuf> = memory.collect();

    let begun = begun.unwrap_or_else(|| begin(&program, &["-V"]));
    let build = Build::parse(&end_of(begun, end).1);
    let compiled = |pick: fn(&Build) -> &PathBuf| build.as_ref().map(|build| pick(build).clone());
    let prefix = arguments.prefix.as_ref().map(|given| start.join(given));
    let prefix = prefix.or_else(|| compiled(|build| &build.prefix)).unwrap_or_else(|| "/".into());
    let conf = arguments.conf.as_ref().map(|given| prefix.join(given));
    let conf = conf.or_else(|| compiled(|build| &build.conf_path));
    let conf = conf.ok_or("it isn't known which configuration file this nginx reads")?;

    let config = reader::read(&conf, &open, &glob);
    let written = writes::of(&config, build.as_ref(), &prefix);
    let inside = |folder: &Path| places.iter().any(|place| folder.starts_with(place));
    writes::cover(&written, &|folder| !inside(folder))?;
    for Shown { place, tree, .. } in again {
        show(tree, &place)?;
    }
    let in_memory = |folder: &Path| memory.iter().any(|place| folder.starts_with(place));
    writes::cover(&written, &|folder| inside(folder) && !in_memory(folder))?;
    writes::hide(&written, &in_memory)?;

    if let Some(why) = bound.and_then(|bound| unlistenable(&config, &bound)) {
        return Ok(Answer::only(Verdict::Address, why));
    }
    let mut line = vec!["-t".into(), "-c".into(), conf.clone().into_os_string()];
    line.extend(["-p".into(), prefix.clone().into_os_string()]);
    if let Some(globals) = &arguments.globals {
        line.extend(["-g".into(), globals.into()]);
    }
    let (ended, said) = end_of(begin(&program, &line), end);
    let verdict = match ended {
        Some(true) => Verdict::Good,
        Some(false) => Verdict::Bad,
        None => Verdict::Late,
    };
    let mut answer = Answer::only(verdict, said);
    let logs = config.writes.iter().filter(|one| one.directive == "error_log");
    let logs: BTreeSet<PathBuf> = logs.map(|one| prefix.join(&one.path)).collect();
    answer.logs.extend(logs);
    let marked = config
        .files
        .iter()
        .filter_map(|file| Some((file.clone(), mark(&mut File::open(file).ok()?).ok()?)));
    answer.files.extend(marked);
    Ok(answer)
}

/// A place of nginx's, and the tree that shall be shown there.
struct Shown {
    place: PathBuf,
    tree: Loose,
    /// What is written there goes nowhere else.
    in_memory: bool,
}

/// Moves into a copy of the master's mounts with the staged trees in place; hands back what shows
/// them once more, above memory that is laid over their surroundings.
fn enter(request: &Request) -> Result<Vec<Shown>, String> {
    let (mut first, mut again, mut changed) = (Vec::new(), Vec::new(), Vec::new());
    let take = |staged: &PathBuf| {
        Loose::of(staged).map_err(|error| format!("{}: {error}", staged.display()))
    };
    for (path, staged) in &request.trees {
        for place in places(request, path)? {
            first.push((place.clone(), take(staged)?, staged.is_dir()));
            again.push(Shown { place, tree: take(staged)?, in_memory: false });
        }
    }
    for (path, staged, parts) in &request.parts {
        for place in places(request, path)? {
            changed.push((place, take(staged)?, parts));
        }
    }
    let pid = request.master.unwrap_or_else(std::process::id);
    let enter = || Surroundings::of(pid)?.enter_copy();
    enter().map_err(|error| format!("nginx's mounts can't be entered: {error}"))?;
    std::env::set_current_dir("/").map_err(|error| format!("/: {error}"))?;
    for (place, tree, folder) in first {
        if fs::symlink_metadata(&place).is_err() {
            make_room(&place, folder)?;
        }
        show(tree, &place)?;
    }
    for (place, staged, parts) in changed {
        let tree = parts::show(&place, staged, parts)?;
        again.push(Shown { place, tree, in_memory: true });
    }
    Ok(again)
}

/// Where nginx sees a root.
fn places(request: &Request, root: &Path) -> Result<Vec<PathBuf>, String> {
    let seen = view::of(request.master, root);
    let seen = seen.map_err(|error| format!("{}: {error}", root.display()))?;
    if seen.places.is_empty() {
        let root = root.display();
        return Err(format!("nginx doesn't see {root}: its mounts are others than the host's"));
    }
    Ok(seen.places)
}

fn show(tree: Loose, place: &Path) -> Result<(), String> {
    tree.show_at(place).map_err(|error| format!("{}: {error}", place.display()))
}

/// A root that isn't there yet is made in memory.
fn make_room(place: &Path, folder: bool) -> Result<(), String> {
    writes::cover(&[place.to_owned()], &|_| true)?;
    let made = if folder { fs::create_dir(place) } else { fs::write(place, []) };
    made.map_err(|error| format!("{}: {error}", place.display()))
}

/// The bytes of a configuration file; anything but a file could wait for ever.
fn open(file: &Path) -> io::Result<Vec<u8>> {
    let opened = File::open(file)?;
    if !opened.metadata()?.is_file() {
        return Err(io::Error::other("this is no file"));
    }
    let mut bytes = Vec::new();
    opened.take(reader::MAX_BYTES as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Starts nginx.
fn begin<S: AsRef<std::ffi::OsStr>>(runner: &Runner, line: &[S]) -> io::Result<Child> {
    let mut command = Command::new(&runner.program);
    command.arg0("nginx").args(line).env_clear().current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    private::without_bind(&mut command);
    if let Some(user) = &runner.user {
        user.applies_to(&mut command);
    }
    command.spawn()
}

/// Waits for its end, and what it has said; `None` when it had to be killed.
fn end_of(begun: io::Result<Child>, end: Instant) -> (Option<bool>, String) {
    let mut child = match begun {
        Ok(child) => child,
        Err(error) => return (Some(false), format!("nginx can't be run: {error}")),
    };
    let reader = child.stderr.take().map(|mut stderr| {
        std::thread::spawn(move || {
            let mut said = Vec::new();
            // What can't be read hasn't been said; what is too much is read and forgotten.
            let _broken = stderr.by_ref().take(SAID_BYTES).read_to_end(&mut said);
            let _forgotten = io::copy(&mut stderr, &mut io::sink());
            String::from_utf8_lossy(&said).into_owned()
        })
    });
    let ended = loop {
        match child.try_wait() {
            Ok(Some(status)) => break Some(status.success()),
            Ok(None) if Instant::now() < end => std::thread::sleep(STEP),
            // It is gone, or it is killed now; either way it is waited for.
            Ok(None) | Err(_) => {
                let _gone = child.kill();
                let _waited = child.wait();
                break None;
            }
        }
    };
    let said = reader.and_then(|reader| reader.join().ok()).unwrap_or_default();
    (ended, said)
}

/// Why nginx would fail to listen, in its own words; its test passes over that.
fn unlistenable(config: &NginxConfig, bound: &[SocketAddr]) -> Option<String> {
    let listens = config.listens.iter().chain(&config.other_listens).take(LISTENERS);
    let wanted: Vec<(SocketAddr, bool, &Listen)> = listens.filter_map(address).collect();
    let mut tried = BTreeSet::new();
    for (address, v6_only, listen) in wanted {
        // Its own sockets it takes over, also those that a wider or narrower one replaces.
        let own = bound.iter().any(|bound| bound.port() == address.port());
        if own || !tried.insert(address) {
            continue;
        }
        let Err(error) = private::try_bind(address, v6_only) else { continue };
        let why = match error.kind() {
            io::ErrorKind::AddrInUse => {
                let holder = holder(address.port());
                format!("bind() to {address} failed (98: Address already in use){holder}")
            }
            io::ErrorKind::AddrNotAvailable => {
                format!("bind() to {address} failed (99: Cannot assign requested address)")
            }
            _ => continue,
        };
        return Some(format!("nginx: [emerg] {why} in {}", listen.at));
    }
    None
}

fn address(listen: &Listen) -> Option<(SocketAddr, bool, &Listen)> {
    if listen.udp || listen.quic || listen.port == 0 || listen.last_port != listen.port {
        return None;
    }
    let (ip, v6_only) = match &listen.address {
        ListenAddress::AnyV4 => (IpAddr::V4(Ipv4Addr::UNSPECIFIED), true),
        ListenAddress::AnyV6 { v6_only } => (IpAddr::V6(Ipv6Addr::UNSPECIFIED), *v6_only),
        ListenAddress::Ip(ip) => (*ip, true),
        ListenAddress::Name(_) | ListenAddress::Unix(_) => return None,
    };
    Some((SocketAddr::new(ip, listen.port), v6_only, listen))
}

/// Who listens at a port, as far as that can be seen.
fn holder(port: u16) -> String {
    let listens = |pid: &u32| {
        system::listening_tcp(*pid).is_ok_and(|found| found.iter().any(|it| it.port() == port))
    };
    match system::all_pids().into_iter().find(listens) {
        Some(pid) => {
            let name = system::name(pid).unwrap_or_default();
            format!("; process {pid} ({name}) has that port")
        }
        None => String::new(),
    }
}
