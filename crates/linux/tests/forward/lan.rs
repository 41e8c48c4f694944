//! Hosts on one bridge, each a network namespace with a thread that lives in it.

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, UnshareFlags};
use standin_core::types::{Mac, Prefix};
use standin_core::wire::{arp, ndp};
use standin_linux::forward::{Forwarding, Neighbour, Order, Refusal};
use standin_linux::neighbour::NeighbourSocket;
use standin_linux::netlink::{Change, Rtnl};
use standin_linux::sysctl;

pub(crate) const VIP4: &str = "10.9.0.50";
pub(crate) const VIP6: &str = "fd09::50";
pub(crate) const LIFETIME_S: u32 = 600;
const LOOPBACK: u32 = 1;

/// Renames of links between namespaces and large tables wait for the kernel's one lock.
const ANSWER_WAIT: Duration = Duration::from_secs(5);

/// A namespace, as long as it is there.
pub(crate) struct Host {
    pub(crate) name: &'static str,
    number: u8,
    space: File,
    tid: i32,
    _stay: Sender<()>,
}

impl Host {
    fn new(name: &'static str, number: u8) -> Self {
        let (stay, ended) = channel::<()>();
        let (tell, told) = channel();
        thread::spawn(move || {
            // SAFETY: FILES is not among the flags; only this thread changes.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
            let space = File::open("/proc/thread-self/ns/net").unwrap();
            tell.send((space, rustix::thread::gettid().as_raw_nonzero().get())).unwrap();
            // Ends with the host.
            let _ = ended.recv();
        });
        let (space, tid) = told.recv().unwrap();
        let host = Self { name, number, space, tid, _stay: stay };
        host.sh("ip link set lo up");
        host
    }

    /// Runs `work` in a thread of this host.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                enter(&self.space);
                work()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Begins `work` in a thread of this host.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> thread::JoinHandle<T> {
        let space = self.space.try_clone().unwrap();
        thread::spawn(move || {
            enter(&space);
            work()
        })
    }

    pub(crate) fn sh(&self, commands: &str) -> String {
        self.run(|| {
            let output =
                Command::new("sh").args(["-ec", commands]).stdin(Stdio::null()).output().unwrap();
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{}: {commands}: {error}", self.name);
            String::from_utf8(output.stdout).unwrap()
        })
    }

    pub(crate) fn v4(&self) -> IpAddr {
        IpAddr::from([10, 9, 0, self.number])
    }

    pub(crate) fn v6(&self) -> IpAddr {
        IpAddr::from([0xfd09, 0, 0, 0, 0, 0, 0, u16::from(self.number)])
    }

    pub(crate) fn link_local(&self) -> IpAddr {
        let index = self.index();
        let all = self.run(|| Rtnl::open().unwrap().addresses().unwrap());
        let mut here = all.iter().filter(|one| one.index == index).map(|one| one.prefix.address());
        let link_local =
            |address: &IpAddr| matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
        here.find(link_local).unwrap()
    }

    pub(crate) fn index(&self) -> u32 {
        self.run(|| {
            let links = Rtnl::open().unwrap().links().unwrap();
            links.iter().find(|link| link.name == "eth0").unwrap().index
        })
    }

    pub(crate) fn mac(&self) -> Mac {
        Mac([2, 0, 0, 0, 9, self.number])
    }

    fn change(&self, changes: &[Change]) {
        self.run(|| {
            let mut results = Vec::new();
            Rtnl::open().unwrap().change_and_wait(changes, &mut results, ANSWER_WAIT).unwrap();
            assert!(results.iter().all(Result::is_ok), "{}: {results:?}", self.name);
        });
    }

    /// Takes these addresses.
    pub(crate) fn hold(&self, vips: &[IpAddr]) {
        let index = self.index();
        let hold = |vip: &IpAddr| Change::Hold { index, prefix: subnet(*vip), valid_s: LIFETIME_S };
        self.change(&vips.iter().map(hold).collect::<Vec<_>>());
    }

    /// Keeps the addresses for its sockets only.
    pub(crate) fn stay(&self, vips: &[IpAddr]) {
        self.run(|| {
            sysctl::write("net/ipv4/conf/eth0/arp_ignore", "1").unwrap();
            sysctl::write("net/ipv4/conf/eth0/arp_announce", "2").unwrap();
        });
        let index = self.index();
        let keep =
            |vip: &IpAddr| Change::Keep { index: LOOPBACK, address: *vip, valid_s: LIFETIME_S };
        let drop = |vip: &IpAddr| Change::Drop { index, prefix: subnet(*vip) };
        // One after the other: an IPv6 address on lo that isn't routed yet loses packets.
        self.change(&vips.iter().map(keep).collect::<Vec<_>>());
        self.change(&vips.iter().map(drop).collect::<Vec<_>>());
    }

