//! Reads `nft --json list ruleset` (libnftables-json(5)).

use std::net::IpAddr;

use serde_json::Value as Json;
use standin_core::types::Prefix;

use super::{Chain, Condition, Field, Rule, Ruleset, Value, Verdict};

/// `None` when this is no rule set.
pub(crate) fn parse(text: &str) -> Option<Ruleset> {
    let whole: Json = serde_json::from_str(text).ok()?;
    let entries = whole.get("nftables")?.as_array()?;
    let mut ruleset = Ruleset::default();
    for entry in entries {
        if let Some(chain) = entry.get("chain") {
            ruleset.chains.push(Chain {
                family: word(chain, "family"),
                table: word(chain, "table"),
                name: word(chain, "name"),
                // Chains of the other types translate addresses; they drop nothing.
                hook: (word(chain, "type") == "filter").then(|| word(chain, "hook")),
                policy_drops: word(chain, "policy") == "drop",
                rules: Vec::new(),
                legacy: false,
            });
        } else if let Some(rule) = entry.get("rule") {
            let at = (word(rule, "family"), word(rule, "table"), word(rule, "chain"));
            let chain = ruleset
                .chains
                .iter_mut()
                .find(|chain| (&chain.family, &chain.table, &chain.name) == (&at.0, &at.1, &at.2));
            if let Some(chain) = chain {
                chain.rules.extend(rules(rule));
            }
        }
    }
    Some(ruleset)
}

fn word(object: &Json, key: &str) -> String {
    object.get(key).and_then(Json::as_str).unwrap_or_default().to_owned()
}

/// One rule, or with a verdict map one for each of its elements.
fn rules(rule: &Json) -> Vec<Rule> {
    let handle = rule.get("handle").and_then(Json::as_u64).unwrap_or_default();
    let name = format!("the rule with handle {handle}");
    let mut conditions = Vec::new();
    let mut found = Vec::new();
    for statement in rule.get("expr").and_then(Json::as_array).into_iter().flatten() {
        let Some((kind, body)) = statement.as_object().and_then(|object| object.iter().next())
        else {
            continue;
        };
        let verdict = match kind.as_str() {
            "match" => {
                conditions.push(condition(body));
                continue;
            }
            "vmap" => {
                found.extend(mapped(&name, &conditions, body));
                continue;
            }
            "limit" | "xt" | "quota" => {
                conditions.push(Condition::Unclear);
                continue;
            }
            // Someone else decides.
            "queue" | "tproxy" | "synproxy" => Verdict::Accept,
            _ => match verdict(kind, body) {
                Some(verdict) => verdict,
                None => continue,
            },
        };
        let conditions = conditions.clone();
        found.push(Rule { name: name.clone(), conditions, verdict: Some(verdict) });
    }
    found
}

fn verdict(kind: &str, body: &Json) -> Option<Verdict> {
    Some(match kind {
        "accept" => Verdict::Accept,
        "drop" | "reject" => Verdict::Drop,
        "return" => Verdict::Return,
        "jump" => Verdict::Jump(word(body, "target")),
        "goto" => Verdict::Goto(word(body, "target")),
        _ => return None,
    })
}

fn mapped(name: &str, before: &[Condition], map: &Json) -> Vec<Rule> {
    let rule = |condition: Condition, verdict: Verdict| {
        let conditions = before.iter().cloned().chain([condition]).collect();
        Rule { name: name.to_owned(), conditions, verdict: Some(verdict) }
    };
    let elements = map.get("data").and_then(|data| data.get("set")).and_then(Json::as_array);
    let Some(elements) = elements else {
        // A named map: it may accept.
        return vec![rule(Condition::Unclear, Verdict::Accept)];
    };
    let field = map.get("key").and_then(field);
    let pairs = elements.iter().filter_map(|element| {
        let pair = element.as_array()?;
        let (kind, body) = pair.get(1)?.as_object()?.iter().next()?;
        Some((pair.first()?, verdict(kind, body)?))
    });
    pairs
        .map(|(value, verdict)| {
            let condition = match &field {
                Some(Ok(field)) => Condition::Is {
                    field: *field,
                    negated: false,
                    values: vec![self::value(value)],
                },
                Some(Err(Never(condition))) => condition.clone(),
                None => Condition::Unclear,
            };
            rule(condition, verdict)
        })
        .collect()
}

fn condition(body: &Json) -> Condition {
    let field = match body.get("left").and_then(field) {
        Some(Ok(field)) => field,
        Some(Err(Never(condition))) => return condition,
        None => return Condition::Unclear,
    };
    let negated = match word(body, "op").as_str() {
        "==" | "in" => false,
        "!=" => true,
        _ => return Condition::Unclear,
    };
    let Some(right) = body.get("right") else { return Condition::Unclear };
    let many = right.as_array().or_else(|| right.get("set").and_then(Json::as_array));
    let values = match many {
        Some(many) => many.iter().map(value).collect(),
        None => vec![value(right)],
    };
    Condition::Is { field, negated, values }
}

