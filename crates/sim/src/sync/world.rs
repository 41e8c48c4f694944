//! Hosts, what is between them, and what is due.

use std::rc::Rc;

use standin_core::sync::{Config, Message, Outcome, Source, Trigger};

use super::Sabotage;
use super::check::Check;
use super::host::{Host, Up};
use super::job::Step;
use super::net::Net;
use super::shell::{Cause, Reading};
use super::story::{Care, Operator, Story};
use super::tree::{Facts, Trees};
use crate::clock::{Clock, MILLISECOND, Nanos, SECOND};
use crate::queue::Queue;
use crate::random::Random;
use crate::scene::Counts;
use crate::trace::Trace;
use crate::world::Broken;

/// Files of the trees that hosts begin with.
const FILES: u64 = 100;

/// Something that is due.
#[derive(Clone, Debug)]
pub(super) enum Due {
    /// The store is open.
    Ready {
        host: u8,
        life: u32,
    },
    /// The shell asks who holds the VIP, and for nginx.
    Look {
        host: u8,
        life: u32,
    },
    /// The files are read.
    Read {
        host: u8,
        life: u32,
        cause: Cause,
    },
    Report {
        host: u8,
        life: u32,
        read: Reading,
    },
    /// All files are read, without a reason.
    FullScan {
        host: u8,
        life: u32,
    },
    Tick {
        host: u8,
        token: u32,
    },
    Job {
        host: u8,
        job: u64,
        step: Step,
    },
    /// What became of a job reaches the replica.
    Done {
        host: u8,
        job: u64,
        outcome: Outcome,
    },
    Connect {
        a: u8,
        b: u8,
    },
    Up {
        host: u8,
        peer: u8,
        session: u64,
    },
    Down {
        host: u8,
        peer: u8,
        session: u64,
    },
    Message {
        to: u8,
        from: u8,
        session: u64,
        message: Rc<Message>,
    },
    /// The election shows a host another holder.
    Belief {
        host: u8,
        holder: Option<u8>,
        election: u64,
    },
    /// The cluster file is read, as it is by then.
    Config {
        host: u8,
    },
    /// A host, or its daemon, starts again.
    Start {
        host: u8,
    },
    StartNginx {
        host: u8,
    },
    Room {
        host: u8,
    },
    Mend {
        cut: u64,
    },
    Operator {
        host: u8,
        life: u32,
        what: Operator,
    },
    /// The next fault, or the next thing that an operator does.
    Act,
    /// The weather ends, and operators see to what waits for them.
    Calm,
    Care(Care),
    /// Everything has to be in order now.
    Judge,
}

/// One cluster and its story.
#[derive(Debug)]
pub struct World {
    pub now: Nanos,
    pub(super) random: Random,
    pub(super) queue: Queue<Due>,
    pub(super) hosts: Vec<Host>,
    pub(super) trees: Trees,
    pub(super) net: Net,
    pub(super) story: Story,
    pub(super) check: Check,
    pub(super) source: Source,
    pub(super) trigger: Trigger,
    pub sabotage: Sabotage,
    /// Faults and what operators did, by kind.
    pub faults: Counts,
    /// What replicas said, by kind.
    pub events: Counts,
    pub trace: Option<Trace>,
    pub(super) broken: Option<String>,
}

impl World {
    /// A cluster that begins to start.
    #[must_use]
    pub fn new(mut random: Random, hosts: u8, sabotage: Sabotage) -> Self {
        let mut trees = Trees::default();
        let mut all = Vec::new();
        let same = random.chance(300);
        let mut first = None;
        for number in 0..hosts {
            let stock = Facts { files: FILES, ..Facts::default() };
            let tree = first.filter(|_| same).unwrap_or_else(|| trees.make(stock));
            first = Some(tree);
            let drift = i32::try_from(random.below(200)).unwrap_or(0) - 100;
            let clock = Clock::new(0, random.below(1_000_000 * SECOND), drift);
            all.push(Host::new(format!("n{}", number + 1), tree, clock, random.chance(700)));
        }
        let source = if random.chance(850) {
            Source::Active
        } else {
            Source::Node(format!("n{}", 1 + random.below(u64::from(hosts))))
        };
        let trigger = if random.chance(700) { Trigger::Save } else { Trigger::Reload };
        let mut world = Self {
            now: 0,
            net: Net::new(hosts),
            story: Story::default(),
            check: Check::new(hosts),
            random,
            queue: Queue::default(),
            hosts: all,
            trees,
            source,
            trigger,
            sabotage,
            faults: Counts::new(),
            events: Counts::new(),
            trace: None,
            broken: None,
        };
        for host in world.numbers() {
            let at = world.random.below(20 * SECOND);
            world.queue.push(at, Due::Start { host });
            for peer in world.numbers().filter(|peer| *peer > host) {
                world.queue.push(at, Due::Connect { a: host, b: peer });
            }
        }
        world.begin();
        world
    }

    /// Runs everything that is due until `end`.
    ///
    /// # Errors
    /// The first promise that was broken.
    pub fn run_until(&mut self, end: Nanos) -> Result<(), Broken> {
        while self.queue.next_at() <= end {
            let Some((at, due)) = self.queue.pop() else { break };
            self.now = at;
            self.happen(due);
            if let Some(what) = self.broken.take() {
                return Err(Broken { at, what });
            }
        }
        self.now = end;
        Ok(())
    }

    pub(super) fn numbers(&self) -> std::ops::Range<u8> {
        0..u8::try_from(self.hosts.len()).unwrap_or(0)
    }

