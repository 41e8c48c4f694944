//! What a switchover tells of connections, in words.

pub(crate) fn connections(count: usize) -> String {
    if count == 1 { "1 connection".to_owned() } else { format!("{count} connections") }
}

/// Who is still served by the old node.
pub(super) fn still(count: usize, node: &str, left_s: u64) -> String {
    let them = match count {
        0 => return format!("nobody is left on {node}; waiting a moment for who still comes"),
        1 => "it",
        _ => "them",
    };
    format!("{} still on {node}, {left_s} s left for {them}", connections(count))
}

/// What became of those that were left when the drain was over; nginx was `told` to end them, or not.
pub(super) fn ending(left: usize, cut: usize, told: bool) -> String {
    let ended = match (left, left.saturating_sub(cut), told) {
        (0, ..) => return "no connection was cut".to_owned(),
        (_, 0, true) => "nginx closed none of those that were left".to_owned(),
        (_, 0, false) => "none of those that were left ended by itself".to_owned(),
        (_, 1, true) => "nginx closed 1 connection that didn't end by itself".to_owned(),
        (_, 1, false) => "1 of those that were left ended by itself".to_owned(),
        (_, ended, true) => {
            format!("nginx closed {ended} connections that didn't end by themselves")
        }
        (_, ended, false) => format!("{ended} of those that were left ended by themselves"),
    };
    let more = if left > cut { " more" } else { "" };
    match cut {
        0 => format!("{ended}; none was cut"),
        1 => format!("{ended}; 1{more} was cut"),
        cut => format!("{ended}; {cut}{more} were cut"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_told_of_one_and_of_many() {
        assert_eq!(ending(0, 0, true), "no connection was cut");
        assert_eq!(
            ending(5, 0, true),
            "nginx closed 5 connections that didn't end by themselves; none was cut"
        );
        assert_eq!(
            ending(1, 0, true),
            "nginx closed 1 connection that didn't end by itself; none was cut"
        );
        assert_eq!(
            ending(3, 1, true),
            "nginx closed 2 connections that didn't end by themselves; 1 more was cut"
        );
        assert_eq!(ending(2, 2, true), "nginx closed none of those that were left; 2 were cut");
        assert_eq!(
            ending(3, 2, false),
            "1 of those that were left ended by itself; 2 more were cut"
        );
    }

    #[test]
    fn who_is_still_there_is_told_of_one_and_of_many() {
        assert_eq!(still(64, "n1", 29), "64 connections still on n1, 29 s left for them");
        assert_eq!(still(1, "n1", 2), "1 connection still on n1, 2 s left for it");
        assert_eq!(still(0, "n1", 2), "nobody is left on n1; waiting a moment for who still comes");
    }
}
