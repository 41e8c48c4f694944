//! Does the steps that are about links of our own, and sees to it that nobody else changes them.

use std::io;

use standin_core::guard::OwnLink;
use standin_core::holding::Answer;
use standin_core::types::Family;
use standin_linux::clock::now;
use standin_linux::netlink::{FALLBACKS, Link, name_of};
use standin_linux::sysctl;

use super::{Addresses, EEXIST, ENGINE_DEAD_AFTER, ENODEV};
use crate::engine::messages::ToEngine;

/// `EIO`: for failures that have no number.
const EIO: i32 = 5;

impl Addresses {
    pub(super) fn make_link(&mut self, link: OwnLink) -> Answer {
        match self.open_link(link) {
            Ok(index) => Answer::Index(index),
            Err(error) => {
                let errno = error.raw_os_error().unwrap_or(EIO);
                Answer::Refused { errno, why: error.to_string() }
            }
        }
    }

    /// Makes it, or finds it.
    fn open_link(&mut self, wanted: OwnLink) -> io::Result<u32> {
        let OwnLink { base, family, id } = wanted;
        for fallback in 0..=FALLBACKS {
            let name = name_of(family, id, fallback);
            let made = match self.rtnl.add_macvlan(&name, base, wanted.mac()) {
                Ok(()) => true,
                Err(error) if error.raw_os_error() == Some(EEXIST) => false,
                Err(error) => return Err(error),
            };
            let ours = |link: &Link| link.of_vip() == Some(wanted);
            // Another interface's VIP may have the same id, and has the name then.
            let Some(link) = self.rtnl.link_named(&name)?.filter(ours) else { continue };
            prepare(&link.name, family)?;
            if made {
                // The kernel tells multicast routers of an IPv6 address before it takes packets for it.
                let _ = self.rtnl.silence(link.index);
            }
            self.rtnl.switch_on(link.index)?;
            return Ok(link.index);
        }
        Err(io::Error::from_raw_os_error(EEXIST))
    }

    pub(super) fn silence(&mut self, links: &[u32]) {
        for index in links {
            // A kernel that can't: a switch may look here for the MAC for a moment, until the new active
            // node's next advert.
            let _ = self.rtnl.silence(*index);
        }
    }

    pub(super) fn let_speak(&mut self, links: &[u32]) {
        for index in links {
            // One that speaks already says so.
            let _ = self.rtnl.let_speak(*index);
        }
    }

    pub(super) fn remove_links(&mut self, links: &[OwnLink]) -> Answer {
        let there = self.rtnl.links().map(|all| {
            let is_one = |link: &&Link| link.of_vip().is_some_and(|one| links.contains(&one));
            all.iter().filter(is_one).map(|link| link.index).collect::<Vec<_>>()
        });
        let removed = there.and_then(|there| match there[..] {
            [] => Ok(()),
            _ => self.rtnl.remove_links(&there),
        });
        match removed {
            Err(error) if error.raw_os_error() != Some(ENODEV) => Answer::Failed(error.to_string()),
            _ => Answer::Done,
        }
    }

    /// A link is gone; if it is one that should be here, makes it again with what was on it.
    pub(super) fn own_link_gone(&mut self, index: u32) -> io::Result<()> {
        let lives = self.beat.age(now()) < ENGINE_DEAD_AFTER;
        if !lives && self.holding.mac_of(index).is_some() {
            return Ok(());
        }
        let lost = self.holding.link_gone(index);
        self.work()?;
        for (vip, (_, prefix)) in lost {
            if self.holding.is_served(vip, prefix) {
                self.tell(ToEngine::Restored { vip, address: prefix.address() });
            }
        }
        Ok(())
    }

    /// A link changed; if it is one of ours, it is on and has its MAC.
    pub(super) fn own_link_changed(&mut self, link: &Link) {
        let Some(mac) = self.holding.mac_of(link.index) else { return };
        if link.mac != Some(mac) {
            // Its end is noticed, and it is made again.
            let _ = self.rtnl.remove_links(&[link.index]);
        } else if !link.on {
            // What can't be switched on has no interface any more.
            let _ = self.rtnl.switch_on(link.index);
        }
    }

    /// Those that have gone while nobody listened.
    pub(super) fn miss_links(&mut self, all: &[Link]) -> io::Result<()> {
        let is_there = |index: &u32| all.iter().any(|link| link.index == *index);
        let own = self.holding.links().into_iter();
        let gone: Vec<u32> = own.filter(|index| !is_there(index)).collect();
        gone.into_iter().try_for_each(|index| self.own_link_gone(index))
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
