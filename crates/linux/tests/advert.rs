//! Adverts over a wire in a namespace of their own.

#![allow(clippy::unwrap_used, reason = "a test that can't be set up has failed")]

mod space;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use space::{alone, index_of, ip, wire};
use standin_core::types::Family;
use standin_core::wire::vrrp::{MULTICAST_V4, MULTICAST_V6};
use standin_core::wire::{checksum, ipv4};
use standin_linux::advert::{AdvertReceiver, AdvertSender};

#[test]
fn a_peer_without_a_route_keeps_no_advert_of_others_from_going_out() {
    alone(|| {
        wire();
        ip("-6 address add fd00::1/64 dev va nodad");
        let source: IpAddr = "fd00::1".parse().unwrap();
        let nowhere: IpAddr = "fd77::1".parse().unwrap();
        let mut receiver = AdvertReceiver::open(Family::V6, index_of("vb"), "vb", 1).unwrap();
        let mut sender = AdvertSender::open(Family::V6, index_of("va"), "va", source).unwrap();
        let group = IpAddr::V6(MULTICAST_V6);
        let (first, last) = ([0x31, 1, 0, 0], [0x31, 2, 0, 0]);
        let messages = [(nowhere, &first[..]), (group, &first), (nowhere, &last), (group, &last)];
        let error = sender.send(messages).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENETUNREACH));
        let mut heard = Vec::new();
        let deadline = Instant::now() + Duration::from_secs(5);
        while heard.len() < 2 && Instant::now() < deadline {
            receiver.receive(&mut |received| heard.push(received.payload[1])).unwrap();
        }
        assert_eq!(heard, [1, 2]);
    });
}

#[test]
fn adverts_to_the_group_and_to_peers_leave_in_order_and_alike() {
    alone(|| {
        wire();
        ip("address add 10.1.0.1/24 dev va");
        let source: IpAddr = "10.1.0.1".parse().unwrap();
        let peers: [IpAddr; 2] = ["10.1.0.8".parse().unwrap(), "10.1.0.9".parse().unwrap()];
        for peer in peers {
            ip(&format!("neighbour replace {peer} lladdr 02:00:00:00:00:09 dev va"));
        }
        let network = everything_on("vb");
        let mut sender = AdvertSender::open(Family::V4, index_of("va"), "va", source).unwrap();
        let group = IpAddr::V4(MULTICAST_V4);
        let order = [group, group, peers[0], peers[1], group, peers[1]];
        let payloads: Vec<_> = (1..=6).map(|n| [0x31, n, 0, 0, 0, 0, 0, 0, 10, 1, 0, n]).collect();
        let messages = order.iter().zip(&payloads).map(|(to, payload)| (*to, &payload[..]));
        assert_eq!(sender.send(messages).unwrap(), 6);
        let mut seen = Vec::new();
        let mut buffer = [0; 2048];
        while seen.len() < 6 {
            let length = std::io::Read::read(&mut &network, &mut buffer).unwrap();
            if buffer[9] == 112 {
                seen.push(buffer[..length].to_vec());
            }
        }
        for ((packet, payload), to) in seen.iter().zip(&payloads).zip(order) {
            let (header, rest) = packet.split_at(ipv4::HEADER_LEN);
            let mut header = header.to_vec();
            assert_eq!(rest, payload);
            let (IpAddr::V4(from), IpAddr::V4(to)) = (source, to) else { unreachable!() };
            // A number that means nothing in a packet that may not be cut, and the sum over it.
            assert!(checksum::Sum::new().bytes(&header).is_intact());
            let mut due = ipv4::header(from, to, payload.len());
            for header in [&mut header[..], &mut due] {
                header[4..6].fill(0);
                header[10..12].fill(0);
            }
            assert_eq!(header, due);
        }
    });
}

/// Hears IPv4 packets as they come in on an interface.
fn everything_on(name: &str) -> Socket {
    let protocol = u16::try_from(libc::ETH_P_IP).unwrap().to_be();
    let socket =
        Socket::new(Domain::PACKET, Type::DGRAM, Some(Protocol::from(i32::from(protocol))));
    let socket = socket.unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    // SAFETY: a sockaddr_ll fits the storage, and is filled in as packet(7) has it for bind(2).
    let ((), address) = unsafe {
        SockAddr::try_init(|storage, length| {
            let link = storage.cast::<libc::sockaddr_ll>();
            (*link).sll_family = u16::try_from(libc::AF_PACKET).unwrap();
            (*link).sll_protocol = protocol;
            (*link).sll_ifindex = i32::try_from(index_of(name)).unwrap();
            *length = u32::try_from(size_of::<libc::sockaddr_ll>()).unwrap();
            Ok(())
        })
    }
    .unwrap();
    socket.bind(&address).unwrap();
    socket
}
