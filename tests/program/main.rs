//! The daemon and its command line, as their users call them.

#![allow(clippy::unwrap_used, reason = "a test that can't be set up has failed")]

mod command_line;
mod hardship;
mod host;
mod layouts;
mod logs;
mod many;
mod notify;
mod reload;
mod unit;
