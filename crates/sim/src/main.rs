//! `standin-sim`: long runs over fresh seeds, scenarios, and the replay of what went wrong.

use std::process::ExitCode;

use standin_sim::campaign::Campaign;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let seed: u64 = args.next().and_then(|it| it.parse().ok()).unwrap_or(1);
    let from: u64 = args.next().and_then(|it| it.parse().ok()).unwrap_or(0);
    let to: u64 = args.next().and_then(|it| it.parse().ok()).unwrap_or(10);
    let campaign = Campaign { seed, fewest_nodes: 2, most_nodes: 8 };
    let mut bad = 0;
    for case in from..to {
        match campaign.run(case, to - from == 1) {
            Ok(tally) => println!(
                "{case} {} {} {} {:?}",
                tally.adverts, tally.transitions, tally.clients_right, tally.longest_overlap
            ),
            Err(failure) => {
                println!("{}case {}: {}", failure.trace, failure.case, failure.what);
                bad += 1;
            }
        }
    }
    println!("{bad} bad");
    ExitCode::SUCCESS
}