    pub(super) fn host(&mut self, number: u8) -> &mut Host {
        &mut self.hosts[usize::from(number)]
    }

    pub(super) fn of(&self, number: u8) -> &Host {
        &self.hosts[usize::from(number)]
    }

    /// By its name, `n1` to `n8`.
    pub(super) fn number(&self, name: &str) -> Option<u8> {
        self.numbers().find(|number| self.of(*number).name == name)
    }

    pub(super) fn later(&mut self, (low, high): (Nanos, Nanos), due: Due) {
        let after = self.random.scaled(low, high);
        self.queue.push(self.now + after, due);
    }

    pub(super) fn fault(&mut self, kind: &'static str) {
        *self.faults.entry(kind.to_owned()).or_default() += 1;
    }

    pub(super) fn fail(&mut self, what: String) {
        if self.broken.is_none() {
            self.broken = Some(what);
        }
    }

    pub(super) fn note(&mut self, host: u8, what: impl FnOnce() -> String) {
        let name = &self.hosts[usize::from(host)].name;
        if let Some(trace) = &mut self.trace {
            trace.push(self.now, &format!("{name} {}", what()));
        }
    }

    pub(super) fn config(&self, host: u8) -> Config {
        Config {
            node: self.of(host).name.clone(),
            source: self.source.clone(),
            trigger: self.trigger,
        }
    }

    fn happen(&mut self, due: Due) {
        match due {
            Due::Ready { host, life } if self.of(host).life == life => self.ready(host),
            Due::Look { host, life } if self.of(host).life == life => self.saw(host),
            Due::Read { host, life, cause } if self.of(host).life == life => self.read(host, cause),
            Due::Report { host, life, read } if self.of(host).life == life => {
                self.reported(host, read);
            }
            Due::FullScan { host, life } if self.of(host).life == life => self.full_scan(host),
            Due::Tick { host, token } if self.of(host).token == token => self.tick(host),
            Due::Job { host, job, step } if self.of(host).job == job => self.work(host, step),
            Due::Done { host, job, outcome } if self.of(host).job == job => {
                self.finished(host, outcome);
            }
            Due::Operator { host, life, what } if self.of(host).life == life => {
                self.operate(host, what);
            }
            Due::Ready { .. }
            | Due::Look { .. }
            | Due::Read { .. }
            | Due::Report { .. }
            | Due::FullScan { .. }
            | Due::Tick { .. }
            | Due::Job { .. }
            | Due::Done { .. }
            | Due::Operator { .. } => {}
            Due::Connect { a, b } => self.connect(a, b),
            Due::Up { host, peer, session } => self.session_up(host, peer, session),
            Due::Down { host, peer, session } => self.session_down(host, peer, session),
            Due::Message { to, from, session, message } => {
                self.arrived(to, from, session, &message);
            }
            Due::Belief { host, holder, election } => self.believes(host, holder, election),
            Due::Config { host } => self.configured(host),
            Due::Start { host } => self.start(host),
            Due::StartNginx { host } if self.of(host).whole().is_none() => {
                // What an operator starts in the middle of a swap isn't standin's doing.
                self.later((MILLISECOND, SECOND), Due::StartNginx { host });
            }
            Due::StartNginx { host } => self.start_nginx(host),
            Due::Room { host } => self.host(host).full = false,
            Due::Mend { cut } => self.mend(cut),
            Due::Act => self.act(),
            Due::Calm => self.calm(),
            Due::Care(care) => self.care(care),
            Due::Judge => self.judge(),
        }
    }

    /// A machine that was off boots, or a dead daemon is started again.
    pub(super) fn start(&mut self, host: u8) {
        if self.of(host).up != Up::Off {
            return;
        }
        self.recover(host);
        if self.of(host).nginx.is_none() {
            self.start_nginx(host);
        }
        let life = {
            let it = self.host(host);
            it.up = Up::Starting;
            it.life
        };
        self.note(host, || "starts".to_owned());
        self.later((5 * MILLISECOND, 2 * SECOND), Due::Ready { host, life });
        self.elect();
    }

    fn recover(&mut self, host: u8) {
        if self.sabotage == Sabotage::NeverRecovers {
            return;
        }
        if self.host(host).recover() {
            self.fault("a swap is undone at the start");
            self.note(host, || "undoes a swap that was cut off".to_owned());
            // As the shell does: which tree nginx runs with isn't known.
            let now = self.now;
            let it = self.host(host);
            it.saved.proven = None;
            it.placed = now;
        }
    }

    pub(super) fn start_nginx(&mut self, host: u8) {
        if self.of(host).nginx.is_some() {
            return;
        }
        if self.of(host).whole().is_none() {
            let name = &self.of(host).name;
            let what = format!("P4: {name}: nginx starts with half of a change");
            self.fail(what);
            return;
        }
        let now = self.now;
        let Self { hosts, trees, .. } = self;
        hosts[usize::from(host)].start_nginx(now, host, trees);
        self.nudge(host);
    }

    /// The daemon dies, and nginx with it if it is the machine.
    pub(super) fn crash(&mut self, host: u8, machine: bool) {
        self.note(host, || format!("dies ({})", if machine { "machine" } else { "daemon" }));
        self.host(host).die();
        if machine {
            self.host(host).nginx = None;
        }
        self.hang_up(host);
        self.elect();
        let away = self.random.scaled(200 * MILLISECOND, 300 * SECOND);
        self.queue.push(self.now + away, Due::Start { host });
    }
}
