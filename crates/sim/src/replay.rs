//! A recorded node, fed its inputs again.

use std::fmt::Write as _;

use standin_core::node::Node;
use standin_core::record::{Recorded, parse};
use standin_core::{Effect, Effects};

use crate::clock::Nanos;
use crate::trace::stamp;

/// Feeds the record of one node to a new one and tells what it does, a line for each effect.
///
/// Times count from the first line. Adverts are left out; they would hide the rest.
///
/// # Errors
/// The line that can't be read, or a record that doesn't begin with a plan.
pub fn replay(text: &str) -> Result<String, String> {
    let entries = parse(text).map_err(|why| why.to_string())?;
    let mut entries = entries.iter();
    let Some((first, Recorded::Plan(plan))) = entries.next().map(|entry| (entry.at, &entry.input))
    else {
        return Err("the first line of a record is a plan".to_owned());
    };
    let mut node = Node::new(first, (**plan).clone());
    let mut effects = Effects::new();
    let mut out = String::new();
    for entry in entries {
        effects.clear();
        // As the shell does after each batch.
        let _ = node.next_deadline();
        node.step(entry.at, entry.input.input(), &mut effects);
        let at: Nanos = entry.at.as_nanos().saturating_sub(first.as_nanos());
        for effect in effects.iter().filter(|effect| !matches!(effect, Effect::Advert { .. })) {
            let vip = |id| node.router(id).map_or("", |router| router.plan().name.as_str());
            // Writing to a String can't fail; the same below.
            let _ = match effect {
                Effect::Event(event) => {
                    let name = event.vip.map_or("", vip);
                    writeln!(out, "{:>14}  {name} {}", stamp(at), event.words(node.plan()))
                }
                other => writeln!(out, "{:>14}  {other:?}", stamp(at)),
            };
        }
    }
    Ok(out)
}
