//! What a host's packet filter does to an advert, a peer link or a packet handed on: rules as data, and a walk through them.
//!
//! A condition that isn't understood may be true or not. Only a packet that is dropped whatever
//! those conditions are counts as dropped: a preflight must not cry wolf.

pub(crate) mod iptables;
pub(crate) mod nft;

use std::net::IpAddr;

use standin_core::types::{Family, Prefix};

/// Jumps within jumps: nftables stops at 16 itself.
const DEPTH: u8 = 16;

/// Every chain of every table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ruleset {
    pub(crate) chains: Vec<Chain>,
}

/// One chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Chain {
    /// `inet`, `ip`, `ip6`; chains of other families see no IP packets of this host.
    pub(crate) family: String,
    pub(crate) table: String,
    pub(crate) name: String,
    /// `input`, `prerouting`, … of a chain that the kernel enters by itself.
    pub(crate) hook: Option<String>,
    pub(crate) policy_drops: bool,
    pub(crate) rules: Vec<Rule>,
    /// Read from the old iptables, which nft doesn't show.
    pub(crate) legacy: bool,
}

/// All conditions true: then the verdict, if there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    /// How a person finds it: its handle, or its line.
    pub(crate) name: String,
    pub(crate) conditions: Vec<Condition>,
    pub(crate) verdict: Option<Verdict>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Accept,
    Drop,
    Jump(String),
    Goto(String),
    Return,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    Is {
        field: Field,
        negated: bool,
        values: Vec<Value>,
    },
    /// Not understood.
    Unclear,
    /// About ports or the like of TCP, which VRRP doesn't have.
    Ports,
    /// About another protocol than VRRP and TCP.
    Elsewhere,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Field {
    Protocol,
    /// The TCP port that is asked for.
    Port,
    In,
    Out,
    Source,
    Destination,
    State,
    /// `multicast`, `host`, as the network card's driver says it.
    Cast,
    Family,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Word(String),
    Net(Prefix),
    Range(IpAddr, IpAddr),
    Ports(u16, u16),
    Unclear,
}

/// A packet on its way in or out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packet<'a> {
    pub(crate) what: What,
    pub(crate) incoming: bool,
    pub(crate) interface: &'a str,
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Advert,
    /// What a switchover hands to the old node: TCP from anywhere to a VIP, not tracked. Its source
    /// is not known, and stands for the family only.
    Copy,
    /// The first packet of a peer link, to this TCP port.
    Link(u16),
}

/// Where a packet ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Dropped<'a> {
    /// The chain that the kernel enters: a rule at its head goes before everything else.
    pub(crate) base: &'a Chain,
    pub(crate) chain: &'a Chain,
    /// `None`: the base chain's policy.
    pub(crate) rule: Option<&'a Rule>,
}

impl Ruleset {
    /// Who drops this packet for certain; `None` when it gets through, or may.
    pub(crate) fn drops(&self, packet: &Packet<'_>) -> Option<Dropped<'_>> {
        let hooks: &[&str] =
            if packet.incoming { &["prerouting", "input"] } else { &["output", "postrouting"] };
        let family = if packet.source.is_ipv4() { "ip" } else { "ip6" };
        self.chains
            .iter()
            .filter(|chain| chain.family == "inet" || chain.family == family)
            .filter(|chain| chain.hook.as_deref().is_some_and(|hook| hooks.contains(&hook)))
            .find_map(|base| {
                let mut walk = Walk { ruleset: self, base, packet, perhaps: false };
                let dropped = match walk.chain(base, 0) {
                    End::Dropped(dropped) => dropped,
                    End::Fell if base.policy_drops => Dropped { base, chain: base, rule: None },
                    _ => return None,
                };
                (!walk.perhaps).then_some(dropped)
            })
    }
}

struct Walk<'a, 'b> {
    ruleset: &'a Ruleset,
    base: &'a Chain,
    packet: &'b Packet<'b>,
    /// A rule that isn't understood may have accepted it.
    perhaps: bool,
}

enum End<'a> {
    Accepted,
    Dropped(Dropped<'a>),
    /// Off the end of the chain.
    Fell,
}

impl<'a> Walk<'a, '_> {
    /// Whether all conditions hold; `None`: none of them fails, and some can't be told.
    fn truth(&self, rule: &Rule) -> Option<bool> {
        let mut truth = Some(true);
        for condition in &rule.conditions {
            match self.packet.meets(condition) {
                Some(true) => {}
                Some(false) => return Some(false),
                None => truth = None,
            }
        }
        truth
    }

