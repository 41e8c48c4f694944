//! The least that sends adverts on time: one timer, one `sendmmsg` of messages written beforehand.
//!
//! It reads nothing, decides nothing and holds no address: what a daemon costs beyond this is its
//! own doing.

use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context, Result};
use rustix::net::{
    AddressFamily, MMsgHdr, Protocol, SendAncillaryBuffer, SendFlags, SocketAddrAny, SocketType,
};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use standin_core::plan::{ChecksumStyle, Version};
use standin_core::types::{IntervalCs, Priority, Vrid};
use standin_core::wire::vrrp::{HOP_LIMIT, MULTICAST_V4, Outgoing, PROTOCOL, emit};

use crate::configs::{Node, address, interface, vrid};

/// Sends for ever; the first VIPs of the first interface only.
pub(crate) fn send_for_ever(vips: usize, interval_ms: u32) -> Result<()> {
    let source = Ipv4Addr::new(10, 9, 0, 1);
    let socket = rustix::net::socket(
        AddressFamily::INET,
        SocketType::RAW,
        std::num::NonZeroU32::new(u32::from(PROTOCOL)).map(Protocol::from_raw),
    )?;
    let socket = socket2::Socket::from(socket);
    socket.bind_device(Some(interface(0).as_bytes()))?;
    socket.set_multicast_ttl_v4(u32::from(HOP_LIMIT))?;
    socket.set_multicast_loop_v4(false)?;
    socket.set_multicast_if_v4(&source)?;
    socket.bind(&SocketAddr::from((source, 0)).into())?;

    let interval = u16::try_from(interval_ms / 10).ok().and_then(IntervalCs::new);
    let interval = interval.context("the interval is one that VRRP can say")?;
    let mut payloads = Vec::new();
    for vip in 0..vips {
        let own: IpAddr = address(vip).parse()?;
        let mut bytes = Vec::new();
        let out = Outgoing {
            version: Version::V3,
            vrid: u8::try_from(vrid(vip)).ok().and_then(Vrid::new).context("a router id")?,
            priority: Priority(Node(1).priority()),
            interval,
            addresses: &[own],
            password: None,
            checksum: ChecksumStyle::WithPseudoHeader,
            source: source.into(),
            destination: MULTICAST_V4.into(),
        };
        emit(&out, &mut bytes);
        payloads.push(bytes);
    }
    let to = SocketAddrAny::from(SocketAddr::from((MULTICAST_V4, 0)));
    let slices: Vec<[IoSlice<'_>; 1]> = payloads.iter().map(|one| [IoSlice::new(one)]).collect();
    let mut nothing: Vec<_> = slices.iter().map(|_| SendAncillaryBuffer::default()).collect();
    let mut messages: Vec<_> = slices
        .iter()
        .zip(&mut nothing)
        .map(|(slice, nothing)| MMsgHdr::new_with_addr(&to, slice, nothing))
        .collect();

    let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::empty())?;
    let step = Timespec { tv_sec: 0, tv_nsec: i64::from(interval_ms) * 1_000_000 };
    let rhythm = Itimerspec { it_interval: step, it_value: step };
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &rhythm)?;
    loop {
        rustix::io::read(&timer, &mut [0_u8; 8])?;
        rustix::net::sendmmsg(&socket, &mut messages, SendFlags::empty())?;
    }
}
