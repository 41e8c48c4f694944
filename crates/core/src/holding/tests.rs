//! The order of the steps, and what is recorded before each of them.

mod own_links;

use super::*;

const WEB: VipId = VipId(0);
const API: VipId = VipId(1);

/// Indexes of links are above this.
const FIRST_LINK: u32 = 10;

fn key(text: &str) -> Key {
    (2, text.parse().unwrap())
}

fn hold(vip: VipId, prefix: &str) -> Order {
    Order::Hold {
        vip,
        number: 1,
        interface: "eth0".into(),
        index: Some(2),
        prefixes: vec![prefix.parse().unwrap()],
        goodbyes: Vec::new(),
        virtual_mac: None,
    }
}

/// A host whose settings are all 0 and whose kernel refuses nothing.
#[derive(Default)]
struct Host {
    settings: BTreeMap<String, String>,
    addresses: BTreeSet<Key>,
    recorded: State,
    told: Vec<String>,
    links: BTreeMap<u32, OwnLink>,
    /// How many ever were.
    made: u32,
    speaks: BTreeSet<u32>,
}

impl Host {
    fn run(&mut self, holding: &mut Holding) {
        while let Some(step) = holding.next_step() {
            assert!(holding.next_step().is_none(), "one step at a time");
            let answer = self.done(step);
            holding.answer(answer);
            self.nothing_is_unknown();
        }
        assert!(holding.idle());
    }

    fn done(&mut self, step: Step) -> Answer {
        match step {
            Step::Record(state) => {
                self.recorded = state;
                self.told.push("record".into());
            }
            Step::Look { path } => {
                return Answer::Value(
                    self.settings.get(&path).cloned().unwrap_or_else(|| "0".into()),
                );
            }
            Step::Set { path, value } => {
                self.told.push(format!("set {path}"));
                self.settings.insert(path, value.clone());
                return Answer::Value(value);
            }
            Step::PutBack(setting) => {
                self.told.push(format!("put back {}", setting.path));
                self.settings.remove(&setting.path);
            }
            Step::Change { batch, .. } => {
                for change in &batch {
                    match change {
                        Change::Hold { key } | Change::Serve { key, .. } => {
                            assert!(key.0 < FIRST_LINK || self.links.contains_key(&key.0));
                            self.addresses.insert(*key)
                        }
                        Change::Keep { address } => self.addresses.insert(on_loopback(*address)),
                        Change::Drop { key } => {
                            assert!(!self.speaks.contains(&key.0), "it is silent first");
                            self.addresses.remove(key)
                        }
                    };
                }
                self.told.push(format!("change {}", batch.len()));
                return Answer::Results(vec![Ok(()); batch.len()]);
            }
            Step::Settled { vip, outcome, .. } => self.told.push(format!("{} {outcome:?}", vip.0)),
            Step::Complain(text) => self.told.push(text),
            Step::MakeLink(link) => {
                self.told.push("make".into());
                let known = self.links.iter().find(|(_, one)| **one == link);
                let index = known.map(|(index, _)| *index);
                let index = index.unwrap_or_else(|| {
                    self.made += 1;
                    FIRST_LINK + self.made
                });
                self.links.insert(index, link);
                return Answer::Index(index);
            }
            Step::Silence(links) => {
                self.told.push(format!("silence {}", links.len()));
                links.iter().for_each(|link| _ = self.speaks.remove(link));
            }
            Step::LetSpeak(links) => {
                self.told.push(format!("speak {}", links.len()));
                for link in links {
                    assert!(self.addresses.iter().any(|key| key.0 == link), "nobody is there");
                    self.speaks.insert(link);
                }
            }
            Step::RemoveLinks(links) => {
                self.told.push(format!("remove {}", links.len()));
                for (index, _) in self.links.extract_if(.., |_, link| links.contains(link)) {
                    assert!(!self.speaks.contains(&index), "{:?}", self.told);
                    assert!(!self.addresses.iter().any(|key| key.0 == index), "{:?}", self.told);
                }
            }
        }
        Answer::Done
    }

