//! `standin adopt`: a live machine's own address becomes a VIP, in place, and back.
//!
//! ```text
//! look ──▶ judge ──▶ show, ask ──▶ keep ──▶ running host ──▶ files
//!                                                │ fails        │ fails
//!                                                └── put back ◀─┘
//! ```
//!
//! The running host comes before the files: if the machine dies in between, it boots as it was.

mod await_vacant;
mod files;
mod host;
mod record;
mod undo;

use std::io::{self, IsTerminal, Write as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::Args;
use serde::Serialize;
use standin_config::network::Swap;
use standin_config::{Cluster, Diagnostic, Finding};
use standin_core::types::Prefix;
use standin_linux::fork::{SIGHUP, SIGINT, SIGTERM, Signals};

use crate::api::PROBE_GAPS;
use crate::cli::client::Unanswered;
use crate::cli::{Places, STATE_DIR, orders};
use crate::control;
use files::Look;
use host::{Host, Place};
use record::{Record, Way};

#[derive(Debug, Args)]
pub(crate) struct AdoptArgs {
    /// The production address, as it is on this host now
    #[arg(value_name = "ADDRESS", required_unless_present = "undo")]
    address: Option<IpAddr>,
    /// The VIP of the cluster file that it becomes
    #[arg(long, value_name = "NAME", required_unless_present = "undo")]
    vip: Option<String>,
    /// What this host itself is called from now on: a free address of the same subnet
    #[arg(long, value_name = "ADDRESS/LENGTH", value_parser = record::parse_prefix,
          required_unless_present_any = ["undo", "await_vacant"])]
    new_address: Option<Prefix>,
    /// The way back: addresses, routes and files as they were
    #[arg(long, conflicts_with_all = ["vip", "new_address"])]
    undo: bool,
    /// On a new node: take the address once nobody answers for it, give it back if its old host
    /// shows again or this node isn't healthy
    #[arg(long, conflicts_with_all = ["new_address", "undo", "dry_run", "no_files"])]
    await_vacant: bool,
    /// With --await-vacant: how often the address is asked for
    #[arg(long, value_name = "TIME", default_value = "100ms", requires = "await_vacant",
          value_parser = gap)]
    every: Duration,
    /// With --await-vacant: no longer; an address that this node has by then it keeps
    #[arg(long, requires = "await_vacant")]
    end: bool,
    /// Show what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Don't ask
    #[arg(long)]
    yes: bool,
    /// Leave the network configuration on disk alone; you change it by hand
    #[arg(long, conflicts_with = "undo")]
    no_files: bool,
    /// For programs: what is, or would be, done
    #[arg(long)]
    json: bool,
    /// The cluster file
    #[arg(short = 'f', long, value_name = "FILE", default_value = "/etc/standin/standin.toml")]
    file: PathBuf,
    /// Where the record of it and the files as they were are kept, in `adopt`
    #[arg(long, value_name = "DIR", default_value = STATE_DIR)]
    state_dir: PathBuf,
    #[command(flatten)]
    places: Places,
}

/// How often an address may be asked for: what the daemon takes.
fn gap(text: &str) -> Result<Duration, String> {
    let gap = orders::duration(text)?;
    if PROBE_GAPS.contains(&gap) {
        Ok(gap)
    } else {
        let (least, most) = (PROBE_GAPS.start().as_millis(), PROBE_GAPS.end().as_secs());
        Err(format!("{least}ms to {most}s"))
    }
}

/// What is shown before anything is done.
#[derive(Serialize)]
struct Proposal {
    address: String,
    interface: String,
    vip: String,
    new_address: String,
    undo: bool,
    /// On the running host, in order.
    steps: Vec<String>,
    files: Vec<File>,
    findings: Vec<Finding>,
    /// False for a dry run, and before it was done.
    done: bool,
    #[serde(skip)]
    notes: String,
}

