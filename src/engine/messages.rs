//! What the engine hears from the other threads, and what it tells them.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use standin_core::election::told::Says;
use standin_core::event::{Event, Role, Standing};
use standin_core::guard::{Goodbye, LEAST_PATIENCE, beat_every, patience};
use standin_core::plan::{MAX_VIPS, Plan};
use standin_core::record::Entry;
use standin_core::resume::Resume;
use standin_core::types::{CheckId, Family, Instant, InterfaceId, Mac, Prefix, VipId, Vrid};
use standin_core::view::View;
use standin_core::{Command, InterfaceState, Outcome, Verdict};
use standin_linux::advert::AdvertReceiver;
use standin_linux::epoll::Wake;
use standin_linux::queue::{Receiver, Refused, Sender, queue};

use crate::guard::ledger::Ledger;

/// Messages that may wait for the engine; the address thread waits when there are more.
const TO_ENGINE: usize = MAX_VIPS;

/// Orders that may wait for the address thread: each VIP may change its mind twice while others
/// hold the kernel's lock.
const TO_ADDRESSES: usize = 3 * MAX_VIPS;

/// Events that may wait for the control plane; more are counted and dropped.
const TO_CONTROL: usize = 8 * MAX_VIPS;

/// Releases that may wait to be told to peers: each VIP's, twice.
const HANDOVERS: usize = 2 * MAX_VIPS;

/// Between two looks whether a full queue has room.
const ROOM_AGAIN: Duration = Duration::from_millis(1);

/// A daemon without realtime priority or locked memory is late now and then, and not stuck.
const UNHURRIED_PATIENCE: Duration = Duration::from_secs(1);

/// Told to the engine.
#[derive(Debug)]
pub(crate) enum ToEngine {
    Interface {
        name: String,
        index: Option<u32>,
        state: InterfaceState,
    },
    OwnAddresses(Vec<IpAddr>),
    Listening(Listening),
    Settled {
        vip: VipId,
        /// Of the order of which that became.
        number: u64,
        outcome: Outcome,
    },
    Restored {
        vip: VipId,
        address: IpAddr,
    },
    /// `generation` names the plan whose check ids are meant.
    Check {
        generation: u64,
        check: CheckId,
        verdict: Verdict,
        detail: String,
    },
    /// What a peer says of itself over the link, by names of VIPs; `None`: the link has ended.
    Peer {
        name: String,
        says: Vec<(String, Option<Says>)>,
    },
    /// A peer sees `mac` answer for an address of a VIP that this node holds.
    StillSeen {
        vip: String,
        address: IpAddr,
        mac: Mac,
    },
    /// A peer says that it has released a VIP, and that it is this node's.
    TakeOver {
        from: String,
        vip: String,
        epoch: u64,
        released: Instant,
    },
    /// Give a VIP to a node that waits for it.
    SwitchTo {
        vip: String,
        to: String,
    },
    /// No socket needs the addresses any more that stayed after a switchover.
    Drained {
        vip: String,
    },
    Command(Command),
    /// [`Command::AwaitVacancy`], by the VIP's name.
    AwaitVacancy {
        vip: String,
        gap: Option<Duration>,
    },
    Plan {
        generation: u64,
        plan: Box<Plan>,
    },
    View(SyncSender<View>),
    /// What a successor of this program has to know.
    Resume(SyncSender<Resume>),
}

/// Ordered of the address thread.
#[derive(Debug)]
pub(crate) enum ToAddresses {
    Hold(Hold),
    Listen {
        listen: Listen,
    },
    Release {
        vip: VipId,
        number: u64,
    },
    /// As a release; this host's own sockets go on using the addresses until they are told to leave.
    Stay {
        vip: VipId,
        number: u64,
    },
    Leave {
        vip: VipId,
    },
    /// Watch these interfaces and these addresses of the node.
    Watch {
        interfaces: Vec<String>,
        own: Vec<IpAddr>,
    },
    /// Leave the host as it was found, and end.
    End,
}

/// A VIP that is to be on the host.
#[derive(Debug)]
pub(crate) struct Hold {
    pub(crate) vip: VipId,
    pub(crate) number: u64,
    pub(crate) interface: String,
    pub(crate) prefixes: Vec<Prefix>,
    /// What the guard says if the daemon dies while it holds the VIP.
    pub(crate) goodbyes: Vec<Goodbye>,
    /// The addresses are served from this router id's own MACs.
    pub(crate) virtual_mac: Option<Vrid>,
}

/// A socket that hears adverts, to be opened.
#[derive(Clone, Debug)]
pub(crate) struct Listen {
    pub(crate) interface: InterfaceId,
    pub(crate) family: Family,
    pub(crate) index: u32,
    pub(crate) name: String,
    /// For how many VIPs: it sizes the buffer.
    pub(crate) vips: usize,
}

/// One that is open.
#[derive(Debug)]
pub(crate) struct Listening {
    pub(crate) asked: Listen,
    pub(crate) receiver: Box<AdvertReceiver>,
}

/// Told to the control plane.
#[derive(Debug)]
pub(crate) enum FromEngine {
    Event(Box<Happened>),
    /// What the engine was told around a transition.
    Record(Vec<Entry>),
    StillSeen(StillSeen),
    /// Everything has been given up.
    Stopped,
    /// A message of the engine itself, for the log.
    Complaint(String),
    /// All sockets that can't be opened at the moment, in words; for status.
    Faults(Vec<String>),
}

/// A VIP that has been released, and the peer that is to take it. It has a queue of its own: behind
/// the events of a thousand other VIPs it would be void when it is told.
#[derive(Clone, Debug)]
pub(crate) struct Handover {
    pub(crate) vip: String,
    pub(crate) to: String,
    pub(crate) epoch: u64,
    pub(crate) released: Instant,
}

