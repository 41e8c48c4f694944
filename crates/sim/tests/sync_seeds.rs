//! Drawn clusters with shared files: some the same for ever, some new in each run.

use std::fs::File;
use std::io::Read as _;

use standin_sim::sync::Sabotage;
use standin_sim::sync::campaign::{Tally, events, faults, run};

fn hold_to_their_promises(seed: u64, cases: u64) -> Tally {
    let mut tally = Tally::default();
    for case in 0..cases {
        match run(seed, case, Sabotage::None, true) {
            Ok(done) => tally.add(&done),
            Err(failure) => panic!(
                "{}{}\nstandin-sim sync --seed {seed} --case {case}",
                failure.trace, failure.what
            ),
        }
    }
    tally
}

#[test]
fn fixed_seeds_break_no_promise() {
    hold_to_their_promises(1, 12);
}

/// A rollback was taken back by an edit before anybody had read what it had put there.
#[test]
fn what_nginx_has_loaded_isn_t_taken_for_the_tree_that_lay_there_before() {
    let ended = run(9_546_833_296_082_153_647, 3157, Sabotage::None, true);
    assert!(ended.is_ok(), "{:?}", ended.err().map(|failure| failure.what));
}

#[test]
fn a_fresh_seed_breaks_no_promise_and_meets_most_of_what_can_happen() {
    let mut bytes = [0; 8];
    File::open("/dev/urandom").unwrap().read_exact(&mut bytes).unwrap();
    let tally = hold_to_their_promises(u64::from_be_bytes(bytes), 12);
    let all = faults().count() + events().count();
    let met = tally.faults.len() + tally.events.len();
    assert!(met * 10 > all * 8, "{met} of {all}");
    assert!(tally.settled > 24, "{} times", tally.settled);
}

#[test]
fn the_same_seed_tells_the_same_story() {
    let [first, second] = [run(9, 0, Sabotage::None, false), run(9, 0, Sabotage::None, true)]
        .map(|it| it.map(|it| (it.faults, it.events, it.settled)).map_err(|it| it.what));
    assert_eq!(first, second);
}
