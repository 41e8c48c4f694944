//! The way back: the VIP is the host's own address again, and its files are as they were.

use std::fs::{File, TryLockError};
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use standin_linux::fork::Signals;
use standin_linux::netlink::Link;

use super::host::{self, Host, Place};
use super::record::Record;
use super::{AdoptArgs, Proposal, files, text_of};

/// How long a daemon may take to stop after it was told to, or its operator to tell it.
const STOPS_WITHIN: Duration = Duration::from_secs(600);

/// How often it is said that the address stays.
const KEEP_EVERY: Duration = Duration::from_millis(500);

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
    let signals = super::uninterrupted()?;
    let _lock = take_from_daemon(args, &mut host, &record, &signals)?;
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
fn take_from_daemon(
    args: &AdoptArgs,
    host: &mut Host,
    record: &Record,
    signals: &Signals,
) -> Result<Option<File>> {
    let address = record.address.address();
    let lock = args.places.run_dir().join("lock");
    let here = host.find(address)?;
    let of_vip = here.as_ref().map(|place| &place.link).filter(|link| link.is_of_vip());
    if let Some(link) = of_vip {
        bail!(
            "nothing was undone: {address} is on {}, which goes with the VIP. Set virtual_mac = false in \
             [vip.{}] on all nodes, reload, and run this again",
            link.name,
            record.vip
        );
    }
    // Before standin is stopped for nothing.
    let asked_on = match &here {
        Some(place) => Some(place.link.clone()),
        None => host.find(record.new.address())?.map(|place| place.link),
    };
    let nobody_else = || asked_on.as_ref().map_or(Ok(()), |link| nobody_else(link, address));
    nobody_else()?;
    if let Some(place) = &here {
        host.bridge(&place.whole, true)?;
    }
    let held = match File::options().write(true).open(&lock) {
        Ok(file) => Some(file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error).with_context(|| lock.display().to_string()),
    };
    let mut waiting = Waiting { host: &mut *host, here: here.as_ref(), signals, address };
    let stopped = held.as_ref().map_or(Ok(()), |file| waiting.for_stop(file));
    let refused = match stopped.and_then(|()| nobody_else()) {
        Ok(()) => return Ok(held),
        Err(error) => error,
    };
    if let Some(place) = &here {
        host.bridge(&place.whole, false)?;
    }
    Err(refused)
}

fn nobody_else(link: &Link, address: IpAddr) -> Result<()> {
    match host::owners(link, &[address])?.first() {
        None => Ok(()),
        Some((_, mac)) => bail!(
            "nothing was undone: {mac} has {address}: another node holds the VIP. Bring it back to this host and stop \
             standin on the other nodes, so that none of them takes it again; then run this again"
        ),
    }
}

/// Until the daemon has stopped, the address stays here.
struct Waiting<'a> {
    host: &'a mut Host,
    here: Option<&'a Place>,
    signals: &'a Signals,
    address: IpAddr,
}

impl Waiting<'_> {
    /// Waits for the lock; where systemd runs it is told to stop the daemon.
    fn for_stop(&mut self, lock: &File) -> Result<()> {
        let began = Instant::now();
        let (mut stop, mut told, mut kept) = (None, false, began);
        loop {
            let stops = stop.as_mut().is_some_and(still_runs);
            // systemd goes on with what belongs to the stop; the lock is the next one's then.
            let locked = if stops { Err(TryLockError::WouldBlock) } else { lock.try_lock() };
            match locked {
                Ok(()) => return self.keep(),
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(error).context("the daemon's lock"),
            }
            if !std::mem::replace(&mut told, true) {
                stop = self.tell();
            }
            if kept.elapsed() > KEEP_EVERY {
                self.keep()?;
                kept = Instant::now();
            }
            if self.signals.next().is_some() {
                bail!(
                    "nothing was undone: interrupted. A standin that was told to stop may be stopping all the same"
                );
            }
            if began.elapsed() > STOPS_WITHIN {
                let minutes = STOPS_WITHIN.as_secs() / 60;
                bail!("nothing was undone: standin still runs here after {minutes} minutes");
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn tell(&self) -> Option<Child> {
        eprintln!(
            "{} stays on this host now, whatever standin does. Waiting for standin to stop: systemctl stop standin \
             (Ctrl-C: nothing is undone)",
            self.address
        );
        if !Path::new("/run/systemd/system").exists() {
            return None;
        }
        let mut stop = Command::new("systemctl");
        stop.args(["stop", "standin"]).stdin(Stdio::null());
        // A daemon that isn't systemd's is stopped by whoever started it.
        stop.spawn().ok()
    }

    /// For another while.
    fn keep(&mut self) -> Result<()> {
        self.here.map_or(Ok(()), |place| self.host.bridge(&place.whole, true))
    }
}

/// What can't be asked is taken for ended: the lock tells the rest.
fn still_runs(child: &mut Child) -> bool {
    matches!(child.try_wait(), Ok(None))
}
