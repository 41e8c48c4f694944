//! Links of our own, for VIPs with a virtual MAC (RFC 9568 §7.3): a macvlan for each family, which is
//! there only while this node has the VIP.
//!
//! ```text
//!   hold ──▶ made, silent ──▶ addresses on it ──▶ speaks ──▶ settled
//!   release ──▶ silenced, addresses off ──▶ settled ──▶ removed (the kernel takes some 20 ms for that)
//!   stay ──▶ silenced, addresses to lo ──▶ settled ──▶ hears for a moment more ──▶ removed
//! ```
//! What it sends teaches switches where the MAC is: a node that gives the VIP up is silent first.

use std::io;
use std::time::Duration;

use standin_core::types::{Family, Instant, Mac, Prefix, VipId, Vrid};
use standin_linux::clock::now;
use standin_linux::netlink::{Change, FALLBACKS, Link, name_of};
use standin_linux::sysctl;

use super::held::{Held, Place};
use super::{Addresses, EEXIST, ENGINE_DEAD_AFTER, ENODEV};
use crate::engine::messages::ToEngine;

/// Frames that were on their way here when the VIP moved as planned: the other node announces it within
/// milliseconds, and four times more in the first 620.
const LINGERS: Duration = Duration::from_secs(1);

/// What a program that was replaced in place left: its successor holds its VIPs by then.
const CLAIMED_WITHIN: Duration = Duration::from_secs(5);

/// `EIO`: for failures that have no number.
const EIO: i32 = 5;

#[derive(Clone)]
pub(super) struct OwnLink {
    pub(super) index: u32,
    family: Family,
    mac: Mac,
}

/// A link that is to be removed.
pub(super) struct Going {
    pub(super) index: u32,
    pub(super) at: Instant,
}

impl Addresses {
    /// Where a VIP's addresses are to be; makes the links that this needs. The error is the kernel's number.
    pub(super) fn settle_places(
        &mut self,
        held: &mut Held,
        prefixes: &[Prefix],
    ) -> Result<(), i32> {
        let Some(id) = held.virtual_mac else {
            let on = |prefix: &Prefix| Place { index: held.index, base: None, prefix: *prefix };
            held.places = prefixes.iter().map(on).collect();
            return Ok(());
        };
        for family in Family::BOTH {
            let mut of_family =
                prefixes.iter().filter(|prefix| prefix.family() == family).peekable();
            if of_family.peek().is_none() {
                continue;
            }
            let made = self.open_link(held, family, id);
            let link = made.map_err(|error| self.not_made(&held.interface, family, &error))?;
            let base = Some(held.index);
            let on = |prefix: &Prefix| Place { index: link.index, base, prefix: *prefix };
            held.places.extend(of_family.map(on));
            held.links.push(link);
        }
        Ok(())
    }

    fn not_made(&self, interface: &str, family: Family, error: &io::Error) -> i32 {
        self.complain(format!(
            "can't make a link with the {family} virtual MAC on {interface} ({error}); the VIP isn't held \
             here. Mend: a kernel with macvlan, no other program with that MAC, no bridge or bond above \
             {interface}; or virtual_mac = false on all nodes"
        ));
        error.raw_os_error().unwrap_or(EIO)
    }

    /// Makes the link of one family, or finds it.
    fn open_link(&mut self, held: &Held, family: Family, id: Vrid) -> io::Result<OwnLink> {
        let mac = Mac::of_virtual_router(family, id);
        for fallback in 0..=FALLBACKS {
            let name = name_of(family, id, fallback);
            let made = match self.rtnl.add_macvlan(&name, held.index, mac) {
                Ok(()) => true,
                Err(error) if error.raw_os_error() == Some(EEXIST) => false,
                Err(error) => return Err(error),
            };
            let ours = |link: &Link| {
                link.is_of_vip() && link.base == Some(held.index) && link.mac == Some(mac)
            };
            // Another interface's VIP may have the same id, and has the name then.
            let Some(link) = self.rtnl.link_named(&name)?.filter(ours) else { continue };
            self.going.retain(|going| going.index != link.index);
            prepare(&link.name, family)?;
            if made {
                // The kernel tells multicast routers of an IPv6 address before it takes packets for it.
                let _ = self.rtnl.silence(link.index);
            }
            self.rtnl.switch_on(link.index)?;
            return Ok(OwnLink { index: link.index, family, mac });
        }
        Err(io::Error::from_raw_os_error(EEXIST))
    }

    /// The addresses are there: their links answer for them.
    pub(super) fn let_speak(&mut self, vip: VipId) {
        let links = self.held.get(&vip).map_or(&[][..], |held| &held.links);
        for link in links {
            // One that speaks already says so.
            let _ = self.rtnl.let_speak(link.index);
        }
    }

    /// What they send from now on isn't sent.
    pub(super) fn silence(&mut self, links: &[OwnLink]) {
        for link in links {
            // A kernel that can't: a switch may look here for the MAC for a moment, until the new active
            // node's next advert.
            let _ = self.rtnl.silence(link.index);
        }
    }

    /// They are removed once there is nothing more urgent to do.
    pub(super) fn end_links(&mut self, links: Vec<OwnLink>) {
        self.going.extend(links.into_iter().map(|link| Going { index: link.index, at: now() }));
    }