/// A field that VRRP hasn't got, and what it is to TCP.
struct Never(Condition);

/// `None` for a field that isn't understood.
fn field(left: &Json) -> Option<Result<Field, Never>> {
    if let Some(payload) = left.get("payload") {
        return match (word(payload, "protocol").as_str(), word(payload, "field").as_str()) {
            ("ip", "protocol") | ("ip6", "nexthdr") => Some(Ok(Field::Protocol)),
            ("ip" | "ip6", "saddr") => Some(Ok(Field::Source)),
            ("ip" | "ip6", "daddr") => Some(Ok(Field::Destination)),
            ("tcp", "dport") => Some(Ok(Field::Port)),
            ("tcp", _) => Some(Err(Never(Condition::Ports))),
            ("udp" | "icmp" | "icmpv6" | "sctp" | "dccp" | "igmp" | "esp" | "ah", _) => {
                Some(Err(Never(Condition::Elsewhere)))
            }
            _ => None,
        };
    }
    if let Some(meta) = left.get("meta") {
        return match word(meta, "key").as_str() {
            "l4proto" => Some(Ok(Field::Protocol)),
            "iif" | "iifname" => Some(Ok(Field::In)),
            "oif" | "oifname" => Some(Ok(Field::Out)),
            "pkttype" => Some(Ok(Field::Cast)),
            "nfproto" | "protocol" => Some(Ok(Field::Family)),
            _ => None,
        };
    }
    let key = left.get("ct").map(|ct| word(ct, "key"))?;
    (key == "state").then_some(Ok(Field::State))
}

fn value(right: &Json) -> Value {
    let address = |json: &Json| json.as_str().and_then(|text| text.parse::<IpAddr>().ok());
    // An element with a timeout or a comment.
    let right = right.get("elem").and_then(|elem| elem.get("val")).unwrap_or(right);
    if let Some(number) = right.as_u64() {
        return Value::Word(number.to_string());
    }
    if let Some(address) = address(right) {
        return Value::Net(Prefix::host(address));
    }
    if let Some(text) = right.as_str() {
        // A named set.
        let unclear = text.starts_with('@');
        return if unclear { Value::Unclear } else { Value::Word(text.to_owned()) };
    }
    let net = right.get("prefix").and_then(|prefix| {
        let len = u8::try_from(prefix.get("len")?.as_u64()?).ok()?;
        Prefix::new(address(prefix.get("addr")?)?, len)
    });
    let range =
        right.get("range").and_then(Json::as_array).and_then(|ends| match ends.as_slice() {
            [from, to] => {
                ports(from, to).or_else(|| Some(Value::Range(address(from)?, address(to)?)))
            }
            _ => None,
        });
    net.map(Value::Net).or(range).unwrap_or(Value::Unclear)
}

fn ports(from: &Json, to: &Json) -> Option<Value> {
    let port = |json: &Json| u16::try_from(json.as_u64()?).ok();
    Some(Value::Ports(port(from)?, port(to)?))
}

#[cfg(test)]
mod tests {
    use super::super::{Packet, What};
    use super::*;

    /// As `nft -j list ruleset` of nftables 1.0.6 prints it.
    fn dropped(rules: &str, advert: Packet<'_>) -> Option<String> {
        let chain = r#"{"chain":{"family":"inet","table":"filter","name":"input","handle":1,"type":"filter","hook":"input","prio":0,"policy":"drop"}},
            {"chain":{"family":"inet","table":"filter","name":"lan","handle":2}}"#;
        let text = format!(r#"{{"nftables":[{chain}{rules}]}}"#);
        let ruleset = parse(&text).unwrap_or_else(|| panic!("{text}"));
        ruleset.drops(&advert).map(|dropped| {
            dropped.rule.map_or_else(|| "policy".to_owned(), |rule| rule.name.clone())
        })
    }

    fn rule(chain: &str, expr: &str) -> String {
        format!(
            r#",{{"rule":{{"family":"inet","table":"filter","chain":"{chain}","handle":7,"expr":[{expr}]}}}}"#
        )
    }

    fn advert() -> Packet<'static> {
        Packet {
            what: What::Advert,
            incoming: true,
            interface: "eth0",
            source: "10.0.0.2".parse().unwrap(),
            destination: "224.0.0.18".parse().unwrap(),
        }
    }

