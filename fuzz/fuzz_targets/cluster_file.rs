//! Any bytes are a cluster file or have faults that can be shown; what has none can be planned.

#![no_main]

use libfuzzer_sys::fuzz_target;
use standin_config::{Cluster, Diagnostic, MAX_DIAGNOSTICS, findings, load_bytes};
use standin_core::plan::{MAX_NODES, MAX_VIPS, Plan};

fuzz_target!(|data: &[u8]| {
    let loaded = load_bytes("standin.toml", data);
    let errors = loaded.diagnostics.iter().filter(|found| found.is_error()).count();
    assert_eq!(loaded.model.is_some(), errors == 0);
    assert!(loaded.diagnostics.len() <= MAX_DIAGNOSTICS + 1);
    // Drawing is the slow part; either form is drawn for half of the inputs.
    let text = loaded.render(data.len().is_multiple_of(2));
    assert_eq!(text.is_empty(), loaded.diagnostics.is_empty());
    let sources = std::slice::from_ref(&loaded.source);
    assert_eq!(findings(&loaded.diagnostics, sources).len(), loaded.diagnostics.len());
    if let Some(cluster) = &loaded.model {
        plans(cluster);
    }
});

fn plans(cluster: &Cluster) {
    assert!(!cluster.nodes.is_empty() && cluster.nodes.len() <= MAX_NODES);
    assert!(cluster.vips.len() <= MAX_VIPS);
    for node in &cluster.nodes {
        match cluster.plan(&node.name, "eth0") {
            Ok(plan) => holds(&plan),
            Err(diagnostics) => assert!(diagnostics.iter().any(Diagnostic::is_error)),
        }
        let _ = cluster.find_self(Some(&node.name), "", &[]);
        let _ = cluster.find_self(None, &node.name, &node.addresses);
    }
    let _ = cluster.find_self(None, "stranger", &[]);
}

/// What the core takes for granted.
fn holds(plan: &Plan) {
    assert!(plan.me.index() < plan.nodes.len());
    for vip in &plan.vips {
        assert!(vip.interface.index() < plan.interfaces.len());
        assert!(!vip.addresses.is_empty());
        assert!(vip.checks.iter().all(|check| check.index() < plan.checks.len()));
        assert!(vip.members.iter().all(|member| member.node.index() < plan.nodes.len()));
        assert!(vip.priority_of(plan.me).is_some());
    }
}
