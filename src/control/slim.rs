//! Memory that only a start or a reload needs is given back once it is over.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use standin_core::types::Prefix;
use standin_linux::netlink::{Change, NOWHERE, Rtnl};
use tokio::time::Instant;

use super::Control;

/// After this long what only a start or a reload needs has been done.
const SETTLED: Duration = Duration::from_secs(5);

impl Control {
    /// Something begins that needs what was given back.
    pub(super) fn slim_later(&mut self) {
        self.settled_at = Some(Instant::now() + SETTLED);
    }

    /// Lets go of the code that only a start needs, and sees that a takeover's is there.
    pub(super) fn slim(&mut self) {
        self.settled_at = None;
        // What can't be let go stays; what couldn't be rehearsed comes when it is called.
        let _ = standin_linux::sched::let_go_of_code();
        let _ = crate::engine::rehearse(&self.plan);
        let _ = ask_for_nothing();
    }
}

/// Asks the kernel for an address on an interface that isn't there: the address thread's way.
fn ask_for_nothing() -> io::Result<()> {
    let mut rtnl = Rtnl::open()?;
    for address in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
        let (index, prefix) = (NOWHERE, Prefix::host(address));
        let changes = [Change::Hold { index, prefix, valid_s: 1 }, Change::Drop { index, prefix }];
        // Both are refused.
        rtnl.change(&changes, &mut Vec::new())?;
    }
    Ok(())
}

/// Waits until a time, or for ever.
pub(super) async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}
