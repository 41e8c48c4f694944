//! The words of a story: what may stand after `at TIME`.
//!
//! ```text
//! cut n1 | cut n1 -> n2 [IPv4|IPv6] | cut n1 <-> n2       heal, with the same words
//! mute n1 -> n2                                           adverts alone; unmute, with the same words
//! cut n1 <-> witness                                      whom all nodes ping
//! cut beside                                              the second cable of all, for `heartbeat = ["eth1"]`
//! deaf n1 IPv6                                            hearing n1 IPv6
//! loss 10% | duplicate 10% | damage 10% | delay 50ms      0 ends it
//! freeze n1 | suspend n1 | upgrade n1                          continue n1
//! kill n1 | power off n1 | quit n1                        start n1
//! check nginx on n1 dead | fails | passes
//! maintenance n1 on | off
//! edit web priority n1 150 | edit web interval 2s | edit web failback never | edit web failback 5s
//! edit web remove | edit web add
//! reload n1 | reload all
//! interface n1 down | up                                  address n1 lost | back
//! delete web on n1 | refuse web on n1 for 3s | kernel n1 takes 433ms | clock n1 200ppm
//! await web on n1 | await web on n1 ends
//! foreign web appears | leaves | stranger web | nothing
//! ```

use standin_core::plan::Plan;
use standin_core::types::Family;

use crate::clock::{MILLISECOND, Nanos, SECOND};
use crate::fault::{Edit, Fault};
use crate::network::WITNESS;

use super::expect::Expectation;

/// What one line does.
#[derive(Clone, Debug)]
pub(super) enum Line {
    Faults(Vec<Fault>),
    Expect(Expectation),
    /// Time passes.
    Nothing,
}

/// Who is who in this story.
#[derive(Debug)]
pub(super) struct Names {
    pub nodes: Vec<String>,
    vips: Vec<String>,
    checks: Vec<String>,
}

impl Names {
    pub(super) fn of(plan: &Plan) -> Self {
        Self {
            nodes: plan.nodes.iter().map(|node| node.name.clone()).collect(),
            vips: plan.vips.iter().map(|vip| vip.name.clone()).collect(),
            checks: plan.checks.iter().map(|check| check.name.clone()).collect(),
        }
    }

    pub(super) fn node(&self, name: &str) -> Result<u8, String> {
        place(&self.nodes, name).ok_or_else(|| format!("no node is called {name}"))
    }

    pub(super) fn vip(&self, name: &str) -> Result<u8, String> {
        place(&self.vips, name).ok_or_else(|| format!("no VIP is called {name}"))
    }

    fn check(&self, name: &str) -> Result<u8, String> {
        place(&self.checks, name).ok_or_else(|| format!("no check is called {name}"))
    }
}

fn place(names: &[String], name: &str) -> Option<u8> {
    names.iter().position(|known| known == name).and_then(|place| u8::try_from(place).ok())
}

/// `250us`, `20ms`, `2.4s`, `0`.
pub(super) fn time(text: &str) -> Result<Nanos, String> {
    let bad = || format!("{text} is no time; write 20ms or 2.4s");
    let digits = text.trim_end_matches(char::is_alphabetic);
    let unit = match &text[digits.len()..] {
        "us" => 1_000,
        "ms" => MILLISECOND,
        "s" => SECOND,
        "" if digits == "0" => 1,
        _ => return Err(bad()),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let mut nanos = whole.parse::<u64>().map_err(|_| bad())?.checked_mul(unit).ok_or_else(bad)?;
    let mut part = unit;
    for digit in fraction.chars() {
        part /= 10;
        nanos += u64::from(digit.to_digit(10).ok_or_else(bad)?) * part;
    }
    Ok(nanos)
}

fn per_million(text: &str) -> Result<u32, String> {
    let bad = || format!("{text} is no share; write 10%");
    let percent: u32 = text.trim_end_matches('%').parse().map_err(|_| bad())?;
    if percent > 100 { Err(bad()) } else { Ok(percent * 10_000) }
}

fn family(text: &str) -> Result<Family, String> {
    match text {
        "IPv4" => Ok(Family::V4),
        "IPv6" => Ok(Family::V6),
        other => Err(format!("{other} is no family; write IPv4 or IPv6")),
    }
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text} is no number that fits here"))
}

