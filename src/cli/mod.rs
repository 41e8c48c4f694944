//! The command line: what was typed, and which file does it.

mod apply;
mod approve;
mod check;
pub(crate) mod client;
mod events;
mod init;
mod join;
pub(crate) mod orders;
mod recover;
mod release;
mod status;
pub(crate) mod switchover;
mod sync;
mod token;

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use serde_json::Value;

use crate::adopt;
use crate::control::{self, Paths};
use crate::drill;
use crate::exit::Exit;
use crate::lab;
use client::Unanswered;

#[derive(Debug, Parser)]
#[command(
    name = "standin",
    version,
    about = "Keeps an nginx reachable when the machine under it dies",
    after_help = "Exit codes: 0 done · 1 failed, the reason was printed · 2 wrong command line · \
                  3 the cluster file has errors · 4 the host isn't fit · 5 no daemon answers · \
                  6 a daemon runs already",
    disable_help_subcommand = true
)]
struct Line {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run this node until it is stopped
    #[command(after_help = "Example: standin run -f /etc/standin/standin.toml")]
    Run(RunArgs),
    /// Say all that is wrong with the cluster file, and with this host for it
    #[command(after_help = "Examples:\n  standin check\n  standin check --file-only new.toml\n  \
                            standin check --json | jq -r '.[].message'")]
    Check(check::CheckArgs),
    /// Show who holds what, and why
    #[command(after_help = "Examples:\n  standin status\n  standin status --watch\n  \
                            standin status --json | jq '.vips[].holder'")]
    Status(status::StatusArgs),
    /// Show what happened, when, and why
    #[command(after_help = "Examples:\n  standin events\n  standin events --follow\n  \
                            standin events --json | jq 'select(.kind == \"transition\")'")]
    Events(events::EventsArgs),
    /// Move a VIP to another node while both live; no client notices
    #[command(after_help = "Examples:\n  standin switchover web\n  standin switchover web n2 \
                            --drain 2m\n  standin switchover web --now --json")]
    Switchover(switchover::SwitchoverArgs),
    /// Take this node out of service, or back in
    #[command(after_help = "Examples:\n  standin maintenance on --for 30m\n  \
                            standin maintenance off")]
    Maintenance(orders::MaintenanceArgs),
    /// Remove the addresses that a standin which is gone has left on this host
    #[command(after_help = "Example: systemctl stop standin; standin release")]
    Release(release::ReleaseArgs),
    /// Make a live machine's own address a VIP, in place, without a packet lost; and back
    #[command(after_help = "Examples:\n  standin adopt 192.168.1.41 --vip web --new-address \
                            192.168.1.189/24 --dry-run\n  standin adopt --undo\n  standin \
                            adopt 192.168.1.41 --vip web --await-vacant")]
    Adopt(adopt::AdoptArgs),
    /// Put nginx's old files back if a change of them was interrupted
    #[command(after_help = "Example: standin recover\n\nstandin-recover.service does it before \
                            nginx starts, and the daemon when it starts.")]
    Recover(recover::RecoverArgs),
    /// Let in, on this node, what files of other nodes want to run or write here
    #[command(
        after_help = "Examples:\n  standin approve\n  standin approve --list\n\n`standin sync status` says what waits for \
                            it: a module from elsewhere, code that runs in nginx."
    )]
    Approve(approve::ApproveArgs),
    /// Test staged files as nginx would see them; the daemon starts it
    #[command(hide = true)]
    Tester,
    /// Read the cluster file again; a file with errors changes nothing
    #[command(
        after_help = "Example: standin reload\n\nkill -HUP and `systemctl reload standin` do \
                            the same; status and the log say what became of it."
    )]
    Reload(orders::ReloadArgs),
    /// Make a cluster: its authority, this node's keys, the smallest cluster file, a token
    #[command(after_help = "Example: standin init --cluster edge --node n1=192.168.1.189 \
                            --vip web=192.168.1.41/24\n\nAt a terminal it asks for what isn't \
                            given.")]
    Init(init::InitArgs),
    /// Print another token, by which one more machine may join
    #[command(after_help = "Example: standin token | ssh n3 standin join 192.168.1.189 - \
                            --node n3=192.168.1.191")]
    Token(token::TokenArgs),
    /// Make this machine a node of a cluster
    #[command(after_help = "Example: standin join 192.168.1.189 TOKEN --node n2=192.168.1.190")]
    Join(join::JoinArgs),
    /// The files that the nodes share
    #[command(after_help = "Examples:\n  standin sync status\n  standin sync diff\n  \
                            standin sync rollback")]
    Sync(sync::SyncArgs),
    /// Bring a change to all nodes, or to none
    #[command(after_help = "Examples:\n  standin apply\n  standin apply cluster new.toml\n  \
                            standin apply nginx")]
    Apply(apply::ApplyArgs),
    /// Put a node out of the cluster: its key counts no more
    #[command(after_help = "Example: standin expel n3")]
    Expel(apply::ExpelArgs),
    /// Serve tokens while no daemon does; `init` and `token` start it
    #[command(hide = true)]
    ServeTokens(token::ServiceArgs),
    /// Rehearse a cluster on this machine, in network namespaces
    #[command(after_help = "Examples:\n  standin lab              a pair and a client, left \
                            running\n  standin lab --drill      every fault once, measured\n  \
                            standin lab status\n  standin lab kill n1\n  standin lab down")]
    Lab(lab::LabArgs),
    /// Measure how long nobody answers, in a lab or on this cluster
    #[command(
        after_help = "Examples:\n  standin drill\n  standin drill /etc/standin/standin.toml \
                            --repeat 5\n  standin drill --only nginx-killed,host-cut --json\n  \
                            standin drill live web       there and back, on the cluster that runs\n  \
                            standin drill history"
    )]
    Drill(drill::DrillLine),
}