#[derive(Serialize)]
struct File {
    path: PathBuf,
    system: &'static str,
    diff: String,
}

impl Proposal {
    fn show(&self, args: &AdoptArgs) -> Result<()> {
        let mut out = io::stdout().lock();
        if args.json {
            return Ok(());
        }
        let head = if self.undo { "no VIP any more" } else { "a VIP" };
        writeln!(out, "{} on {}: {head} ({})", self.address, self.interface, self.vip)?;
        writeln!(out, "\non the running host, without a packet lost:")?;
        for step in &self.steps {
            writeln!(out, "  {step}")?;
        }
        if self.files.is_empty() {
            writeln!(out, "\nin files: nothing")?;
        }
        for file in &self.files {
            writeln!(out, "\nin a file of {}, for the next boot:\n{}", file.system, file.diff)?;
        }
        if !self.notes.is_empty() {
            writeln!(out, "{}", self.notes)?;
        }
        Ok(())
    }

    /// Whether to go on.
    fn agreed(&self, args: &AdoptArgs) -> Result<bool> {
        self.show(args)?;
        if args.dry_run {
            if args.json {
                self.print()?;
            } else {
                println!("nothing was done (--dry-run)");
            }
            return Ok(false);
        }
        if args.yes {
            return Ok(true);
        }
        ensure!(
            io::stdin().is_terminal() && !args.json,
            "nothing was done: without a terminal to ask at, say --yes"
        );
        print!("Do it? [y/N] ");
        io::stdout().flush()?;
        let mut answer = String::new();
        io::stdin().read_line(&mut answer)?;
        let yes = matches!(answer.trim(), "y" | "Y" | "yes");
        if !yes {
            println!("nothing was done");
        }
        Ok(yes)
    }

    fn print(&self) -> Result<()> {
        let mut out = io::stdout().lock();
        serde_json::to_writer_pretty(&mut out, self)?;
        writeln!(out)?;
        Ok(())
    }
}

pub(crate) fn main(args: &AdoptArgs) -> Result<()> {
    if args.undo {
        return undo::run(args);
    }
    if let (true, Some(address), Some(vip)) = (args.await_vacant, args.address, &args.vip) {
        return await_vacant::run(args, address, vip);
    }
    let (Some(address), Some(vip), Some(new)) = (args.address, &args.vip, args.new_address) else {
        bail!("an address, --vip and --new-address are needed");
    };
    adopt(args, address, vip, new)
}

fn adopt(args: &AdoptArgs, address: IpAddr, vip: &str, new: Prefix) -> Result<()> {
    let (cluster, _) = control::read_file(&args.file)
        .map_err(|refusal| Unanswered { exit: refusal.exit, words: said(&refusal.text) })?;
    ensure!(
        Record::load(&args.state_dir, address)?.is_none(),
        "{address} is adopted already; the way back is: standin adopt --undo {address}"
    );
    let mut host = Host::open()?;
    let place = host.find(address)?.ok_or_else(|| {
        anyhow!(
            "no interface of this host has {address}; run this on the machine that serves it now. \
             If that machine can't run standin, let a new node wait for the address: standin adopt \
             {address} --vip {vip} --await-vacant"
        )
    })?;
    judge(&cluster, &place, vip, new)?;
    nobody_else(&place, &[address, new.address()])?;
    let swap = Swap { interface: &place.link.name, old: address, new: new.address() };
    let look = if args.no_files { Look::default() } else { files::look(swap)? };
    refuse(&look, address, args)?;
    let mut proposal = propose(&place, &look, vip, new);
    if !proposal.agreed(args)? {
        return Ok(());
    }
    carry_out(args, &mut host, &place, &look, vip, new)?;
    proposal.done = true;
    if args.json {
        return proposal.print();
    }
    let told = files::in_memory(look.changes.iter().map(|change| change.system), address);
    println!(
        "done: {address} can be held as VIP {vip}, this host is {}\nnext: standin check; systemctl \
         enable --now standin\nUntil standin runs here a reboot would leave {address} to nobody. The \
         way back: standin adopt --undo {address}",
        new.address()
    );
    told.iter().for_each(|line| println!("{line}"));
    Ok(())
}