/// What a peer is to know: another MAC than its own answers for its VIP.
#[derive(Debug)]
pub(crate) struct StillSeen {
    pub(crate) vip: String,
    pub(crate) to: String,
    pub(crate) address: IpAddr,
    pub(crate) mac: Mac,
}

/// An event with its words, which only the engine's plan can give.
#[derive(Debug)]
pub(crate) struct Happened {
    pub(crate) event: Event,
    pub(crate) vip: Option<String>,
    pub(crate) words: String,
    /// The VIP's role and this node's standing after the event.
    pub(crate) now: Option<(Role, Standing)>,
    /// The priority that adverts say after the event.
    pub(crate) priority: u8,
    /// The other node of the event, where there is one.
    pub(crate) peer: Option<String>,
    pub(crate) at: std::time::SystemTime,
}

/// A sender whose receiver polls a descriptor.
#[derive(Debug)]
pub(crate) struct Post<T> {
    sender: Sender<T>,
    wake: Arc<Wake>,
}

impl<T> Clone for Post<T> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone(), wake: Arc::clone(&self.wake) }
    }
}

impl<T: Send> Post<T> {
    /// Waits for room; false when the receiver has gone.
    pub(crate) fn send(&self, message: T) -> bool {
        let mut message = message;
        loop {
            match self.sender.offer(message) {
                Ok(()) => {
                    self.wake.ring();
                    return true;
                }
                Err(Refused::Closed(_)) => return false,
                Err(Refused::Full(back)) => message = back,
            }
            // The receiver empties it as soon as it runs.
            self.wake.ring();
            std::thread::sleep(ROOM_AGAIN);
        }
    }

    /// Never waits; false when there is no room or no receiver.
    pub(crate) fn offer(&self, message: T) -> bool {
        let sent = self.sender.offer(message).is_ok();
        self.wake.ring();
        sent
    }
}

/// The receiving end of a [`Post`].
#[derive(Debug)]
pub(crate) struct Inbox<T> {
    pub(crate) receiver: Receiver<T>,
    pub(crate) wake: Arc<Wake>,
}

fn channel<T: Send>(room: usize) -> std::io::Result<(Post<T>, Inbox<T>)> {
    let wake = Arc::new(Wake::new()?);
    let (sender, receiver) = queue(room);
    Ok((Post { sender, wake: Arc::clone(&wake) }, Inbox { receiver, wake }))
}

/// All posts of a daemon.
#[derive(Debug)]
pub(crate) struct Posts {
    pub(crate) engine: (Post<ToEngine>, Inbox<ToEngine>),
    pub(crate) addresses: (Post<ToAddresses>, Inbox<ToAddresses>),
    pub(crate) control: (Post<FromEngine>, Inbox<FromEngine>),
    pub(crate) handovers: (Post<Handover>, Inbox<Handover>),
}

impl Posts {
    /// # Errors
    /// When the kernel has no descriptor left.
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Self {
            engine: channel(TO_ENGINE)?,
            addresses: channel(TO_ADDRESSES)?,
            control: channel(TO_CONTROL)?,
            handovers: channel(HANDOVERS)?,
        })
    }
}

/// When the engine last went round; the address thread and the guard look here.
#[derive(Debug, Default)]
pub(crate) struct Beat {
    last: AtomicU64,
    ledger: Option<Ledger>,
    /// The engine has realtime priority and locked memory; until then it may be late.
    hurried: AtomicBool,
}

impl Beat {
    /// With a ledger the guard sees it too.
    pub(crate) fn new(ledger: Option<Ledger>) -> Self {
        Self { last: AtomicU64::new(0), ledger, hurried: AtomicBool::new(false) }
    }

    pub(crate) fn strike(&self, now: Instant) {
        self.last.store(now.as_nanos(), Ordering::Relaxed);
        if let Some(ledger) = &self.ledger {
            ledger.beat(now);
        }
    }

    /// Tells the guard how fast this node's VIPs are.
    pub(crate) fn pace(&self, fastest_advert: Duration) {
        if let Some(ledger) = &self.ledger {
            let hurried = self.hurried.load(Ordering::Relaxed);
            let least = if hurried { LEAST_PATIENCE } else { UNHURRIED_PATIENCE };
            ledger.set_patience(patience(fastest_advert, least));
        }
    }

    /// The engine can be on time from now on.
    pub(crate) fn hurry(&self, now: Instant, fastest_advert: Option<Duration>) {
        // What began before isn't late by the new measure.
        self.strike(now);
        self.hurried.store(true, Ordering::Relaxed);
        if let Some(fastest) = fastest_advert {
            self.pace(fastest);
        }
    }

    /// How often it has to be struck at least, by an engine that `waits` for an address to be held or holds
    /// some; the address thread and the watchdog are content with the longest period.
    pub(crate) fn period(&self, waits: bool) -> Duration {
        let watched = self.ledger.as_ref().filter(|ledger| waits || ledger.holds());
        beat_every(watched.map_or(Duration::ZERO, Ledger::patience))
    }

    pub(crate) fn age(&self, now: Instant) -> Duration {
        now.since(Instant::from_nanos(self.last.load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guard_is_patient_until_the_engine_can_be_on_time() {
        let ledger = Ledger::new().unwrap();
        let beat = Beat::new(Some(ledger.clone()));
        let advert = Duration::from_millis(10);
        beat.pace(advert);
        assert_eq!(ledger.patience(), UNHURRIED_PATIENCE, "it has no priority yet");
        beat.hurry(Instant::from_nanos(7), Some(advert));
        assert_eq!(ledger.patience(), LEAST_PATIENCE);
        assert_eq!(beat.age(Instant::from_nanos(8)), Duration::from_nanos(1));
    }
}
