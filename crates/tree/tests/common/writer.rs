//! A writer at full speed: it creates, renames, deletes, truncates, links, and changes modes and owners.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Each of several writers has a number.
pub(crate) struct Writer(u64);

impl Writer {
    pub(crate) const fn new(number: u64) -> Self {
        Self(number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// Does something, anywhere below `root`.
    pub(crate) fn act(&mut self, root: &Path) {
        act(root, &mut self.0);
    }
}

/// The next number of a writer's own sequence (xorshift).
fn draw(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// Something, anywhere; most of it fails because another writer was faster.
fn act(root: &Path, state: &mut u64) {
    let place = |state: &mut u64| {
        let mut path = root.to_owned();
        for _ in 0..draw(state) % 3 {
            path.push(format!("d{}", draw(state) % 4));
        }
        path.join(format!("f{}", draw(state) % 12))
    };
    let (at, to) = (place(state), place(state));
    let text = "x".repeat(usize::try_from(draw(state) % 9000).unwrap());
    let _ = match draw(state) % 13 {
        0..=2 => fs::write(&at, text),
        3 | 4 => {
            let new = at.with_extension(format!("{}", std::process::id()));
            fs::write(&new, text).and_then(|()| fs::rename(&new, &at))
        }
        5 => fs::rename(&at, &to),
        6 => fs::remove_file(&at),
        7 => at.parent().map_or(Ok(()), fs::create_dir_all),
        8 if draw(state).is_multiple_of(20) => {
            at.parent().filter(|dir| *dir != root).map_or(Ok(()), fs::remove_dir_all)
        }
        8 => fs::File::create(&at).map(drop),
        9 => fs::hard_link(&at, &to),
        10 => std::os::unix::fs::symlink("f1", &at),
        11 => {
            std::os::unix::fs::lchown(&at, Some(u32::try_from(draw(state) % 3).unwrap()), Some(33))
        }
        _ => at.parent().filter(|dir| *dir != root).map_or(Ok(()), |dir| {
            let mode = [0o755, 0o700, 0o750][usize::try_from(draw(state) % 3).unwrap()];
            fs::set_permissions(dir, fs::Permissions::from_mode(mode))
        }),
    };
}