    /// The guard could undo everything at every moment.
    fn nothing_is_unknown(&self) {
        for key in &self.addresses {
            assert!(self.recorded.addresses.contains(key), "{key:?}: {:?}", self.told);
        }
        for link in self.links.values() {
            assert!(self.recorded.links.contains(link), "{link:?}: {:?}", self.told);
        }
        for path in self.settings.keys() {
            assert!(self.recorded.settings.iter().any(|it| it.path == *path), "{:?}", self.told);
        }
    }
}

#[test]
fn a_hold_and_its_release_leave_nothing() {
    let (mut holding, mut host) = (Holding::default(), Host::default());
    holding.orders([hold(WEB, "10.0.0.41/24")]);
    host.run(&mut holding);
    let promote = "net/ipv4/conf/eth0/promote_secondaries";
    let set = format!("set {promote}");
    assert_eq!(host.told, ["record", &set, "record", "change 1", "0 Held", "record"]);
    host.told.clear();
    holding.orders([Order::Release { vip: WEB, number: 2 }]);
    host.run(&mut holding);
    let put_back = format!("put back {promote}");
    assert_eq!(host.told, ["record", "change 1", "0 Released", &put_back, "record"]);
    assert_eq!(host.recorded, State::default());
    assert!(host.addresses.is_empty() && host.settings.is_empty() && holding.is_empty());
}

#[test]
fn an_address_that_is_released_beside_a_stay_is_known_until_it_has_gone() {
    let (mut holding, mut host) = (Holding::default(), Host::default());
    holding.orders([hold(WEB, "10.0.0.41/24"), hold(API, "10.0.0.42/24")]);
    host.run(&mut holding);
    let stay = Order::Stay { vip: API, number: 3, interfaces: vec!["eth0".into(), "eth1".into()] };
    holding.orders([Order::Release { vip: WEB, number: 2 }, stay]);
    host.run(&mut holding);
    let on_lo = on_loopback("10.0.0.42".parse().unwrap());
    assert_eq!(host.addresses, [on_lo].into());
    assert_eq!(holding.owner(on_lo), Some(Owner::Stays));
    assert_eq!(host.settings.len(), 4, "what is needed for what stays: {:?}", host.settings);
    holding.orders([Order::Leave { vip: API }]);
    host.run(&mut holding);
    assert!(host.addresses.is_empty() && host.settings.is_empty());
    assert_eq!(host.recorded, State::default());
}

#[test]
fn what_comes_back_is_on_the_interface_before_it_leaves_the_loopback_link() {
    let (mut holding, mut host) = (Holding::default(), Host::default());
    holding.orders([hold(WEB, "10.0.0.41/24")]);
    holding.orders([Order::Stay { vip: WEB, number: 3, interfaces: vec!["eth0".into()] }]);
    host.run(&mut holding);
    host.told.clear();
    holding.orders([hold(WEB, "10.0.0.41/24")]);
    host.run(&mut holding);
    let place = |what: &str| host.told.iter().position(|told| told == what);
    assert!(place("0 Held") < host.told.iter().rposition(|told| told == "change 1"));
    assert_eq!(host.addresses, [key("10.0.0.41/24")].into());
}

#[test]
fn what_is_to_stay_behind_an_order_that_broke_off_stays() {
    let (mut holding, mut host) = (Holding::default(), Host::default());
    holding.orders([hold(WEB, "192.0.2.41/24"), hold(API, "192.0.2.42/24")]);
    host.run(&mut holding);
    let stay = |vip| Order::Stay { vip, number: 2, interfaces: vec!["eth0".into()] };
    // A stop moves all VIPs away in one moment, and netlink fails at the first change.
    holding.orders([stay(WEB), stay(API)]);
    loop {
        match holding.next_step().unwrap() {
            Step::Change { .. } => break,
            step => {
                let answer = host.done(step);
                holding.answer(answer);
            }
        }
    }
    holding.broken_off();
    let present: Vec<Key> = host.addresses.iter().copied().collect();
    holding.again(present);
    host.told.clear();
    host.run(&mut holding);
    let on_lo = ["192.0.2.41", "192.0.2.42"].map(|it| on_loopback(it.parse().unwrap()));
    assert_eq!(host.addresses, BTreeSet::from(on_lo), "{:?}", host.told);
    // At the end nothing is put there any more.
    holding.orders([hold(API, "192.0.2.42/24")]);
    host.run(&mut holding);
    holding.orders([stay(API)]);
    holding.end();
    host.run(&mut holding);
    assert!(host.addresses.is_empty(), "{:?}", host.told);
}

