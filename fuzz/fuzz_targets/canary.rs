//! A planted fault behind the checksum: a fuzzer that doesn't find it soon finds nothing else either.

#![no_main]

use std::hint::black_box;

use libfuzzer_sys::fuzz_target;
use standin_core::types::Priority;
use standin_core::wire::checksum::Sum;
use standin_core::wire::vrrp::{self, Envelope, MULTICAST_V4};

fuzz_target!(|data: &[u8]| {
    let mut payload = data.to_vec();
    let Some(place) = payload.get_mut(6..8) else { return };
    place.fill(0);
    let checksum = Sum::new().bytes(&payload).checksum();
    payload[6..8].copy_from_slice(&checksum.to_be_bytes());

    let source = [10, 9, 0, 1].into();
    let envelope = Envelope { source, destination: MULTICAST_V4.into(), hop_limit: 255 };
    let Ok(advert) = vrrp::parse(&envelope, &payload) else { return };
    // Each step is a branch of its own: with coverage they are found one by one, in seconds;
    // without it both bytes would have to be guessed at once, among some 10^9.
    if black_box(advert.vrid.get()) == 77 && black_box(advert.priority) == Priority(13) {
        panic!("the canary is found: this fuzzer works");
    }
});
