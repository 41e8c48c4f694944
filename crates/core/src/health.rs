//! Rise and fall: what the results of the checks say about this node.

use crate::Verdict;
use crate::plan::CheckPlan;
use crate::types::CheckId;

/// What is known of one check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// No result yet.
    Unknown,
    Passing,
    Failing,
}

#[derive(Clone, Debug)]
struct Check {
    plan: CheckPlan,
    state: State,
    /// Results in a row that contradict `state`.
    against: u8,
    /// What the last result said.
    detail: String,
}

/// All checks of this node.
#[derive(Clone, Debug, Default)]
pub struct Health {
    checks: Vec<Check>,
}

impl Health {
    /// Checks of `earlier` with the same name keep their state.
    #[must_use]
    pub fn new(plans: &[CheckPlan], earlier: &Self) -> Self {
        let checks = plans.iter().map(|plan| {
            let known = earlier.checks.iter().find(|check| check.plan.name == plan.name);
            Check {
                plan: plan.clone(),
                state: known.map_or(State::Unknown, |check| check.state),
                against: known.map_or(0, |check| check.against),
                detail: known.map_or_else(String::new, |check| check.detail.clone()),
            }
        });
        Self { checks: checks.collect() }
    }

    /// Takes a result; returns the new state when it changed.
    ///
    /// The first result decides at once: a node must not wait for `rise` after each start.
    pub fn result(&mut self, id: CheckId, verdict: Verdict, detail: &str) -> Option<State> {
        let check = self.checks.get_mut(id.index())?;
        if check.detail != detail {
            check.detail.clear();
            check.detail.push_str(detail);
        }
        let says = if verdict == Verdict::Pass { State::Passing } else { State::Failing };
        if says == check.state {
            check.against = 0;
            return None;
        }
        check.against = check.against.saturating_add(1);
        let needed = match (check.state, verdict) {
            (State::Unknown, _) | (_, Verdict::Dead) => 1,
            (_, Verdict::Pass) => check.plan.rise,
            (_, Verdict::Fail) => check.plan.fall,
        };
        if check.against < needed {
            return None;
        }
        check.state = says;
        check.against = 0;
        Some(says)
    }

    #[must_use]
    pub fn state(&self, id: CheckId) -> State {
        self.checks.get(id.index()).map_or(State::Unknown, |check| check.state)
    }

    /// What the last result of the check said.
    #[must_use]
    pub fn detail(&self, id: CheckId) -> &str {
        self.checks.get(id.index()).map_or("", |check| check.detail.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health(rise: u8, fall: u8) -> Health {
        let plan = CheckPlan { name: "nginx".into(), rise, fall };
        Health::new(&[plan], &Health::default())
    }

    const ID: CheckId = CheckId(0);

    #[test]
    fn the_first_result_decides_at_once() {
        assert_eq!(health(3, 3).result(ID, Verdict::Pass, ""), Some(State::Passing));
        assert_eq!(health(3, 3).result(ID, Verdict::Fail, ""), Some(State::Failing));
    }

    #[test]
    fn fall_and_rise_count_results_in_a_row() {
        let mut health = health(2, 3);
        health.result(ID, Verdict::Pass, "");
        assert_eq!(health.result(ID, Verdict::Fail, ""), None);
        assert_eq!(health.result(ID, Verdict::Fail, ""), None);
        assert_eq!(health.result(ID, Verdict::Pass, ""), None);
        assert_eq!(health.result(ID, Verdict::Fail, ""), None);
        assert_eq!(health.result(ID, Verdict::Fail, ""), None);
        assert_eq!(health.result(ID, Verdict::Fail, "no answer"), Some(State::Failing));
        assert_eq!(health.detail(ID), "no answer");
        assert_eq!(health.result(ID, Verdict::Pass, ""), None);
        assert_eq!(health.result(ID, Verdict::Pass, ""), Some(State::Passing));
    }

    #[test]
    fn a_death_does_not_wait_for_fall() {
        let mut health = health(2, 3);
        health.result(ID, Verdict::Pass, "");
        assert_eq!(health.result(ID, Verdict::Dead, ""), Some(State::Failing));
    }

    #[test]
    fn a_reload_keeps_what_is_known_by_name() {
        let mut before = health(2, 3);
        before.result(ID, Verdict::Pass, "200");
        let other = CheckPlan { name: "gw".into(), rise: 1, fall: 1 };
        let same = CheckPlan { name: "nginx".into(), rise: 5, fall: 5 };
        let after = Health::new(&[other, same], &before);
        assert_eq!(after.state(CheckId(0)), State::Unknown);
        assert_eq!(after.state(CheckId(1)), State::Passing);
    }

    #[test]
    fn a_reload_between_two_failures_does_not_put_the_verdict_off() {
        let mut before = health(2, 2);
        before.result(ID, Verdict::Pass, "200");
        assert_eq!(before.result(ID, Verdict::Fail, ""), None);
        let plan = CheckPlan { name: "nginx".into(), rise: 2, fall: 2 };
        let mut after = Health::new(&[plan], &before);
        assert_eq!(after.result(ID, Verdict::Fail, ""), Some(State::Failing));
    }
}
