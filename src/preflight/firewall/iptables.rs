//! Reads `iptables -S` and `ip6tables -S`: the old tables, which nft doesn't show.

use standin_core::types::Prefix;

use super::{Chain, Condition, Field, Rule, Value, Verdict};

/// The chains of the filter table; `family` is `ip` or `ip6`.
pub(crate) fn parse(text: &str, family: &str) -> Vec<Chain> {
    let mut chains: Vec<Chain> = Vec::new();
    for line in text.lines() {
        let words = split(line);
        match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            ["-P", name, policy, ..] => {
                let mut chain = empty(name, family);
                chain.policy_drops = *policy == "DROP";
                chain.hook = Some(name.to_ascii_lowercase());
                chains.push(chain);
            }
            ["-N", name, ..] => chains.push(empty(name, family)),
            ["-A", name, rest @ ..] => {
                if let Some(chain) = chains.iter_mut().find(|chain| chain.name == *name) {
                    chain.rules.push(rule(line, rest));
                }
            }
            _ => {}
        }
    }
    chains
}

fn empty(name: &str, family: &str) -> Chain {
    Chain {
        family: family.to_owned(),
        table: "filter".to_owned(),
        name: name.to_owned(),
        legacy: true,
        ..Chain::default()
    }
}

fn rule(line: &str, words: &[&str]) -> Rule {
    let mut conditions = Vec::new();
    let mut verdict = None;
    let mut negated = false;
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let mut is = |field, value: Option<Value>| {
            let values = vec![value.unwrap_or(Value::Unclear)];
            conditions.push(Condition::Is { field, negated, values });
        };
        let mut next = || words.next().copied().unwrap_or_default();
        match *word {
            "!" => {
                negated = true;
                continue;
            }
            "-p" => is(Field::Protocol, Some(Value::Word(next().to_owned()))),
            "-i" => is(Field::In, Some(Value::Word(next().to_owned()))),
            "-o" => is(Field::Out, Some(Value::Word(next().to_owned()))),
            "-s" => is(Field::Source, next().parse::<Prefix>().ok().map(Value::Net)),
            "-d" => is(Field::Destination, next().parse::<Prefix>().ok().map(Value::Net)),
            "--ctstate" | "--state" => {
                let states = next().split(',').map(|state| Value::Word(state.to_owned()));
                let values = states.collect();
                conditions.push(Condition::Is { field: Field::State, negated, values });
            }
            "-j" => {
                verdict = match next() {
                    "ACCEPT" | "NFQUEUE" => Some(Verdict::Accept),
                    "DROP" | "REJECT" => Some(Verdict::Drop),
                    "RETURN" => Some(Verdict::Return),
                    "LOG" | "NFLOG" | "MARK" | "CONNMARK" | "TRACE" => None,
                    chain => Some(Verdict::Jump(chain.to_owned())),
                };
                // What follows are the target's own options.
                break;
            }
            "-g" => verdict = Some(Verdict::Goto(next().to_owned())),
            "-m" => match next() {
                "comment" | "conntrack" | "state" | "tcp" | "multiport" => {}
                "udp" | "icmp" | "icmp6" => conditions.push(Condition::Elsewhere),
                _ => conditions.push(Condition::Unclear),
            },
            "--dport" | "--dports" => {
                let values = next().split(',').map(ports).collect();
                conditions.push(Condition::Is { field: Field::Port, negated, values });
            }
            "--sport" | "--sports" | "--ports" | "--tcp-flags" | "--syn" | "--tcp-option" => {
                conditions.push(Condition::Ports);
            }
            "--comment" => {
                next();
            }
            // Options of matches that are unclear already.
            _ => {}
        }
        negated = false;
    }
    Rule { name: format!("the rule `{}`", line.trim()), conditions, verdict }
}

/// `80`, `8000:9000`
fn ports(text: &str) -> Value {
    let (from, to) = text.split_once(':').unwrap_or((text, text));
    match (from.parse(), to.parse()) {
        (Ok(from), Ok(to)) => Value::Ports(from, to),
        _ => Value::Unclear,
    }
}