/// Where a daemon is that nobody told otherwise.
const RUN_DIR: &str = "/run/standin";
pub(crate) const STATE_DIR: &str = "/var/lib/standin";
pub(crate) const SOCKET: &str = "standin.sock";

/// Where the daemon's files are.
#[derive(Clone, Debug, Args)]
pub(crate) struct Places {
    /// The directory of the daemon's socket and lock
    #[arg(long, value_name = "DIR", default_value = RUN_DIR)]
    run_dir: PathBuf,
}

impl Places {
    pub(crate) fn socket(&self) -> PathBuf {
        self.run_dir.join(SOCKET)
    }

    /// Keeps a daemon from starting while the lock lives; fails while one runs, and says `so` then.
    fn without_daemon(&self, so: &str) -> anyhow::Result<Option<File>> {
        let lock = self.run_dir.join("lock");
        match File::options().write(true).open(&lock) {
            Ok(file) => {
                match control::hold(&file) {
                    Ok(()) => Ok(Some(file)),
                    Err(std::fs::TryLockError::WouldBlock) => {
                        let lock = lock.display();
                        let words = format!("a standin runs here ({lock} is locked), {so}");
                        Err(Unanswered { exit: Exit::Running, words }.into())
                    }
                    // Whether one runs isn't known.
                    Err(std::fs::TryLockError::Error(error)) => {
                        Err(error).with_context(|| format!("can't lock {}", lock.display()))
                    }
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("{}", lock.display())),
        }
    }

    pub(crate) fn run_dir(&self) -> &Path {
        &self.run_dir
    }
}

#[derive(Debug, Args)]
struct RunArgs {
    /// The cluster file
    #[arg(short = 'f', long, value_name = "FILE", default_value = "/etc/standin/standin.toml")]
    file: PathBuf,
    /// Which node of the file this machine is; else its host name or its addresses say so
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    #[command(flatten)]
    places: Places,
    /// The directory of what outlives the daemon: events
    #[arg(long, value_name = "DIR", default_value = STATE_DIR)]
    state_dir: PathBuf,
}

/// Parses the command line and does what it says.
pub(crate) fn main() -> ExitCode {
    let line = match Line::try_parse() {
        Ok(line) => line,
        Err(error) => {
            // A closed pipe is the reader's choice.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Done }.into();
        }
    };
    let done = match line.command {
        Command::Run(args) => {
            return control::run(Paths {
                file: args.file,
                run_dir: args.places.run_dir,
                state_dir: args.state_dir,
                node: args.node,
            })
            .into();
        }
        Command::Lab(args) => return lab::main(args),
        Command::Drill(args) => return drill::main(args),
        Command::Check(args) => match check::main(&args) {
            Ok(exit) => return exit.into(),
            Err(error) => Err(error),
        },
        Command::Status(args) => status::main(&args),
        Command::Events(args) => events::main(&args),
        Command::Switchover(args) => switchover::main(&args),
        Command::Maintenance(args) => orders::maintenance(&args),
        Command::Reload(args) => orders::reload(&args),
        Command::Adopt(args) => adopt::main(&args),
        Command::Release(args) => release::main(&args),
        Command::Recover(args) => recover::main(&args),
        Command::Tester => recover::tester(),
        Command::Init(args) => init::main(&args),
        Command::Token(args) => token::main(&args),
        Command::Join(args) => join::main(&args),
        Command::Apply(args) => apply::main(&args),
        Command::Approve(args) => approve::main(&args),
        Command::Expel(args) => apply::expel(&args),
        Command::ServeTokens(args) => token::serve(&args),
        Command::Sync(args) => sync::main(&args),
    };
    match done {
        Ok(()) => Exit::Done.into(),
        Err(error) if is_closed_pipe(&error) => Exit::Done.into(),
        Err(error) => exit_of(&error),
    }
}

/// Says what went wrong, and what the command exits with.
pub(crate) fn exit_of(error: &anyhow::Error) -> ExitCode {
    eprintln!("error: {error:#}");
    error.downcast_ref::<Unanswered>().map_or(Exit::Failed, |error| error.exit).into()
}

/// `standin events | head` has printed what was wanted.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

/// What was done, to a program or to a person.
///
/// # Errors
/// Standard output is closed or full.
pub(crate) fn say(json: bool, value: &Value, words: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if json {
        writeln!(out, "{value}")?;
    } else {
        writeln!(out, "{words}")?;
    }
    Ok(())
}

/// `1h 02m`, `3m 20s`, `12 s`, `340 ms`.
pub(crate) fn ago(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{} ms", duration.as_millis()),
        1..60 => format!("{seconds} s"),
        60..3600 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h {:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d {:02}h", seconds / 86_400, seconds / 3600 % 24),
    }
}
