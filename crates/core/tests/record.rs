//! A record reads back as it was written, and damaged ones are refused with their line.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail loudly")]

use std::net::IpAddr;
use std::time::Duration;

use proptest::prelude::*;
use standin_core::election::handover::Handover;
use standin_core::election::told::Says;
use standin_core::event::Standing;
use standin_core::plan::{
    AllIneligible, Announce, CheckPlan, ChecksumStyle, Failback, Member, Mode, NodePlan, Plan,
    Version, VipPlan,
};
use standin_core::record::{Entry, HEADER, Recorded, parse, write};
use standin_core::types::{
    CheckId, Instant, InterfaceId, IntervalCs, Mac, NodeId, Prefix, Priority, VipId, Vrid,
};
use standin_core::wire::vrrp::Envelope;
use standin_core::{Command, InterfaceState, Outcome, Verdict};

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from)]
}

fn interface_state() -> impl Strategy<Value = InterfaceState> {
    let mac = proptest::option::of(any::<[u8; 6]>().prop_map(Mac));
    let link_local = proptest::option::of(any::<[u8; 16]>().prop_map(Into::into));
    (any::<bool>(), mac, link_local, any::<[bool; 2]>())
        .prop_map(|(up, mac, link_local, deaf)| InterfaceState { up, mac, link_local, deaf })
}

fn wait() -> impl Strategy<Value = Duration> {
    any::<u32>().prop_map(|wait| Duration::from_nanos(u64::from(wait) * 1_001))
}

fn vip() -> impl Strategy<Value = VipPlan> {
    let prefix = (address(), 0..=32_u8).prop_filter_map("a prefix", |(a, l)| Prefix::new(a, l));
    let member = (any::<u8>(), any::<u8>())
        .prop_map(|(node, priority)| Member { node: NodeId(node), priority: Priority(priority) });
    let words = (".*", 1..=255_u8, any::<u16>(), 1..=4095_u16);
    let lists = (
        proptest::collection::vec(prefix, 0..4),
        proptest::collection::vec(member, 0..4),
        proptest::collection::vec(any::<u16>().prop_map(CheckId), 0..4),
    );
    let switches = (any::<[bool; 5]>(), proptest::option::of(any::<[u8; 8]>()), any::<u8>());
    (words, lists, switches, proptest::option::of(wait()), wait(), wait()).prop_map(
        |(words, lists, switches, failback, hold_down, refresh)| {
            let ((name, vrid, interface, interval), (addresses, members, checks)) = (words, lists);
            let ([three, pseudo, unicast, keep, accept_unknown], password, repeat) = switches;
            VipPlan {
                name,
                vrid: Vrid::new(vrid).unwrap(),
                interface: InterfaceId(interface),
                addresses,
                advert_interval: IntervalCs::new(interval).unwrap(),
                version: if three { Version::V3 } else { Version::V2 },
                checksum: if pseudo {
                    ChecksumStyle::WithPseudoHeader
                } else {
                    ChecksumStyle::WithoutPseudoHeader
                },
                mode: if unicast { Mode::Unicast } else { Mode::Multicast },
                password,
                members,
                failback: failback.map_or(Failback::Never, Failback::After),
                hold_down,
                witness: checks.iter().rev().copied().collect(),
                heartbeat: checks.iter().map(|check| InterfaceId(check.0)).collect(),
                checks,
                all_ineligible: if keep { AllIneligible::Keep } else { AllIneligible::Drop },
                accept_unknown,
                announce: Announce { repeat, refresh },
                virtual_mac: accept_unknown,
            }
        },
    )
}

fn plan() -> impl Strategy<Value = Plan> {
    let node = (".*", proptest::collection::vec(address(), 0..3), any::<bool>())
        .prop_map(|(name, addresses, vrrp_only)| NodePlan { name, addresses, vrrp_only });
    let check = (".*", any::<u8>(), any::<u8>()).prop_map(|(name, rise, fall)| CheckPlan {
        name,
        rise,
        fall,
    });
    (
        ".*",
        any::<u8>(),
        proptest::collection::vec(node, 0..4),
        proptest::collection::vec(".*", 0..3),
        proptest::collection::vec(check, 0..3),
        proptest::collection::vec(vip(), 0..3),
    )
        .prop_map(|(cluster, me, nodes, interfaces, checks, vips)| Plan {
            cluster,
            me: NodeId(me),
            nodes,
            interfaces,
            checks,
            vips,
        })
}

