//! The node that has the VIP: asks the other one, gives it up, waits for its connections, ends the rest.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use standin_core::event::Role;
use standin_linux::process::PidFd;
use standin_linux::sockets::{Sockets, TcpState};
use tokio::sync::{mpsc, oneshot};

use super::{GRACE, Progress, Said, WORDS, Word, serves, vip};
use crate::control::{Request, status};
use crate::engine::messages::{Post, ToEngine};
use crate::link::Line;

/// The other node looks into /proc and makes a table.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);

/// Longer than any VRRP takeover by priority 0 at 1 s adverts.
const TAKES_WITHIN: Duration = Duration::from_secs(3);

/// A client whose neighbour cache is old may still come here until the last announcement of the burst.
const CLIENTS_LEARN_WITHIN: Duration = Duration::from_secs(2);

const COUNT_EVERY: Duration = Duration::from_millis(100);

/// A count is told when it has changed, and no more often than this.
const TELL_EVERY: Duration = Duration::from_millis(500);

/// Often enough for a node that waits four times as long.
const SAY_EVERY: Duration = Duration::from_secs(1);

const HANGUP: i32 = 1;

/// What is to be done.
pub(crate) struct Job {
    pub(crate) id: u64,
    pub(crate) vip: String,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) to: String,
    pub(crate) drain: Duration,
    pub(crate) nginx_master: Option<u32>,
    pub(crate) quic_ports: Vec<u16>,
}

/// Whom it is done with.
pub(crate) struct Around {
    pub(crate) line: Line,
    pub(crate) engine: Post<ToEngine>,
    pub(crate) desk: mpsc::Sender<Request>,
    /// Who watches; nobody may.
    pub(crate) progress: mpsc::Sender<Progress>,
    /// Whether somebody must watch until the VIP has moved: else it is called off.
    pub(crate) watched: bool,
}

/// What the control plane tells the task.
#[derive(Debug)]
pub(crate) enum Signal {
    Heard(Word),
    /// The VIP has come back to this node.
    Back,
}

/// How the control plane reaches the task.
pub(crate) struct Handle {
    pub(crate) id: u64,
    pub(crate) to: String,
    pub(crate) signals: mpsc::Sender<Signal>,
    pub(crate) moved: Option<oneshot::Receiver<()>>,
    pub(crate) ended: Option<oneshot::Receiver<()>>,
}

/// Begins; the handle's receivers say when the VIP has moved and when all is over, however it ended.
pub(crate) fn begin(job: Job, around: Around) -> Handle {
    let (signals, heard) = mpsc::channel(WORDS);
    let (move_sender, moved) = oneshot::channel();
    let (end_sender, ended) = oneshot::channel();
    let (id, to) = (job.id, job.to.clone());
    tokio::spawn(async move {
        let vip = job.vip.clone();
        let desk = around.desk.clone();
        let mut giving =
            Giving { job, around, heard, moved: Some(move_sender), moved_at: None, said_at: None };
        giving.run().await;
        // Who waits for the move waits no more.
        drop(giving);
        let _ = desk.send(Request::Given { vip, id }).await;
        drop(end_sender);
    });
    Handle { id, to, signals, moved: Some(moved), ended: Some(ended) }
}

struct Giving {
    job: Job,
    around: Around,
    heard: mpsc::Receiver<Signal>,
    moved: Option<oneshot::Sender<()>>,
    moved_at: Option<Instant>,
    /// When the other node heard last that this one still serves.
    said_at: Option<Instant>,
}

/// How the drain ended.
enum Drained {
    /// With so many connections left.
    With(usize),
    /// The VIP is here again, and its connections with it.
    Back,
}

impl Giving {
    async fn run(&mut self) {
        if let Err(why) = self.prepare().await {
            self.say(Word::Cancel);
            let text = format!("{} stays here: {why}", self.job.vip);
            return self.tell("failed", text, |_| {});
        }
        if let Err(why) = self.hand_over().await {
            self.leave();
            let text = format!("{}: {why}", self.job.vip);
            return self.tell("failed", text, |_| {});
        }
        let drained = self.drain().await;
        match drained {
            Drained::Back => {
                self.say(Word::Done);
                let text = format!("{} is here again, its connections with it", self.job.vip);
                self.tell("done", text, |progress| {
                    (progress.ended, progress.cut) = (Some(0), Some(0))
                });
            }
            Drained::With(left) => self.finish(left).await,
        }
    }

