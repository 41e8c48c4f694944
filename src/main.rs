//! standin: keeps an nginx reachable when the machine under it dies.

mod addresses;
mod adopt;
mod api;
mod authority;
mod checks;
mod cli;
mod control;
mod drill;
mod engine;
mod exit;
mod guard;
mod lab;
mod left;
mod link;
mod nginx;
mod preflight;
mod readable;
mod switchover;
mod sync;
mod tickets;
mod vital;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
