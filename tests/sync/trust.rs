//! What nobody else may read, and what a member may not bring.

use std::process::Output;
use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::cluster::{Cluster, Node, SOON, agreed, conf};
use crate::hosts::{Host, STANDIN, skipped, wait_until};

const FILE: &str = "/etc/standin/standin.toml";

/// No key, but unmistakable; made when the test runs, so that it stands in no source or program.
static SECRET: LazyLock<String> = LazyLock::new(|| {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    format!("{:x}-{}-not-for-others", now.as_nanos(), std::process::id())
});

const PUBLIC: &str = "0d9d3c1f7f2b4f0e9d12-for-everybody";

/// Where standin writes anything, and where nginx's files are.
const PLACES: &str = "/etc/nginx /etc/standin /run /var/lib/standin /var/log /tmp";

/// Files with the text in them, as somebody without any rights sees them. The text is in a file, so that no
/// command line has it.
fn seen_by_nobody(node: &Node, pattern: &str) -> String {
    let words = format!(
        "setpriv --reuid=65534 --regid=65534 --clear-groups grep -rlF -D skip -f {pattern} {PLACES}"
    );
    String::from_utf8_lossy(&node.host.try_run(&words).stdout).into_owned()
}

/// Files with the secret in them, as root sees them.
fn seen_by_root(node: &Node, places: &str) -> String {
    let words = format!("grep -rlF -D skip -f /run/patterns/secret {places}");
    String::from_utf8_lossy(&node.host.try_run(&words).stdout).into_owned()
}

