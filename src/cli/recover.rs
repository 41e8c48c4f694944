//! `standin recover`: after a change of nginx's files was interrupted, the old ones are put back; and
//! what they name of standin's own is there, so that nginx can start.

use std::io;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use standin_apply::Recovered;

use super::{Places, STATE_DIR};
use crate::authority::Keys;
use crate::tickets::Place;

#[derive(Debug, Args)]
pub(crate) struct RecoverArgs {
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
    match found.context("nginx's files couldn't be put back")? {
        Recovered::Clean => {
            println!("nothing to recover: no change of nginx's files was interrupted");
        }
        Recovered::Undone { generation, roots, drift } => {
            println!("generation {generation} was interrupted before it was proven");
            for root in roots {
                println!("{} has its old files again", root.display());
            }
            for one in drift {
                let kept = one.kept.map(|path| format!(", kept as {}", path.display()));
                println!(
                    "{} was edited meanwhile{}",
                    one.root.join(&one.path).display(),
                    kept.unwrap_or_default()
                );
            }
            println!("an nginx that runs may have loaded the other files: reload it");
        }
    }
    tickets.map(drop)
}

/// Answers one request on standard input; this process has one thread yet.
pub(super) fn tester() -> Result<()> {
    let (mut input, mut output) = (io::stdin(), io::stdout());
    Ok(standin_apply::serve_tester(&mut input, &mut output)?)
}
