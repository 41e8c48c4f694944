//! Looks at this host before standin runs on it, and says all that would keep a VIP from being held.
//!
//! [`look`] gathers [`facts`], [`judge`] turns them into findings without looking at anything, so
//! that every bad host can be tried without having one. Nothing on the host is changed.

mod codes;
mod facts;
mod firewall;
mod forecast;
mod judge;
mod look;

pub(crate) use codes::UNREAD_FILE;
pub(crate) use forecast::forecast;
pub(crate) use judge::{Subject, judge, rivals};
pub(crate) use look::{Listen, here, keepaliveds, lasting, local};

/// The kernel's words, without its number.
pub(crate) fn words(error: &std::io::Error) -> String {
    let said = error.to_string();
    said.split(" (os error").next().unwrap_or_default().to_lowercase()
}

#[cfg(test)]
mod tests;
