//! What was recorded of a node makes a new one do the same.

use standin_core::record::{self, Recorded};
use standin_sim::campaign::Campaign;
use standin_sim::replay::replay;

/// Two stories in which the recorded node is not replaced by a newer program: a record begins at a start.
const CAMPAIGN: Campaign = Campaign { seed: 5, fewest_nodes: 2, most_nodes: 3 };

#[test]
fn a_recorded_node_replays_its_transitions() {
    let mut transitions = 0;
    for case in 0..2 {
        let text = CAMPAIGN.record(case, 0);
        let told = replay(&text).unwrap();
        transitions += told.lines().filter(|line| line.contains(" -> active: ")).count();
        // The kernel's answers are inputs: each request that is answered was asked for.
        let asked = |what: &str| told.matches(what).count();
        let asked = asked("Hold {") + asked("Release {") + asked("Stay {");
        let entries = record::parse(&text).unwrap();
        let answered =
            entries.iter().filter(|it| matches!(it.input, Recorded::Settled { .. })).count();
        assert!(answered <= asked, "case {case}: {answered} answers to {asked} requests");
    }
    assert!(transitions > 0);
}

#[test]
fn a_record_without_a_plan_is_refused() {
    assert!(replay("standin record 1\n5 tick\n").unwrap_err().contains("plan"));
    assert!(replay("5 tick\n").unwrap_err().contains("line 1"));
}
