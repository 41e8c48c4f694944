//! What may stand after `expect`: where the VIP is, for how long it was nowhere or twice, and why.
//!
//! ```text
//! active web = n2 | active web = nobody | active web = n1 n2      who has the addresses
//! client web = n2                                                 where a client's packets go
//! overlap < 5ms | gap < 400ms                                     the longest of all VIPs so far
//! takeovers n2 = 1 | transitions n2 = 3                           so far
//! reason n2 = silence                                             of its last transition
//! event n2 words of it | no event n2 words of it                  so far
//! ```

use std::fmt;

use crate::clock::Nanos;
use crate::scene::reason_name;
use crate::world::World;

use super::line::{Names, time};

#[derive(Clone, Debug)]
pub(super) struct Expectation {
    words: String,
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    Active { vip: u8, nodes: Vec<u8> },
    Client { vip: u8, node: u8 },
    Overlap(Nanos),
    Gap(Nanos),
    Takeovers { node: u8, count: u64 },
    Transitions { node: u8, count: u64 },
    Reason { node: u8, name: String },
    Event { node: u8, words: String, told: bool },
}

impl fmt::Display for Expectation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)
    }
}

impl Expectation {
    pub(super) fn read(names: &Names, words: &[&str]) -> Result<Self, String> {
        let count = |text: &str| text.parse().map_err(|_| format!("{text} is no number"));
        let what = match *words {
            ["active", vip, "=", "nobody"] => {
                What::Active { vip: names.vip(vip)?, nodes: Vec::new() }
            }
            ["active", vip, "=", ref nodes @ ..] => What::Active {
                vip: names.vip(vip)?,
                nodes: nodes.iter().map(|node| names.node(node)).collect::<Result<_, _>>()?,
            },
            ["client", vip, "=", node] => {
                What::Client { vip: names.vip(vip)?, node: names.node(node)? }
            }
            ["overlap", "<", bound] => What::Overlap(time(bound)?),
            ["gap", "<", bound] => What::Gap(time(bound)?),
            ["takeovers", node, "=", number] => {
                What::Takeovers { node: names.node(node)?, count: count(number)? }
            }
            ["transitions", node, "=", number] => {
                What::Transitions { node: names.node(node)?, count: count(number)? }
            }
            ["reason", node, "=", ref name @ ..] => {
                What::Reason { node: names.node(node)?, name: name.join(" ") }
            }
            ["event", node, ref rest @ ..] => {
                What::Event { node: names.node(node)?, words: rest.join(" "), told: true }
            }
            ["no", "event", node, ref rest @ ..] => {
                What::Event { node: names.node(node)?, words: rest.join(" "), told: false }
            }
            _ => return Err("not understood; scenario/expect.rs lists the words".to_owned()),
        };
        Ok(Self { words: words.join(" "), what })
    }

    /// # Errors
    /// What is the case instead.
    pub(super) fn met(&self, world: &World) -> Result<(), String> {
        let scene = &world.scene;
        let name = |node: u8| scene.machines[usize::from(node)].name.as_str();
        let is = |good: bool, why: String| if good { Ok(()) } else { Err(why) };
        let (overlap, gap) = world.checks.timeline.longest(scene.now);
        let counts = |node: u8| world.checks.history.counts[usize::from(node)];
        match &self.what {
            What::Active { vip, nodes } => {
                let has =
                    |one: &u8| scene.machines[usize::from(*one)].kernel[usize::from(*vip)].present;
                let holders: Vec<u8> = scene.places().filter(has).collect();
                let said: Vec<&str> = holders.iter().map(|one| name(*one)).collect();
                is(holders == *nodes, format!("it is [{}]", said.join(" ")))
            }
            What::Client { vip, node } => {
                let cached = scene.cache[usize::from(*vip)];
                is(cached == Some(*node), format!("they go to host {cached:?}"))
            }
            What::Overlap(bound) => is(overlap < *bound, format!("it was {} us", overlap / 1_000)),
            What::Gap(bound) => is(gap < *bound, format!("it was {} us", gap / 1_000)),
            What::Takeovers { node, count } => {
                let (_, is_now) = counts(*node);
                is(is_now == *count, format!("there were {is_now}"))
            }
            What::Transitions { node, count } => {
                let (is_now, _) = counts(*node);
                is(is_now == *count, format!("there were {is_now}"))
            }
            What::Reason { node, name } => {
                let last = world.checks.history.reasons[usize::from(*node)].as_ref();
                let last = last.map_or("none", reason_name);
                is(last == name, format!("it was {last}"))
            }
            What::Event { node, words, told } => {
                let tells =
                    scene.trace.as_ref().is_some_and(|trace| trace.tells(name(*node), words));
                is(tells == *told, "the events tell otherwise".to_owned())
            }
        }
    }
}