    /// Asks the other node; nothing changes on either before it says that it is ready.
    async fn prepare(&mut self) -> Result<(), String> {
        let (master, addresses) = (self.job.nginx_master, self.job.addresses.clone());
        let serves = blocking(move || serves(master, &addresses)).await.unwrap_or_default();
        let text = format!("asking {} to take {}", self.job.to, self.job.vip);
        self.tell("preparing", text, |_| {});
        let lasting = self.job.drain + GRACE + super::OVERHEAD;
        let lasting_ms = u64::try_from(lasting.as_millis()).unwrap_or(u64::MAX);
        let quic_ports = self.job.quic_ports.clone();
        let addresses = self.job.addresses.clone();
        let link_local = blocking(move || super::link_local(&addresses)).await.flatten();
        if !self.say(Word::Prepare { lasting_ms, serves, quic_ports, link_local }) {
            return Err(format!("there is no peer link with {}", self.job.to));
        }
        let to = self.job.to.clone();
        let answer = tokio::time::timeout(ANSWERS_WITHIN, self.heard.recv()).await;
        match answer {
            Ok(Some(Signal::Heard(Word::Ready))) => {}
            Ok(Some(Signal::Heard(Word::Refused { why }))) => return Err(format!("{to}: {why}")),
            Ok(_) => return Err(format!("{to} gave no answer that is understood")),
            Err(_) => return Err(format!("{to} didn't answer within {ANSWERS_WITHIN:?}")),
        }
        if self.around.watched && self.around.progress.is_closed() {
            return Err("whoever asked for it has gone".to_owned());
        }
        Ok(())
    }

