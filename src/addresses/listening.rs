//! Sockets that are opened for the engine: joining a group waits for the kernel's rtnl lock.

use std::time::Duration;

use standin_core::types::Instant;
use standin_linux::advert::AdvertReceiver;
use standin_linux::clock::now;

use super::Addresses;
use crate::engine::messages::{Listen, Listening, ToEngine};

/// A socket that couldn't be opened is tried again after this.
const LISTEN_AGAIN: Duration = Duration::from_secs(1);

impl Addresses {
    /// Opens a socket for the engine; one that can't be opened is tried again and again.
    pub(super) fn listen(&mut self, asked: Listen) {
        let before = self.deaf.len();
        self.deaf.retain(|(_, other)| {
            (other.interface, other.family) != (asked.interface, asked.family)
        });
        self.open(asked, self.deaf.len() < before);
    }

    fn open(&mut self, asked: Listen, was_said: bool) {
        match AdvertReceiver::open(asked.family, asked.index, &asked.name, asked.vips) {
            Ok(receiver) => {
                let receiver = Box::new(receiver);
                self.tell(ToEngine::Listening(Listening { asked, receiver }));
            }
            Err(error) => {
                if !was_said {
                    self.complain(format!(
                        "can't hear {} adverts on {} ({error}); no VIP is held there until it can",
                        asked.family, asked.name
                    ));
                }
                self.deaf.push((now() + LISTEN_AGAIN, asked));
            }
        }
    }

    /// Tries sockets again that couldn't be opened.
    pub(super) fn listen_again(&mut self, time: Instant) {
        let (due, later) =
            std::mem::take(&mut self.deaf).into_iter().partition(|(at, _)| *at <= time);
        self.deaf = later;
        let due: Vec<(Instant, Listen)> = due;
        due.into_iter().for_each(|(_, asked)| self.open(asked, true));
    }
}
