//! An exchange that didn't go as it was meant: something was in its way, or somebody wrote meanwhile.

use standin_apply::{Left, NotSwapped, Recovered, recover};
use standin_core::sync::{Outcome, TreeHash};

use super::ground::{Ground, shown};
use super::stage::{Refused, Stage, passing};

impl Ground {
    /// What is exchanged in parts leaves alone what somebody else writes beside them. nginx may have read that
    /// without a test, and what it refuses may be that.
    pub(super) fn undisturbed(
        &self,
        exchanged: Result<Outcome, Refused>,
        stage: &Stage,
        own: Option<TreeHash>,
        before: TreeHash,
    ) -> Result<Outcome, Refused> {
        // What can't be read is told by the next look at it.
        let another = |than: TreeHash| self.glance().is_ok_and(|(_, hash)| hash != than);
        match exchanged {
            Ok(Outcome::Done) if stage.is_in_parts() && own.is_some_and(another) => {
                let why = "somebody wrote to the files here while they were put in place, and nginx may \
                           have loaded that untested; it is kept, and put right";
                Ok(Outcome::Unproven(why.to_owned()))
            }
            Err(refused) if refused.files && stage.is_in_parts() && another(before) => {
                let why = refused.failure.1;
                Err(Refused::from(passing(format!(
                    "somebody wrote to the files here meanwhile, so that this may be for what was written: \
                     {why}; what lay there is kept, and it is tried again"
                ))))
            }
            exchanged => exchanged,
        }
    }

    /// Nothing was exchanged: clears what was staged, and undoes an earlier swap that stood in the way.
    pub(super) fn not_swapped(
        &self,
        stage: &Stage,
        error: NotSwapped,
        drift: &mut Vec<String>,
    ) -> Refused {
        drift.extend(error.drift.iter().map(shown));
        // What is half exchanged may be the old tree.
        if error.left != Left::Half {
            stage.clear();
        }
        let mut why = error.why;
        if error.left == Left::NotBegun {
            match recover(&self.journals, &mut |_| {}) {
                Ok(Recovered::Undone { drift: edited, .. }) => {
                    drift.extend(edited.iter().map(shown));
                    why.push_str("; it is undone by now, and this is tried again");
                }
                Ok(Recovered::Clean) => {}
                Err(error) => why = format!("{why}; that can't be undone: {error}"),
            }
        }
        Refused { failure: passing(why), way: error.left == Left::AsItWas, files: false }
    }
}
