//! Two nodes that can't hear each other, or not both ways: who serves, who gives up, what clients see.

#![allow(clippy::unwrap_used, reason = "a test that can't be set up has failed")]

mod cut;
mod heartbeat;
#[path = "../hosts/mod.rs"]
mod hosts;
mod one_way;
mod segment;
mod witness;
