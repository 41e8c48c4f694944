//! What goes over the network: bytes to meaning and back, without I/O.
//!
//! ```text
//!  IP payload ──▶ vrrp::parse ──▶ Advert           Outgoing ──▶ vrrp::emit ──▶ IP payload
//!  frame ──▶ neighbour::parse ──▶ Sighting         arp::*, ndp::* ──▶ frame
//!                 ├── arp::parse
//!                 └── ndp::parse                 ipv4::header ──▶ what stands before an IP payload
//!                                                multicast::frame ──▶ frame around it
//! ```
//!
//! Readers are total: every byte string gives a value or a refusal, never a panic. They judge the
//! packet alone; whether its sender may be believed is the election's business. Writers clear the
//! caller's buffer and fill it, so that a warm buffer never allocates.

pub mod arp;
pub mod checksum;
mod ethernet;
pub mod ipv4;
pub mod multicast;
pub mod ndp;
pub mod neighbour;
pub mod vrrp;

/// The `N` bytes at `offset`; `None` when they aren't all there.
fn bytes_at<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..)?.first_chunk().copied()
}

/// The big-endian number at `offset`.
fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    bytes_at(bytes, offset).map(u16::from_be_bytes)
}

/// Writes `value` at `offset` of what was already written.
fn put_u16(bytes: &mut [u8], offset: usize, value: u16) {
    if let Some(place) = bytes.get_mut(offset..).and_then(|rest| rest.first_chunk_mut::<2>()) {
        *place = value.to_be_bytes();
    }
}