    /// The opposite of [`Host::stay`]; the addresses are wherever they are by now.
    pub(crate) fn leave(&self, vips: &[IpAddr]) {
        let drop = |vip: &IpAddr| Change::Drop { index: LOOPBACK, prefix: Prefix::host(*vip) };
        self.change(&vips.iter().map(drop).collect::<Vec<_>>());
        self.run(|| {
            sysctl::write("net/ipv4/conf/eth0/arp_ignore", "0").unwrap();
            sysctl::write("net/ipv4/conf/eth0/arp_announce", "0").unwrap();
        });
    }

    /// Tells everybody on the link where these addresses are.
    pub(crate) fn announce(&self, vips: &[IpAddr]) {
        let index = self.index();
        self.run(|| {
            let socket = NeighbourSocket::open(index).unwrap();
            for vip in vips {
                let mut frame = Vec::new();
                match vip {
                    IpAddr::V4(v4) => arp::announcement(&mut frame, self.mac(), *v4),
                    IpAddr::V6(v6) => ndp::announcement(&mut frame, self.mac(), *v6, false),
                }
                socket.send(&frame).unwrap();
            }
        });
    }

    /// Begins to hand unknown connections to `old`.
    pub(crate) fn forward_to(&self, old: &Self, vips: &[IpAddr]) -> Forwarding {
        self.try_forward_to(old, vips, &[]).unwrap()
    }

    pub(crate) fn try_forward_to(
        &self,
        old: &Self,
        vips: &[IpAddr],
        quic_ports: &[u16],
    ) -> Result<Forwarding, Refusal> {
        let index = self.index();
        self.run(|| {
            let mut rtnl = Rtnl::open().unwrap();
            let mut neighbour = |address| Neighbour {
                address,
                mac: rtnl.neighbour(index, address, ANSWER_WAIT).unwrap().unwrap(),
            };
            let old = [neighbour(old.v4()), neighbour(old.v6())];
            let name = "web";
            Forwarding::begin(&Order { name, addresses: vips, index, old: &old, quic_ports })
        })
    }

    /// Everything of the network that an administrator would see.
    pub(crate) fn state(&self) -> String {
        self.sh("ip -o address | sed 's/_lft [0-9]*sec/_lft Nsec/g'
            for family in 4 6; do
              ip -$family route show table all | grep -v '^ff00::\\|multicast' | sort
              ip -$family rule
            done
            nft list ruleset
            grep -r . /proc/sys/net/ipv4/conf /proc/sys/net/ipv6/conf \
              /proc/sys/net/ipv4/ip_* /proc/sys/net/netfilter 2>/dev/null |
              grep -v 'stable_secret\\|_count:' | sort")
    }
}

fn enter(space: &File) {
    let network = Some(LinkNameSpaceType::Network);
    rustix::thread::move_into_link_name_space(space.as_fd(), network).unwrap();
}

fn subnet(vip: IpAddr) -> Prefix {
    Prefix::new(vip, if vip.is_ipv4() { 24 } else { 64 }).unwrap()
}

/// `client`, `n1`, `n2`, `n3` and the switch between them.
pub(crate) struct Lan {
    pub(crate) switch: Host,
    pub(crate) client: Host,
    pub(crate) nodes: Vec<Host>,
}

impl Lan {
    pub(crate) fn new(nodes: usize) -> Self {
        let switch = Host::new("switch", 0);
        switch.sh("ip link add br0 type bridge mcast_snooping 0
            echo 1 > /proc/sys/net/ipv6/conf/br0/disable_ipv6
            ip link set br0 up");
        let client = Host::new("client", 100);
        let names = ["n1", "n2", "n3"].into_iter().zip(1..).take(nodes);
        let nodes: Vec<_> = names.map(|(name, number)| Host::new(name, number)).collect();
        let lan = Self { switch, client, nodes };
        std::iter::once(&lan.client).chain(&lan.nodes).for_each(|host| lan.plug(host));
        lan
    }

    fn plug(&self, host: &Host) {
        let (name, tid, mac) = (host.name, host.tid, host.mac());
        self.switch.sh(&format!(
            "ip link add {name} type veth peer name eth0 netns {tid}
            echo 1 > /proc/sys/net/ipv6/conf/{name}/disable_ipv6
            ip link set {name} master br0 up"
        ));
        host.sh(&format!(
            "echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_dad
            ip link set eth0 address {mac} up
            ip address add {}/24 dev eth0
            ip address add {}/64 dev eth0",
            host.v4(),
            host.v6()
        ));
    }
}

/// The VIP goes from one node to the other, as a switchover does it.
pub(crate) fn switch_over(from: &Host, to: &Host, vips: &[IpAddr]) -> Forwarding {
    let forwarding = to.forward_to(from, vips);
    move_vip(from, to, vips);
    forwarding
}

pub(crate) fn move_vip(from: &Host, to: &Host, vips: &[IpAddr]) {
    from.stay(vips);
    to.hold(vips);
    to.announce(vips);
}
