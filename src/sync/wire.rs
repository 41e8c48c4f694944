//! What nodes say to each other about the shared files, as it stands on the wire.

use serde::{Deserialize, Serialize};
use standin_core::sync::id::LINE;
use standin_core::sync::{Id, Line, Message, Order, Problem, State, TreeHash, Trouble};
use standin_tree::hash::Hash;

use super::outside::Files;
use crate::link::message::plain;
use crate::tickets;

/// Contents that may be asked for at once.
pub(crate) const WANTED: usize = 1024;

/// Generations in the life of a cluster: a number beyond would leave no room to count on, and a line
/// must rise. JSON's readers agree on integers up to here.
const MOST_NUMBER: u64 = 1 << 53;

/// Longer than nginx's own message about one line is.
const WORDS: usize = 4000;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "about", rename_all = "snake_case")]
pub(crate) enum Said {
    State(Box<StateSaid>),
    Offer {
        line: Vec<IdSaid>,
        apply: bool,
    },
    Test {
        id: IdSaid,
    },
    Apply {
        id: IdSaid,
    },
    Undo {
        id: IdSaid,
        why: String,
    },
    /// The list of a generation's files is asked for.
    WantList {
        tree: String,
    },
    /// Contents, by their hashes; the first one from `skip` on.
    Want {
        contents: Vec<String>,
        skip: u64,
    },
    /// What was asked for isn't here any more.
    Lacks {
        hash: String,
    },
    /// The keys that its nginx encrypts session tickets with.
    Tickets(Box<tickets::Said>),
    /// What it has of the files that its nginx's configuration names outside.
    Outside(Box<Files>),
    /// A later version may say more than this one understands.
    #[serde(other)]
    Unknown,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct IdSaid {
    pub(crate) number: u64,
    /// Hexadecimal.
    pub(crate) tree: String,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct StateSaid {
    pub(crate) desired: Option<IdSaid>,
    pub(crate) staged: Option<IdSaid>,
    pub(crate) tested: Option<IdSaid>,
    pub(crate) applied: Option<IdSaid>,
    pub(crate) proven: Option<IdSaid>,
    pub(crate) drift: Option<String>,
    pub(crate) problem: Option<ProblemSaid>,
    pub(crate) held: Option<String>,
    pub(crate) writer: Option<String>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ProblemSaid {
    pub(crate) id: IdSaid,
    pub(crate) trouble: String,
    pub(crate) why: String,
}

/// All digits of a hash.
pub(crate) fn hex(bytes: &[u8; 32]) -> String {
    Hash::from_bytes(*bytes).to_string()
}

/// The other way; `None` for what is no hash.
pub(crate) fn unhex(text: &str) -> Option<[u8; 32]> {
    Hash::parse(text).map(|hash| *hash.as_bytes())
}

impl From<Id> for IdSaid {
    fn from(id: Id) -> Self {
        Self { number: id.number, tree: hex(&id.tree.0) }
    }
}

impl IdSaid {
    /// `None` for what is none.
    pub(crate) fn id(&self) -> Option<Id> {
        if self.number > MOST_NUMBER {
            return None;
        }
        Some(Id { number: self.number, tree: TreeHash(unhex(&self.tree)?) })
    }
}

/// A line from elsewhere; `None` for what is none.
pub(crate) fn line(said: &[IdSaid]) -> Option<Line> {
    let ids: Option<Vec<Id>> = said.iter().take(LINE).map(IdSaid::id).collect();
    Line::of(ids?)
}

pub(crate) fn line_said(line: &Line) -> Vec<IdSaid> {
    line.ids().iter().copied().map(IdSaid::from).collect()
}

const TROUBLES: [(Trouble, &str); 5] = [
    (Trouble::Refused, "refused"),
    (Trouble::Approval, "approval"),
    (Trouble::Unproven, "unproven"),
    (Trouble::Passing, "passing"),
    (Trouble::Undone, "undone"),
];

impl From<Problem> for ProblemSaid {
    fn from(problem: Problem) -> Self {
        let word = TROUBLES.iter().find(|(trouble, _)| *trouble == problem.trouble);
        Self {
            id: problem.id.into(),
            trouble: word.map_or_else(String::new, |(_, word)| (*word).to_owned()),
            why: problem.why,
        }
    }
}

impl ProblemSaid {
    pub(crate) fn problem(&self) -> Option<Problem> {
        let known = TROUBLES.iter().find(|(_, word)| *word == self.trouble);
        // A kind that this version doesn't know is at least a refusal.
        let trouble = known.map_or(Trouble::Refused, |(trouble, _)| *trouble);
        Some(Problem { id: self.id.id()?, trouble, why: words(&self.why) })
    }
}

/// nginx's message has lines, which are kept.
fn words(text: &str) -> String {
    let fit = |c: char| if c.is_control() && c != '\n' { ' ' } else { c };
    text.chars().take(WORDS).map(fit).collect()
}

impl From<State> for StateSaid {
    fn from(state: State) -> Self {
        let said = |id: Option<Id>| id.map(IdSaid::from);
        Self {
            desired: said(state.desired),
            staged: said(state.staged),
            tested: said(state.tested),
            applied: said(state.applied),
            proven: said(state.proven),
            drift: state.drift.map(|tree| hex(&tree.0)),
            problem: state.problem.map(ProblemSaid::from),
            held: state.held,
            writer: state.writer,
        }
    }
}

impl StateSaid {
    fn state(&self) -> State {
        let id = |said: &Option<IdSaid>| said.as_ref().and_then(IdSaid::id);
        State {
            desired: id(&self.desired),
            staged: id(&self.staged),
            tested: id(&self.tested),
            applied: id(&self.applied),
            proven: id(&self.proven),
            drift: self.drift.as_deref().and_then(unhex).map(TreeHash),
            problem: self.problem.as_ref().and_then(ProblemSaid::problem),
            held: self.held.as_deref().map(plain),
            writer: self.writer.as_deref().map(plain),
        }
    }
}

impl From<Message> for Said {
    fn from(message: Message) -> Self {
        match message {
            Message::State(state) => Self::State(Box::new((*state).into())),
            Message::Offer { line, apply } => Self::Offer { line: line_said(&line), apply },
            Message::Order(Order::Test(id)) => Self::Test { id: id.into() },
            Message::Order(Order::Apply(id)) => Self::Apply { id: id.into() },
            Message::Order(Order::Undo { id, why }) => Self::Undo { id: id.into(), why },
        }
    }
}

impl Said {
    /// What is for the core; `None` for what isn't, and for what makes no sense.
    pub(crate) fn message(&self) -> Option<Message> {
        Some(match self {
            Self::State(state) => Message::State(Box::new(state.state())),
            Self::Offer { line: said, apply } => {
                Message::Offer { line: line(said)?, apply: *apply }
            }
            Self::Test { id } => Message::Order(Order::Test(id.id()?)),
            Self::Apply { id } => Message::Order(Order::Apply(id.id()?)),
            Self::Undo { id, why } => Message::Order(Order::Undo { id: id.id()?, why: words(why) }),
            Self::WantList { .. }
            | Self::Want { .. }
            | Self::Lacks { .. }
            | Self::Tickets(_)
            | Self::Outside(_)
            | Self::Unknown => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u64) -> Id {
        Id { number, tree: TreeHash([0xab; 32]) }
    }

    #[test]
    fn what_is_said_is_what_is_heard() {
        let problem =
            Problem { id: id(3), trouble: Trouble::Approval, why: "[emerg] a\nb".to_owned() };
        let state = State {
            desired: Some(id(3)),
            proven: Some(id(2)),
            drift: Some(TreeHash([1; 32])),
            problem: Some(problem),
            writer: Some("n1".to_owned()),
            ..State::default()
        };
        let line = Line::of(vec![id(3), id(2)]).unwrap();
        for message in [
            Message::State(Box::new(state)),
            Message::Offer { line, apply: true },
            Message::Order(Order::Undo { id: id(1), why: "n2: no".to_owned() }),
        ] {
            let text = serde_json::to_string(&Said::from(message.clone())).unwrap();
            let said: Said = serde_json::from_str(&text).unwrap();
            assert_eq!(said.message(), Some(message), "{text}");
        }
    }

    #[test]
    fn nonsense_is_nothing() {
        let said = |text: &str| serde_json::from_str::<Said>(text).unwrap().message();
        assert_eq!(said(r#"{"about":"sing","song":1}"#), None);
        assert_eq!(said(r#"{"about":"test","id":{"number":1,"tree":"zz"}}"#), None);
        let rising = r#"[{"number":1,"tree":"00"},{"number":2,"tree":"00"}]"#;
        assert_eq!(said(&format!(r#"{{"about":"offer","apply":true,"line":{rising}}}"#)), None);
        let far = IdSaid { number: u64::MAX, tree: hex(&[1; 32]) };
        assert_eq!(far.id(), None, "the next one would have no number");
        assert!(line(&[far]).is_none());
        assert_eq!(unhex(&"0g".repeat(32)), None);
        assert_eq!(unhex(&hex(&[7; 32])), Some([7; 32]));
    }
}
