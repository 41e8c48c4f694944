//! `standin lab`: a cluster rehearsed on this machine, in network namespaces, with a real nginx in each node.
//!
//! ```text
//!   standin lab ── supervisor ─┬─ host n1 ── pid 1 ─┬─ nginx
//!                              │                    └─ standin run     (or keepalived)
//!                              ├─ host n2 ── …
//!                              ├─ host client ── pid 1
//!                              └─ a namespace with one bridge per segment: the switch
//! ```
//! Every host has its own network, mounts, process ids and host name; its `/etc`, `/run` and
//! `/var` changes live in memory. The kernel ends a host with its supervisor, so a Ctrl-C or a
//! SIGKILL leaves nothing behind: no file, no interface, no process.

mod agent;
pub(crate) mod client;
mod cluster;
mod control;
mod daemon;
mod drill;
mod example;
mod faults;
mod holders;
mod hosts;
mod keepalived;
mod layout;
mod membership;
mod network;
mod nginx;
mod progress;
mod supervisor;
mod table;

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};
use standin_linux::spawn::{self, Birth};
use tokio::signal::unix::{SignalKind, signal};

use cluster::Victim;
use control::{Reply, Request};

/// Rehearse a cluster on this machine.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct LabArgs {
    #[command(subcommand)]
    command: Option<LabCommand>,
    /// Inject each fault in turn while a client measures, print a table, and end
    #[arg(long)]
    drill: bool,
    #[command(flatten)]
    wanted: Wanted,
}

/// A lab that is built for a drill only.
#[derive(Debug, Args)]
pub(crate) struct DrillArgs {
    #[command(flatten)]
    wanted: Wanted,
}

/// What a lab is built of and what it is built for.
#[derive(Clone, Debug, Args, Serialize, Deserialize)]
struct Wanted {
    /// The cluster file; without it a pair with one VIP is made up
    file: Option<PathBuf>,
    #[arg(skip)]
    drill: bool,
    /// Drill: inject each fault this often; the table shows the worst
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    repeat: u32,
    /// Drill: inject these faults only
    #[arg(long, value_name = "FAULT,…", value_delimiter = ',', value_parser = fault)]
    only: Vec<String>,
    /// Drill: print the result as JSON
    #[arg(long)]
    json: bool,
    /// Drill: leave the lab running afterwards
    #[arg(long)]
    keep: bool,
    /// Drill: a request without an answer by then has failed
    #[arg(long, value_name = "MS", default_value_t = 100, value_parser = clap::value_parser!(u64).range(10..=10_000))]
    deadline_ms: u64,
    /// Run Debian's keepalived on every node, to compare
    #[arg(long)]
    keepalived: bool,
    /// Let nginx listen on the VIPs alone
    #[arg(long)]
    bind_vip: bool,
    /// How many nodes the made-up cluster has
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(2..=9), conflicts_with = "file")]
    nodes: u8,
    /// Make the made-up cluster an IPv6 one
    #[arg(long, conflicts_with_all = ["file", "dual"])]
    ipv6: bool,
    /// Give the made-up cluster's VIP an IPv4 and an IPv6 address
    #[arg(long, conflicts_with = "file")]
    dual: bool,
    /// How often the made-up cluster's nodes advertise
    #[arg(long, value_name = "TIME", conflicts_with = "file")]
    advert_interval: Option<String>,
    /// Set this sysctl on all nodes; without it, on every second one
    #[arg(long, value_name = "0|1", value_parser = clap::value_parser!(u8).range(0..=1))]
    promote_secondaries: Option<u8>,
    /// What the lab is called, to have several
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
}

/// What can be done with a lab that runs.
#[derive(Debug, Subcommand)]
enum LabCommand {
    /// Show every node: cable, nginx, daemon, and which VIPs it holds
    Status {
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        lab: Which,
    },
    /// Run a command in a node or in `client`; without one, a shell
    Shell {
        node: String,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<OsString>,
        #[command(flatten)]
        lab: Which,
    },
    /// Kill a node's nginx, its daemon, or the whole host, with SIGKILL
    Kill {
        node: String,
        #[arg(value_enum, default_value = "nginx")]
        what: Victim,
        #[command(flatten)]
        lab: Which,
    },
    /// Stop a node's nginx with SIGSTOP: it takes connections and never answers
    Hang {
        node: String,
        #[command(flatten)]
        lab: Which,
    },
    /// Pull a node's cable
    Cut {
        node: String,
        #[command(flatten)]
        lab: Which,
    },
    /// Undo `cut` and `hang`
    Heal {
        node: String,
        #[command(flatten)]
        lab: Which,
    },
    /// Start whatever of a node is not running: host, nginx, daemon
    Start {
        node: String,
        #[command(flatten)]
        lab: Which,
    },
    /// End the lab and everything in it
    Down {
        #[command(flatten)]
        lab: Which,
    },
    /// The process that builds and keeps a lab
    #[command(hide = true)]
    Supervise,
    /// The outer process of a host
    #[command(hide = true)]
    Host { name: String },
    /// Pid 1 of a host
    #[command(hide = true)]
    Init { name: String },
}

