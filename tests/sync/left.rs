//! Trees that were staged and not used: nothing of them stays beside the live one.

use std::path::Path;

use crate::cluster::{Node, SOON, agreed, conf};
use crate::hosts::wait_until;

const CONF: &str = "/etc/nginx/conf";

/// Names of standin's own beside the shared directory.
fn beside(node: &Node) -> Vec<String> {
    let names = std::fs::read_dir(node.host.outside("/etc/nginx")).unwrap();
    let names = names.map(|it| it.unwrap().file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(".standin")).collect()
}

#[test]
fn of_a_tree_that_is_not_put_in_place_nothing_is_left() {
    let Some(mut cluster) = agreed() else { return };
    let n2 = &cluster.nodes[1];
    let before = beside(n2);
    // It can't be brought along into a tree that is exchanged as a whole.
    n2.host.run(&format!("mkfifo {CONF}/conf.d/pipe"));
    for version in ["v2", "v3"] {
        cluster.nodes[0].save("nginx.conf", &conf(version));
        let n2 = &cluster.nodes[1];
        n2.wait_own("unable to", |own| {
            let number = own["desired"]["number"] == cluster.nodes[0].own()["desired"]["number"];
            let why = own["problem"]["why"].as_str().unwrap_or_default();
            number && why.contains("pipe can't be brought along")
        });
    }
    let left = beside(n2);
    assert!(left.iter().all(|name| before.contains(name)), "{left:?}, before: {before:?}");
    n2.host.run(&format!("rm {CONF}/conf.d/pipe"));
    cluster.wait_answer("v3");
    cluster.wait_current();

    // As of a daemon that was killed while it staged; and names that aren't standin's.
    let n2 = &mut cluster.nodes[1];
    let old = beside(n2);
    assert_eq!(old.len(), 1, "what was there before the last change: {old:?}");
    n2.daemon.take().unwrap().crash();
    let leftover = ".standin-conf-3-0123456789ab";
    let others = [".standin-conf-3-mine", ".standin-other-3-0123456789ab"];
    for name in [leftover, others[0], others[1]] {
        n2.host.run(&format!("mkdir -p /etc/nginx/{name}/sites"));
    }
    n2.start();
    wait_until("it to be removed", SOON, || {
        !Path::new(&n2.host.outside(&format!("/etc/nginx/{leftover}"))).exists()
    });
    let left = beside(n2);
    assert!(others.iter().all(|other| left.iter().any(|name| name == other)), "{left:?}");
    assert!(old.iter().all(|old| left.contains(old)), "the journal knows {old:?}: {left:?}");
    // A shell may be in it for a minute; then it goes, though this daemon has put nothing in place.
    wait_until("the tree before the last change to be removed", 3 * SOON, || {
        beside(n2).iter().all(|name| !old.contains(name))
    });
}