    /// They hear a little longer.
    pub(super) fn linger(&mut self, links: &[OwnLink]) {
        let at = now() + LINGERS;
        self.going.extend(links.iter().map(|link| Going { index: link.index, at }));
    }

    /// Links that the program before this one had, unless they are claimed.
    pub(super) fn inherit(&mut self, links: Vec<u32>) {
        let at = now() + CLAIMED_WITHIN;
        self.going.extend(links.into_iter().map(|index| Going { index, at }));
    }

    /// Removes the links whose time has come.
    pub(super) fn remove_links(&mut self, time: Instant) {
        let (due, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.going).into_iter().partition(|going| going.at <= time);
        self.going = later;
        if due.is_empty() {
            return;
        }
        let indexes: Vec<u32> = due.iter().map(|going| going.index).collect();
        match self.rtnl.remove_links(&indexes) {
            Err(error) if error.raw_os_error() != Some(ENODEV) => {
                self.complain(format!("couldn't remove a VIP's own link: {error}"));
            }
            _ => {}
        }
        self.record(&[]);
    }

    /// A link is gone; if it is one that should be here, makes it again with what was on it.
    pub(super) fn own_link_gone(&mut self, index: u32) -> io::Result<()> {
        self.going.retain(|going| going.index != index);
        let has = |held: &Held| held.links.iter().any(|link| link.index == index);
        let owner = self.held.iter().find(|(_, held)| has(held)).map(|(vip, _)| *vip);
        let Some(vip) = owner.filter(|_| self.beat.age(now()) < ENGINE_DEAD_AFTER) else {
            return Ok(());
        };
        let Some(mut held) = self.held.remove(&vip) else { return Ok(()) };
        let restored = self.make_again(vip, &mut held, index);
        self.held.insert(vip, held);
        match restored {
            // The interface went, and took it along: the engine hears of that, and nobody refused.
            Err(error) if error.raw_os_error() == Some(ENODEV) => Ok(()),
            Err(error) => {
                self.refused.insert(vip, error.raw_os_error().unwrap_or(EIO));
                self.unsettled.insert(vip);
                self.settle()
            }
            Ok(()) => Ok(()),
        }
    }

    fn make_again(&mut self, vip: VipId, held: &mut Held, index: u32) -> io::Result<()> {
        let Some(id) = held.virtual_mac else { return Ok(()) };
        let Some(at) = held.links.iter().position(|link| link.index == index) else {
            return Ok(());
        };
        let lost = held.links.remove(at);
        let new = self.open_link(held, lost.family, id)?;
        let index = new.index;
        for place in held.places.iter_mut().filter(|place| place.index == lost.index) {
            place.index = new.index;
        }
        let again: Vec<Place> =
            held.places.iter().copied().filter(|place| place.index == new.index).collect();
        held.links.push(new);
        let keys: Vec<_> = held.keys().collect();
        // The guard must know before the kernel does.
        self.record(&keys);
        let changes: Vec<Change> = again.iter().map(|place| place.change()).collect();
        self.rtnl.change(&changes, &mut Vec::new())?;
        let _ = self.rtnl.let_speak(index);
        for place in again {
            self.tell(ToEngine::Restored { vip, address: place.prefix.address() });
        }
        Ok(())
    }

    /// A link changed; if it is one of ours, it is on and has its MAC.
    pub(super) fn own_link_changed(&mut self, link: &Link) {
        let find = |held: &Held| held.links.iter().find(|own| own.index == link.index).cloned();
        let Some(own) = self.held.values().find_map(find) else { return };
        if link.mac != Some(own.mac) {
            // Its end is noticed, and it is made again.
            let _ = self.rtnl.remove_links(&[own.index]);
        } else if !link.on {
            // What can't be switched on has no interface any more.
            let _ = self.rtnl.switch_on(own.index);
        }
    }
}

/// What a link has to be told before it is switched on. All of it ends with the link.
fn prepare(name: &str, family: Family) -> io::Result<()> {
    let v4 = |key: &str| format!("net/ipv4/conf/{name}/{key}");
    let v6 = |key: &str| format!("net/ipv6/conf/{name}/{key}");
    // It answers for what it carries itself, and for no other address of this host.
    sysctl::write(&v4("arp_ignore"), "1")?;
    // Answers leave by the interface: a strict look at where packets come from would drop them here. It
    // goes by the greater one of this and `all`.
    let strict = sysctl::read("net/ipv4/conf/all/rp_filter")? == "1";
    sysctl::write(&v4("rp_filter"), if strict { "2" } else { "0" })?;
    sysctl::write(&v4("promote_secondaries"), "1")?;
    let told: &[(&str, &str)] = match family {
        Family::V4 => &[("disable_ipv6", "1")],
        // No address of its own, no route and no address from a router's advertisement.
        Family::V6 => &[("disable_ipv6", "0"), ("addr_gen_mode", "1"), ("accept_ra", "0")],
    };
    for (key, value) in told {
        match sysctl::write(&v6(key), value) {
            // A host without IPv6.
            Err(error) if family == Family::V4 && error.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
    }
    Ok(())
}
