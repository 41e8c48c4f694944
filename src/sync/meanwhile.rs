//! What somebody writes beside the parts of a large tree, while these are exchanged.

use std::sync::PoisonError;

use standin_core::sync::{Outcome, TreeHash};

use super::ground::{Ground, Refused, Stage, passing};

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
        let another = |than: TreeHash| {
            let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
            let scan = reader.glance(&self.spec, Some(&self.store), &mut |_| {});
            drop(reader);
            // What can't be read is told by the next look at it.
            scan.is_ok_and(|scan| {
                let name = self.lens.look(&self.store, &scan.manifest).name();
                *name.as_bytes() != than.0
            })
        };
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
}
