//! Groups of this host.

/// The id of a group; `None` when the host has none of that name.
#[must_use]
pub fn id(name: &str) -> Option<u32> {
    nix::unistd::Group::from_name(name).ok().flatten().map(|group| group.gid.as_raw())
}