    fn equal(left: &str, right: &str) -> String {
        format!(r#"{{"match":{{"op":"==","left":{left},"right":{right}}}}}"#)
    }

    const PROTOCOL: &str = r#"{"payload":{"protocol":"ip","field":"protocol"}}"#;
    const SOURCE: &str = r#"{"payload":{"protocol":"ip","field":"saddr"}}"#;
    const IIFNAME: &str = r#"{"meta":{"key":"iifname"}}"#;
    const ACCEPT: &str = r#"{"accept":null}"#;

    fn input(conditions: &[String], verdict: &str) -> String {
        rule("input", &format!("{},{verdict}", conditions.join(",")))
    }

    #[test]
    fn a_policy_of_drop_drops_what_no_rule_accepts() {
        assert_eq!(dropped("", advert()).as_deref(), Some("policy"));
        let tcp = input(&[equal(PROTOCOL, r#"{"set":["tcp","udp"]}"#)], ACCEPT);
        assert_eq!(dropped(&tcp, advert()).as_deref(), Some("policy"));
        let established = r#"{"match":{"op":"in","left":{"ct":{"key":"state"}},"right":["established","related"]}}"#;
        let established = input(&[established.to_owned()], ACCEPT);
        assert_eq!(dropped(&established, advert()).as_deref(), Some("policy"));
        assert_eq!(dropped("", Packet { incoming: false, ..advert() }), None, "nothing at output");
    }

    #[test]
    fn every_way_to_accept_vrrp_accepts_it() {
        let ways = [
            vec![equal(PROTOCOL, r#""vrrp""#)],
            vec![equal(PROTOCOL, "112")],
            vec![equal(r#"{"meta":{"key":"l4proto"}}"#, r#""vrrp""#)],
            vec![equal(IIFNAME, r#""eth0""#)],
            vec![equal(IIFNAME, r#""et*""#)],
            vec![equal(IIFNAME, r#"{"set":["lo","eth*"]}"#)],
            vec![equal(SOURCE, r#""10.0.0.2""#)],
            vec![equal(SOURCE, r#"{"prefix":{"addr":"10.0.0.0","len":24}}"#)],
            vec![equal(SOURCE, r#"{"range":["10.0.0.1","10.0.0.9"]}"#)],
            vec![equal(r#"{"meta":{"key":"pkttype"}}"#, r#""multicast""#)],
        ];
        for way in ways {
            assert_eq!(dropped(&input(&way, ACCEPT), advert()), None, "{way:?}");
        }
    }

    #[test]
    fn what_is_not_understood_is_no_reason_to_complain() {
        let named_set = input(&[equal(SOURCE, r#""@peers""#)], ACCEPT);
        assert_eq!(dropped(&named_set, advert()), None);
        let by_xt = rule("input", r#"{"xt":null},{"accept":null}"#);
        assert_eq!(dropped(&by_xt, advert()), None);
        let elsewhere = input(&[equal(SOURCE, r#""10.0.0.3""#)], ACCEPT);
        assert!(dropped(&elsewhere, advert()).is_some());
    }

    #[test]
    fn jumps_return_and_rules_that_reject_are_named() {
        let jump = rule("input", r#"{"jump":{"target":"lan"}}"#);
        let drop = rule("lan", r#"{"reject":{"type":"icmpx","expr":"admin-prohibited"}}"#);
        let name = "the rule with handle 7";
        assert_eq!(dropped(&format!("{jump}{drop}"), advert()).as_deref(), Some(name));
        assert_eq!(dropped(&jump, advert()).as_deref(), Some("policy"), "back again");
        let circle = rule("lan", r#"{"jump":{"target":"lan"}}"#);
        assert_eq!(dropped(&format!("{jump}{circle}"), advert()), None, "ends");
    }

    #[test]
    fn a_verdict_map_is_as_many_rules() {
        let map = |key: &str| {
            let data =
                format!(r#"{{"set":[["{key}",{{"accept":null}}],["invalid",{{"drop":null}}]]}}"#);
            rule(
                "input",
                &format!(r#"{{"vmap":{{"key":{{"ct":{{"key":"state"}}}},"data":{data}}}}}"#),
            )
        };
        assert_eq!(dropped(&map("new"), advert()), None);
        assert!(dropped(&map("established"), advert()).is_some());
    }

    #[test]
    fn a_peer_link_is_let_in_by_its_port_alone() {
        let link =
            Packet { what: What::Link(8412), destination: "10.0.0.1".parse().unwrap(), ..advert() };
        let port = r#"{"payload":{"protocol":"tcp","field":"dport"}}"#;
        let udp = r#"{"payload":{"protocol":"udp","field":"dport"}}"#;
        let with = |left: &str, right: &str| dropped(&input(&[equal(left, right)], ACCEPT), link);
        assert!(dropped("", link).is_some());
        for others in [r#"{"set":[22,80,443]}"#, r#"{"range":[8000,8411]}"#] {
            assert!(with(port, others).is_some(), "{others}");
        }
        assert!(with(udp, "8412").is_some());
        assert!(with(PROTOCOL, r#""vrrp""#).is_some());
        for way in ["8412", r#"{"set":[22,{"range":[8000,9000]}]}"#, r#""@open""#] {
            assert_eq!(with(port, way), None, "{way}");
        }
        assert_eq!(with(PROTOCOL, r#""tcp""#), None);
        assert_eq!(with(r#"{"payload":{"protocol":"th","field":"dport"}}"#, "80"), None);
    }

    #[test]
    fn what_is_no_rule_set_is_none() {
        assert_eq!(parse(""), None);
        assert_eq!(parse("{}"), None);
        assert_eq!(parse(r#"{"nftables":[1,{"rule":{}},{"chain":3}]}"#).unwrap().chains.len(), 1);
    }
}
