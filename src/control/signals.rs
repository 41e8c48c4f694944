//! What the daemon is told by signals.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::guard;

pub(super) struct Signals {
    pub(super) hangup: Signal,
    pub(super) terminate: Signal,
    pub(super) interrupt: Signal,
}

impl Signals {
    /// From now on none of them ends the process by itself.
    ///
    /// # Errors
    /// As sigaction(2).
    pub(super) fn listen() -> io::Result<Self> {
        let hangup = signal(SignalKind::hangup())?;
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        guard::listens();
        Ok(Self { hangup, terminate, interrupt })
    }

    /// The signal that says to stop, if one came while its receiver was busy.
    pub(super) async fn stop_came(&mut self) -> Option<&'static str> {
        // The runtime looks for what the kernel has before it comes back here.
        tokio::task::yield_now().await;
        tokio::select! {
            biased;
            _ = self.terminate.recv() => Some("SIGTERM"),
            _ = self.interrupt.recv() => Some("SIGINT"),
            () = std::future::ready(()) => None,
        }
    }
}