#[test]
fn a_hold_and_a_stay_of_the_same_moment_are_a_hold() {
    let (mut holding, mut host) = (Holding::default(), Host::default());
    holding.orders([hold(WEB, "10.0.0.41/24")]);
    host.run(&mut holding);
    let stay = Order::Stay { vip: WEB, number: 3, interfaces: vec!["eth0".into()] };
    holding.orders([stay, hold(WEB, "10.0.0.41/24")]);
    host.run(&mut holding);
    assert_eq!(host.addresses, [key("10.0.0.41/24")].into());
}

#[test]
fn a_vip_of_which_one_address_is_refused_is_not_held_at_all() {
    let (mut holding, mut host) = (Holding::default(), Host::default());
    let mut order = hold(WEB, "10.0.0.41/24");
    if let Order::Hold { prefixes, .. } = &mut order {
        prefixes.push("10.0.0.43/24".parse().unwrap());
    }
    holding.orders([order]);
    while let Some(step) = holding.next_step() {
        let refuses = matches!(&step, Step::Change { batch, .. } if batch.len() == 2);
        let mut answer = host.done(step);
        if refuses {
            host.addresses.remove(&key("10.0.0.43/24"));
            answer = Answer::Results(vec![Ok(()), Err(99)]);
        }
        holding.answer(answer);
        host.nothing_is_unknown();
    }
    assert!(host.told.contains(&"0 Refused { errno: 99 }".to_owned()), "{:?}", host.told);
    assert!(host.addresses.is_empty() && host.settings.is_empty());
}

#[test]
fn a_new_daemon_removes_what_an_earlier_one_left_before_it_puts_settings_back() {
    let setting = |name: &str| Setting { path: name.into(), old: "0".into(), new: "1".into() };
    let mut host = Host { addresses: [key("10.0.0.41/24")].into(), ..Host::default() };
    host.settings.extend([("a".into(), "1".into()), ("b".into(), "1".into())]);
    let left = vec![setting("a"), setting("b")];
    let mut holding = Holding::begun([key("10.0.0.41/24")], [], left);
    host.run(&mut holding);
    assert_eq!(host.told, ["record", "change 1", "put back b", "put back a", "record"]);
    assert!(host.addresses.is_empty() && host.settings.is_empty());
}

#[test]
fn what_a_successor_does_not_hold_again_goes_and_the_rest_stays_all_the_time() {
    let (mut before, mut host) = (Holding::default(), Host::default());
    before.orders([hold(WEB, "10.0.0.41/24"), hold(API, "10.0.0.42/24")]);
    host.run(&mut before);
    let mut after = Holding::resumed(host.recorded.clone(), host.addresses.clone(), []);
    after.orders([hold(API, "10.0.0.42/24")]);
    host.run(&mut after);
    assert_eq!(host.addresses.len(), 2, "somebody may hold the other one again soon");
    after.disinherit();
    host.run(&mut after);
    assert_eq!(host.addresses, [key("10.0.0.42/24")].into());
    assert_eq!(host.settings.len(), 1);
    after.end();
    host.run(&mut after);
    assert!(host.addresses.is_empty() && host.settings.is_empty());
}

#[test]
fn a_setting_that_cannot_be_written_cuts_connections_and_nothing_else() {
    let (mut holding, mut host) = (Holding::default(), Host::default());
    holding.orders([hold(WEB, "10.0.0.41/24")]);
    host.run(&mut holding);
    holding.orders([Order::Stay { vip: WEB, number: 3, interfaces: vec!["eth0".into()] }]);
    while let Some(step) = holding.next_step() {
        let answer = match step {
            Step::Set { .. } => Answer::Failed("read-only".into()),
            step => host.done(step),
        };
        holding.answer(answer);
    }
    assert!(host.told.iter().any(|told| told.contains("connections to the VIP are cut")));
    assert!(host.told.contains(&"0 Released".to_owned()));
    assert!(host.addresses.is_empty() && host.settings.is_empty());
    assert_eq!(host.recorded, State::default());
}
