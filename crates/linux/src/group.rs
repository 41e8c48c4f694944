//! Groups of this host.

use std::fs;

/// The id of a group in `/etc/group`; `None` when there is none of that name.
///
/// Not by the C library: it loads half a megabyte of name services, and may ask the network.
#[must_use]
pub fn id(name: &str) -> Option<u32> {
    find(&fs::read_to_string("/etc/group").ok()?, name)
}

fn find(text: &str, name: &str) -> Option<u32> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    // Its password, its number, its members.
    line.split(':').nth(1)?.parse().ok()
}

/// The name of a group; `None` when the host has none for that id.
#[must_use]
pub fn name(id: u32) -> Option<String> {
    let group = nix::unistd::Group::from_gid(nix::unistd::Gid::from_raw(id));
    group.ok().flatten().map(|group| group.name)
}

#[cfg(test)]
mod tests {
    use super::find;

    #[test]
    fn a_group_is_found_by_its_whole_name() {
        let text = "root:x:0:\nstandin2:x:7:\nstandin:x:995:n1,n2\n";
        assert_eq!(find(text, "standin"), Some(995));
        assert_eq!(find(text, "stand"), None);
        assert_eq!(find("standin:x:\n", "standin"), None);
    }
}
