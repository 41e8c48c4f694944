//! `standin-sim sync`: long runs of the shared files' world, and one case of them again.

use std::thread;
use std::time::Duration;

use standin_sim::campaign::Failure;
use standin_sim::clock::SECOND;
use standin_sim::sync::Sabotage;
use standin_sim::sync::campaign::{CASE, Tally, events, faults, run};

use crate::{LONG_RUN_HOURS, fresh_seed, long_run};

#[derive(Clone, Copy, Debug)]
struct Options {
    seed: u64,
    hours: u64,
    threads: usize,
    case: Option<u64>,
}

impl Options {
    fn read(words: &[&str]) -> Result<Self, String> {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let mut options = Self { seed: 0, hours: 10, threads, case: None };
        let mut seed = None;
        let mut words = words.iter();
        while let Some(name) = words.next() {
            let value = words.next().ok_or_else(|| format!("{name} needs a value"))?;
            let number: u64 =
                value.parse().map_err(|_| format!("{name} {value}: not understood"))?;
            match *name {
                "--seed" => seed = Some(number),
                "--hours" => options.hours = number,
                "--threads" => options.threads = usize::try_from(number).unwrap_or(1),
                "--case" => options.case = Some(number),
                _ => return Err(format!("{name}: there is no such option")),
            }
        }
        options.seed = seed.map_or_else(fresh_seed, Ok)?;
        Ok(options)
    }
}

/// # Errors
/// What is wrong with the run, in words.
pub(crate) fn command(words: &[&str]) -> Result<(), String> {
    let options = Options::read(words)?;
    if let Some(case) = options.case {
        let tally = run(options.seed, case, Sabotage::None, true)
            .map_err(|failure| format!("{}{}", failure.trace, failure.what))?;
        report(&tally, Duration::ZERO);
        return Ok(());
    }
    let cases = (options.hours * 3_600 * SECOND).div_ceil(CASE);
    println!("seed {}: {} cluster-hours of shared files", options.seed, options.hours);
    let one = |case| run(options.seed, case, Sabotage::None, false);
    let ended = long_run::run((cases, options.threads), one, Tally::add)?;
    report(&ended.tally, ended.took);
    long_run::verdict(options.seed, judge(options, &ended.tally, &ended.failures))
}

fn judge(options: Options, tally: &Tally, failures: &[Failure]) -> String {
    let Options { seed, hours, .. } = options;
    let mut words: Vec<String> = failures
        .iter()
        .map(|Failure { case, what, .. }| {
            format!("case {case}: {what}\n  standin-sim sync --seed {seed} --case {case}")
        })
        .collect();
    if hours >= LONG_RUN_HOURS && failures.is_empty() {
        let missing = faults().filter(|kind| !tally.faults.contains_key(*kind));
        let unsaid = events().filter(|kind| !tally.events.contains_key(*kind));
        words.extend(missing.chain(unsaid).map(|kind| format!("{kind}: never happened")));
    }
    words.join("\n")
}

fn report(tally: &Tally, took: Duration) {
    let hours = tally.simulated / SECOND / 3_600;
    println!(
        "{} cases, {hours} simulated hours, {} faults and orders, found in order {} times",
        tally.cases,
        tally.faults.values().sum::<u64>(),
        tally.settled
    );
    long_run::say_speed(tally.simulated, took);
    long_run::say_counts("faults and what operators did", &tally.faults, faults());
    long_run::say_counts("what replicas said", &tally.events, events());
}
