//! The node that is to have the VIP: looks whether it can, and hands packets of connections that aren't
//! its own to the other one for as long as that one serves them.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use standin_core::event::{Role, Standing};
use standin_linux::forward::{Forwarding, Neighbour, Order};
use standin_linux::netlink::Rtnl;
use tokio::sync::mpsc;

use super::{Said, WORDS, Word, serves, vip};
use crate::control::{Request, Status, status};
use crate::link::Line;

/// The other node gives it up within microseconds of hearing that all is ready.
const COMES_WITHIN: Duration = Duration::from_secs(10);

/// The other node answers for its own address, or it isn't there.
const NEIGHBOUR_ANSWERS_WITHIN: Duration = Duration::from_secs(1);

/// A node that says nothing for this long serves nobody any more; it does so every second.
const SILENT_FOR: Duration = Duration::from_secs(4);

const LOOK_EVERY: Duration = Duration::from_millis(250);

/// An earlier one of the same VIP takes its table away.
const EARLIER_ENDS_WITHIN: Duration = Duration::from_secs(2);

/// What was asked for.
pub(crate) struct Job {
    pub(crate) id: u64,
    pub(crate) vip: String,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) from: String,
    /// The other node's own addresses.
    pub(crate) old: Vec<IpAddr>,
    pub(crate) lasting: Duration,
    pub(crate) serves: Vec<SocketAddr>,
    pub(crate) quic_ports: Vec<u16>,
}

/// What the control plane tells the task.
#[derive(Debug)]
pub(crate) enum Signal {
    Heard(Word),
    /// This node has the VIP.
    Active,
    /// It moves here once more: another task takes this one's place.
    Again,
}

/// How the control plane reaches the task.
pub(crate) struct Handle {
    pub(crate) id: u64,
    pub(crate) from: String,
    /// Closed once nothing is handed back any more.
    pub(crate) signals: mpsc::Sender<Signal>,
    /// No longer than this, in any case.
    pub(crate) until: Instant,
}

/// Begins, once an `earlier` one of this VIP is over.
pub(crate) fn begin(
    job: Job,
    line: Line,
    desk: mpsc::Sender<Request>,
    earlier: Option<mpsc::Sender<Signal>>,
) -> Handle {
    let (signals, heard) = mpsc::channel(WORDS);
    let until = Instant::now() + job.lasting;
    let handle = Handle { id: job.id, from: job.from.clone(), signals, until };
    tokio::spawn(async move {
        if let Some(earlier) = earlier {
            // If it hangs, the kernel refuses a second table of that name, and says so.
            let _ = tokio::time::timeout(EARLIER_ENDS_WITHIN, earlier.closed()).await;
        }
        let (vip, id) = (job.vip.clone(), job.id);
        let mut taking = Taking { job, line, heard };
        match taking.run(&desk).await {
            Ok(()) => taking.say(Word::Ended),
            Err(why) => taking.say(Word::Refused { why }),
        }
        drop(taking);
        let _ = desk.send(Request::Taken { vip, id }).await;
    });
    handle
}

struct Taking {
    job: Job,
    line: Line,
    heard: mpsc::Receiver<Signal>,
}

impl Taking {
    async fn run(&mut self, desk: &mpsc::Sender<Request>) -> Result<(), String> {
        let now = status(desk).await.ok_or("its engine doesn't answer")?;
        let interface = self.able(&now)?;
        self.listens(&now).await?;
        let forwarding = self.forward(interface).await?;
        self.say(Word::Ready);
        self.serve_both().await;
        // Netlink waits for others' locks.
        let _ = tokio::task::spawn_blocking(move || drop(forwarding)).await;
        Ok(())
    }

