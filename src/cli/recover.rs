//! `standin recover`: after a change of nginx's files was interrupted, the old ones are put back; and
//! what they name of standin's own is there, so that nginx can start.

use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use serde_json::{Value, json};
use standin_apply::Recovered;

use super::{Places, STATE_DIR, say};
use crate::authority::Keys;
use crate::tickets::Place;

#[derive(Debug, Args)]
pub(crate) struct RecoverArgs {
    /// For programs
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    places: Places,
    /// The directory of what outlives the daemon
    #[arg(long, value_name = "DIR", default_value = STATE_DIR)]
    state_dir: PathBuf,
}

/// What wasn't proven is undone: nginx starts with the files that it has run with.
pub(super) fn main(args: &RecoverArgs) -> Result<()> {
    // Kept to the end: no daemon starts meanwhile.
    let _held = args.places.without_daemon("and it recovers by itself when it starts")?;
    let journal = standin_apply::folder(&args.state_dir);
    let found = standin_apply::recover(&journal, &mut |_| ());
    // The files come first, but for an nginx without these keys they are no use either.
    let tickets = Keys::of(&args.state_dir).exist().and_then(|there| {
        let prepare = || Place::of_this_host().prepare(None).map_err(anyhow::Error::msg);
        there.then(prepare).transpose()
    });
    let found = found.context("nginx's files couldn't be put back")?;
    say(args.json, &of(&found), &words(&found))?;
    tickets.map(drop)
}

fn of(found: &Recovered) -> Value {
    match found {
        Recovered::Clean => json!({ "interrupted": false }),
        Recovered::Undone { generation, roots, drift } => {
            let edited = drift
                .iter()
                .map(|one| json!({ "path": one.root.join(&one.path), "kept": one.kept }));
            json!({
                "interrupted": true,
                "generation": generation,
                "put_back": roots,
                "edited": edited.collect::<Value>(),
            })
        }
    }
}

fn words(found: &Recovered) -> String {
    let Recovered::Undone { generation, roots, drift } = found else {
        return "nothing to recover: no change of nginx's files was interrupted".to_owned();
    };
    let mut out = format!("generation {generation} was interrupted before it was proven\n");
    // Writing to a String can't fail.
    for root in roots {
        let _ = writeln!(out, "{} has its old files again", root.display());
    }
    for one in drift {
        let kept = one.kept.as_ref().map(|path| format!(", kept as {}", path.display()));
        let path = one.root.join(&one.path);
        let _ =
            writeln!(out, "{} was edited meanwhile{}", path.display(), kept.unwrap_or_default());
    }
    out.push_str("an nginx that runs may have loaded the other files: reload it");
    out
}

/// Answers one request on standard input; this process has one thread yet.
pub(super) fn tester() -> Result<()> {
    let (mut input, mut output) = (io::stdin(), io::stdout());
    Ok(standin_apply::serve_tester(&mut input, &mut output)?)
}
