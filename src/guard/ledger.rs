//! What the guard must know of a daemon that has died: what it held, how to say goodbye, what it
//! changed on the host.
//!
//! The daemon writes each state whole into the half of a shared region that isn't current, and then
//! turns to that half: a daemon that is killed while writing leaves the state before.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use standin_core::guard::{Goodbye, OwnLink, Setting, Signs, State};
use standin_core::types::{Instant, Mac, Prefix};
use standin_linux::region::Region;

/// 1,024 VIPs with a few addresses each and a goodbye to 15 peers for each of them; only what is
/// written takes memory.
const HALF: usize = 4 * 1024 * 1024;

const HEADER: usize = 4096;
pub(super) const REGION: usize = HEADER + 2 * HALF;

/// Counters at the start of the region.
const TURN: usize = 0;
const BEAT: usize = 1;
const PATIENCE_MS: usize = 2;
const ENDED: usize = 3;
const HELD: usize = 4;
/// One for each half.
const LENGTH: usize = 5;
const GUARD: usize = 7;

/// The shared region, as both sides use it.
#[derive(Clone, Debug)]
pub(crate) struct Ledger(Arc<Region>);

impl Ledger {
    /// # Errors
    /// As memfd_create(2) and mmap(2).
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Self(Arc::new(Region::new(REGION)?)))
    }

    pub(super) fn of(region: Region) -> Self {
        Self(Arc::new(region))
    }

    pub(crate) fn region(&self) -> &Region {
        &self.0
    }

    fn counter(&self, place: usize) -> &AtomicU64 {
        // The region has room for 512 counters before its halves.
        static NOWHERE: AtomicU64 = AtomicU64::new(0);
        self.0.counter(place).unwrap_or(&NOWHERE)
    }

    /// Makes `state` the current one; false when it is too large, and then the one before stays.
    pub(crate) fn write(&self, state: &State) -> bool {
        let bytes = encode(state);
        let next = (self.counter(TURN).load(Ordering::Relaxed) + 1) % 2;
        let half = usize::try_from(next).unwrap_or(0);
        if bytes.len() > HALF || !self.0.write(HEADER + half * HALF, &bytes) {
            return false;
        }
        self.counter(LENGTH + half).store(bytes.len() as u64, Ordering::Relaxed);
        self.counter(TURN).store(next, Ordering::Release);
        self.counter(HELD).store(state.addresses.len() as u64, Ordering::Relaxed);
        true
    }

    /// The current state; empty when nothing was ever written, or nonsense.
    pub(crate) fn read(&self) -> State {
        let half = usize::try_from(self.counter(TURN).load(Ordering::Acquire) % 2).unwrap_or(0);
        let length = usize::try_from(self.counter(LENGTH + half).load(Ordering::Relaxed));
        let length = length.unwrap_or(0).min(HALF);
        let bytes = self.0.read(HEADER + half * HALF, length);
        bytes.and_then(|bytes| decode(&bytes)).unwrap_or_default()
    }

    /// Whether there are addresses to lose; cheaper than [`Ledger::read`].
    pub(crate) fn holds(&self) -> bool {
        self.counter(HELD).load(Ordering::Relaxed) > 0
    }

    /// The daemon's engine goes round.
    pub(crate) fn beat(&self, now: Instant) {
        self.counter(BEAT).store(now.as_nanos(), Ordering::Relaxed);
    }

    /// What the daemon shows of itself.
    pub(super) fn signs(&self) -> Signs {
        let (holds, patience) = (self.holds(), self.patience());
        Signs { holds, patience, last_beat: self.last_beat() }
    }

    fn last_beat(&self) -> Instant {
        Instant::from_nanos(self.counter(BEAT).load(Ordering::Relaxed))
    }

    /// How long the engine may be still while it holds something; zero: for ever.
    pub(crate) fn set_patience(&self, patience: Duration) {
        let ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        self.counter(PATIENCE_MS).store(ms, Ordering::Relaxed);
    }

    pub(crate) fn patience(&self) -> Duration {
        Duration::from_millis(self.counter(PATIENCE_MS).load(Ordering::Relaxed))
    }

    /// The daemon ends because it was told to, with this code; a guard must not start it again.
    pub(crate) fn set_ended(&self, code: u8) {
        self.counter(ENDED).store(u64::from(code) + 1, Ordering::Release);
    }

    pub(super) fn ended(&self) -> Option<u8> {
        let code = self.counter(ENDED).load(Ordering::Acquire).checked_sub(1)?;
        u8::try_from(code).ok()
    }

    /// Which process guards now, for the daemon that had it started.
    pub(super) fn set_guard(&self, pid: u32) {
        self.counter(GUARD).store(u64::from(pid), Ordering::Release);
    }

    pub(super) fn guard(&self) -> u32 {
        u32::try_from(self.counter(GUARD).load(Ordering::Acquire)).unwrap_or(0)
    }

    /// A new daemon begins.
    pub(super) fn reset(&self, now: Instant) {
        self.counter(ENDED).store(0, Ordering::Relaxed);
        self.set_patience(Duration::ZERO);
        self.beat(now);
        // An empty state always fits.
        let _ = self.write(&State::default());
    }
}

