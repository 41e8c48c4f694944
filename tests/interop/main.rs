//! standin beside Debian's keepalived, beside strangers and beside itself, on a real kernel.
//!
//! What is asserted is what a third host sees: packets on the wire, who answers for the VIP, and
//! how long two kernels had it at once.

#![allow(clippy::unwrap_used, reason = "a test that can't be set up has failed")]

#[path = "../hosts/mod.rs"]
mod hosts;

mod addresses;
mod dual;
mod health;
mod keepalived;
mod network;
mod pair;
mod strangers;