impl Line {
    pub(super) fn read(names: &Names, words: &[&str]) -> Result<Self, String> {
        let fault = match *words {
            ["nothing"] => return Ok(Self::Nothing),
            ["reload", "all"] => {
                let all = 0..u8::try_from(names.nodes.len()).unwrap_or(u8::MAX);
                return Ok(Self::Faults(all.map(|machine| Fault::Reload { machine }).collect()));
            }
            [verb @ ("cut" | "heal"), ref rest @ ..] => {
                return cut(names, rest, verb == "cut").map(|fault| Self::Faults(vec![fault]));
            }
            [verb @ ("mute" | "unmute"), from, "->", to] => {
                Fault::Mute { from: names.node(from)?, to: names.node(to)?, on: verb == "mute" }
            }
            ["loss", share] => Fault::Loss { ppm: per_million(share)? },
            ["duplicate", share] => Fault::Duplication { ppm: per_million(share)? },
            ["damage", share] => Fault::Corruption { ppm: per_million(share)? },
            ["delay", up_to] => Fault::Spike { up_to: time(up_to)? },
            ["edit", vip, ref rest @ ..] => Fault::Edit(edit(names, names.vip(vip)?, rest)?),
            ["delete", vip, "on", node] => {
                Fault::DeleteVip { machine: names.node(node)?, vip: names.vip(vip)? }
            }
            ["refuse", vip, "on", node, "for", lasting] => Fault::Refuse {
                machine: names.node(node)?,
                vip: names.vip(vip)?,
                lasting: time(lasting)?,
            },
            ["foreign", vip, word @ ("appears" | "leaves")] => {
                Fault::Foreign { vip: names.vip(vip)?, present: word == "appears" }
            }
            ["await", vip, "on", node, ref ends @ ..] if matches!(*ends, [] | ["ends"]) => {
                let (machine, vip) = (names.node(node)?, names.vip(vip)?);
                Fault::Await { machine, vip, on: ends.is_empty() }
            }
            ["stranger", vip] => Fault::Stranger { vip: names.vip(vip)? },
            ["check", check, "on", node, what] => {
                health(names.check(check)?, names.node(node)?, what)?
            }
            _ => host(names, words)?,
        };
        Ok(Self::Faults(vec![fault]))
    }
}

fn cut(names: &Names, words: &[&str], cut: bool) -> Result<Fault, String> {
    Ok(match *words {
        [node, "<->", "witness"] => {
            Fault::Pair { a: names.node(node)?, b: u8::try_from(WITNESS).unwrap_or(u8::MAX), cut }
        }
        ["beside"] => Fault::Beside { cut },
        [node] => Fault::Isolate { machine: names.node(node)?, cut },
        [a, "<->", b] => Fault::Pair { a: names.node(a)?, b: names.node(b)?, cut },
        [from, "->", to] => {
            Fault::Way { from: names.node(from)?, to: names.node(to)?, family: None, cut }
        }
        [from, "->", to, one] => Fault::Way {
            from: names.node(from)?,
            to: names.node(to)?,
            family: Some(family(one)?),
            cut,
        },
        _ => return Err("write n1, n1 -> n2, or n1 <-> n2".to_owned()),
    })
}

fn edit(names: &Names, vip: u8, words: &[&str]) -> Result<Edit, String> {
    Ok(match *words {
        ["priority", node, priority] => {
            Edit::Priority { vip, machine: names.node(node)?, priority: number(priority)? }
        }
        ["interval", interval] => {
            let centiseconds = time(interval)? / (10 * MILLISECOND);
            let centiseconds = u16::try_from(centiseconds).map_err(|_| "too long".to_owned())?;
            Edit::Interval { vip, centiseconds }
        }
        ["failback", "never"] => Edit::Failback { vip, never: true, wait: 0 },
        ["failback", wait] => Edit::Failback { vip, never: false, wait: time(wait)? },
        ["remove"] => Edit::Remove { vip },
        ["add"] => Edit::Add { vip },
        _ => return Err("priority, interval, failback, remove and add can be edited".to_owned()),
    })
}

fn health(check: u8, machine: u8, what: &str) -> Result<Fault, String> {
    let (works, sudden) = match what {
        "dead" => (false, true),
        "fails" => (false, false),
        "passes" => (true, false),
        other => return Err(format!("a check is dead, fails or passes, not {other}")),
    };
    Ok(Fault::Service { machine, check, works, sudden, gap: 250 * MILLISECOND })
}

fn host(names: &Names, words: &[&str]) -> Result<Fault, String> {
    let node = |name: &str| names.node(name);
    Ok(match *words {
        ["deaf", name, one] => {
            Fault::Family { machine: node(name)?, family: family(one)?, cut: true }
        }
        ["hearing", name, one] => {
            Fault::Family { machine: node(name)?, family: family(one)?, cut: false }
        }
        ["freeze", name] => Fault::Stop { machine: node(name)? },
        ["upgrade", name] => Fault::Upgrade { machine: node(name)? },
        ["suspend", name] => Fault::Suspend { machine: node(name)? },
        ["continue", name] => Fault::Continue { machine: node(name)?, clock_stood: false },
        ["kill", name] => Fault::Kill { machine: node(name)? },
        ["power", "off", name] => Fault::PowerOff { machine: node(name)? },
        ["quit", name] => Fault::Quit { machine: node(name)? },
        ["start", name] => Fault::Start { machine: node(name)? },
        ["reload", name] => Fault::Reload { machine: node(name)? },
        ["maintenance", name, word @ ("on" | "off")] => {
            Fault::Maintenance { machine: node(name)?, on: word == "on", lasting: 0 }
        }
        ["interface", name, word @ ("up" | "down")] => {
            Fault::Interface { machine: node(name)?, up: word == "up" }
        }
        ["address", name, word @ ("lost" | "back")] => {
            Fault::OwnAddress { machine: node(name)?, present: word == "back" }
        }
        ["kernel", name, "takes", delay] => {
            Fault::SlowKernel { machine: node(name)?, delay: time(delay)? }
        }
        ["clock", name, ppm] => {
            let ppm = number(ppm.trim_end_matches("ppm"))?;
            Fault::Drift { machine: node(name)?, ppm }
        }
        _ => return Err("not understood; scenario/line.rs lists the words".to_owned()),
    })
}
