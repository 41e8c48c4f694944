//! A few minutes' worth of drawn clusters: some the same for ever, some new in each run.

use std::fs::File;
use std::io::Read as _;

use standin_sim::campaign::Campaign;

fn hold_to_their_promises(seed: u64, cases: u64) {
    let campaign = Campaign { seed, fewest_nodes: 2, most_nodes: 8 };
    for case in 0..cases {
        if let Err(failure) = campaign.run(case, Some(false)) {
            panic!(
                "{}{}\nstandin-sim run --seed {seed} --case {case} --trace",
                failure.trace, failure.what
            );
        }
    }
}

#[test]
fn fixed_seeds_break_no_promise() {
    for seed in 1..=4 {
        hold_to_their_promises(seed, 3);
    }
}

#[test]
fn a_fresh_seed_breaks_no_promise() {
    let mut bytes = [0; 8];
    File::open("/dev/urandom").unwrap().read_exact(&mut bytes).unwrap();
    hold_to_their_promises(u64::from_be_bytes(bytes), 12);
}

#[test]
fn cases_of_which_a_checker_once_spoke_untruly_break_no_promise() {
    let cases = [
        // An advert waited for its sender's name while its machine's clock stood still.
        (2_084_901_116_011_918_970, 2_898),
        // Adverts came late from a spike that was over.
        (2_084_901_116_011_918_970, 6_125),
        // A holder never heard of the rival whom the client believes, and missed another one later.
        (1_721_184_450_010_872_493, 1_761),
    ];
    for (seed, case) in cases {
        let campaign = Campaign { seed, fewest_nodes: 2, most_nodes: 8 };
        if let Err(failure) = campaign.run(case, None) {
            panic!("seed {seed}, case {case}: {}", failure.what);
        }
    }
}

#[test]
fn the_same_seed_tells_the_same_story() {
    let campaign = Campaign { seed: 9, fewest_nodes: 3, most_nodes: 3 };
    let [first, second] = [campaign.run(0, None), campaign.run(0, None)].map(|it| {
        let tally = it.unwrap();
        (tally.adverts, tally.transitions, tally.faults, tally.reasons)
    });
    assert_eq!(first, second);
}
