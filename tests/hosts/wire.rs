//! What a third host sees: adverts by tcpdump on the switch, and who answers for an address.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use standin_core::types::Mac;
use standin_core::wire::neighbour::{self, Kind};
use standin_core::wire::{arp, ndp};
use standin_linux::neighbour::NeighbourSocket;
use standin_linux::spawn::{self, Birth};

use super::{Host, Lan};

/// One packet as tcpdump words it, with the time at which the kernel saw it.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) at: Instant,
    pub(crate) line: String,
}

impl Packet {
    /// `key` 100 in `prio 100,`.
    pub(crate) fn number(&self, key: &str) -> Option<u32> {
        let after = self.line.split_once(&format!(" {key} "))?.1;
        after.split(|it: char| !it.is_ascii_digit()).next()?.parse().ok()
    }

    pub(crate) fn priority(&self) -> Option<u32> {
        self.number("prio")
    }

    /// The MAC that sent it.
    pub(crate) fn is_from(&self, host: &Host) -> bool {
        self.line.contains(&format!("{} >", host.mac()))
    }
}

/// Every VRRP packet of a segment, unicast ones too, read by tcpdump until this is dropped.
pub(crate) struct Adverts {
    tcpdump: Child,
    seen: Arc<Mutex<Vec<Packet>>>,
}

impl Adverts {
    pub(crate) fn capture(lan: &Lan) -> Self {
        Self::matching(lan, "ip proto 112 or ip6 proto 112")
    }

    /// As [`Adverts::capture`], of other packets.
    pub(crate) fn matching(lan: &Lan, filter: &str) -> Self {
        let mut command = Command::new("tcpdump");
        // A promiscuous bridge sees what it forwards. As another user tcpdump would outlive a test
        // that is killed: the kernel forgets the death signal with the change.
        command
            .args(["-Z", "root"])
            .args(["-i", "br0", "-l", "-n", "-e", "-v", "-tt", "--immediate-mode"])
            .arg(filter)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        spawn::born(&mut command, Birth { dies_with_parent: true, new_session: true });
        spawn::in_network(&mut command, lan.switch().as_fd());
        let mut tcpdump = command.spawn().unwrap();
        let mut line = String::new();
        let mut errors = BufReader::new(tcpdump.stderr.take().unwrap());
        while !line.contains("listening on") {
            line.clear();
            assert_ne!(errors.read_line(&mut line).unwrap(), 0, "tcpdump ended");
        }
        // Its later words must not fill the pipe.
        std::thread::spawn(move || errors.lines().map_while(Result::ok).for_each(drop));
        let seen: Arc<Mutex<Vec<Packet>>> = Arc::default();
        let (record, lines) = (Arc::clone(&seen), BufReader::new(tcpdump.stdout.take().unwrap()));
        let (wall, began) = (SystemTime::now().duration_since(UNIX_EPOCH).unwrap(), Instant::now());
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                let mut seen = record.lock().unwrap();
                // -v puts an IPv4 packet's own words on a second line.
                if line.starts_with([' ', '\t'])
                    && let Some(last) = seen.last_mut()
                {
                    last.line += &line;
                } else if let Some((stamp, line)) = line.split_once(' ') {
                    let stamp = Duration::from_secs_f64(stamp.parse().unwrap());
                    let at = began + stamp.saturating_sub(wall);
                    seen.push(Packet { at, line: line.to_owned() });
                }
            }
        });
        Self { tcpdump, seen }
    }

    /// Those after `since`, oldest first, as far as tcpdump has come.
    pub(crate) fn since(&self, since: Instant) -> Vec<Packet> {
        let seen = self.seen.lock().unwrap();
        seen.iter().filter(|packet| packet.at >= since).cloned().collect()
    }
}

impl Drop for Adverts {
    fn drop(&mut self) {
        let _gone = self.tcpdump.kill();
        let _ended = self.tcpdump.wait();
    }
}

/// Asks the segment from `asker`'s `eth0` who has `address`: every MAC that answers within `patience`.
pub(crate) fn who_has(asker: &Host, address: &str, patience: Duration) -> BTreeSet<String> {
    let address: IpAddr = address.parse().unwrap();
    let (pid, mac) = (asker.pid, asker.mac());
    let own = super::holders::local_addresses(pid);
    let ask = move || {
        spawn::enter_network(spawn::network_of(pid).unwrap().as_fd()).unwrap();
        let index = fs::read_to_string(format!("/proc/{pid}/root/sys/class/net/eth0/ifindex"));
        let socket = NeighbourSocket::open(index.unwrap().trim().parse().unwrap()).unwrap();
        answers(socket, &mac, &own, address, patience)
    };
    std::thread::spawn(ask).join().unwrap()
}

fn answers(
    mut socket: NeighbourSocket,
    mac: &str,
    own: &[IpAddr],
    address: IpAddr,
    patience: Duration,
) -> BTreeSet<String> {
    let bytes: Vec<u8> = mac.split(':').map(|it| u8::from_str_radix(it, 16).unwrap()).collect();
    let mac = Mac(bytes.try_into().unwrap());
    let mut frame = Vec::new();
    let link_local = |it: &&IpAddr| matches!(it, IpAddr::V6(it) if it.is_unicast_link_local());
    match (address, own.iter().find(link_local)) {
        (IpAddr::V4(target), _) => arp::probe(&mut frame, mac, target),
        (IpAddr::V6(target), Some(IpAddr::V6(source))) => {
            ndp::solicitation(&mut frame, mac, *source, target);
        }
        _ => panic!("the asker has no link-local address"),
    }
    socket.send(&frame).unwrap();
    let mut found = BTreeSet::new();
    let until = Instant::now() + patience;
    while Instant::now() < until {
        let mut each = |frame: &[u8]| {
            let sighting = neighbour::parse(frame).filter(|it| it.address == address);
            found.extend(
                sighting.filter(|it| it.kind == Kind::Claimed).map(|it| it.mac.to_string()),
            );
        };
        socket.receive(&mut each).unwrap();
        std::thread::sleep(Duration::from_millis(2));
    }
    found
}
