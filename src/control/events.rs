//! What the engine tells, for a loop that waits for other things as well.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use standin_linux::queue::Taken;
use tokio::io::unix::AsyncFd;

use crate::engine::messages::Inbox;

/// The engine's messages of one kind as something that tokio can wait for.
pub(super) struct Events<T> {
    inbox: Inbox<T>,
    readable: AsyncFd<OwnedFd>,
}

impl<T: Send> Events<T> {
    pub(super) fn new(inbox: Inbox<T>) -> io::Result<Self> {
        let wake = inbox.wake.as_fd().try_clone_to_owned()?;
        Ok(Self { readable: crate::readable::readable(wake)?, inbox })
    }

    pub(super) fn try_next(&self) -> Option<T> {
        match self.inbox.receiver.take() {
            Taken::Message(message) => Some(message),
            Taken::Nothing | Taken::Over => None,
        }
    }

    pub(super) async fn next(&self) -> io::Result<T> {
        loop {
            if let Some(message) = self.try_next() {
                return Ok(message);
            }
            let mut guard = self.readable.readable().await?;
            self.inbox.wake.clear();
            guard.clear_ready();
            // What came between the look and the clearing.
            if let Some(message) = self.try_next() {
                return Ok(message);
            }
        }
    }
}
