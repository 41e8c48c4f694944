//! What happened, in lines for a person: the tail of a failing run.

use std::collections::VecDeque;
use std::fmt::Write as _;

use standin_core::Outcome;
use standin_core::event::{Event, Kind};

use crate::clock::{Nanos, SECOND};
use crate::cluster::ClusterFile;
use crate::fault::Fault;
use crate::machine::Machine;
use crate::scene::Packet;

/// Lines that are kept; a failure's cause is never further away than a few faults.
const LINES: usize = 2_000;

#[derive(Clone, Debug, Default)]
pub struct Trace {
    lines: VecDeque<String>,
    /// Also show each advert that is heard.
    pub packets: bool,
}

/// Seconds since the beginning, to the microsecond.
#[must_use]
pub fn stamp(at: Nanos) -> String {
    format!("{}.{:06}", at / SECOND, at % SECOND / 1_000)
}

impl Trace {
    pub fn push(&mut self, at: Nanos, what: &str) {
        if self.lines.len() == LINES {
            self.lines.pop_front();
        }
        self.lines.push_back(format!("{:>14}  {what}", stamp(at)));
    }

    pub fn event(
        &mut self,
        at: Nanos,
        machine: &Machine,
        vip: Option<u8>,
        file: &ClusterFile,
        kind: &Kind,
    ) {
        let plan = machine.node.as_ref().map_or(&file.plan, |node| node.plan());
        let words = Event { vip: None, kind: kind.clone() }.words(plan);
        let vip = vip.and_then(|vip| file.names.get(usize::from(vip))).map_or("", String::as_str);
        self.push(at, &format!("{} {vip} {words}", machine.name));
    }

    pub fn kernel(
        &mut self,
        at: Nanos,
        machine: &Machine,
        file: &ClusterFile,
        vip: u8,
        outcome: Outcome,
    ) {
        let vip = file.names.get(usize::from(vip)).map_or("", String::as_str);
        self.push(at, &format!("{} {vip} kernel: {outcome:?}", machine.name));
    }

    /// A fault, with machines and VIPs by name.
    pub fn fault(&mut self, at: Nanos, fault: &Fault, machines: &[Machine], file: &ClusterFile) {
        let mut words = format!("FAULT {fault:?}");
        for (place, machine) in machines.iter().enumerate() {
            for field in ["machine", "from", "to", "a", "b"] {
                let (before, after) = (format!(" {field}: {place}"), &machine.name);
                words = words.replace(&before, &format!(" {field}: {after}"));
            }
        }
        for (place, name) in file.names.iter().enumerate() {
            words = words.replace(&format!(" vip: {place}"), &format!(" vip: {name}"));
        }
        self.push(at, &words);
    }

    pub fn packet(&mut self, at: Nanos, machine: &Machine, packet: &Packet, file: &ClusterFile) {
        if self.packets {
            let vip = file.names.get(usize::from(packet.vip)).map_or("", String::as_str);
            let Packet { priority, family, envelope, .. } = packet;
            let source = envelope.source;
            let what =
                format!("{} {vip} hears {source}, {family}: priority {priority}", machine.name);
            self.push(at, &what);
        }
    }

    pub fn announcement(&mut self, at: Nanos, machine: &Machine, file: &ClusterFile, vip: u8) {
        if self.packets {
            let vip = file.names.get(usize::from(vip)).map_or("", String::as_str);
            self.push(at, &format!("{} {vip} announces", machine.name));
        }
    }

    /// Whether a line of `machine` has `words` in it.
    #[must_use]
    pub fn tells(&self, machine: &str, words: &str) -> bool {
        let of = |line: &&String| line.split_whitespace().nth(1) == Some(machine);
        self.lines.iter().filter(of).any(|line| line.contains(words))
    }

    /// The last `count` lines.
    #[must_use]
    pub fn tail(&self, count: usize) -> String {
        let mut out = String::new();
        for line in self.lines.iter().skip(self.lines.len().saturating_sub(count)) {
            // Writing to a String can't fail.
            let _ = writeln!(out, "{line}");
        }
        out
    }
}
