//! `standin drill live`: moves a VIP of a running cluster, measures it, and keeps what came out.

use serde_json::Value;

use super::cluster::Cluster;
use super::hosts::{Host, STANDIN};

/// Exit code, standard output and standard error.
fn drill(on: &Host, words: &str) -> (Option<i32>, String, String) {
    let output = on.try_run(&format!("{STANDIN} drill {words}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn moves(drill: &Value) -> Vec<(&str, &str, &str)> {
    let moves = drill["moves"].as_array().unwrap();
    moves
        .iter()
        .map(|one| {
            let word = |of: &str| one[of].as_str().unwrap();
            (word("kind"), word("from"), word("to"))
        })
        .collect()
}

/// From a node that has no part in it; then a takeover, where the VIP is; then what can't be drilled.
pub(crate) fn a_live_drill_measures_and_brings_the_vip_back() {
    let cluster = Cluster::new(3, 1, "60s");
    let [n1, n2, n3] = &cluster.nodes[..] else { unreachable!() };
    let _daemons = cluster.start();

    let (code, said, error) = drill(n3, "live web --to n2 --deadline-ms 1000 --json");
    assert_eq!(code, Some(0), "{said}{error}");
    let there_and_back: Value = serde_json::from_str(&said).unwrap();
    let expected = [("switchover", "n1", "n2"), ("switchover", "n2", "n1")];
    assert_eq!(moves(&there_and_back), expected);
    assert_eq!(there_and_back["measured_from"], "n3");
    for one in there_and_back["moves"].as_array().unwrap() {
        assert_eq!(one["requests_failed"], 0, "{one}");
        assert!(one["requests"].as_u64().unwrap() > 10, "{one}");
    }
    assert_eq!(n1.role(), "active");

    cluster.wait_ready();
    let (_, said, error) = drill(n1, "live web --takeover --deadline-ms 1000 --json");
    let with_takeover: Value =
        serde_json::from_str(&said).unwrap_or_else(|_| panic!("{said}{error}"));
    let moves = moves(&with_takeover);
    assert_eq!(moves.len(), 4, "{error}");
    assert_eq!((moves[2].0, moves[2].1, moves[3].2), ("takeover", "n1", "n1"));
    assert_eq!(n1.role(), "active");
    assert!(n1.try_status().unwrap()["maintenance"].is_null());

    let (code, said, _) = drill(n1, "history");
    assert_eq!(code, Some(0));
    assert!(said.contains("web, measured from n1") && said.contains("takeover"), "{said}");
    let (_, said, _) = drill(n3, "history --json");
    assert_eq!(serde_json::from_str::<Value>(said.trim()).unwrap(), there_and_back);

    let (code, _, error) = drill(n2, "live web --takeover");
    assert_eq!(code, Some(1));
    assert!(error.contains("n1 has web"), "{error}");
    let (code, _, error) = drill(n3, "live web --port 81");
    assert_eq!(code, Some(1));
    assert!(error.contains("nothing was moved") && error.contains("as before"), "{error}");
    let (code, _, error) = drill(n3, "live www");
    assert_eq!(code, Some(1));
    assert!(error.contains("no VIP is called www; there are: web"), "{error}");
    assert_eq!(n1.role(), "active");
}
