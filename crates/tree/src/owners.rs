//! Numbers of users and groups, and their names on this host.

use std::collections::HashMap;
use std::sync::Arc;

use standin_linux::{group, user};

use crate::manifest::{Manifest, Who, is_owner_name};

/// Looks names up once each. The lookups read `/etc/passwd` or ask a directory service, so they may
/// take time: make a new one for each job, and not on a thread that must be on time.
#[derive(Debug, Default)]
pub struct Owners {
    users: Table,
    groups: Table,
}

impl Owners {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The user with this number here.
    pub fn user(&mut self, id: u32) -> Who {
        self.users.named(id, user::name)
    }

    /// The group with this number here.
    pub fn group(&mut self, id: u32) -> Who {
        self.groups.named(id, group::name)
    }

    /// The user of this name here, or, if there is none, the one with that number.
    pub fn user_here(&mut self, who: &Who) -> Who {
        self.users.here(who, user::id, user::name)
    }

    /// The group of this name here, or, if there is none, the one with that number.
    pub fn group_here(&mut self, who: &Who) -> Who {
        self.groups.here(who, group::id, group::name)
    }

    /// The tree as this host would show it: every owner by name, or by number if the name is unknown
    /// here. A tree that was built here is compared with this.
    #[must_use]
    pub fn localised(&mut self, manifest: &Manifest) -> Manifest {
        let (users, groups) = (&mut self.users, &mut self.groups);
        manifest.map_owners(
            |who| users.here(who, user::id, user::name),
            |who| groups.here(who, group::id, group::name),
        )
    }
}

#[derive(Debug, Default)]
struct Table {
    names: HashMap<u32, Who>,
    ids: HashMap<Arc<str>, Option<u32>>,
}

impl Table {
    fn named(&mut self, id: u32, name: fn(u32) -> Option<String>) -> Who {
        let look = || {
            let name = name(id).filter(|name| is_owner_name(name));
            Who { id, name: name.map(Arc::from) }
        };
        self.names.entry(id).or_insert_with(look).clone()
    }

    fn here(
        &mut self,
        who: &Who,
        id: fn(&str) -> Option<u32>,
        name: fn(u32) -> Option<String>,
    ) -> Who {
        if let Some(known) = &who.name {
            let found = self.ids.entry(Arc::clone(known)).or_insert_with(|| id(known));
            if let Some(id) = *found {
                return self.named(id, name);
            }
        }
        self.named(who.id, name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_found_by_name_and_else_by_number() {
        let mut owners = Owners::new();
        let root = owners.user(0);
        assert_eq!(root.name.as_deref(), Some("root"));
        let moved = Who { id: 4711, name: Some("root".into()) };
        assert_eq!(owners.user_here(&moved).id, 0);
        let unknown = Who { id: 3_000_000_000, name: Some("no-such-user".into()) };
        assert_eq!(owners.user_here(&unknown), Who::number(3_000_000_000));
        assert_eq!(owners.group_here(&Who { id: 9, name: Some("root".into()) }).id, 0);
    }
}
