//! Every story under `tests/scenarios` ends as it says.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail loudly")]

use std::fs;
use std::path::Path;

use standin_sim::scenario;

#[test]
fn every_story_ends_as_it_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/scenarios");
    let mut told = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "txt") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        if let Err(failure) = scenario::run(&text) {
            panic!("{}{}: {}", failure.trace, path.display(), failure.what);
        }
        told += 1;
    }
    assert!(told >= 15, "{told} stories");
}

const HEAD: &str = r#"
cluster = "edge"
[node.n1]
address = "10.0.0.1"
priority = 150
[node.n2]
address = "10.0.0.2"
[vip.web]
virtual_router_id = 41
addresses = ["10.0.0.100/24"]
[nginx]
---
"#;

fn said(story: &str) -> String {
    scenario::run(&format!("{HEAD}{story}")).unwrap_err().what
}

#[test]
fn an_expectation_that_is_not_met_fails_with_its_line() {
    let wrong = [
        ("expect by 2s active web = n2", "but it is [n1]"),
        ("expect by 2s client web = n2", "they go to host Some(0)"),
        ("at 2s power off n1\nat 3s nothing\nexpect gap < 100ms", "but it was 3"),
        ("at 2s cut n1\nat 3s nothing\nexpect overlap < 100ms", "but it was "),
        ("expect by 2s takeovers n1 = 0", "there were 1"),
        ("expect by 2s transitions n2 = 0", "there were 1"),
        ("expect by 2s reason n1 = silence", "it was nobody there"),
        ("expect by 2s event n1 fails", "the events tell otherwise"),
        ("expect by 2s no event n1 eligible", "the events tell otherwise"),
    ];
    for (story, why) in wrong {
        let what = said(story);
        assert!(what.starts_with("line ") && what.contains(why), "{story}: {what}");
    }
}

#[test]
fn a_line_that_cannot_be_read_is_named() {
    for (line, why) in [
        ("at 2x cut n1", "is no time"),
        ("at 2s cut n9", "no node is called n9"),
        ("at 2s jump n1", "not understood"),
        ("at 2s nothing\nat 1s nothing", "earlier"),
        ("expect by 2s active api = n1", "no VIP is called api"),
        ("perhaps", "a line begins with"),
    ] {
        let what = said(line);
        assert!(what.contains(why), "{line}: {what}");
    }
    assert!(scenario::run("cluster = 1\n---\n").unwrap_err().what.contains("cluster"));
    assert!(scenario::run("cluster = \"edge\"").unwrap_err().what.contains("---"));
}

/// A second cable whose answers nobody looks at can't keep two from being active: the stories see it.
#[test]
fn a_heartbeat_that_is_not_looked_at_fails_its_story() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/scenarios/heartbeat.txt");
    let text = fs::read_to_string(path).unwrap();
    assert!(scenario::run(&text).is_ok());
    let without = text.replace("heartbeat = [\"eth1\"]\n", "");
    assert!(scenario::run(&without).is_err(), "the second cable is what keeps it to one");
}
