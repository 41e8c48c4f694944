//! Adverts over a wire in a namespace of their own.

mod space;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use space::{alone, index_of, ip, wire};
use standin_core::types::Family;
use standin_core::wire::vrrp::MULTICAST_V6;
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