fn recorded() -> impl Strategy<Value = Recorded> {
    let interface = || any::<u16>().prop_map(InterfaceId);
    let verdict = prop_oneof![Just(Verdict::Pass), Just(Verdict::Fail), Just(Verdict::Dead)];
    let outcome = prop_oneof![
        Just(Outcome::Held),
        Just(Outcome::Released),
        any::<i32>().prop_map(|errno| Outcome::Refused { errno })
    ];
    let command = prop_oneof![
        Just(Command::MaintenanceOff),
        proptest::option::of(wait()).prop_map(|gap| Command::AwaitVacancy { vip: VipId(3), gap }),
        Just(Command::Stop),
        (any::<u16>(), any::<u8>())
            .prop_map(|(vip, to)| Command::SwitchTo { vip: VipId(vip), to: NodeId(to) }),
        proptest::option::of(wait()).prop_map(|lasting| Command::MaintenanceOn { lasting })
    ];
    let standing = proptest::option::of(prop_oneof![
        Just(Standing::Eligible),
        Just(Standing::Pending),
        Just(Standing::HeldDown),
        Just(Standing::Ineligible)
    ]);
    let says = (standing, any::<bool>(), proptest::option::of(any::<bool>())).prop_map(
        |(standing, active, hears_me)| standing.map(|standing| Says { standing, active, hears_me }),
    );
    let payload = proptest::collection::vec(any::<u8>(), 0..64);
    prop_oneof![
        Just(Recorded::Tick),
        (interface(), address(), address(), any::<u8>(), payload).prop_map(
            |(interface, source, destination, hop_limit, payload)| {
                let envelope = Envelope { source, destination, hop_limit };
                Recorded::Advert { interface, envelope, payload }
            }
        ),
        (interface(), address(), any::<[u8; 6]>()).prop_map(|(interface, address, mac)| {
            Recorded::Sighting { interface, address, mac: Mac(mac) }
        }),
        (interface(), interface_state())
            .prop_map(|(interface, state)| Recorded::Interface { interface, state }),
        proptest::collection::vec(address(), 0..4).prop_map(Recorded::OwnAddresses),
        (any::<u16>(), verdict, ".*").prop_map(|(check, verdict, detail)| Recorded::Check {
            check: CheckId(check),
            verdict,
            detail
        }),
        (any::<u16>(), outcome)
            .prop_map(|(vip, outcome)| Recorded::Settled { vip: VipId(vip), outcome }),
        (any::<u16>(), address())
            .prop_map(|(vip, address)| Recorded::Restored { vip: VipId(vip), address }),
        (any::<u16>(), any::<u8>(), says).prop_map(|(vip, node, says)| Recorded::Peer {
            vip: VipId(vip),
            node: NodeId(node),
            says
        }),
        (any::<u16>(), any::<u8>(), any::<u64>(), any::<u64>()).prop_map(
            |(vip, from, epoch, released)| {
                let released = Instant::from_nanos(released);
                let handover = Handover { from: NodeId(from), epoch, released };
                Recorded::TakeOver { vip: VipId(vip), handover }
            }
        ),
        command.prop_map(Recorded::Command),
        plan().prop_map(|plan| Recorded::Plan(Box::new(plan))),
    ]
}

proptest! {
    #[test]
    fn a_record_reads_back_as_written(
        entries in proptest::collection::vec((any::<u64>(), recorded()), 0..6)
    ) {
        let entries: Vec<Entry> = entries
            .into_iter()
            .map(|(at, input)| Entry { at: Instant::from_nanos(at), input })
            .collect();
        let mut text = format!("{HEADER}\n");
        for entry in &entries {
            write(entry, &mut text);
            prop_assert_eq!(&Recorded::of(&entry.input.input()), &entry.input);
        }
        prop_assert_eq!(text.lines().count(), entries.len() + 1, "one line an input");
        prop_assert_eq!(parse(&text), Ok(entries));
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in ".*", line in "[0-9]{1,4} [a-z]{3,9}( [-%0-9a-z:.]{1,6}){0,8}") {
        let _ = parse(&text);
        let _ = parse(&format!("{HEADER}\n{line}"));
    }
}

#[test]
fn what_cannot_be_read_is_named_with_its_line() {
    for (line, why) in [
        ("5 jump", "jump is no input"),
        ("x tick", "x is not the time"),
        ("5 tick tock", "one word too many"),
        ("5 advert 0 10.0.0.1 224.0.0.18 255 xyz", "isn't hexadecimal"),
        ("5 settled 0 perhaps", "is no outcome"),
        ("5 plan edge 0 99999999", "longer than any plan"),
    ] {
        let refused = parse(&format!("{HEADER}\n1 tick\n{line}\n")).unwrap_err();
        assert_eq!(refused.line, 3);
        assert!(refused.why.contains(why), "{line}: {refused}");
    }
    assert_eq!(parse("").unwrap_err().line, 1);
}