    /// The engine gives it up and tells the other one's engine; the rest is the election's business.
    async fn hand_over(&mut self) -> Result<(), String> {
        let (vip_name, to) = (self.job.vip.clone(), self.job.to.clone());
        let order = ToEngine::SwitchTo { vip: vip_name.clone(), to: to.clone() };
        if !self.around.engine.offer(order) {
            self.say(Word::Cancel);
            return Err("the engine is stuck".to_owned());
        }
        let began = Instant::now();
        while began.elapsed() < TAKES_WITHIN {
            let left = TAKES_WITHIN.saturating_sub(began.elapsed());
            match tokio::time::timeout(left, self.heard.recv()).await {
                Ok(Some(Signal::Heard(Word::Taken))) => {
                    self.moved_at = Some(Instant::now());
                    drop(self.moved.take());
                    let text = format!("{to} has {vip_name}");
                    self.tell("moved", text, |_| {});
                    return Ok(());
                }
                Ok(Some(Signal::Back)) => {
                    self.say(Word::Cancel);
                    return Err(format!("{to} didn't take it, so this node has it again"));
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => break,
            }
        }
        self.say(Word::Cancel);
        let now = status(&self.around.desk).await;
        let view = now.as_ref().and_then(|now| vip(now, &vip_name));
        Err(match view.map(|view| (view.role, view.holder.clone())) {
            Some((Role::Active, _)) => format!("{to} didn't take it, so this node has it again"),
            Some((_, Some(holder))) => format!("{to} didn't say that it has it; {holder} does"),
            _ => format!("{to} didn't take it within {TAKES_WITHIN:?}; see `standin status`"),
        })
    }

    /// Waits until no connection is left here, or until the time is over.
    async fn drain(&mut self) -> Drained {
        let began = Instant::now();
        let mut told: Option<(Instant, usize)> = None;
        loop {
            let count = self.count_and_say().await;
            let over = began.elapsed() >= self.job.drain;
            if over || (count == 0 && began.elapsed() >= CLIENTS_LEARN_WITHIN.min(self.job.drain)) {
                return Drained::With(count);
            }
            if told.is_none_or(|(at, before)| before != count && at.elapsed() >= TELL_EVERY) {
                told = Some((Instant::now(), count));
                let left = self.job.drain.saturating_sub(began.elapsed()).as_secs();
                let text = format!("{count} connections still here, {left} s left for them");
                self.tell("draining", text, |progress| progress.connections = Some(count));
            }
            tokio::select! {
                () = tokio::time::sleep(COUNT_EVERY) => {}
                signal = self.heard.recv() => {
                    if matches!(signal, Some(Signal::Back)) {
                        return Drained::Back;
                    }
                }
            }
        }
    }

    /// nginx ends what is idle and finishes what is under way; what is left then is cut.
    async fn finish(&mut self, left: usize) {
        let mut cut = 0;
        if left > 0 {
            let text = format!("{left} connections are left; nginx ends them as they become idle");
            self.tell("finishing", text, |progress| progress.connections = Some(left));
            if !self.reload_nginx() {
                let text = "nginx can't be asked to end them: it isn't known here".to_owned();
                self.tell("finishing", text, |_| {});
            }
            let began = Instant::now();
            while began.elapsed() < GRACE && self.count_and_say().await > 0 {
                tokio::time::sleep(COUNT_EVERY).await;
                if matches!(self.heard.try_recv(), Ok(Signal::Back)) {
                    self.say(Word::Done);
                    return;
                }
            }
            let addresses = self.job.addresses.clone();
            cut = blocking(move || end_all(&addresses)).await.unwrap_or(0);
        }
        self.leave();
        self.say(Word::Done);
        let ended = left.saturating_sub(cut);
        let (to, vip) = (&self.job.to, &self.job.vip);
        let text = match (left, cut) {
            (0, _) => format!("{to} has {vip}; no connection was cut"),
            (_, 0) => format!(
                "{to} has {vip}; nginx closed {ended} connections that didn't end by themselves, none \
                 was cut"
            ),
            (_, cut) => format!(
                "{to} has {vip}; nginx closed {ended} connections that didn't end by themselves, {cut} \
                 more were cut"
            ),
        };
        self.tell("done", text, |progress| {
            (progress.ended, progress.cut) = (Some(ended), Some(cut));
        });
    }

    /// New workers take over, the old ones close idle connections and end when they have nothing left.
    fn reload_nginx(&self) -> bool {
        let Some(master) = self.job.nginx_master else { return false };
        // If another process has its number by now, it isn't nginx's.
        PidFd::open(master)
            .is_ok_and(|process| crate::nginx::is_master(master) && process.signal(HANGUP).is_ok())
    }

    /// Counts the connections that are here, and has the other node go on for them.
    async fn count_and_say(&mut self) -> usize {
        let addresses = self.job.addresses.clone();
        let count = blocking(move || count_all(&addresses)).await.unwrap_or(0);
        if self.said_at.is_none_or(|at| at.elapsed() >= SAY_EVERY) {
            self.said_at = Some(Instant::now());
            self.say(Word::Serving { connections: count as u64 });
        }
        count
    }

    /// The addresses that stayed for the sockets go.
    fn leave(&self) {
        // An engine that is stuck holds nothing for long.
        let _ = self.around.engine.offer(ToEngine::Drained { vip: self.job.vip.clone() });
    }

    fn say(&self, word: Word) -> bool {
        let said = Said { id: self.job.id, vip: self.job.vip.clone(), word };
        self.around.line.say(&self.job.to, said)
    }

    fn tell(&self, step: &'static str, text: String, more: impl FnOnce(&mut Progress)) {
        let after = self.moved_at.map(|at| at.elapsed().as_millis());
        let mut progress = Progress {
            step,
            vip: self.job.vip.clone(),
            to: self.job.to.clone(),
            text,
            connections: None,
            after_ms: after.map(|ms| u64::try_from(ms).unwrap_or(u64::MAX)),
            ended: None,
            cut: None,
        };
        more(&mut progress);
        if matches!(step, "moved" | "done" | "failed") {
            self.around.line.note(step == "failed", &self.job.to, &progress.text);
        }
        // Nobody may be watching, or too slowly.
        let _ = self.around.progress.try_send(progress);
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

fn count_all(addresses: &[IpAddr]) -> usize {
    let Ok(mut sockets) = Sockets::open() else { return 0 };
    let count = |address| sockets.count(address, TcpState::SERVING).unwrap_or(0);
    addresses.iter().copied().map(count).sum()
}

fn end_all(addresses: &[IpAddr]) -> usize {
    let Ok(mut sockets) = Sockets::open() else { return 0 };
    let end = |address| sockets.end(address, TcpState::SERVING).unwrap_or(0);
    addresses.iter().copied().map(end).sum()
}