#[derive(Debug, Args)]
struct Which {
    /// The lab's name, where there are several
    #[arg(long = "name", value_name = "NAME", default_value = DEFAULT_NAME)]
    name: String,
}

const DEFAULT_NAME: &str = "default";

/// `standin lab`. Must be called from the main thread, before any other thread is started: hosts
/// end with the thread that started them, and user namespaces are for processes of one thread.
#[must_use]
pub(crate) fn main(args: LabArgs) -> ExitCode {
    finish(match args.command {
        None => up(Wanted { drill: args.drill, ..args.wanted }),
        Some(command) => obey(command),
    })
}

/// `standin drill`, under the same conditions as [`main`].
#[must_use]
pub(crate) fn drill(args: DrillArgs) -> ExitCode {
    finish(up(Wanted { drill: true, ..args.wanted }))
}

/// The name of a fault; a wrong one is answered with all that there are.
fn fault(name: &str) -> Result<String, String> {
    faults::Fault::named(name).map(|_| name.to_owned()).map_err(|error| error.to_string())
}

fn finish(result: Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

/// Starts the supervisor, and stays until the lab is up, or its drill is over.
fn up(mut args: Wanted) -> Result<ExitCode> {
    let name = args.name.get_or_insert_with(|| match args.drill && !args.keep {
        true => format!("drill-{}", std::process::id()),
        false => DEFAULT_NAME.to_owned(),
    });
    if control::runs(name)? {
        bail!(
            "a lab called `{name}` runs already: see `standin lab status`, or end it with `standin lab down`"
        );
    }
    supervisor::launch(&args)
}

fn obey(command: LabCommand) -> Result<ExitCode> {
    let (lab, request) = match command {
        LabCommand::Supervise => return supervisor::main(),
        LabCommand::Host { name } => {
            agent::host(&name)?;
            return Ok(ExitCode::SUCCESS);
        }
        LabCommand::Init { name } => {
            agent::init(&name)?;
            return Ok(ExitCode::SUCCESS);
        }
        LabCommand::Status { json, lab } => return status(&lab.name, json),
        LabCommand::Shell { node, command, lab } => return shell(&lab.name, node, command),
        LabCommand::Kill { node, what, lab } => (lab, Request::Kill { node, what }),
        LabCommand::Hang { node, lab } => (lab, Request::Hang { node }),
        LabCommand::Cut { node, lab } => (lab, Request::Cut { node }),
        LabCommand::Heal { node, lab } => (lab, Request::Heal { node }),
        LabCommand::Start { node, lab } => (lab, Request::Start { node }),
        LabCommand::Down { lab } => (lab, Request::Down),
    };
    control::ask(&lab.name, &request)?;
    Ok(ExitCode::SUCCESS)
}

fn status(name: &str, json: bool) -> Result<ExitCode> {
    let Reply::States(states) = control::ask(name, &Request::Status)? else {
        bail!("the lab gave no status");
    };
    if json {
        println!("{}", serde_json::to_string_pretty(&states)?);
        return Ok(ExitCode::SUCCESS);
    }
    println!("{:<10} {:<5} {:<8} {:<6} {:<16} holds", "node", "host", "cable", "nginx", "daemon");
    for state in states {
        println!(
            "{:<10} {:<5} {:<8} {:<6} {:<16} {}",
            state.node,
            state.host,
            state.cable,
            state.nginx,
            state.daemon,
            if state.holds.is_empty() { "-".to_owned() } else { state.holds.join(" ") }
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// Ends with the exit status of the command, as a shell would show it.
fn shell(name: &str, node: String, command: Vec<OsString>) -> Result<ExitCode> {
    let Reply::Pid(pid) = control::ask(name, &Request::Pid { host: node })? else {
        bail!("the lab gave no process id");
    };
    spawn::enter_host(pid).context("cannot enter the host's namespaces")?;
    // Ctrl-C is for what runs there. What is ignored would be inherited by it; what is handled isn't.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let _within = runtime.enter();
    let _kept = [SignalKind::interrupt(), SignalKind::quit()].map(signal);
    let mut words = command.into_iter();
    let program = words.next().unwrap_or_else(|| "/bin/bash".into());
    let mut command = Command::new(&program);
    command.args(words).envs(agent::host_environment()).current_dir("/");
    spawn::born(&mut command, Birth { dies_with_parent: true, ..Birth::default() });
    let status = command
        .status()
        .with_context(|| format!("cannot run {} in the host", program.display()))?;
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}
