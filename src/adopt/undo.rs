//! The way back: the VIP is the host's own address again, and its files are as they were.

use std::fs::File;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::host::{self, Host};
use super::record::Record;
use super::{AdoptArgs, Proposal, files, text_of};

/// How long a daemon may take to stop after it was told to, or its operator to tell it.
const STOPS_WITHIN: Duration = Duration::from_secs(600);

pub(super) fn run(args: &AdoptArgs) -> Result<()> {
    let address = args.address.map_or_else(|| Record::only(&args.state_dir), Ok)?;
    let record = Record::load(&args.state_dir, address)?.with_context(|| {
        format!(
            "{address} isn't adopted on this host: there is no record of it below {}",
            args.state_dir.display()
        )
    })?;
    let folder = Record::folder(&args.state_dir, address);
    let changed = files::changed_since(&record.files, &folder);
    ensure!(
        changed.is_empty(),
        "nothing was done: {} was changed since, and that would be lost. Write {} there in the place of {} by \
         hand, then remove it from the list in {}/record.json and run this again",
        changed.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", "),
        address,
        record.new.address(),
        folder.display()
    );
    let mut host = Host::open()?;
    let mut proposal = propose(&record, &folder)?;
    if !proposal.agreed(args)? {
        return Ok(());
    }
    let _lock = take_from_daemon(args, &mut host, &record)?;
    host.give_back(&record)?;
    if let Some(place) = host.find(address)? {
        host.bridge(&place.whole, false)?;
    }
    files::restore(&record.files, &folder)?;
    record.forget(&args.state_dir)?;
    proposal.done = true;
    if args.json {
        return proposal.print();
    }
    println!(
        "done: {address} is this host's own again, and files are as they were\nnext: systemctl disable \
         standin, here and wherever [vip.{}] is in the cluster file: a standin that starts takes the \
         address for its VIP",
        record.vip
    );
    Ok(())
}

fn propose(record: &Record, folder: &Path) -> Result<Proposal> {
    let (old, new) = (record.address, record.new);
    let mut steps = vec![format!("keep    {} here while standin stops", old.address())];
    for way in &record.routes {
        steps.push(format!("change  {way} src {} -> src {}", new.address(), old.address()));
    }
    if !record.new_was_here {
        steps.push(format!("remove  {new} from {}", record.interface));
    }
    let mut changes = Vec::new();
    for kept in &record.files {
        let name = kept.path.display().to_string();
        let (before, after) =
            (text_of(&folder.join(&kept.before))?, text_of(&folder.join(&kept.after))?);
        changes.push(super::File {
            path: kept.path.clone(),
            system: "the network configuration",
            diff: standin_config::network::diff(&name, &after, &before),
        });
    }
    Ok(Proposal {
        address: old.to_string(),
        interface: record.interface.clone(),
        vip: record.vip.clone(),
        new_address: new.to_string(),
        undo: true,
        steps,
        files: changes,
        findings: Vec::new(),
        done: false,
        notes: super::session(new.address()),
    })
}

/// Has the address stay here when the daemon lets it go, and sees to it that nobody else takes it.
///
/// What is returned keeps daemons from starting.
fn take_from_daemon(args: &AdoptArgs, host: &mut Host, record: &Record) -> Result<Option<File>> {
    let address = record.address.address();
    let lock = args.places.run_dir().join("lock");
    let here = host.find(address)?;
    if let Some(place) = &here {
        ensure!(
            !place.link.is_of_vip(),
            "nothing was undone: {address} is on {}, which goes with the VIP. Set virtual_mac = false in \
             [vip.{}] on all nodes, reload, and run this again",
            place.link.name,
            record.vip
        );
        host.bridge(&place.whole, true)?;
    }
    let held = match File::options().write(true).open(&lock) {
        Ok(file) => Some(file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error).with_context(|| lock.display().to_string()),
    };
    let stopped = held.as_ref().map_or(Ok(()), |file| wait_for_stop(file, address));
    let link = match &here {
        Some(place) => Some(place.link.clone()),
        None => host.find(record.new.address())?.map(|place| place.link),
    };
    let owners = link.map_or_else(|| Ok(Vec::new()), |link| host::owners(&link, &[address]));
    let refused = match (stopped, owners) {
        (Err(error), _) | (_, Err(error)) => error,
        (Ok(()), Ok(owners)) => match owners.first() {
            None => return Ok(held),
            Some((_, mac)) => anyhow::anyhow!(
                "{mac} has {address}: another node holds the VIP. Bring it back to this host and stop standin on the \
                 other nodes, so that none of them takes it again; then run this again"
            ),
        },
    };
    if let Some(place) = &here {
        host.bridge(&place.whole, false)?;
    }
    Err(refused.context("nothing was undone"))
}

/// Waits for the lock; where systemd runs it is told to stop the daemon.
fn wait_for_stop(lock: &File, address: std::net::IpAddr) -> Result<()> {
    let began = Instant::now();
    let mut told = false;
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(()),
            Err(std::fs::TryLockError::WouldBlock) => {}
            Err(std::fs::TryLockError::Error(error)) => {
                return Err(error).context("the daemon's lock");
            }
        }
        if !std::mem::replace(&mut told, true) {
            eprintln!(
                "{address} stays on this host now, whatever standin does. Waiting for standin to stop: systemctl \
                 stop standin"
            );
            if Path::new("/run/systemd/system").exists() {
                let mut stop = Command::new("systemctl");
                stop.args(["stop", "standin"]).stdin(Stdio::null());
                // A daemon that isn't systemd's is stopped by whoever started it.
                let _ = stop.status();
            }
        }
        if began.elapsed() > STOPS_WITHIN {
            bail!("standin still runs here after {} minutes", STOPS_WITHIN.as_secs() / 60);
        }
        thread::sleep(Duration::from_millis(20));
    }
}
