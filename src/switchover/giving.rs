//! The node that has the VIP: asks the other one, gives it up, waits for its connections, ends the rest.

use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use standin_core::event::Role;
use standin_linux::sockets::{Sockets, TcpState};
use tokio::sync::{mpsc, oneshot};

use super::idle::{Reload, Told};
use super::words::{ending, still};
use super::{GRACE, Progress, Said, WORDS, Word, millis, serves, taking, vip};
use crate::control::{Asked, Request, status};
use crate::engine::messages::{Post, ToEngine};
use crate::link::Line;
use crate::sync::Ask;

/// The other node looks into /proc and makes a table.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);

/// Longer than any VRRP takeover by priority 0 at 1 s adverts.
const TAKES_WITHIN: Duration = Duration::from_secs(3);

/// A client whose neighbour cache is old may still come here until the last announcement of the burst.
const CLIENTS_LEARN_WITHIN: Duration = Duration::from_secs(2);

/// Where the VIP comes back by way of a third node, each of the three hands packets that nobody knows to
/// the next one until the first hears that it is over. Clients have heard two announcements by then.
const RING_LASTS: Duration = Duration::from_millis(100);

/// Thousands of files are read for it.
const LOOKS_WITHIN: Duration = Duration::from_secs(5);

/// The other node takes a table away; an older standin doesn't say when.
const ENDS_WITHIN: Duration = Duration::from_secs(2);

/// The other node asks this one, gives it up, and this one takes it.
const RETURNS_WITHIN: Duration = Duration::from_secs(10);

/// Between two counts of the connections, at least.
const COUNT_EVERY: Duration = Duration::from_millis(100);

/// A count walks through every socket of the host. Where there are many it may take one part in so many of
/// a core's time; the switchover moves the VIP while the machine is busy.
const COUNT_SHARE: u32 = 50;

/// A count is told when it has changed, and no more often than this.
const TELL_EVERY: Duration = Duration::from_millis(500);

/// Often enough for a node that waits four times as long.
const SAY_EVERY: Duration = Duration::from_secs(1);

/// What is to be done.
pub(crate) struct Job {
    pub(crate) id: u64,
    /// This one's name.
    pub(crate) node: String,
    pub(crate) vip: String,
    pub(crate) asked: Asked,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) to: String,
    pub(crate) drain: Duration,
    pub(crate) nginx_master: Option<u32>,
    /// nginx's files are shared: it is known which of them it has loaded.
    pub(crate) shares: bool,
    pub(crate) quic_ports: Vec<u16>,
    /// This node hands packets to a third one itself, and must go on with that.
    pub(crate) relay: Option<Relay>,
}

/// The switchover by which the VIP came here, when its drain isn't over.
pub(crate) struct Relay {
    /// Closed once it is.
    pub(crate) task: mpsc::Sender<taking::Signal>,
    pub(crate) until: Instant,
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
    Back(Back),
    /// Whoever asked for it wants everything as it was.
    CallOff {
        by: String,
    },
}

/// How the VIP came back.
#[derive(Debug)]
pub(crate) struct Back {
    /// By a switchover from that node, if by one.
    pub(crate) from: Option<String>,
    /// The election's reason.
    pub(crate) why: String,
}

/// How the control plane reaches the task.
pub(crate) struct Handle {
    pub(crate) id: u64,
    pub(crate) asked: Asked,
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
    let (id, to, asked) = (job.id, job.to.clone(), job.asked.clone());
    tokio::spawn(async move {
        let vip = job.vip.clone();
        let desk = around.desk.clone();
        let mut giving = Giving {
            job,
            around,
            heard,
            moved: Some(move_sender),
            moved_at: None,
            said_at: None,
            counting_took: Duration::ZERO,
            left: Left::default(),
            returning: Returning::No,
        };
        if let Some(linger) = giving.run().await {
            // The next switchover needn't wait until the other node hands nothing back any more.
            let _ = desk.send(Request::Given { vip: vip.clone(), id }).await;
            giving.linger(linger).await;
        }
        // Who waits for the move waits no more.
        drop(giving);
        let _ = desk.send(Request::Given { vip, id }).await;
        drop(end_sender);
    });
    Handle { id, asked, to, signals, moved: Some(moved), ended: Some(ended) }
}

struct Giving {
    job: Job,
    around: Around,
    heard: mpsc::Receiver<Signal>,
    moved: Option<oneshot::Sender<()>>,
    moved_at: Option<Instant>,
    /// When the other node heard last that this one still serves.
    said_at: Option<Instant>,
    /// The last count, with its wait for a thread.
    counting_took: Duration,
    left: Left,
    returning: Returning,
}