    /// Whether this node may have the VIP, as the election sees it; on which interface.
    fn able(&self, now: &Status) -> Result<String, String> {
        let view = vip(now, &self.job.vip).ok_or("it has no such VIP")?;
        if view.role != Role::Backup {
            return Err(format!("it is {} for {}, not backup", view.role, self.job.vip));
        }
        if view.standing != Standing::Eligible {
            let why = view.obstacle.clone().unwrap_or_default();
            return Err(format!("it is {}: {why}", view.standing));
        }
        if view.holder.as_deref() != Some(&self.job.from) {
            let holder = view.holder.as_deref().unwrap_or("nobody");
            return Err(format!("it sees {holder} as active, not {}", self.job.from));
        }
        Ok(view.interface.clone())
    }

    /// Whether nginx listens here wherever it serves clients over there.
    async fn listens(&self, now: &Status) -> Result<(), String> {
        if self.job.serves.is_empty() {
            return Ok(());
        }
        let master = now.nginx.as_ref().and_then(|nginx| nginx.master);
        let master = master.ok_or("no nginx is known to run on it")?;
        let addresses = self.job.addresses.clone();
        let here = tokio::task::spawn_blocking(move || serves(master, &addresses)).await;
        let here = here
            .map_err(|_| "its helper broke off".to_owned())?
            .map_err(|error| format!("what its nginx listens on can't be read: {error}"))?;
        let missing: Vec<String> = self
            .job
            .serves
            .iter()
            .filter(|at| !here.contains(at))
            .map(ToString::to_string)
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(format!(
            "its nginx doesn't listen on {}, where {} serves clients now",
            missing.join(", "),
            self.job.from
        ))
    }

    async fn forward(&self, interface: String) -> Result<Forwarding, String> {
        let (name, addresses) = (self.job.vip.clone(), self.job.addresses.clone());
        let (old, from) = (self.job.old.clone(), self.job.from.clone());
        let quic_ports = self.job.quic_ports.clone();
        let made = tokio::task::spawn_blocking(move || -> Result<Forwarding, String> {
            let failed = |error: std::io::Error| format!("its netlink failed: {error}");
            let mut rtnl = Rtnl::open().map_err(failed)?;
            let links = rtnl.links().map_err(failed)?;
            let index = links.iter().find(|link| link.name == interface).map(|link| link.index);
            let index = index.ok_or_else(|| format!("it has no interface {interface}"))?;
            let mut neighbours = Vec::new();
            for address in old {
                let mac = rtnl
                    .neighbour(index, address, NEIGHBOUR_ANSWERS_WITHIN)
                    .map_err(failed)?
                    .ok_or_else(|| format!("{address} doesn't answer it on {interface}"))?;
                neighbours.push(Neighbour { address, mac });
            }
            Forwarding::begin(&Order {
                name: &name,
                addresses: &addresses,
                index,
                old: &neighbours,
                quic_ports: &quic_ports,
            })
            .map_err(|refusal| format!("it can't hand connections back to {from}: {refusal}"))
        });
        made.await.map_err(|_| "its helper broke off".to_owned())?
    }

    /// Until the other node has nothing left, or isn't there any more.
    async fn serve_both(&mut self) {
        let began = Instant::now();
        let mut has_it = false;
        let mut heard = Instant::now();
        loop {
            let waited = began.elapsed();
            let silent = if has_it { SILENT_FOR } else { COMES_WITHIN };
            if heard.elapsed() > silent || waited > self.job.lasting {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                signal = self.heard.recv() => match signal {
                    Some(Signal::Active) if !has_it => {
                        (has_it, heard) = (true, Instant::now());
                        self.say(Word::Taken);
                    }
                    Some(Signal::Heard(Word::Serving { .. })) => heard = Instant::now(),
                    Some(Signal::Heard(Word::Done | Word::Cancel) | Signal::Again) | None => return,
                    Some(_) => {}
                }
            }
        }
    }

    fn say(&self, word: Word) {
        let said = Said { id: self.job.id, vip: self.job.vip.clone(), word };
        // A node that isn't there any more needs to know nothing.
        let _ = self.line.say(&self.job.from, said);
    }
}
