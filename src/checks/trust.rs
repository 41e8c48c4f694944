//! Refuses to run a program as root that somebody else could have put there.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// Programs whose first argument is a program, too.
const INTERPRETERS: &[&str] = &[
    "sh", "bash", "dash", "ash", "ksh", "zsh", "env", "python", "perl", "ruby", "php", "node",
    "lua", "tclsh",
];

/// The kernel reads an interpreter's line up to here (BINPRM_BUF_SIZE).
const SHEBANG_BYTES: usize = 256;

/// An interpreter's interpreter, and one more to be safe; the kernel stops at 4.
const DEPTH: u8 = 4;

/// Symbolic links in one path; the kernel's own limit (MAXSYMLINKS).
const LINKS: u8 = 40;

const ROOT: u32 = 0;
const GROUP_WRITES: u32 = 0o020;
const OTHERS_WRITE: u32 = 0o002;
const STICKY: u32 = 0o1000;

/// Why a command must not run as root, in words; `None` when only root could have changed it.
pub(crate) fn objection(command: &[String]) -> Option<String> {
    let (program, arguments) = command.split_first()?;
    let program = Path::new(program);
    if let Some(why) = program_objection(program, 0) {
        return Some(why);
    }
    if !is_interpreter(program) {
        return None;
    }
    let script = arguments.iter().find(|word| !word.starts_with('-'))?;
    if script.starts_with('/') { program_objection(Path::new(script), 0) } else { None }
}

fn is_interpreter(program: &Path) -> bool {
    let name = program.file_name().and_then(OsStr::to_str).unwrap_or_default();
    INTERPRETERS.contains(&name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.'))
}

fn program_objection(program: &Path, depth: u8) -> Option<String> {
    match walk(program) {
        Err(why) => Some(why),
        Ok(()) if depth < DEPTH => {
            let interpreter = shebang(program)?;
            program_objection(&interpreter, depth + 1)
        }
        Ok(()) => Some(format!("{} is interpreted by too many interpreters", program.display())),
    }
}

/// Looks at each component, and at each one of the targets of symbolic links.
fn walk(path: &Path) -> Result<(), String> {
    let mut ahead: Vec<PathBuf> = components(path);
    let mut here = PathBuf::from("/");
    let mut links = 0;
    look(&here)?;
    while let Some(step) = ahead.pop() {
        if step.as_os_str() == ".." {
            here.pop();
            continue;
        }
        here.push(step);
        if !look(&here)? {
            continue;
        }
        links += 1;
        if links > LINKS {
            return Err(format!("{}: too many symbolic links", path.display()));
        }
        let target = fs::read_link(&here).map_err(|error| unreadable(&here, &error))?;
        if target.is_absolute() {
            here = PathBuf::from("/");
        } else {
            here.pop();
        }
        ahead.extend(components(&target));
    }
    Ok(())
}

/// The components of a path, last one first.
fn components(path: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = path
        .components()
        .filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir))
        .map(|part| PathBuf::from(part.as_os_str()))
        .collect();
    found.reverse();
    found
}

/// Objects to an owner other than root and to others who may write; says whether it is a link.
fn look(here: &Path) -> Result<bool, String> {
    let found = fs::symlink_metadata(here).map_err(|error| unreadable(here, &error))?;
    let link = found.is_symlink();
    let mode = found.mode() & 0o7777;
    let owner = found.uid();
    let said = |who: &str, mend: String| {
        Err(format!(
            "not run as root: {} (mode {mode:04o}, owner uid {owner}, gid {}) can be changed by {who}; \
             mend: {mend}, or set `user`",
            here.display(),
            found.gid()
        ))
    };
    if owner != ROOT {
        return said(&format!("uid {owner}"), format!("chown root {}", here.display()));
    }
    // The mode of a link means nothing.
    if link {
        return Ok(true);
    }
    if mode & OTHERS_WRITE != 0 {
        // /tmp and its like are everybody's on purpose.
        let shared = found.is_dir() && mode & STICKY != 0;
        let mend = if shared {
            "keep it in a directory that only root can change".to_owned()
        } else {
            format!("chmod o-w {}", here.display())
        };
        return said("everybody", mend);
    }
    if mode & GROUP_WRITES != 0 && found.gid() != ROOT {
        return said(
            &format!("its group {}", found.gid()),
            format!("chmod g-w {}", here.display()),
        );
    }
    Ok(false)
}

fn unreadable(here: &Path, error: &io::Error) -> String {
    format!("{}: {error}", here.display())
}

/// The interpreter in the first line of a script.
fn shebang(program: &Path) -> Option<PathBuf> {
    let mut head = [0; SHEBANG_BYTES];
    let read = fs::File::open(program).and_then(|mut file| file.read(&mut head)).ok()?;
    let line = head.get(..read)?.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let line = str::from_utf8(line).ok()?;
    line.split_ascii_whitespace().next().map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;

    /// A folder whose path only root can change, unlike those of /tmp.
    fn safe_folder() -> tempfile::TempDir {
        tempfile::tempdir_in("/root").unwrap()
    }

    fn script(at: &Path, text: &str) -> Vec<String> {
        fs::write(at, text).unwrap();
        fs::set_permissions(at, fs::Permissions::from_mode(0o755)).unwrap();
        vec![at.display().to_string()]
    }

    #[test]
    fn a_script_of_root_in_roots_folder_is_trusted() {
        let folder = safe_folder();
        assert_eq!(objection(&script(&folder.path().join("check"), "#!/bin/sh\n")), None);
        assert_eq!(objection(&["/bin/sh".into(), "-c".into(), "exit 0".into()]), None);
    }

    #[test]
    fn the_component_that_others_can_write_is_named_with_mode_and_owner() {
        let folder = safe_folder();
        let open = folder.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
        let command = script(&open.join("check"), "#!/bin/sh\n");
        let why = objection(&command).unwrap();
        assert!(why.contains(&format!("{} (mode 0777, owner uid 0", open.display())), "{why}");
        assert!(why.contains("chmod o-w"), "{why}");
        let by_shell = ["/bin/sh".to_owned(), command.first().unwrap().clone()];
        assert!(objection(&by_shell).is_some());
    }

    #[test]
    fn a_script_of_somebody_else_is_refused() {
        let folder = safe_folder();
        let at = folder.path().join("check");
        let command = script(&at, "#!/bin/sh\n");
        chown(&at, Some(1234), None).unwrap();
        assert!(objection(&command).unwrap().contains("uid 1234"));
    }

    #[test]
    fn a_link_and_an_interpreter_are_followed() {
        let folder = safe_folder();
        let open = folder.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
        let hidden = script(&open.join("check"), "#!/bin/sh\n");
        let link = folder.path().join("link");
        symlink("open/../open/check", &link).unwrap();
        assert!(objection(&[link.display().to_string()]).unwrap().contains("mode 0777"));
        let text = format!("#!{}\n", hidden.first().unwrap());
        let by_shebang = script(&folder.path().join("outer"), &text);
        assert!(objection(&by_shebang).unwrap().contains("mode 0777"));
    }

    #[test]
    fn a_circle_of_links_ends() {
        let folder = safe_folder();
        symlink("b", folder.path().join("a")).unwrap();
        symlink("a", folder.path().join("b")).unwrap();
        let why = objection(&[folder.path().join("a").display().to_string()]).unwrap();
        assert!(why.contains("too many symbolic links"), "{why}");
    }
}
