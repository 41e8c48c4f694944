//! `standin check`: what is wrong with the cluster file, and with this host for it.

use std::io::{self, IsTerminal, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use hyper::Method;
use standin_config::{Cluster, Diagnostic, Loaded, Severity, Source};

use super::{Places, STATE_DIR, client};
use crate::api::types::sync::Sync;
use crate::control;
use crate::exit::Exit;
use crate::preflight::{self, Listen, Subject};

const FILE: &str = "/etc/standin/standin.toml";

/// More VIPs than these are counted; each has its line above.
const NAMED: usize = 4;

/// Who waits longer is told why.
const SAID_BEFORE: Duration = Duration::from_secs(2);

/// A daemon that is well answers within milliseconds; without an answer only less is said.
const DAEMON: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Cluster files [default: /etc/standin/standin.toml]
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Which node of the file this machine is; else its host name or its addresses say so
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Look at the file only, not at this host: for machines that are no node
    #[arg(long)]
    file_only: bool,
    /// How long to listen for adverts of others; 0 asks and hears nobody
    #[arg(long, value_name = "TIME", value_parser = time, conflicts_with = "file_only")]
    listen: Option<Duration>,
    /// Warnings count as errors
    #[arg(long)]
    deny_warnings: bool,
    /// For programs: a list of findings
    #[arg(long)]
    json: bool,
    /// The directory of what outlives the daemon: keys
    #[arg(long, value_name = "DIR", default_value = STATE_DIR)]
    state_dir: PathBuf,
    #[command(flatten)]
    places: Places,
}

fn time(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    super::orders::duration(text)
}

/// Everything that was found.
#[derive(Default)]
struct Report {
    sources: Vec<Source>,
    of_files: Vec<Diagnostic>,
    of_host: Vec<Diagnostic>,
    /// What each VIP would do here.
    forecasts: Vec<String>,
    /// VIPs of this node.
    vips: Vec<String>,
    /// This machine is no node of one of the files.
    nobody: bool,
}

pub(super) fn main(args: &CheckArgs) -> Result<Exit> {
    let mut report = Report::default();
    let default = [PathBuf::from(FILE)];
    let files = if args.files.is_empty() { &default[..] } else { &args.files };
    for file in files {
        report.look_at(file, args)?;
    }
    let exit = report.exit(args.deny_warnings);
    let mut out = io::stdout().lock();
    if args.json {
        let all: Vec<Diagnostic> = report.all().cloned().collect();
        let findings = standin_config::findings(&all, &report.sources);
        serde_json::to_writer_pretty(&mut out, &findings)?;
        out.write_all(b"\n")?;
    } else {
        let color = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        out.write_all(report.page(args, color).as_bytes())?;
    }
    out.flush()?;
    Ok(exit)
}

/// The files outside that a running daemon has found to differ between the nodes; none without one.
async fn unequal(places: &Places) -> Vec<String> {
    let socket = places.socket();
    let asked = client::call(&socket, Method::GET, "/v1/sync", None);
    let Ok(Ok(answer)) = tokio::time::timeout(DAEMON, asked).await else { return Vec::new() };
    let sync: Sync = serde_json::from_slice(&answer).unwrap_or_default();
    sync.outside.iter().map(super::sync::stray).collect()
}

impl Report {
    fn look_at(&mut self, file: &Path, args: &CheckArgs) -> Result<()> {
        let name = file.display().to_string();
        let bytes = match read(file) {
            Ok(bytes) => bytes,
            Err(finding) => {
                self.of_files.push(finding);
                if !args.file_only {
                    self.look_at_host(None, args)?;
                }
                return Ok(());
            }
        };
        let Loaded { model, diagnostics, source } = standin_config::load_bytes(&name, &bytes);
        self.sources.push(source);
        self.of_files.extend(diagnostics);
        if args.file_only {
            // Who is named must be there; no name is asked for.
            if let (Some(cluster), Some(node)) = (&model, &args.node) {
                self.of_files.extend(cluster.find_self(Some(node), "", &[]).err());
            }
            return Ok(());
        }
        let text = String::from_utf8_lossy(&bytes);
        let subject = model.as_ref().and_then(|cluster| self.subject(cluster, &text, args));
        self.look_at_host(subject.as_ref(), args)
    }