/// Whether the VIP is to come back.
enum Returning {
    No,
    /// As soon as it has moved.
    Wanted,
    /// The other node was asked then.
    Asked(Instant),
}

/// Why nothing was begun.
enum Unprepared {
    /// This node or the other one says so.
    Decided(String),
    /// The other one wasn't heard: it may have taken the VIP, with this node's cable out.
    Silent(String),
}

impl From<String> for Unprepared {
    fn from(why: String) -> Self {
        Self::Decided(why)
    }
}

/// How the drain ended.
enum Drained {
    /// With so many connections left.
    With(usize),
    /// The VIP is here again, and its connections with it.
    Back(Back),
}

impl Giving {
    /// For how long the other node is to go on once the VIP is here again.
    async fn run(&mut self) -> Option<Duration> {
        let vip = self.job.vip.clone();
        if let Err(why) = self.prepare().await {
            self.say(Word::Cancel);
            let step = self.outcome("failed");
            let text = self.unmoved(&why).await;
            self.tell(step, text, |_| {});
            return None;
        }
        if let Err(why) = self.hand_over().await {
            self.leave();
            self.tell("failed", format!("{vip}: {why}"), |_| {});
            return None;
        }
        let Back { from, why } = match self.drain().await {
            Drained::Back(back) => back,
            Drained::With(left) => self.finish(left).await?,
        };
        // Who didn't ask for that hasn't got what was asked for.
        let step = self.outcome("failed");
        let text = format!("{vip} is on {} again, its connections with it", self.job.node);
        // The election calls its own node that.
        let why = why.replace("this node", &self.job.node);
        let text = if step == "failed" { format!("{why}: {text}") } else { text };
        self.tell(step, text, |progress| (progress.ended, progress.cut) = (Some(0), Some(0)));
        Some(match from {
            Some(from) if from == self.job.to => CLIENTS_LEARN_WITHIN,
            Some(_) => RING_LASTS,
            None => Duration::ZERO,
        })
    }

