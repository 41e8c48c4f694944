//! Network configuration of five systems, edited as it was once judged good.
//!
//! `UPDATE=1 cargo test -p standin-config` writes the expectations anew; read every one of them.

#![allow(clippy::unwrap_used, reason = "a helper that fails ends its test")]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use standin_config::network::{Edited, Swap, System, diff, edit};
use standin_config::{Source, render};

const PLACES: [(&str, System, &str); 5] = [
    ("ifupdown", System::Ifupdown, "/etc/network/interfaces"),
    ("netplan", System::Netplan, "/etc/netplan/01-edge.yaml"),
    ("networkd", System::Networkd, "/etc/systemd/network/10-edge.network"),
    ("keyfile", System::Keyfile, "/etc/NetworkManager/system-connections/edge.nmconnection"),
    ("ifcfg", System::Ifcfg, "/etc/sysconfig/network-scripts/"),
];

struct Case {
    path: PathBuf,
    system: System,
    name: String,
    text: String,
}

impl Case {
    /// Of the address of the family that the case is about.
    fn swapped(&self, text: &str, back: bool) -> Edited {
        let stem = self.path.file_stem().unwrap().to_string_lossy().into_owned();
        let (old, new) = if stem.contains("v6") {
            ("fd00::41", "fd00::189")
        } else {
            ("192.168.1.41", "192.168.1.189")
        };
        let (old, new) = if back { (new, old) } else { (old, new) };
        let swap = Swap { interface: "eth0", old: old.parse().unwrap(), new: new.parse().unwrap() };
        edit(self.system, &self.name, text, swap)
    }
}

fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for (folder, system, name) in PLACES {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/network").join(folder);
        let mut paths: Vec<PathBuf> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "in"))
            .collect();
        paths.sort();
        assert!(paths.len() >= 5, "{system:?}");
        for path in paths {
            let file = path.file_name().unwrap().to_string_lossy().into_owned();
            // What an ifcfg file is about is in its name.
            let file = file.split('.').next().unwrap();
            let file = if system == System::Ifcfg { file } else { "" };
            let text = fs::read_to_string(&path).unwrap();
            all.push(Case { path, system, name: format!("{name}{file}"), text });
        }
    }
    all
}

fn told(case: &Case) -> String {
    let edited = case.swapped(&case.text, false);
    let source = Source::new(&case.name, &case.text);
    let mut out = format!("declares: {}\n", edited.declares);
    out.push_str(&diff(&case.name, &case.text, &edited.text));
    out.push_str(&render(&edited.found, std::slice::from_ref(&source), false));
    if let Some(twice) = edited.twice.filter(|_| edited.declares) {
        out.push_str(&render(&[twice], std::slice::from_ref(&source), false));
    }
    if !edited.dynamic.is_empty() {
        let dynamic = render(&edited.dynamic, std::slice::from_ref(&source), false);
        let _ = write!(out, "only if no file declares it:\n{dynamic}");
    }
    out
}

#[test]
fn every_system_is_edited_or_refused_as_it_was_judged_good() {
    let mut wrong = Vec::new();
    for case in cases() {
        let expected = case.path.with_extension("out");
        let found = told(&case);
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&expected, &found).unwrap();
        }
        let wanted = fs::read_to_string(&expected).unwrap_or_default();
        if wanted != found {
            let path = expected.display();
            wrong.push(format!("{path}:\n--- wanted\n{wanted}\n--- found\n{found}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn an_edit_changes_addresses_only_and_the_way_back_changes_them_back() {
    for case in cases() {
        let edited = case.swapped(&case.text, false);
        let count = |text: &str| text.lines().count();
        assert_eq!(count(&edited.text), count(&case.text), "{}", case.path.display());
        if case.text.to_lowercase().contains("::189") || case.text.contains(".189") {
            continue;
        }
        let back = case.swapped(&edited.text, true);
        // However it was written, it is the same address.
        let plain = |text: &str| text.to_lowercase().replace("fd00:0::41", "fd00::41");
        assert_eq!(plain(&back.text), plain(&case.text), "{}", case.path.display());
    }
}

#[test]
fn a_file_that_does_not_name_the_address_is_left_alone() {
    for case in cases() {
        let text = case.text.replace("41", "49");
        let edited = case.swapped(&text, false);
        assert_eq!(edited.text, text, "{}", case.path.display());
        assert!(!edited.declares && edited.found.is_empty(), "{}", case.path.display());
    }
}

#[test]
fn a_file_cut_anywhere_is_edited_or_refused_without_a_panic() {
    for case in cases() {
        for cut in (0..=case.text.len()).filter(|cut| case.text.is_char_boundary(*cut)) {
            let text = &case.text[..cut];
            let edited = case.swapped(text, false);
            let shown = render(&edited.found, &[Source::new(&case.name, text)], false);
            assert_eq!(shown.is_empty(), edited.found.is_empty());
            case.swapped(&text.replace('\n', "\t"), false);
        }
    }
}
