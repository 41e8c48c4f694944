//! Does the steps that the core asks for: records, settings, changes of addresses.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use standin_core::guard::State;
use standin_core::holding::{Answer, Change as Wanted, LOOPBACK, Step, Wait};
use standin_linux::netlink::Change;
use standin_linux::sysctl;

use super::{Addresses, EADDRNOTAVAIL, EEXIST, ENODEV, LIFETIME_S};
use crate::engine::messages::ToEngine;

/// The kernel makes an IPv6 address usable right after it has taken it.
const USABLE_WITHIN: Duration = Duration::from_millis(20);

/// The interface goes on serving while the kernel makes the address on lo usable. Tried on Linux 6.18
/// with 50 runnable threads on two CPUs: one in ten took more than 100 ms, and an address that leaves the
/// interface before that loses packets. It is less than what a lifetime has in hand.
const ROUTED_WITHIN: Duration = Duration::from_secs(1);

pub(super) const fn change(wanted: Wanted) -> Change {
    match wanted {
        Wanted::Hold { key: (index, prefix) } => {
            Change::Hold { index, prefix, valid_s: LIFETIME_S }
        }
        Wanted::Serve { key: (index, prefix), base } => {
            Change::Serve { index, base, prefix, valid_s: LIFETIME_S }
        }
        Wanted::Keep { address } => keep(address),
        Wanted::Drop { key: (index, prefix) } => Change::Drop { index, prefix },
    }
}

pub(super) const fn keep(address: IpAddr) -> Change {
    Change::Keep { index: LOOPBACK, address, valid_s: LIFETIME_S }
}

impl Addresses {
    /// Does everything that is to be done.
    pub(super) fn work(&mut self) -> io::Result<()> {
        while let Some(step) = self.holding.next_step() {
            match self.done(step) {
                Ok(answer) => self.holding.answer(answer),
                Err(error) => {
                    self.holding.broken_off();
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn done(&mut self, step: Step) -> io::Result<Answer> {
        let value = |value: io::Result<String>| match value {
            Ok(value) => Answer::Value(value),
            Err(error) => Answer::Failed(error.to_string()),
        };
        Ok(match step {
            Step::Record(state) => {
                self.record(&state);
                Answer::Done
            }
            Step::Look { path } => value(sysctl::read(&path)),
            Step::Set { path, value: new } => {
                value(sysctl::write(&path, &new).and_then(|()| sysctl::read(&path)))
            }
            Step::PutBack(setting) => match sysctl::put_back(&setting) {
                Ok(()) => Answer::Done,
                Err(error) => Answer::Failed(error.to_string()),
            },
            Step::Change { batch, wait } => {
                let batch: Vec<_> = batch.into_iter().map(change).collect();
                Answer::Results(self.change(&batch, wait)?)
            }
            Step::MakeLink(link) => self.make_link(link),
            Step::Silence(links) => {
                self.silence(&links);
                Answer::Done
            }
            Step::LetSpeak(links) => {
                self.let_speak(&links);
                Answer::Done
            }
            Step::RemoveLinks(links) => self.remove_links(&links),
            Step::Settled { vip, number, outcome } => {
                self.tell(ToEngine::Settled { vip, number, outcome });
                Answer::Done
            }
            Step::Complain(text) => {
                self.complain(text);
                Answer::Done
            }
        })
    }

    fn record(&mut self, state: &State) {
        if let Err(error) = self.left.write(&state.settings) {
            self.complain(format!(
                "{error}; if guard and daemon die together, settings of this host stay changed"
            ));
        }
        if self.ledger.as_ref().is_some_and(|ledger| !ledger.write(state)) {
            self.complain("too much is held for the guard's ledger; it guards less".into());
        }
    }

    /// What is as it should be already is no error.
    fn change(&mut self, batch: &[Change], wait: Wait) -> io::Result<Vec<Result<(), i32>>> {
        for change in batch {
            if let Change::Drop { index, prefix } = *change
                && self.present.contains_key(&(index, prefix))
            {
                *self.expected_gone.entry((index, prefix)).or_default() += 1;
            }
        }
        let mut results = Vec::with_capacity(batch.len());
        match wait {
            Wait::No => self.rtnl.change(batch, &mut results)?,
            Wait::Usable => self.rtnl.change_and_wait(batch, &mut results, USABLE_WITHIN)?,
            Wait::Routed => self.rtnl.change_and_wait(batch, &mut results, ROUTED_WITHIN)?,
        }
        for (change, result) in batch.iter().zip(&mut results) {
            let as_it_should_be = match change {
                Change::Drop { .. } => matches!(result, Err(EADDRNOTAVAIL | ENODEV)),
                _ => *result == Err(EEXIST),
            };
            if as_it_should_be {
                *result = Ok(());
            }
        }
        Ok(results)
    }
}