    /// The last step: this one, or what was asked for meanwhile.
    const fn outcome(&self, step: &'static str) -> &'static str {
        if matches!(self.returning, Returning::No) { step } else { "called_off" }
    }

    /// That nothing was begun. Where the VIP stays is known only by who has it, and talks with the other.
    async fn unmoved(&self, why: &Unprepared) -> String {
        let (node, vip_name) = (&self.job.node, &self.job.vip);
        let now = status(&self.around.desk).await;
        let has = now.as_ref().and_then(|now| vip(now, vip_name)).map(|it| it.role == Role::Active);
        match (has, why) {
            (Some(true), Unprepared::Decided(why)) => format!("{vip_name} stays on {node}: {why}"),
            (Some(false), Unprepared::Decided(why) | Unprepared::Silent(why)) => {
                format!("{node} doesn't have {vip_name} any more, so it moves nothing: {why}")
            }
            (_, Unprepared::Decided(why) | Unprepared::Silent(why)) => {
                format!("{node} doesn't move {vip_name}: {why}; `standin status` shows who has it")
            }
        }
    }

    /// The VIP is here, and clients that don't know yet send to the other node: it hands on what it
    /// doesn't know, instead of answering with resets.
    async fn linger(&mut self, lasting: Duration) {
        let began = Instant::now();
        while began.elapsed() < lasting {
            self.count_and_say().await;
            tokio::time::sleep(self.pause().min(lasting)).await;
        }
        self.say(Word::Done);
    }

    /// Asks the other node; nothing changes on either before it says that it is ready.
    async fn prepare(&mut self) -> Result<(), Unprepared> {
        let addresses = self.job.addresses.clone();
        let serves = match self.job.nginx_master {
            None => Vec::new(),
            Some(master) => blocking(move || serves(master, &addresses))
                .await
                .ok_or_else(|| format!("a helper of {} broke off", self.job.node))?
                .map_err(|error| {
                    format!("what {}'s nginx listens on can't be read: {error}", self.job.node)
                })?,
        };
        if let Some(Err(error)) = self.count().await {
            let node = &self.job.node;
            return Err(format!("{node}'s connections can't be counted: {error}").into());
        }
        let text = format!("asking {} to take {}", self.job.to, self.job.vip);
        self.tell("preparing", text, |_| {});
        // Who is served by way of this node is served no shorter than was said to them.
        let relays = |relay: &Relay| relay.until.saturating_duration_since(Instant::now());
        let relays = self.job.relay.as_ref().map_or(Duration::ZERO, relays);
        let lasting_ms = millis(self.job.drain.max(relays) + GRACE + super::OVERHEAD);
        let quic_ports = self.job.quic_ports.clone();
        let addresses = self.job.addresses.clone();
        let link_local = blocking(move || super::link_local(&addresses)).await.flatten();
        if !self.say(Word::Prepare { lasting_ms, serves, quic_ports, link_local }) {
            return Err(Unprepared::Silent(format!("there is no peer link with {}", self.job.to)));
        }
        let to = self.job.to.clone();
        let answer = tokio::time::timeout(ANSWERS_WITHIN, self.heard.recv()).await;
        match answer {
            Ok(Some(Signal::Heard(Word::Ready))) => {}
            Ok(Some(Signal::Heard(Word::Refused { why }))) => {
                return Err(format!("{to}: {why}").into());
            }
            Ok(Some(Signal::CallOff { by })) => {
                self.returning = Returning::Wanted;
                return Err(format!("called off by {by}").into());
            }
            Ok(Some(Signal::Back(back))) => {
                let node = &self.job.node;
                return Err(
                    format!("{node} lost it meanwhile and has it again: {}", back.why).into()
                );
            }
            Ok(_) => return Err(format!("{to} gave no answer that is understood").into()),
            Err(_) => {
                let s = ANSWERS_WITHIN.as_secs();
                return Err(Unprepared::Silent(format!("{to} didn't answer within {s} s")));
            }
        }
        if self.around.watched && self.around.progress.is_closed() {
            return Err("whoever asked for it has gone".to_owned().into());
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
                    let text = format!("{to} has {vip_name}");
                    self.tell("moved", text, |_| {});
                    drop(self.moved.take());
                    return Ok(());
                }
                Ok(Some(Signal::Back(_))) => {
                    self.say(Word::Cancel);
                    return Err(format!("{to} didn't take it, so {} has it again", self.job.node));
                }
                Ok(Some(Signal::CallOff { .. })) => self.returning = Returning::Wanted,
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => break,
            }
        }
        self.say(Word::Cancel);
        let now = status(&self.around.desk).await;
        let view = now.as_ref().and_then(|now| vip(now, &vip_name));
        Err(match view.map(|view| (view.role, view.holder.clone())) {
            Some((Role::Active, _)) => {
                format!("{to} didn't take it, so {} has it again", self.job.node)
            }
            Some((_, Some(holder))) => format!("{to} didn't say that it has it; {holder} does"),
            _ => format!("{to} didn't take it within {TAKES_WITHIN:?}; see `standin status`"),
        })
    }

    /// Waits until no connection is left here, or until the time is over.
    async fn drain(&mut self) -> Drained {
        let began = Instant::now();
        let mut told: Option<(Instant, usize)> = None;
        if matches!(self.returning, Returning::Wanted) {
            self.call_off();
        }
        loop {
            let count = self.count_and_say().await;
            let over = began.elapsed() >= self.job.drain;
            let learnt = began.elapsed() >= CLIENTS_LEARN_WITHIN.min(self.job.drain);
            let empty = count == 0 && learnt && !self.relays();
            if (over || empty) && !self.returns() {
                return Drained::With(count);
            }
            if told.is_none_or(|(at, before)| before != count && at.elapsed() >= TELL_EVERY) {
                told = Some((Instant::now(), count));
                let left = self.job.drain.saturating_sub(began.elapsed()).as_secs();
                // Whoever reads it may sit on another node.
                let text = still(count, &self.job.node, left);
                self.tell("draining", text, |progress| progress.connections = Some(count));
            }
            let left = self.job.drain.saturating_sub(began.elapsed()).max(COUNT_EVERY);
            if let Some(back) = self.listen(self.pause().min(left)).await {
                return Drained::Back(back);
            }
        }
    }

    /// Waits for a word; says so if the VIP has come back.
    async fn listen(&mut self, no_longer: Duration) -> Option<Back> {
        let Ok(signal) = tokio::time::timeout(no_longer, self.heard.recv()).await else {
            return None;
        };
        match signal? {
            Signal::Back(back) => return Some(back),
            Signal::CallOff { .. } if self.returns() => {}
            Signal::CallOff { .. } => self.call_off(),
            Signal::Heard(Word::Refused { why }) if self.returns() => {
                self.returning = Returning::No;
                let (to, vip) = (&self.job.to, &self.job.vip);
                let text = format!("{to} can't give {vip} back, so the drain goes on: {why}");
                // Whoever called it off may not be who watches.
                self.around.line.note(true, to, &text);
                self.tell("draining", text, |_| {});
            }
            Signal::Heard(_) => {}
        }
        None
    }

    /// Asks the other node for the VIP. It is a switchover of its own, there.
    fn call_off(&mut self) {
        let (to, vip) = (self.job.to.clone(), self.job.vip.clone());
        self.tell("returning", format!("called off: asking {to} to give {vip} back"), |_| {});
        let asked = self.say(Word::GiveBack { drain_ms: millis(self.job.drain) });
        self.returning = if asked { Returning::Asked(Instant::now()) } else { Returning::No };
        if !asked {
            let text = format!("there is no peer link with {to}, so the drain goes on");
            self.around.line.note(true, &to, &text);
            self.tell("draining", text, |_| {});
        }
    }

    /// Whether the VIP may be on its way back.
    fn returns(&self) -> bool {
        matches!(self.returning, Returning::Asked(at) if at.elapsed() < RETURNS_WITHIN)
    }

    /// Whether packets of a third node's connections pass through this one.
    fn relays(&self) -> bool {
        self.job.relay.as_ref().is_some_and(|relay| !relay.task.is_closed())
    }

    /// nginx ends what is idle and finishes what is under way; what is left then is cut. Says so if the
    /// VIP has come back meanwhile.
    async fn finish(&mut self, left: usize) -> Option<Back> {
        let (mut cut, mut told) = (0, true);
        if left > 0 {
            let text = match left {
                1 => "1 connection is left; nginx is to end it as it becomes idle".to_owned(),
                _ => {
                    format!("{left} connections are left; nginx is to end them as they become idle")
                }
            };
            self.tell("finishing", text, |progress| progress.connections = Some(left));
            let mut reload = match self.reload_nginx().await {
                Ok(reload) => Some(reload),
                Err(why) => {
                    let why = format!("nginx isn't told to end them: {why}");
                    self.untold(&why, GRACE);
                    None
                }
            };
            let began = Instant::now();
            let mut taken = false;
            loop {
                let serves = self.count_and_say().await > 0;
                if !taken && let Some(told) = reload.take() {
                    let (told, now) = blocking(move || looked(told)).await.unzip();
                    reload = told;
                    taken = now == Some(Reload::Taken);
                    if let Some(Reload::Refused(why)) = now.filter(|_| serves) {
                        let why = format!("nginx {why}, so it can't be told to end them");
                        self.untold(&why, GRACE.saturating_sub(began.elapsed()));
                    }
                }
                if !serves || began.elapsed() >= GRACE {
                    break;
                }
                if let Some(back) = self.listen(self.pause()).await {
                    return Some(back);
                }
            }
            told = taken;
            while self.returns() {
                if let Some(back) = self.listen(COUNT_EVERY).await {
                    return Some(back);
                }
            }
            let addresses = self.job.addresses.clone();
            cut = match blocking(move || end_all(&addresses)).await {
                Some(Ok(cut)) => cut,
                // The address leaves all the same, and their clients hear nothing more.
                _ => self.left.0,
            };
        }
        while self.relays() {
            self.count_and_say().await;
            if let Some(back) = self.listen(self.pause()).await {
                return Some(back);
            }
        }
        if let Some(back) = self.close().await {
            return Some(back);
        }
        let ended = left.saturating_sub(cut);
        let text = format!("{} has {}; {}", self.job.to, self.job.vip, ending(left, cut, told));
        self.tell("done", text, |progress| {
            (progress.ended, progress.cut) = (Some(ended), Some(cut));
        });
        None
    }

    /// nginx goes on with who is left, and says so to whoever may be watching.
    fn untold(&self, why: &str, left: Duration) {
        let s = left.as_secs_f64().round();
        let text = format!("{}'s {why}. Who hasn't finished in {s} s is cut", self.job.node);
        self.around.line.note(false, &self.job.to, &text);
        self.tell("finishing", text, |_| {});
    }

    /// The addresses stay until the other node hands nothing over any more: a packet that comes after
    /// them would be answered by a reset, or sent back.
    async fn close(&mut self) -> Option<Back> {
        self.say(Word::Done);
        let by = tokio::time::Instant::now() + ENDS_WITHIN;
        let mut back = None;
        while back.is_none() {
            match tokio::time::timeout_at(by, self.heard.recv()).await {
                Ok(Some(Signal::Back(again))) => back = Some(again),
                Ok(Some(Signal::Heard(Word::Ended))) | Ok(None) | Err(_) => break,
                Ok(Some(Signal::CallOff { by })) => {
                    let text =
                        format!("too late for {by} to call it off: the clients have finished");
                    self.around.line.note(true, &self.job.to, &text);
                }
                Ok(Some(Signal::Heard(_))) => {}
            }
        }
        if back.is_none() {
            self.leave();
        }
        back
    }

    /// New workers take over, the old ones close idle connections and end when they have nothing left.
    ///
    /// nginx reads its files anew for that. Where they are shared it is told only if they are those that
    /// it runs with; workers that are told to leave without that would leave every other address of
    /// this host unserved.
    async fn reload_nginx(&self) -> Result<Told, String> {
        let unknown = || "no master of it is known".to_owned();
        let master = self.job.nginx_master.ok_or_else(unknown)?;
        let told = Told::now(master);
        if self.job.shares {
            let (reply, answer) = oneshot::channel();
            // A desk that is gone answers nothing.
            let _ = self.around.desk.send(Request::Sync(Ask::EndIdle(reply))).await;
            let answer = tokio::time::timeout(LOOKS_WITHIN, answer).await;
            let silent = || "it isn't known in time whether its files are those that it runs with";
            let answer = answer.ok().and_then(Result::ok);
            return answer.unwrap_or_else(|| Err(silent().to_owned())).map(|()| told);
        }
        crate::nginx::reload(master).then_some(told).ok_or_else(unknown)
    }

    /// `None`: the helper that counts broke off.
    async fn count(&self) -> Option<io::Result<usize>> {
        let addresses = self.job.addresses.clone();
        blocking(move || count_all(&addresses)).await
    }

    /// Counts the connections that are here, and has the other node go on for them.
    async fn count_and_say(&mut self) -> usize {
        let began = Instant::now();
        let counted = self.count().await;
        self.counting_took = began.elapsed();
        let count = self.left.counted(counted.and_then(Result::ok));
        if self.said_at.is_none_or(|at| at.elapsed() >= SAY_EVERY) {
            self.said_at = Some(Instant::now());
            self.say(Word::Serving { connections: count as u64 });
        }
        count
    }

    /// How long the next count is to wait.
    fn pause(&self) -> Duration {
        (self.counting_took * COUNT_SHARE).clamp(COUNT_EVERY, SAY_EVERY)
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

    fn tell(&self, step: &str, text: String, more: impl FnOnce(&mut Progress)) {
        let mut progress = Progress::new(step, &self.job.vip, &self.job.to, text);
        progress.after_ms = self.moved_at.map(|at| millis(at.elapsed()));
        more(&mut progress);
        if matches!(step, "moved" | "returning" | "done" | "called_off" | "failed") {
            self.around.line.note(step == "failed", &self.job.to, &progress.text);
        }
        // Nobody may be watching, or too slowly.
        let _ = self.around.progress.try_send(progress);
    }
}