    fn chain(&mut self, chain: &'a Chain, depth: u8) -> End<'a> {
        for rule in &chain.rules {
            let truth = self.truth(rule);
            if truth == Some(false) {
                continue;
            }
            let Some(verdict) = &rule.verdict else { continue };
            let end = match verdict {
                Verdict::Accept => End::Accepted,
                Verdict::Drop => End::Dropped(Dropped { base: self.base, chain, rule: Some(rule) }),
                Verdict::Return => {
                    self.perhaps |= truth.is_none();
                    if truth.is_none() {
                        continue;
                    }
                    return End::Fell;
                }
                Verdict::Jump(name) | Verdict::Goto(name) => {
                    let target = self.ruleset.chains.iter().find(|other| {
                        other.name == *name
                            && other.table == chain.table
                            && other.family == chain.family
                            && other.legacy == chain.legacy
                    });
                    match target {
                        Some(target) if depth < DEPTH => self.chain(target, depth + 1),
                        _ => {
                            self.perhaps = true;
                            continue;
                        }
                    }
                }
            };
            match (end, truth) {
                (End::Accepted, None) => self.perhaps = true,
                (End::Dropped(_), None) => {}
                (End::Fell, Some(_)) if matches!(verdict, Verdict::Goto(_)) => return End::Fell,
                (End::Fell, _) => {}
                (end, Some(_)) => return end,
            }
        }
        End::Fell
    }
}

impl Packet<'_> {
    /// `None`: that can't be told.
    fn meets(&self, condition: &Condition) -> Option<bool> {
        let (field, negated, values) = match condition {
            Condition::Unclear => return None,
            Condition::Ports => return (self.what == What::Advert).then_some(false),
            Condition::Is { field: Field::Port, .. } if self.what == What::Advert => {
                return Some(false);
            }
            Condition::Elsewhere => return Some(false),
            Condition::Is { field, negated, values } => (*field, *negated, values),
        };
        let mut unclear = false;
        for value in values {
            match self.has(field, value) {
                Some(true) => return Some(!negated),
                Some(false) => {}
                None => unclear = true,
            }
        }
        if unclear { None } else { Some(negated) }
    }

    fn has(&self, field: Field, value: &Value) -> Option<bool> {
        let address = match field {
            Field::Source if self.what == What::Copy => return None,
            Field::Source => self.source,
            Field::Destination => self.destination,
            Field::Port => {
                let What::Link(port) = self.what else { return None };
                return match value {
                    Value::Ports(from, to) => Some((from..=to).contains(&&port)),
                    Value::Word(word) => word.parse::<u16>().ok().map(|word| word == port),
                    _ => None,
                };
            }
            _ => {
                let Value::Word(word) = value else { return None };
                return self.says(field, word);
            }
        };
        Some(match value {
            Value::Net(net) => net.contains(address),
            Value::Range(from, to) => {
                Family::of(*from) == Family::of(address) && (from..=to).contains(&&address)
            }
            Value::Word(_) | Value::Ports(..) | Value::Unclear => return None,
        })
    }

    fn says(&self, field: Field, word: &str) -> Option<bool> {
        let multicast = self.destination.is_multicast();
        Some(match field {
            Field::Protocol => match self.what {
                What::Advert => matches!(word, "vrrp" | "112" | "carp"),
                What::Copy | What::Link(_) => matches!(word, "tcp" | "6"),
            },
            Field::In => self.incoming && interface_is(word, self.interface),
            Field::Out => !self.incoming && interface_is(word, self.interface),
            Field::State => word.eq_ignore_ascii_case(match self.what {
                // Nobody answers an advert, so that no connection is ever known.
                What::Advert | What::Link(_) => "new",
                What::Copy => "untracked",
            }),
            Field::Cast => word == if multicast { "multicast" } else { "host" },
            Field::Family => match word {
                "ipv4" | "ip" => self.source.is_ipv4(),
                "ipv6" | "ip6" => self.source.is_ipv6(),
                _ => false,
            },
            Field::Source | Field::Destination | Field::Port => return None,
        })
    }
}

/// nftables ends a wildcard with `*`, iptables with `+`.
fn interface_is(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix(['*', '+']) {
        Some(start) => name.starts_with(start),
        None => pattern == name,
    }
}
