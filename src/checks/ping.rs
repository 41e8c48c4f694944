//! Asks an address for an ICMP echo.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::IpAddr;

use standin_linux::echo::Echo;

use super::Outcome;
use super::process::readable;

/// Numbers the requests of one check.
#[derive(Debug)]
pub(super) struct Pinger {
    identifier: u16,
    sequence: u16,
}

impl Default for Pinger {
    fn default() -> Self {
        // Any number will do that another ping on this host is unlikely to have.
        let [a, b, ..] = RandomState::new().hash_one(0).to_ne_bytes();
        Self { identifier: u16::from_ne_bytes([a, b]), sequence: 0 }
    }
}

impl Pinger {
    /// Passes when the answer comes; the caller sets the deadline.
    pub(super) fn ping(&mut self, to: IpAddr) -> impl Future<Output = Outcome> + Send + use<> {
        self.sequence = self.sequence.wrapping_add(1);
        let (identifier, sequence) = (self.identifier, self.sequence);
        async move {
            match echo(to, identifier, sequence).await {
                Ok(()) => Outcome::pass(format!("{to} answers")),
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    Outcome::fail(format!("{to}: {error}; mend: a ping check needs CAP_NET_RAW"))
                }
                Err(error) => Outcome::fail(format!("{to}: {error}")),
            }
        }
    }
}

async fn echo(to: IpAddr, identifier: u16, sequence: u16) -> io::Result<()> {
    let echo = readable(Echo::open(to, identifier)?)?;
    echo.get_ref().ask(sequence)?;
    loop {
        let mut ready = echo.readable().await?;
        match ready.try_io(|echo| echo.get_ref().take_answer(sequence)) {
            Ok(Ok(true)) => return Ok(()),
            Ok(Ok(false)) | Err(_) => {}
            Ok(Err(error)) => return Err(error),
        }
    }
}