    /// Which node this host is, and whether the file can be this node's.
    fn subject<'a>(
        &mut self,
        cluster: &'a Cluster,
        text: &'a str,
        args: &CheckArgs,
    ) -> Option<Subject<'a>> {
        let (host, local) = preflight::local();
        match cluster.find_self(args.node.as_deref(), &host, &local) {
            Ok(name) => Some(Subject { me: cluster.node(&name)?, cluster, text }),
            Err(finding) => {
                self.nobody = true;
                self.of_files.push(finding);
                None
            }
        }
    }

    fn look_at_host(&mut self, subject: Option<&Subject<'_>>, args: &CheckArgs) -> Result<()> {
        let listen = args.listen.map_or(Listen::AsNeeded, Listen::For);
        if let Some(subject) = subject {
            say_how_long(preflight::lasting(subject, listen));
        }
        let facts = client::block_on(async {
            let mut facts = preflight::here(subject, &args.state_dir, listen).await;
            if let Some(nginx) = facts.nginx.as_mut().filter(|nginx| nginx.unshared.is_some()) {
                nginx.unequal = unequal(&args.places).await;
            }
            Ok(facts)
        })?;
        for finding in preflight::judge(subject, &facts) {
            // What is wrong for one file is wrong for the next.
            if !self.of_host.contains(&finding) {
                self.of_host.push(finding);
            }
        }
        if let Some(subject) = subject {
            if let Some(port) = subject.default_port(&facts)
                && let Err(collisions) = subject.cluster.plan(&subject.me.name, &port.name)
            {
                self.of_files.extend(collisions);
            }
            self.forecasts.extend(preflight::forecast(subject, &facts));
            self.vips.extend(subject.vips().map(|vip| vip.name.clone()));
        }
        Ok(())
    }

    fn all(&self) -> impl Iterator<Item = &Diagnostic> {
        self.of_files.iter().chain(&self.of_host)
    }

    fn exit(&self, deny_warnings: bool) -> Exit {
        let bad = |all: &[Diagnostic]| {
            all.iter()
                .any(|one| one.is_error() || (deny_warnings && one.severity == Severity::Warning))
        };
        if bad(&self.of_files) {
            Exit::BadFile
        } else if bad(&self.of_host) {
            Exit::BadHost
        } else {
            Exit::Done
        }
    }

    fn page(&self, args: &CheckArgs, color: bool) -> String {
        let all: Vec<Diagnostic> = self.all().cloned().collect();
        let mut page = standin_config::render(&all, &self.sources, color);
        if !page.is_empty() {
            page.push('\n');
        }
        for line in &self.forecasts {
            page.push_str(line);
            page.push('\n');
        }
        page.push_str(&self.summary(args));
        page.push('\n');
        page
    }

    fn summary(&self, args: &CheckArgs) -> String {
        let count = |severity: Severity| self.all().filter(|one| one.severity == severity).count();
        let several = |count: usize, word: &str| match count {
            0 => None,
            1 => Some(format!("1 {word}")),
            _ => Some(format!("{count} {word}s")),
        };
        let errors = several(count(Severity::Error), "error");
        let warnings = several(count(Severity::Warning), "warning");
        let mut counted = match (&errors, &warnings) {
            (Some(errors), Some(warnings)) => format!("{errors}, {warnings}"),
            (Some(only), None) | (None, Some(only)) => only.clone(),
            (None, None) => String::new(),
        };
        if self.nobody {
            counted.push_str("; on a machine that is no node: standin check --file-only");
        }
        let held = match self.vips.as_slice() {
            _ if args.file_only => "the file is good; this host wasn't looked at".to_owned(),
            [] => "this node holds no VIP".to_owned(),
            vips if vips.len() > NAMED => format!("{} VIPs can be held here", vips.len()),
            vips => format!("{} can be held here", vips.join(", ")),
        };
        match (counted.is_empty(), errors) {
            (true, _) if args.file_only => held,
            (true, _) => format!("{held}: no faults found"),
            (false, None) if args.deny_warnings => {
                format!("{counted}, which counts as an error here")
            }
            (false, None) => format!("{held}: {counted}"),
            (false, Some(_)) => counted,
        }
    }
}

/// Nobody shall wonder why nothing happens.
fn say_how_long(listening: Duration) {
    if listening >= SAID_BEFORE && io::stderr().is_terminal() {
        let seconds = listening.as_secs();
        eprintln!("listening to the network for {seconds} s (--listen 0: not at all)");
    }
}

fn read(file: &Path) -> Result<Vec<u8>, Diagnostic> {
    control::bytes_of(file).map_err(|error| {
        let why = preflight::words(&error);
        let message = format!("can't read the cluster file {}: {why}", file.display());
        let help = match error.kind() {
            io::ErrorKind::NotFound => {
                "`standin init` makes one, `standin join` fetches the cluster's; or name another: \
                 standin check FILE"
            }
            io::ErrorKind::PermissionDenied => "run this as root",
            _ => "name a file: standin check FILE",
        };
        Diagnostic::error(preflight::UNREAD_FILE, message).help(help)
    })
}