/// Everything that the daemon says when it is asked.
fn told(node: &Node) -> String {
    let questions = [
        "status",
        "status --json",
        "events",
        "events --json",
        "sync status --json",
        "sync history --json",
        "sync diff --json",
        "sync diff",
        "check",
    ];
    let said = |output: Output| {
        let bytes = [output.stdout, output.stderr].concat();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    questions.map(|words| said(node.host.try_run(&format!("{STANDIN} {words}")))).concat()
}

#[test]
fn a_secret_file_arrives_with_its_owner_and_shows_nowhere_else() {
    if skipped() {
        return;
    }
    let cluster = Cluster::new(2, "/etc/nginx/conf", "");
    cluster.wait_answer("v1");
    let (n1, n2) = (&cluster.nodes[0], &cluster.nodes[1]);
    for node in [n1, n2] {
        node.host.run("mkdir -m 0755 /run/patterns");
        node.host.write("/run/patterns/secret", &SECRET);
        node.host.run("chmod 600 /run/patterns/secret");
        node.host.write("/run/patterns/public", PUBLIC);
    }
    n1.save("conf.d/public.conf", &format!("# {PUBLIC}\n"));
    // As it is never open to anybody, not even while it is written.
    n1.host.run("install -m 600 -o 33 -g 4 /run/patterns/secret /etc/nginx/conf/web.key");
    n1.save("nginx.conf", &conf("v2"));
    cluster.wait_answer("v2");
    cluster.wait_current();
    let stat = "stat -c %a:%u:%g /etc/nginx/conf/web.key";
    assert_eq!(n2.host.run(stat).trim(), "600:33:4");
    assert_eq!(n2.read("web.key"), *SECRET);
    // It is changed, refused with another file, overwritten as drift, and rolled back.
    n1.save("conf.d/bad.conf", "nonsense on;\n");
    n2.wait_own("refusing", |own| own["problem"].is_object());
    n1.save("conf.d/bad.conf", "# good\n");
    n1.save("nginx.conf", &conf("v3"));
    n2.wait_answer("v3");
    n2.host.run("chmod 640 /etc/nginx/conf/web.key");
    n2.host.wait_said("drift", "changed by somebody else", SOON);
    wait_until("it to be put right", SOON, || n2.host.run(stat).trim() == "600:33:4");
    cluster.wait_current();
    for node in [n1, n2] {
        let name = &node.host.name;
        let seen = seen_by_nobody(node, "/run/patterns/public");
        assert!(seen.contains("conf.d/public.conf"), "the search finds what is open: {seen}");
        // Its own copy of the pattern isn't open to it.
        node.host.run("install -m 600 -o 65534 /run/patterns/secret /run/patterns/nobodys");
        let seen = seen_by_nobody(node, "/run/patterns/nobodys");
        assert_eq!(seen.trim(), "/run/patterns/nobodys", "{name}");
        // Logs, events and what tells of the generations have none of it, whoever looks.
        let found = seen_by_root(node, "/run/logs /run/standin /var/log /var/lib/standin");
        let strange: Vec<_> = found
            .lines()
            .filter(|path| {
                !path.starts_with("/var/lib/standin/sync/")
                    && !path.starts_with("/var/lib/standin/apply/")
            })
            .collect();
        assert!(strange.is_empty(), "{name}: {strange:?}");
        for private in ["sync", "apply", "keys"] {
            let mode = node.host.run(&format!("stat -c %a /var/lib/standin/{private}"));
            assert_eq!(mode.trim(), "700", "{name}: {private}");
        }
        assert!(
            seen_by_root(node, "/etc/nginx/conf").contains("web.key"),
            "that search finds, too"
        );
        let mut proc = node.host.command("sh");
        let script = "grep -lF -f /run/patterns/secret /proc/[0-9]*/cmdline /proc/[0-9]*/environ";
        let found = proc.args(["-c", script]).output().unwrap().stdout;
        assert!(found.is_empty(), "{name}: {}", String::from_utf8_lossy(&found));
        let said = told(node);
        assert!(said.contains("generation") && !said.contains(SECRET.as_str()), "{name}: {said}");
    }
}

#[test]
fn what_a_node_runs_with_already_needs_no_yes_when_it_joins() {
    if skipped() {
        return;
    }
    let open = "server { listen 81; auth_basic a; auth_basic_user_file /etc/passwd; }\n";
    let furnish = |host: &Host| {
        host.run("mkdir -p /etc/nginx/conf/conf.d");
        host.write("/etc/nginx/conf/conf.d/open.conf", open);
    };
    let cluster = Cluster::on(2, "/etc/nginx/conf", "", furnish);
    cluster.wait_answer("v1");
    cluster.wait_current();
}

#[test]
fn a_member_brings_no_new_root_and_opens_no_file_of_the_host() {
    let Some(cluster) = agreed() else { return };
    let (n1, n2) = (&cluster.nodes[0], &cluster.nodes[1]);
    let accounts = n2.host.read("/etc/passwd");
    n1.host.write("/etc/passwd", &format!("{accounts}evil:x:0:0::/:/bin/sh\n"));
    // n1 alone says that more is shared.
    let file = n1.host.read(FILE);
    n1.host.write(FILE, &file.replace("[sync]\n", "[sync]\nalso = [\"/etc/passwd\"]\n"));
    n1.order("reload");
    n1.save("nginx.conf", &conf("v2"));
    let own = n2.wait_own("refusing", |own| own["problem"]["kind"] == "refused");
    let why = own["problem"]["why"].as_str().unwrap();
    assert!(why.contains("/etc/passwd") && why.contains("doesn't name"), "{why}");
    assert_eq!((n2.answer(), n2.host.read("/etc/passwd")), ("v1".to_owned(), accounts.clone()));
    // Without it, nginx is to ask for the passwords of n2's own accounts.
    n1.host.write(FILE, &file);
    n1.order("reload");
    n2.wait_answer("v2");
    let open = "server { listen 81; auth_basic a; auth_basic_user_file /etc/passwd; }\n";
    n1.save("conf.d/open.conf", open);
    let own = n2.wait_own("asking", |own| own["problem"]["kind"] == "needs approval");
    let why = own["problem"]["why"].as_str().unwrap();
    assert!(why.contains("auth_basic_user_file /etc/passwd"), "{why}");
    assert_eq!(n2.read("conf.d/open.conf"), "");
    assert_eq!(n2.host.read("/etc/passwd"), accounts);
    // The next good one goes through; the file of n2 is n2's all the while.
    n1.save("conf.d/open.conf", "# closed\n");
    wait_until("it to go through", SOON, || n2.read("conf.d/open.conf") == "# closed\n");
    n2.wait_own("well again", |own| own["problem"].is_null());
    assert_eq!(n2.host.read("/etc/passwd"), accounts);
    let said = n2.host.events().iter().filter(|it| it["kind"] == "generation_refused").count();
    assert!((1..=3).contains(&said), "said {said} times");
}
