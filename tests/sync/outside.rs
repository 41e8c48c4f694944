//! Files that nginx's configuration names and that aren't shared: compared, named, never written.

use serde_json::Value;

use crate::cluster::{Cluster, Node, SOON, conf};
use crate::hosts::{STANDIN, skipped, wait_or_tell, wait_until};

/// No password, but short enough to be tried; in no hexadecimal number by chance.
const SHORT: &str = "# pin zxqv\n";

fn strays(node: &Node) -> Vec<Value> {
    node.sync().and_then(|sync| sync["outside"].as_array().cloned()).unwrap_or_default()
}

#[track_caller]
fn wait_stray(node: &Node, path: &str, is: impl Fn(&Value) -> bool) {
    let tell = || format!("{} to say it of {path}:\n{}", node.host.name, node.page());
    wait_or_tell(tell, SOON, || strays(node).into_iter().find(|it| it["path"] == path).filter(&is));
}

#[test]
fn a_file_outside_that_differs_is_named_with_the_line_that_shares_it() {
    if skipped() {
        return;
    }
    let mut cluster = Cluster::new(2, "/etc/nginx/conf", "");
    cluster.wait_answer("v1");
    cluster.wait_current();
    for node in &cluster.nodes {
        node.host.run("mkdir /etc/site");
        node.host.write("/etc/site/same.conf", "# same\n");
    }
    let (n1, n2) = (&cluster.nodes[0], &cluster.nodes[1]);
    n1.host.write("/etc/site/a.conf", SHORT);
    n2.host.write("/etc/site/a.conf", "# pin kwjy\n");
    n1.host.write("/etc/site/more-b.conf", "# only on n1\n");
    n1.save(
        "conf.d/site.conf",
        "include /etc/site/same.conf;\ninclude /etc/site/a.conf;\n\
                                 include /etc/site/more-*.conf;\n",
    );
    n1.save("nginx.conf", &conf("v2"));
    cluster.wait_answer("v2");
    wait_stray(n1, "/etc/site/a.conf", |it| it["differs_on"][0] == "n2");
    wait_stray(n2, "/etc/site/a.conf", |it| it["differs_on"][0] == "n1");
    wait_stray(n1, "/etc/site/more-b.conf", |it| it["missing_on"][0] == "n2");
    assert_eq!(strays(n1).len(), 2, "the file that is the same isn't named: {}", n1.page());
    let page = n1.page();
    for text in [
        "/etc/site/a.conf is another one on n2; /etc/nginx/conf/conf.d/site.conf:2 include",
        "/etc/site/more-b.conf isn't on n2",
        "in [sync]: also = [\"/etc/site/a.conf\", \"/etc/site/more-b.conf\"]",
    ] {
        assert!(page.contains(text), "{text}\n{page}");
    }
    assert!(n1.order("status").contains("2 files outside"), "{}", n1.order("status"));
    let check = n1.host.try_run(&format!("{STANDIN} check --listen 0 --node n1"));
    let check = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(check.contains("H0802") && check.contains("a.conf is another one on n2"), "{check}");
    let said = n1.host.try_run(&format!("{STANDIN} sync diff n9"));
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.contains("no node is called n9; there are: n1, n2"), "{said}");
    n1.host.wait_said("outside_differs", "/etc/site/a.conf and 1 more", SOON);
    // Nothing was written, and neither bytes nor a hash that could be tried are anywhere.
    assert_eq!(n2.host.read("/etc/site/a.conf"), "# pin kwjy\n");
    let said = n2.host.run(&format!("{STANDIN} sync status --json"));
    assert!(!said.contains("zxqv") && !said.contains("hash"), "{said}");
    // Made equal by hand, they are no matter any more.
    n2.host.write("/etc/site/a.conf", SHORT);
    n2.host.write("/etc/site/more-b.conf", "# only on n1\n");
    for node in [n1, n2] {
        wait_until("nothing to differ", 2 * SOON, || strays(node).is_empty());
    }
    // One that is shared needs no comparison.
    n1.host.write("/etc/site/a.conf", "# third\n");
    wait_stray(n1, "/etc/site/a.conf", |it| it["differs_on"][0] == "n2");
    let file = "/etc/standin/standin.toml";
    let text = n1.host.read(file).replace("[sync]\n", "[sync]\nalso = [\"/etc/site/a.conf\"]\n");
    for node in &mut cluster.nodes {
        node.host.write(file, &text);
        node.order("reload");
    }
    let (n1, n2) = (&cluster.nodes[0], &cluster.nodes[1]);
    wait_until("it to be shared", SOON, || n2.host.read("/etc/site/a.conf") == "# third\n");
    for node in [n1, n2] {
        wait_until("it to be named no more", SOON, || strays(node).is_empty());
    }
}