fn said(text: &str) -> String {
    text.trim().trim_start_matches("error: ").to_owned()
}

/// Whether the file and the host fit each other and what is asked.
fn judge(cluster: &Cluster, place: &Place, vip: &str, new: Prefix) -> Result<()> {
    let here = place.whole.address.prefix;
    let address = here.address();
    let known = cluster.vip(vip).ok_or_else(|| {
        let names: Vec<_> = cluster.vips.iter().map(|vip| vip.name.as_str()).collect();
        anyhow!("the cluster file has no [vip.{vip}]; it has {}", names.join(", "))
    })?;
    ensure!(
        !known.virtual_mac,
        "[vip.{vip}] has virtual_mac = true, and {address} has the MAC of {}: set it to false on all nodes \
         until the VIP has moved once, then switch it on",
        place.link.name
    );
    let of_vip = known.addresses.iter().find(|prefix| prefix.address() == address);
    let of_vip = of_vip.ok_or_else(|| {
        anyhow!("[vip.{vip}] doesn't have {address}; write addresses = [\"{here}\"] there first")
    })?;
    ensure!(
        *of_vip == here,
        "[vip.{vip}] has {of_vip}, and {} has {here}: make the two the same",
        place.link.name
    );
    if let Some(interface) = &known.interface {
        ensure!(
            *interface == place.link.name,
            "[vip.{vip}] is on {interface}, and {address} is on {}: correct the file",
            place.link.name
        );
    }
    ensure!(
        !host::is_single(here),
        "{here} is in no subnet that the new address could share; its routes are made by something \
         that adopt doesn't know. Give the host its new address by hand"
    );
    let node = cluster.nodes.iter().find(|node| node.addresses.contains(&new.address()));
    let node = node.ok_or_else(|| {
        anyhow!(
            "no node of the cluster file has the address {}; this machine is to be one: write \
             [node.NAME] with address = \"{}\"",
            new.address(),
            new.address()
        )
    })?;
    ensure!(
        known.members.iter().any(|member| member.node == node.name),
        "node {} may not hold [vip.{vip}]; add it to `nodes` there",
        node.name
    );
    ensure!(
        new.prefix_len() == here.prefix_len() && here.contains(new.address()),
        "{new} isn't in the subnet of {here}: gateway and routes of this host would not fit it. Take a \
         free address of that subnet"
    );
    ensure!(new.address() != address, "the new address must be another one than {address}");
    Ok(())
}

fn nobody_else(place: &Place, addresses: &[IpAddr]) -> Result<()> {
    match host::owners(&place.link, addresses)?.first() {
        Some((address, mac)) => bail!(
            "{mac} on {} answers for {address}: another host has it. Nothing was done",
            place.link.name
        ),
        None => Ok(()),
    }
}

/// Says no when the files can't be made to fit.
fn refuse(look: &Look, address: IpAddr, args: &AdoptArgs) -> Result<()> {
    let wrong: Vec<Diagnostic> =
        look.found.iter().filter(|found| found.is_error()).cloned().collect();
    if !wrong.is_empty() {
        let text = standin_config::render(&wrong, &look.sources, false);
        bail!(
            "nothing was done: the network configuration has to be changed by hand here\n\n{text}"
        );
    }
    if look.declared.is_empty() && !args.no_files {
        let text = standin_config::render(&look.dynamic, &look.sources, false);
        bail!(
            "nothing was done: no file of ifupdown, netplan, systemd-networkd, NetworkManager or the \
             network scripts gives this host {address}, so it isn't known what does at the next boot. \
             Find and change that by hand, then say --no-files\n{text}"
        );
    }
    Ok(())
}

