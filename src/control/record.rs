//! An event of the core as a line of the history, with its stable word and its severity.

use standin_core::event::{Kind, Reason, Role};

use super::history::Record;
use super::log::Severity;
use super::time;
use crate::engine::messages::Happened;

/// The event as it is kept; it gets its number later.
pub(super) fn of(happened: &Happened) -> Record {
    let (from, to, reason) = match &happened.event.kind {
        Kind::Transition { from, to, .. } => {
            let words = happened.words.split_once(": ").map(|(_, reason)| reason.to_owned());
            (Some(from.to_string()), Some(to.to_string()), words)
        }
        _ => (None, None, None),
    };
    Record {
        seq: 0,
        at: time::rfc3339(happened.at),
        kind: kind_word(&happened.event.kind).to_owned(),
        vip: happened.vip.clone(),
        from,
        to,
        reason,
        peer: happened.peer.clone(),
        text: happened.words.clone(),
    }
}

/// The stable word of an event's kind, for programs.
const fn kind_word(kind: &Kind) -> &'static str {
    match kind {
        Kind::Transition { .. } => "transition",
        Kind::Standing { .. } => "standing",
        Kind::Check { .. } => "check",
        Kind::Rival { .. } => "rival",
        Kind::RivalUnheard { .. } => "rival_unheard",
        Kind::OneWay { .. } => "one_way",
        Kind::SeenByHeartbeat { .. } => "seen_by_heartbeat",
        Kind::RivalByLink { .. } => "rival_by_link",
        Kind::AdvertsLost { lost: true, .. } => "adverts_lost",
        Kind::AdvertsLost { lost: false, .. } => "adverts_arrive",
        Kind::StaleMac { .. } => "stale_mac",
        Kind::Stranger { .. } => "stranger",
        Kind::Ignored { .. } => "ignored",
        Kind::AddressListDiffers { .. } => "address_list_differs",
        Kind::Deaf { .. } => "deaf",
        Kind::HeardAgain { .. } => "heard_again",
        Kind::ForeignOwner { .. } => "foreign_owner",
        Kind::ForeignOwnerGone => "foreign_owner_gone",
        Kind::AwaitingVacancy { .. } => "awaiting_vacancy",
        Kind::AddressConflict { .. } => "address_conflict",
        Kind::AddressRestored { .. } => "address_restored",
        Kind::AddressRefused { .. } => "address_refused",
        Kind::Stalled { .. } => "stalled",
        Kind::Maintenance { .. } => "maintenance",
        Kind::Reloaded => "reloaded",
    }
}

/// How much attention an event wants.
pub(super) const fn severity(kind: &Kind) -> Severity {
    match kind {
        Kind::Transition { to: Role::Idle, reason: Reason::Stopping, .. }
        | Kind::Standing { obstacle: None, .. }
        | Kind::Check { passing: true, .. }
        | Kind::HeardAgain { .. }
        | Kind::AdvertsLost { lost: false, .. }
        | Kind::ForeignOwnerGone
        | Kind::AwaitingVacancy { .. }
        | Kind::Maintenance { .. }
        | Kind::Reloaded => Severity::Info,
        Kind::Transition { .. } => Severity::Notice,
        Kind::AddressRefused { .. } => Severity::Error,
        _ => Severity::Warning,
    }
}