fn encode(state: &State) -> Vec<u8> {
    let mut out = Vec::new();
    put_length(&mut out, state.addresses.len());
    for (index, prefix) in &state.addresses {
        out.extend(index.to_le_bytes());
        put_address(&mut out, prefix.address());
        out.push(prefix.prefix_len());
    }
    put_length(&mut out, state.goodbyes.len());
    for goodbye in &state.goodbyes {
        out.extend(goodbye.index.to_le_bytes());
        put_bytes(&mut out, goodbye.interface.as_bytes());
        put_address(&mut out, goodbye.source);
        put_address(&mut out, goodbye.destination);
        put_bytes(&mut out, &goodbye.payload);
    }
    put_length(&mut out, state.settings.len());
    for setting in &state.settings {
        for text in [&setting.path, &setting.old, &setting.new] {
            put_bytes(&mut out, text.as_bytes());
        }
    }
    put_length(&mut out, state.links.len());
    for link in &state.links {
        out.extend(link.base.to_le_bytes());
        out.extend(link.mac().0);
    }
    out
}

fn put_length(out: &mut Vec<u8>, length: usize) {
    out.extend(u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_length(out, bytes.len());
    out.extend(bytes);
}

fn put_address(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(v4) => {
            out.push(4);
            out.extend(v4.to_ipv6_mapped().octets());
        }
        IpAddr::V6(v6) => {
            out.push(6);
            out.extend(v6.octets());
        }
    }
}

/// Bytes that are taken from the front, as long as there are any.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        self.take(length)
    }

    fn text(&mut self) -> Option<String> {
        String::from_utf8(self.bytes()?.to_vec()).ok()
    }

    fn address(&mut self) -> Option<IpAddr> {
        let family = *self.take(1)?.first()?;
        let octets: [u8; 16] = self.take(16)?.try_into().ok()?;
        let v6 = Ipv6Addr::from(octets);
        match family {
            4 => v6.to_ipv4_mapped().map(IpAddr::V4),
            6 => Some(IpAddr::V6(v6)),
            _ => None,
        }
    }

    fn list<T>(&mut self, mut one: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        (0..self.number()?).map(|_| one(self)).collect()
    }
}

fn decode(bytes: &[u8]) -> Option<State> {
    let mut rest = Rest(bytes);
    let addresses = rest.list(|rest| {
        let index = rest.number()?;
        let address = rest.address()?;
        Some((index, Prefix::new(address, *rest.take(1)?.first()?)?))
    })?;
    let goodbyes = rest.list(|rest| {
        Some(Goodbye {
            index: rest.number()?,
            interface: rest.text()?,
            source: rest.address()?,
            destination: rest.address()?,
            payload: rest.bytes()?.to_vec(),
        })
    })?;
    let settings = rest
        .list(|rest| Some(Setting { path: rest.text()?, old: rest.text()?, new: rest.text()? }))?;
    let links = rest.list(|rest| {
        let base = rest.number()?;
        OwnLink::with_mac(base, Mac(rest.take(6)?.try_into().ok()?))
    })?;
    Some(State { addresses, goodbyes, settings, links })
}

#[cfg(test)]
mod tests {
    use standin_core::types::{Family, Vrid};

    use super::*;

    fn state() -> State {
        State {
            addresses: vec![
                (2, "192.168.1.41/24".parse().unwrap()),
                (3, "fd00::41/64".parse().unwrap()),
            ],
            goodbyes: vec![Goodbye {
                index: 2,
                interface: "eth0".into(),
                source: "192.168.1.189".parse().unwrap(),
                destination: "224.0.0.18".parse().unwrap(),
                payload: vec![0x31, 41, 0, 1],
            }],
            settings: vec![Setting {
                path: "net/ipv4/conf/eth0/promote_secondaries".into(),
                old: "0".into(),
                new: "1".into(),
            }],
            links: vec![OwnLink { base: 2, family: Family::V6, id: Vrid::new(41).unwrap() }],
        }
    }

    #[test]
    fn a_state_reads_back_as_written() {
        let ledger = Ledger::new().unwrap();
        assert_eq!(ledger.read(), State::default());
        assert!(ledger.write(&state()));
        assert_eq!(ledger.read(), state());
        assert!(ledger.write(&State::default()));
        assert_eq!(ledger.read(), State::default());
    }

    #[test]
    fn a_state_that_is_cut_off_anywhere_is_no_state() {
        let bytes = encode(&state());
        for length in 0..bytes.len() {
            assert_eq!(decode(&bytes[..length]), None, "{length}");
        }
        assert_eq!(decode(&bytes), Some(state()));
    }

    #[test]
    fn a_writer_killed_half_way_leaves_the_state_before() {
        let ledger = Ledger::new().unwrap();
        assert!(ledger.write(&state()));
        // It was writing into the other half, and never turned.
        let turn = usize::try_from(ledger.counter(TURN).load(Ordering::Relaxed)).unwrap();
        assert!(ledger.0.write(HEADER + ((turn + 1) % 2) * HALF, &[0xa5; 64]));
        assert_eq!(ledger.read(), state());
    }

    #[test]
    fn an_end_that_was_asked_for_is_told_apart_from_a_death() {
        let ledger = Ledger::new().unwrap();
        assert_eq!(ledger.ended(), None);
        ledger.set_ended(0);
        assert_eq!(ledger.ended(), Some(0));
        ledger.reset(Instant::from_nanos(1));
        assert_eq!(ledger.ended(), None);
    }
}