/// Words, with those in double quotes whole.
fn split(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for letter in line.chars() {
        match letter {
            '"' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            _ => words.last_mut().into_iter().for_each(|word| word.push(letter)),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use super::super::{Packet, Ruleset, What};
    use super::*;

    fn dropped(text: &str) -> Option<String> {
        let ruleset = Ruleset { chains: parse(text, "ip") };
        let advert = Packet {
            what: What::Advert,
            incoming: true,
            interface: "eth0",
            source: "10.0.0.2".parse().unwrap(),
            destination: "224.0.0.18".parse().unwrap(),
        };
        ruleset.drops(&advert).map(|dropped| {
            dropped.rule.map_or_else(|| "policy".to_owned(), |rule| rule.name.clone())
        })
    }

    #[test]
    fn a_host_that_lets_in_web_and_ssh_only_drops_vrrp() {
        let rules = "-P INPUT DROP\n-P FORWARD DROP\n-P OUTPUT ACCEPT\n\
                     -A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
                     -A INPUT -i lo -j ACCEPT\n\
                     -A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\n\
                     -A INPUT -p icmp -j ACCEPT\n";
        assert_eq!(dropped(rules).as_deref(), Some("policy"));
        for more in [
            "-A INPUT -p vrrp -j ACCEPT",
            "-A INPUT -p 112 -m comment --comment \"the -j DROP peers\" -j ACCEPT",
            "-A INPUT -s 10.0.0.0/8 -i eth+ -j ACCEPT",
            "-A INPUT ! -i lo -j ACCEPT",
            "-A INPUT -d 224.0.0.18/32 -j ACCEPT",
            "-A INPUT -m set --match-set peers src -j ACCEPT",
        ] {
            assert_eq!(dropped(&format!("{rules}{more}\n")), None, "{more}");
        }
    }

    #[test]
    fn a_peer_link_is_let_in_by_its_port_alone() {
        let link = |more: &str| {
            let text =
                format!("-P INPUT DROP\n-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\n{more}\n");
            let ruleset = Ruleset { chains: parse(&text, "ip") };
            let packet = Packet {
                what: What::Link(8412),
                incoming: true,
                interface: "eth0",
                source: "10.0.0.2".parse().unwrap(),
                destination: "10.0.0.1".parse().unwrap(),
            };
            ruleset.drops(&packet).is_some()
        };
        for dropped in [
            "",
            "-A INPUT -p udp -m udp --dport 8412 -j ACCEPT",
            "-A INPUT -p tcp -m multiport --dports 80,443,8000:8100 -j ACCEPT",
            "-A INPUT -p tcp -m tcp ! --dport 8412 -j ACCEPT",
        ] {
            assert!(link(dropped), "{dropped}");
        }
        for accepted in [
            "-A INPUT -p tcp -m tcp --dport 8412 -j ACCEPT",
            "-A INPUT -p tcp -m multiport --dports 80,8400:8500 -j ACCEPT",
            "-A INPUT -p tcp -m tcp ! --dport 80 -j ACCEPT",
            "-A INPUT -p tcp -m tcp --sport 8412 -j ACCEPT",
            "-A INPUT -s 10.0.0.2/32 -j ACCEPT",
        ] {
            assert!(!link(accepted), "{accepted}");
        }
    }

    #[test]
    fn a_rule_in_another_chain_is_named_by_its_line() {
        let rules = "-P INPUT ACCEPT\n-N RH-Firewall-1-INPUT\n\
                     -A INPUT -j RH-Firewall-1-INPUT\n\
                     -A RH-Firewall-1-INPUT -p tcp -j ACCEPT\n\
                     -A RH-Firewall-1-INPUT -j REJECT --reject-with icmp-host-prohibited\n";
        assert_eq!(
            dropped(rules).as_deref(),
            Some("the rule `-A RH-Firewall-1-INPUT -j REJECT --reject-with icmp-host-prohibited`")
        );
    }
}