fn propose(place: &Place, look: &Look, vip: &str, new: Prefix) -> Proposal {
    let here = place.whole.address.prefix;
    let mut steps = Vec::new();
    if !place.subnet.iter().any(|one| one.address.prefix == new) {
        steps.push(format!("add     {new} on {}", place.link.name));
    }
    for route in &place.routes {
        let (way, old) = (Way::of(route), here.address());
        steps.push(format!("change  {way} src {old} -> src {}", new.address()));
    }
    if here.address().is_ipv4() {
        steps.push(format!(
            "order   {new} first, {here} last: it can go without taking others along"
        ));
    }
    steps.push(format!("mark    {here} as a VIP that standin takes over"));
    let warnings = standin_config::render(&look.found, &look.sources, false);
    Proposal {
        address: here.to_string(),
        interface: place.link.name.clone(),
        vip: vip.to_owned(),
        new_address: new.to_string(),
        undo: false,
        steps,
        files: shown(&look.changes),
        findings: standin_config::findings(&look.found, &look.sources),
        done: false,
        notes: format!("{warnings}{}", session(here.address())),
    }
}

fn shown(changes: &[files::Change]) -> Vec<File> {
    let shown = |change: &files::Change| File {
        path: change.path.clone(),
        system: change.system.name(),
        diff: change.diff.clone(),
    };
    changes.iter().map(shown).collect()
}

/// Who came by the address loses the way when it moves.
fn session(address: IpAddr) -> String {
    let connection = std::env::var("SSH_CONNECTION").unwrap_or_default();
    let local = connection.split_whitespace().nth(2).and_then(|local| local.parse().ok());
    if local == Some(address) {
        format!("note: you are logged in by {address}; this session ends when the VIP moves\n")
    } else {
        String::new()
    }
}

fn carry_out(
    args: &AdoptArgs,
    host: &mut Host,
    place: &Place,
    look: &Look,
    vip: &str,
    new: Prefix,
) -> Result<()> {
    let here = place.whole.address.prefix;
    let folder = Record::folder(&args.state_dir, here.address());
    let record = Record {
        address: here,
        vip: vip.to_owned(),
        interface: place.link.name.clone(),
        new,
        new_was_here: place.subnet.iter().any(|one| one.address.prefix == new),
        label: place.whole.label().map(str::to_owned),
        prefix_route: !place.whole.has_no_prefix_route(),
        order: place.subnet.iter().map(|one| one.address.prefix).collect(),
        routes: place.routes.iter().map(Way::of).collect(),
        files: files::keep(&look.changes, &folder).context("nothing was done")?,
    };
    let _signals = uninterrupted()?;
    // Before anything is changed: what is half done can be undone.
    record.save(&args.state_dir).context("nothing was done")?;
    let done = host.adopt(place, new).and_then(|()| files::write(&look.changes));
    let Err(error) = done else { return Ok(()) };
    // The copies go only once they aren't needed.
    let whole = || match files::unlike_before(&look.changes) {
        None => Ok(()),
        Some(path) => Err(anyhow!("{} isn't as it was", path.display())),
    };
    let put_back = host.give_back(&record).and_then(|()| whole());
    match put_back.and_then(|()| record.forget(&args.state_dir)) {
        Ok(()) => Err(error.context("it was all put back as it was, because this failed")),
        Err(worse) => Err(error.context(format!(
            "it was begun and not finished, and couldn't be put back either ({worse:#}); run: standin \
             adopt --undo {}. What failed",
            here.address()
        ))),
    }
}

/// Ctrl-C and a terminal that is closed wait until what was begun is done: half of it is a host with addresses
/// that nobody takes away.
fn uninterrupted() -> Result<Signals> {
    Signals::take(&[SIGHUP, SIGINT, SIGTERM]).context("signals")
}

fn text_of(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| path.display().to_string())
}
