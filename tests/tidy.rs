//! The house rules that no compiler checks, each with a canary that shows that it can complain.

#![allow(clippy::expect_used, reason = "a rule that can't look must not hold its peace")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A longer file wants to be two.
const LONGEST_FILE: usize = 700;

/// Tables and golden bytes may be longer: nobody reads them from top to bottom.
const TABLES: &[&str] = &["crates/config/src/keys.rs", "crates/core/tests/wire/vrrp.rs"];

/// A page that is longer is no map any more.
const LONGEST_MAP: usize = 300;

/// What isn't ours, or isn't text that somebody wrote.
const PASSED_OVER: &[&str] = &[
    "target",
    ".git",
    "fuzz/target",
    "fuzz/corpus",
    "fuzz/artifacts",
    "LICENSE-APACHE",
    "Cargo.lock",
    "fuzz/Cargo.lock",
];

/// A file of the project: its path from the root, with `/`, and what it says.
struct File {
    path: String,
    text: String,
}

impl File {
    fn is(&self, ending: &str) -> bool {
        self.path.ends_with(ending)
    }

    fn below(&self, folder: &str) -> bool {
        self.path.starts_with(folder)
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every text of the project.
fn project() -> Vec<File> {
    let (mut files, mut folders) = (Vec::new(), vec![root()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the project") {
            let path = entry.expect("an entry").path();
            let name = path.strip_prefix(root()).expect("below the root").to_string_lossy();
            if PASSED_OVER.contains(&name.as_ref()) {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if let Ok(text) = fs::read_to_string(&path) {
                files.push(File { path: name.into_owned(), text });
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(files.len() > 100, "the walk found {} files: it is blind", files.len());
    files
}

/// Runs a rule over every file of the project that it is meant for.
fn hold(rule: impl Fn(&File) -> Vec<String>, meant: impl Fn(&File) -> bool) {
    let files = project();
    let meant: Vec<_> = files.iter().filter(|file| meant(file)).collect();
    assert!(!meant.is_empty(), "the rule is meant for no file");
    no_complaint(meant.into_iter().flat_map(rule));
}

fn no_complaint(complaints: impl IntoIterator<Item = String>) {
    let complaints: Vec<_> = complaints.into_iter().collect();
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

/// The canary: the rule must complain about this text in this place.
fn complains(rule: impl Fn(&File) -> Vec<String>, path: &str, text: &str) {
    let file = File { path: path.into(), text: text.into() };
    assert!(!rule(&file).is_empty(), "the rule finds nothing wrong in {path}:\n{text}");
}

/// And not about this one.
fn accepts(rule: impl Fn(&File) -> Vec<String>, path: &str, text: &str) {
    let file = File { path: path.into(), text: text.into() };
    no_complaint(rule(&file));
}

fn is_rust(file: &File) -> bool {
    file.is(".rs")
}

fn is_prose(file: &File) -> bool {
    file.is(".md")
}

fn everything(_: &File) -> bool {
    true
}

/// Lines with their numbers, without what stands in comments.
fn code(file: &File) -> impl Iterator<Item = (usize, &str)> {
    let without_comment = |line| match str::find(line, "//") {
        // `http://` in a text isn't a comment.
        Some(at) if !line[..at].ends_with(':') => &line[..at],
        _ => line,
    };
    (1..).zip(file.text.lines().map(without_comment))
}

/// Whether `word` stands in `line` as a word of its own.
fn has_word(line: &str, word: &str) -> bool {
    let part_of_word = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        !line[..at].ends_with(part_of_word) && !line[at + word.len()..].starts_with(part_of_word)
    })
}

// Files.

fn opens_with_its_purpose(file: &File) -> Vec<String> {
    let first = file.text.lines().next().unwrap_or_default();
    let sentence = first.strip_prefix("//! ").is_some_and(|rest| rest.len() > 10);
    if sentence {
        vec![]
    } else {
        vec![format!("{}:1: open it with `//! ` and its purpose", file.path)]
    }
}

#[test]
fn every_file_opens_with_its_purpose() {
    complains(opens_with_its_purpose, "src/a.rs", "use std::io;\n");
    complains(opens_with_its_purpose, "src/a.rs", "//!\n//! Late.\n");
    hold(opens_with_its_purpose, is_rust);
}

fn is_no_longer_than_can_be_read(file: &File) -> Vec<String> {
    let lines = file.text.lines().count();
    if lines <= LONGEST_FILE || TABLES.contains(&file.path.as_str()) {
        return vec![];
    }
    vec![format!("{}: {lines} lines; more than {LONGEST_FILE} want to be two files", file.path)]
}

#[test]
fn no_file_is_longer_than_can_be_read() {
    let long = "x\n".repeat(LONGEST_FILE + 1);
    complains(is_no_longer_than_can_be_read, "src/a.rs", &long);
    accepts(is_no_longer_than_can_be_read, TABLES[0], &long);
    hold(is_no_longer_than_can_be_read, is_rust);
}

fn keeps_unsafe_at_home(file: &File) -> Vec<String> {
    if file.below("crates/linux/") {
        return vec![];
    }
    // The word may stand in a text; code goes on like this.
    let goes_on = |rest: &str| {
        let rest = rest.trim_start();
        let next = ["{", "fn ", "impl ", "extern ", "trait ", "("];
        rest.is_empty() || next.iter().any(|next| rest.starts_with(next))
    };
    let begins = |line: &str| {
        let word = "unsafe";
        has_word(line, word) && line.split(word).skip(1).any(goes_on)
            || line.contains("allow(unsafe_code")
            || line.contains("expect(unsafe_code")
    };
    code(file)
        .filter(|(_, line)| begins(line))
        .map(|(number, _)| format!("{}:{number}: unsafe code lives in crates/linux", file.path))
        .collect()
}

#[test]
fn unsafe_code_lives_in_crates_linux() {
    let snippet = "fn f() {\n    unsafe { g() }\n}\n";
    complains(keeps_unsafe_at_home, "src/a.rs", snippet);
    accepts(keeps_unsafe_at_home, "crates/linux/src/a.rs", snippet);
    complains(keeps_unsafe_at_home, "src/a.rs", "#![allow(unsafe_code)]\n");
    complains(keeps_unsafe_at_home, "src/a.rs", "unsafe impl Send for X {}\n");
    accepts(keeps_unsafe_at_home, "src/a.rs", "// unsafe {\n#![forbid(unsafe_code)]\n");
    accepts(keeps_unsafe_at_home, "src/a.rs", "reason = \"its successor is unsafe; so\"\n");
    hold(keeps_unsafe_at_home, |file| is_rust(file) && file.path != "tests/tidy.rs");
}

/// Test-only modules are fine; a product that behaves otherwise under test isn't what ships.
fn is_the_same_under_test(file: &File) -> Vec<String> {
    let lines: Vec<_> = code(file).collect();
    let mut complaints = Vec::new();
    for (place, (number, line)) in lines.iter().enumerate() {
        let asks = line.contains("cfg") && has_word(line, "test") && !line.contains("cfg_attr(not");
        if !asks {
            continue;
        }
        let next = lines[place + 1..].iter().find(|(_, line)| !line.trim().is_empty());
        let item = next.map_or("", |(_, line)| line.trim());
        let module = item.starts_with("mod ") || item.contains(") mod ");
        let only = line.trim() == "#[cfg(test)]" && (module || item.contains("fn for_test("));
        if !only {
            complaints.push(format!("{}:{number}: a branch for tests alone", file.path));
        }
    }
    complaints
}

#[test]
fn no_product_code_knows_that_it_is_tested() {
    complains(is_the_same_under_test, "src/a.rs", "if cfg!(test) { return; }\n");
    complains(is_the_same_under_test, "src/a.rs", "#[cfg(not(test))]\nfn f() {}\n");
    complains(is_the_same_under_test, "src/a.rs", "#[cfg(test)]\nconst WAIT: u32 = 0;\n");
    accepts(is_the_same_under_test, "src/a.rs", "#[cfg(test)]\nmod tests {\n");
    let product = |file: &File| is_rust(file) && (file.below("src/") || file.below("crates/"));
    hold(is_the_same_under_test, product);
}

// Words.

fn is_finished(file: &File) -> Vec<String> {
    let banned = [
        concat!("todo", "!"),
        concat!("unimplemented", "!"),
        concat!("FIX", "ME"),
        concat!("TO", "DO"),
        concat!("XX", "X:"),
    ];
    find_any(file, &banned, "say it in an issue, or do it")
}

fn names_no_machine(file: &File) -> Vec<String> {
    let banned = [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/")];
    find_any(file, &banned, "a path of somebody's machine")
}

fn find_any(file: &File, banned: &[&str], why: &str) -> Vec<String> {
    // `/proc/PID/root/` is every machine's.
    let inner = |c: char| c.is_alphanumeric() || "/}_-.".contains(c);
    let stands = |line: &str, word: &str| {
        line.match_indices(word).any(|(at, _)| !line[..at].ends_with(inner))
    };
    let hit = |line: &str| banned.iter().find(|word| stands(line, word)).copied();
    (1..)
        .zip(file.text.lines())
        .filter_map(|(number, line)| Some((number, hit(line)?)))
        .map(|(number, word): (usize, _)| format!("{}:{number}: `{word}`: {why}", file.path))
        .collect()
}

#[test]
fn nothing_is_left_unfinished() {
    complains(is_finished, "src/a.rs", concat!("    to", "do!()\n"));
    complains(is_finished, "docs/a.md", concat!("FIX", "ME: later\n"));
    hold(is_finished, everything);
}

#[test]
fn no_path_of_somebodys_machine_is_named() {
    complains(names_no_machine, "docs/a.md", concat!("cd /wo", "rk/standin\n"));
    complains(names_no_machine, "src/a.rs", concat!("let x = \"/ro", "ot/x\";\n"));
    accepts(names_no_machine, "src/a.rs", concat!("format!(\"/proc/{pid}/ro", "ot/run\")\n"));
    hold(names_no_machine, everything);
}

// Directions.

/// The dependencies that a manifest names, of all kinds or of the ordinary kind only.
fn dependencies(manifest: &str, ordinary_only: bool) -> Vec<String> {
    let mut found = Vec::new();
    let mut inside = false;
    for line in manifest.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[') {
            let section = section.trim_end_matches(']');
            let name = section.rsplit('.').next().unwrap_or_default();
            let of_workspace = section.starts_with("workspace");
            inside = !of_workspace
                && match name {
                    "dependencies" => true,
                    "dev-dependencies" | "build-dependencies" => !ordinary_only,
                    _ => false,
                };
            // `[dependencies.tokio]` names one in its title.
            if let Some((before, one)) = section.rsplit_once('.')
                && before.ends_with("dependencies")
                && !of_workspace
            {
                found.push(one.to_owned());
            }
            continue;
        }
        let name = line.split(['=', '.', ' ']).next().unwrap_or_default();
        if inside && !name.is_empty() && !name.starts_with('#') {
            found.push(name.to_owned());
        }
    }
    found
}

/// What each room of the house may stand on, and what it may never know, of any kind.
fn stands_where_it_may(file: &File) -> Vec<String> {
    let all = dependencies(&file.text, false);
    let mut complaints = Vec::new();
    let mut never = |name: &str| complaints.push(format!("{}: depends on {name}", file.path));
    let ours: &[&str] = match file.path.as_str() {
        "crates/core/Cargo.toml" => {
            dependencies(&file.text, true).iter().for_each(|name| never(name));
            &[]
        }
        "crates/config/Cargo.toml" | "crates/linux/Cargo.toml" => &["standin-core"],
        "crates/tree/Cargo.toml" => &["standin-linux"],
        "crates/sim/Cargo.toml" => &["standin-core", "standin-config"],
        "crates/apply/Cargo.toml" => &["standin-config", "standin-linux"],
        "Cargo.toml" => {
            &["standin-apply", "standin-core", "standin-config", "standin-linux", "standin-tree"]
        }
        _ => return vec![],
    };
    for name in all.iter().filter(|name| name.starts_with("standin")) {
        if !ours.contains(&name.as_str()) {
            never(name);
        }
    }
    if file.path != "Cargo.toml" {
        let runtimes = ["tokio", "axum", "hyper", "async-std"];
        all.iter().filter(|name| runtimes.contains(&name.as_str())).for_each(|name| never(name));
    }
    if matches!(file.path.as_str(), "crates/sim/Cargo.toml" | "crates/config/Cargo.toml") {
        let kernel = ["libc", "rustix", "nix", "socket2"];
        all.iter().filter(|name| kernel.contains(&name.as_str())).for_each(|name| never(name));
    }
    complaints
}

#[test]
fn dependencies_point_one_way() {
    let rule = stands_where_it_may;
    complains(rule, "crates/core/Cargo.toml", "[dependencies]\nserde = \"1\"\n");
    complains(rule, "crates/config/Cargo.toml", "[dependencies]\nstandin-linux.workspace = true\n");
    complains(rule, "crates/linux/Cargo.toml", "[dependencies]\ntokio = \"1\"\n");
    complains(
        rule,
        "crates/sim/Cargo.toml",
        "[dev-dependencies]\nstandin-linux = { path = \"\" }\n",
    );
    complains(rule, "crates/sim/Cargo.toml", "[target.'cfg(unix)'.dependencies]\nlibc = \"0.2\"\n");
    complains(rule, "crates/linux/Cargo.toml", "[dependencies.tokio]\nversion = \"1\"\n");
    complains(rule, "Cargo.toml", "[dependencies]\nstandin-sim.workspace = true\n");
    complains(rule, "crates/tree/Cargo.toml", "[dependencies]\ntokio = \"1\"\n");
    complains(rule, "crates/sim/Cargo.toml", "[dependencies]\nstandin-tree.workspace = true\n");
    accepts(
        rule,
        "crates/core/Cargo.toml",
        "[dependencies]\n\n[dev-dependencies]\nproptest = \"1\"\n",
    );
    hold(rule, |file| file.is("Cargo.toml"));
    for room in ["apply", "core", "config", "linux", "tree", "sim"] {
        assert!(root().join(format!("crates/{room}/Cargo.toml")).is_file(), "{room} has moved");
    }
}

/// What the thread of a folder must never do, read off the names it uses.
fn leaves_alone_what_may_wait(file: &File) -> Vec<String> {
    let banned: &[&str] = if file.below("src/engine/") {
        &["tokio", "axum", "hyper", "netlink", "fs", "ToSocketAddrs"]
    } else {
        &["tokio", "axum", "hyper", "fs", "ToSocketAddrs"]
    };
    // The core has a `Command` too, an order to the node, and plans have checks.
    let paths = ["process::{", "process::Command", "crate::{", "crate::api", "crate::checks"];
    // Tests stand last, and run on another thread.
    code(file)
        .take_while(|(_, line)| line.trim() != "#[cfg(test)]")
        .filter_map(|(number, line)| {
            let word = banned.iter().find(|word| has_word(line, word));
            let word = word.or_else(|| paths.iter().find(|path| line.contains(**path)))?;
            Some(format!("{}:{number}: `{word}` may wait, this thread mustn't", file.path))
        })
        .collect()
}

#[test]
fn the_threads_that_must_be_on_time_leave_alone_what_may_wait() {
    let rule = leaves_alone_what_may_wait;
    complains(rule, "src/engine/a.rs", "use tokio::time;\n");
    complains(rule, "src/engine/a.rs", "use standin_linux::netlink::Rtnl;\n");
    complains(rule, "src/engine/a.rs", "let text = std::fs::read(path)?;\n");
    complains(rule, "src/engine/a.rs", "std::process::Command::new(\"ip\").spawn()?;\n");
    complains(rule, "src/addresses/a.rs", "use axum::Json;\n");
    accepts(rule, "src/addresses/a.rs", "use standin_linux::netlink::Rtnl; // no tokio\n");
    accepts(rule, "src/engine/a.rs", "#[cfg(test)]\nmod tests {\n    use tokio::time;\n}\n");
    hold(rule, |file| file.below("src/engine/") || file.below("src/addresses/"));
}

// Documents.

/// The blocks between lines of three backticks, and the number of headings outside of them.
fn anatomy(text: &str) -> (Vec<String>, usize) {
    let (mut blocks, mut headings) = (Vec::new(), 0);
    let mut inside: Option<String> = None;
    for line in text.lines() {
        match (&mut inside, line.starts_with("```")) {
            (None, true) => inside = Some(format!("{line}\n")),
            (Some(_), true) => blocks.extend(inside.take()),
            (Some(block), false) => {
                block.push_str(line);
                block.push('\n');
            }
            (None, false) => headings += usize::from(line.starts_with('#')),
        }
    }
    assert!(inside.is_none(), "a block without an end");
    (blocks, headings)
}

fn are_twins(one: &str, other: &str) -> Vec<String> {
    let ((blocks, headings), (their_blocks, their_headings)) = (anatomy(one), anatomy(other));
    let mut complaints = Vec::new();
    if headings != their_headings {
        complaints.push(format!("{headings} headings and {their_headings}"));
    }
    if blocks.len() != their_blocks.len() {
        complaints.push(format!("{} blocks and {}", blocks.len(), their_blocks.len()));
    }
    for (ours, theirs) in blocks.iter().zip(&their_blocks).filter(|(ours, theirs)| ours != theirs) {
        complaints.push(format!("blocks differ:\n{ours}\n{theirs}"));
    }
    complaints
}

#[test]
fn the_two_readmes_are_twins() {
    let one = "# a\n```sh\n# no heading\nls\n```\n";
    assert!(are_twins(one, "# 甲\n```sh\n# no heading\nls\n```\n").is_empty());
    assert!(!are_twins(one, "# 甲\n```sh\n# no heading\nls -l\n```\n").is_empty());
    assert!(!are_twins(one, "# 甲\n").is_empty());
    assert!(!are_twins(one, "# 甲\n## 乙\n```sh\n# no heading\nls\n```\n").is_empty());
    no_complaint(are_twins(&read("README.md"), &read("README.zh-CN.md")));
    let manifest = read("Cargo.toml");
    let version = manifest.split("rust-version = \"").nth(1).and_then(|it| it.split('"').next());
    let said = format!("Rust {}", version.expect("the workspace has a rust-version"));
    for path in ["README.md", "README.zh-CN.md", "CONTRIBUTING.md"] {
        assert!(read(path).contains(&said), "{path} doesn't say {said}");
    }
}

#[test]
fn the_cluster_file_of_the_readme_is_a_good_one() {
    let readme = read("README.md");
    let (blocks, _) = anatomy(&readme);
    let file = blocks.iter().find_map(|block| block.strip_prefix("```toml\n"));
    let loaded = standin_config::load("README.md", file.expect("a cluster file"));
    assert!(loaded.model.is_some() && loaded.diagnostics.is_empty(), "{}", loaded.render(false));
    assert!(standin_config::load("README.md", "cluster = 7\n").model.is_none());
}

/// Targets of links that are files of this project.
fn links(text: &str) -> impl Iterator<Item = &str> {
    text.split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
        .filter(|target| !target.contains("://") && !target.starts_with('#'))
        .filter_map(|target| target.split('#').next())
}

fn links_to_what_exists(file: &File) -> Vec<String> {
    let base = root().join(&file.path);
    let folder = base.parent().unwrap_or_else(|| Path::new("."));
    links(&file.text)
        .filter(|target| !folder.join(target).exists())
        .map(|target| format!("{}: links to {target}, which isn't there", file.path))
        .collect()
}

#[test]
fn documents_link_to_what_exists() {
    complains(links_to_what_exists, "docs/a.md", "See [this](nowhere.md).");
    accepts(links_to_what_exists, "docs/a.md", "[up](../README.md#install) [out](https://a.b/c)");
    hold(links_to_what_exists, is_prose);
}

/// What stands between single backticks outside of blocks.
fn spans(text: &str) -> BTreeSet<&str> {
    let mut inside = false;
    let prose = text.lines().filter(|line| {
        let fence = line.starts_with("```");
        inside ^= fence;
        !inside && !fence
    });
    prose.flat_map(|line| line.split('`').skip(1).step_by(2)).collect()
}

/// Paths and names that a document gives between backticks, and that aren't there (any more).
fn misnamed<'a>(text: &'a str, code: &str) -> Vec<&'a str> {
    let is_name = |span: &&str| {
        let letters = span.chars().all(|c| c.is_ascii_alphanumeric() || "_:".contains(c));
        letters && (span.contains('_') || span.contains("::"))
    };
    let folders = ["src/", "crates/", "docs/", "tests/", "fuzz/", "dist/", "benches/", "xtask/"];
    let is_path = |span: &&str| folders.iter().any(|folder| span.starts_with(folder));
    let known = |name: &str| {
        let last = name.rsplit("::").next().unwrap_or(name);
        has_word(code, last)
    };
    let spans = spans(text);
    let names = spans.iter().copied().filter(is_name).filter(|name| !known(name));
    let paths = spans.iter().copied().filter(is_path).filter(|path| !root().join(path).exists());
    names.chain(paths).collect()
}

/// All code of the project, and the key words of its files.
fn all_code() -> String {
    let mut code = String::new();
    for file in project() {
        let itself = file.path == "tests/tidy.rs";
        // The canaries below name what doesn't exist.
        let meant = |line: &&str| !itself || line.starts_with("fn ");
        if is_rust(&file) || file.path == "docs/reference.md" {
            file.text.lines().filter(meant).for_each(|line| code.extend([line, "\n"]));
        }
    }
    code
}

#[test]
fn the_map_and_the_disasters_name_what_exists() {
    let code = all_code();
    assert_eq!(misnamed("`Node::no_such_thing`", &code), ["Node::no_such_thing"]);
    assert_eq!(misnamed("`src/no_such_file.rs`", &code), ["src/no_such_file.rs"]);
    assert!(misnamed("`Node::step` in `crates/core/src/node.rs`", &code).is_empty());
    for path in
        ["ARCHITECTURE.md", "STYLE.md", "CONTRIBUTING.md", "SECURITY.md", "docs/disasters.md"]
    {
        no_complaint(misnamed(&read(path), &code).iter().map(|name| format!("{path}: {name}")));
    }
    for file in project().iter().filter(|file| file.below("docs/decisions/")) {
        let wrong = misnamed(&file.text, &code);
        no_complaint(wrong.iter().map(|name| format!("{}: {name}", file.path)));
    }
}

#[test]
fn the_map_stays_a_map() {
    let lines = read("ARCHITECTURE.md").lines().count();
    assert!(lines < LONGEST_MAP, "ARCHITECTURE.md has {lines} lines");
}

/// What is wrong with the decision that should have this number.
fn weighs_both_sides(number: usize, file: &File) -> Vec<String> {
    let mut complaints = Vec::new();
    let wanted = format!("docs/decisions/{number:04}-");
    if !file.path.starts_with(&wanted) {
        complaints.push(format!("{} should begin with {wanted}", file.path));
    }
    for heading in ["\n## For\n", "\n## Against\n"] {
        let reasons = file.text.split(heading).nth(1).unwrap_or_default().trim_start();
        if !reasons.starts_with("- ") {
            complaints.push(format!("{} has no reasons under {}", file.path, heading.trim()));
        }
    }
    complaints
}

#[test]
fn decisions_are_numbered_without_a_gap_and_weigh_both_sides() {
    let text = "# 2. Why\n\n## For\n\n- a\n\n## Against\n\n- b\n";
    accepts(|file| weighs_both_sides(2, file), "docs/decisions/0002-why.md", text);
    complains(|file| weighs_both_sides(2, file), "docs/decisions/0003-why.md", text);
    let praise = "# 2. Why\n\n## For\n\n- a\n\n## Against\n";
    complains(|file| weighs_both_sides(2, file), "docs/decisions/0002-why.md", praise);
    let files = project();
    let decisions: Vec<_> = files.iter().filter(|file| file.below("docs/decisions/0")).collect();
    assert!(!decisions.is_empty());
    no_complaint((1..).zip(decisions).flat_map(|(number, file)| weighs_both_sides(number, file)));
}

// Commands.

/// Exit codes as `src/exit.rs` has them.
fn exit_codes(source: &str) -> Vec<u8> {
    let value = |line: &str| line.trim().strip_suffix(',')?.split_once(" = ")?.1.parse().ok();
    source.lines().filter_map(value).collect()
}

fn undocumented_codes(source: &str, page: &str) -> Vec<String> {
    let missing = |code: &u8| !page.contains(&format!("| {code} |"));
    let codes = exit_codes(source);
    assert!(!codes.is_empty(), "no exit code was found");
    codes.iter().filter(|code| missing(code)).map(|code| format!("exit code {code}")).collect()
}

#[test]
fn every_exit_code_is_documented() {
    assert_eq!(undocumented_codes("    Odd = 9,\n", "| 8 | odd |").len(), 1);
    no_complaint(undocumented_codes(&read("src/exit.rs"), &read("docs/commands.md")));
}

/// What `--help` lists under `Commands:`, and every long option it names.
fn offered(help: &str) -> (Vec<String>, Vec<String>) {
    let after = help.split("Commands:\n").nth(1).unwrap_or_default();
    let list = after.split("\n\n").next().unwrap_or_default();
    let entry = |line: &str| {
        let line = line.strip_prefix("  ")?;
        (!line.starts_with(' ')).then(|| line.split(' ').next().map(str::to_owned))?
    };
    let long = |word: &str| {
        let word = word.strip_prefix("--")?;
        let name = word.split(|c: char| !c.is_ascii_alphanumeric() && c != '-').next()?;
        (!name.is_empty()).then(|| format!("--{name}"))
    };
    // Options begin their line; elsewhere they are mentioned.
    let option = |line: &str| {
        let line = line.trim_start();
        line.starts_with('-').then(|| line.split_whitespace().take(2).find_map(long))?
    };
    let commands = list.lines().filter_map(entry).collect();
    let options = help.lines().filter_map(option);
    let common = ["--help", "--version"];
    (commands, options.filter(|option| !common.contains(&option.as_str())).collect())
}

fn help(words: &[String]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_standin"));
    let output = command.args(words).arg("--help").output().expect("standin runs");
    assert!(output.status.success(), "{words:?} --help: {output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// The part of the page under a command's heading.
fn section<'a>(page: &'a str, command: &str) -> Option<&'a str> {
    let heading = format!("## `standin {command}");
    let at = page.match_indices(&heading).map(|(at, _)| at + heading.len());
    let rest = at.map(|at| &page[at..]).find(|rest| rest.starts_with(['`', ' ']))?;
    rest.split("\n## ").next()
}

#[test]
fn every_command_and_option_is_documented() {
    let page = read("docs/commands.md");
    let (commands, _) =
        offered("Usage\n\nCommands:\n  run   Run it\n          further\n  stop  End\n\nO");
    assert_eq!(commands, ["run", "stop"]);
    assert_eq!(offered("  -f, --file <FILE>  Not --this\n      --json\n").1, ["--file", "--json"]);
    assert!(section(&page, "no-such-command").is_none());
    let (commands, _) = offered(&help(&[]));
    assert!(commands.len() >= 6, "{commands:?}");
    for command in &commands {
        let section = section(&page, command);
        let section =
            section.unwrap_or_else(|| panic!("docs/commands.md lacks `standin {command}`"));
        let (below, mut options) = offered(&help(std::slice::from_ref(command)));
        for word in &below {
            let both = format!("`standin {command} {word}");
            assert!(section.contains(&both), "`standin {command} {word}` isn't documented");
            options.extend(offered(&help(&[command.clone(), word.clone()])).1);
        }
        for option in &options {
            assert!(has_word(section, option), "`standin {command} {option}` isn't documented");
        }
    }
    for heading in page.lines().filter_map(|line| line.strip_prefix("## `standin ")) {
        let name = heading.split([' ', '`']).next().unwrap_or_default();
        assert!(commands.iter().any(|command| command == name), "there is no `standin {name}`");
    }
}

fn routes(source: &str) -> impl Iterator<Item = &str> {
    source.split(".route(\"").skip(1).filter_map(|rest| rest.split('"').next())
}

fn undocumented_routes<'a>(source: &'a str, page: &str) -> Vec<&'a str> {
    routes(source).filter(|route| !page.contains(&format!(" {route}"))).collect()
}

#[test]
fn every_request_of_the_api_is_documented() {
    let (source, page) = (read("src/api/mod.rs"), read("docs/commands.md"));
    assert_eq!(undocumented_routes(".route(\"/v1/nothing\", get(x))", &page), ["/v1/nothing"]);
    assert!(routes(&source).count() >= 4, "no route was found");
    assert_eq!(undocumented_routes(&source, &page), [""; 0]);
}