fn looked(mut told: Told) -> (Told, Reload) {
    let now = told.look();
    (told, now)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

/// How many connections to these addresses are on this host.
pub(crate) async fn connections_of(addresses: Vec<IpAddr>) -> Option<usize> {
    blocking(move || count_all(&addresses)).await?.ok()
}

fn count_all(addresses: &[IpAddr]) -> io::Result<usize> {
    Sockets::open()?.count(addresses, TcpState::SERVING)
}

fn end_all(addresses: &[IpAddr]) -> io::Result<usize> {
    Sockets::open()?.end(addresses, TcpState::SERVING)
}

/// How many connections are here, as far as the kernel has told.
#[derive(Debug, Default)]
struct Left(usize);

impl Left {
    /// A count that failed doesn't mean that nobody is left: the drain goes on to its time.
    fn counted(&mut self, count: Option<usize>) -> usize {
        self.0 = count.unwrap_or_else(|| self.0.max(1));
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_that_fails_ends_no_drain() {
        let mut left = Left::default();
        assert_eq!(left.counted(None), 1);
        assert_eq!(left.counted(Some(7)), 7);
        assert_eq!(left.counted(None), 7);
        assert_eq!(left.counted(Some(0)), 0);
        assert_eq!(left.counted(None), 1, "one may have come since");
    }
}
