//! Users of this host.

/// The id of a user; `None` when the host has none of that name.
#[must_use]
pub fn id(name: &str) -> Option<u32> {
    nix::unistd::User::from_name(name).ok().flatten().map(|user| user.uid.as_raw())
}

/// The name of a user; `None` when the host has none for that id.
#[must_use]
pub fn name(id: u32) -> Option<String> {
    let user = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(id));
    user.ok().flatten().map(|user| user.name)
}
