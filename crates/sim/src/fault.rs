//! What can go wrong, and how it ends.

use standin_core::Verdict;
use standin_core::types::Family;

use crate::clock::Nanos;
use crate::network::WITNESS;
use crate::witness::Side;

/// One thing that happens to the scene. Machines, VIPs and checks are named by their place.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// Cuts or heals a machine from everybody.
    Isolate {
        machine: u8,
        cut: bool,
    },
    /// Cuts or heals one way.
    Way {
        from: u8,
        to: u8,
        family: Option<Family>,
        cut: bool,
    },
    /// Cuts or heals both ways between two machines.
    Pair {
        a: u8,
        b: u8,
        cut: bool,
    },
    /// One family of a machine's packets, both ways.
    Family {
        machine: u8,
        family: Family,
        cut: bool,
    },
    /// Cuts the segment in two: the machines of `mask`, and the others.
    Sides {
        mask: u8,
        witness: Side,
        cut: bool,
    },
    /// `standin adopt --await-vacant` on a machine, or its end.
    Await {
        machine: u8,
        vip: u8,
        on: bool,
    },
    /// Adverts are dropped one way, and nothing else.
    Mute {
        from: u8,
        to: u8,
        on: bool,
    },
    /// The second cable, of all machines.
    Beside {
        cut: bool,
    },
    Loss {
        ppm: u32,
    },
    Duplication {
        ppm: u32,
    },
    Corruption {
        ppm: u32,
    },
    Spike {
        up_to: Nanos,
    },
    /// SIGSTOP.
    Stop {
        machine: u8,
    },
    /// The virtual machine is suspended.
    Suspend {
        machine: u8,
    },
    /// The program is replaced in place; [`Fault::Continue`] begins the successor.
    Upgrade {
        machine: u8,
    },
    /// The end of each of these; `clock_stood`: a suspended machine doesn't know of the time.
    Continue {
        machine: u8,
        clock_stood: bool,
    },
    /// The daemon dies; its addresses stay for their lifetime.
    Kill {
        machine: u8,
    },
    PowerOff {
        machine: u8,
    },
    Start {
        machine: u8,
    },
    /// The daemon is asked to stop.
    Quit {
        machine: u8,
    },
    /// What is checked breaks or is mended; results follow, `gap` apart.
    Service {
        machine: u8,
        check: u8,
        works: bool,
        sudden: bool,
        gap: Nanos,
    },
    /// One result of a check.
    Result {
        machine: u8,
        check: u8,
        verdict: Verdict,
    },
    Maintenance {
        machine: u8,
        on: bool,
        lasting: Nanos,
    },
    /// The file on disk changes; the machines read it with [`Fault::Reload`].
    Edit(Edit),
    Reload {
        machine: u8,
    },
    Interface {
        machine: u8,
        up: bool,
    },
    OwnAddress {
        machine: u8,
        present: bool,
    },
    /// Somebody deletes a VIP's address.
    DeleteVip {
        machine: u8,
        vip: u8,
    },
    /// The kernel refuses a VIP's address for a time.
    Refuse {
        machine: u8,
        vip: u8,
        lasting: Nanos,
    },
    SlowKernel {
        machine: u8,
        delay: Nanos,
    },
    Drift {
        machine: u8,
        ppm: i32,
    },
    Foreign {
        vip: u8,
        present: bool,
    },
    /// A stranger advertises the VIP with priority 255.
    Stranger {
        vip: u8,
    },
}

/// A change of the cluster file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Edit {
    Priority { vip: u8, machine: u8, priority: u8 },
    Interval { vip: u8, centiseconds: u16 },
    Remove { vip: u8 },
    Add { vip: u8 },
    Failback { vip: u8, never: bool, wait: Nanos },
}

impl Fault {
    /// The kind, for the table of a run; `None` for ends and consequences.
    #[must_use]
    pub const fn kind(&self) -> Option<&'static str> {
        Some(match self {
            Self::Isolate { cut: true, .. } => "cut of a machine",
            Self::Way { cut: true, .. } => "one-way cut",
            Self::Pair { b, cut: true, .. } if *b as usize == WITNESS => "witness out of sight",
            Self::Pair { cut: true, .. } => "partial cut",
            Self::Mute { on: true, .. } => "adverts dropped",
            Self::Sides { cut: true, .. } => "cut in two sides",
            Self::Family { cut: true, .. } => "deaf family",
            Self::Loss { ppm } if *ppm > 0 => "burst of loss",
            Self::Duplication { ppm } if *ppm > 0 => "burst of duplicates",
            Self::Corruption { ppm } if *ppm > 0 => "burst of damage",
            Self::Spike { up_to } if *up_to > 0 => "delay and reordering",
            Self::Stop { .. } => "process stopped",
            Self::Suspend { .. } => "machine suspended",
            Self::Upgrade { .. } => "program replaced in place",
            Self::Kill { .. } => "daemon killed",
            Self::PowerOff { .. } => "power off",
            Self::Quit { .. } => "graceful stop",
            Self::Service { works: false, sudden: true, .. } => "sudden death of nginx",
            Self::Service { works: false, .. } => "check fails",
            Self::Result { .. } => "check flaps",
            Self::Maintenance { on: true, .. } => "maintenance",
            Self::Edit(Edit::Priority { .. }) => "reload: priority",
            Self::Edit(Edit::Interval { .. }) => "reload: interval",
            Self::Edit(Edit::Remove { .. }) => "reload: VIP removed",
            Self::Edit(Edit::Failback { .. }) => "reload: failback",
            Self::Interface { up: false, .. } => "interface down",
            Self::OwnAddress { present: false, .. } => "own address lost",
            Self::DeleteVip { .. } => "VIP deleted by somebody",
            Self::Refuse { .. } => "address refused",
            Self::SlowKernel { delay, .. } if *delay > 0 => "slow kernel",
            Self::Drift { .. } => "clock drift",
            Self::Foreign { present: true, .. } => "foreign owner",
            Self::Stranger { .. } => "stranger with 255",
            _ => return None,
        })
    }

    /// Whether it changes the weather or a cut.
    #[must_use]
    pub const fn is_of_the_network(&self) -> bool {
        matches!(
            self,
            Self::Isolate { .. }
                | Self::Way { .. }
                | Self::Pair { .. }
                | Self::Sides { .. }
                | Self::Mute { .. }
                | Self::Beside { .. }
                | Self::Family { .. }
                | Self::Loss { .. }
                | Self::Duplication { .. }
                | Self::Corruption { .. }
                | Self::Spike { .. }
        )
    }

    /// Every kind that a long run has to have seen.
    pub const KINDS: [&'static str; 35] = [
        "cut of a machine",
        "one-way cut",
        "partial cut",
        "cut in two sides",
        "adverts dropped",
        "witness out of sight",
        "deaf family",
        "burst of loss",
        "burst of duplicates",
        "burst of damage",
        "delay and reordering",
        "process stopped",
        "machine suspended",
        "program replaced in place",
        "daemon killed",
        "power off",
        "graceful stop",
        "sudden death of nginx",
        "check fails",
        "check flaps",
        "maintenance",
        "reload: priority",
        "reload: interval",
        "reload: VIP removed",
        "reload: failback",
        "interface down",
        "own address lost",
        "VIP deleted by somebody",
        "address refused",
        "slow kernel",
        "clock drift",
        "foreign owner",
        "stranger with 255",
        "lie over the peer link",
        "switchover",
    ];
}
