//! Large files: the largest that are meant, and larger ones that only an accident or a foe writes.

use std::fmt::Write;

use standin_config::{Diagnostic, MAX_DIAGNOSTICS, MAX_FILE_BYTES, codes, findings, load};
use standin_core::plan::MAX_VIPS;

/// Two nodes and that many VIPs on four interfaces.
fn vips(count: usize) -> String {
    let mut text = String::from(
        "cluster = \"c\"\nnode.a.address = \"10.9.0.1\"\nnode.b.address = \"10.9.0.2\"\n",
    );
    for i in 0..count {
        let (interface, id) = (i / 255, i % 255 + 1);
        let _ = writeln!(
            text,
            "[vip.v{i}]\nvirtual_router_id = {id}\ninterface = \"eth{interface}\"\n\
             addresses = [\"10.{interface}.0.{id}/32\"]\nchecks = []"
        );
    }
    text
}

#[test]
fn a_thousand_vips_on_four_interfaces_load_and_plan() {
    let loaded = load("f", &vips(1000));
    assert_eq!(loaded.render(false), "");
    let plan = loaded.model.map(|cluster| cluster.plan("b", "eth0"));
    assert!(plan.is_some_and(|plan| {
        plan.is_ok_and(|plan| plan.vips.len() == 1000 && plan.interfaces.len() == 4)
    }));
}

#[test]
fn too_many_vips_are_refused_with_the_first_one_too_many() {
    let text = vips(MAX_VIPS + 1);
    let loaded = load("f", &text);
    let finding = &findings(&loaded.diagnostics, &[loaded.source])[0];
    assert_eq!(finding.code, codes::TOO_MANY_VIPS);
    assert_eq!(finding.file.as_deref(), Some("f"));
    let line = text.lines().position(|line| line == format!("[vip.v{MAX_VIPS}]"));
    assert_eq!(finding.line, line.map(|line| line + 1));
    assert_eq!(finding.column, Some(6));
}

#[test]
fn a_hostile_file_is_bounded_in_messages_and_time() {
    let started = std::time::Instant::now();
    for piece in [
        "x=\n",
        "[a]\n",
        "[[[[",
        "a={",
        "a.",
        "password=\"",
        "\u{1}",
        "é=é\n",
        "[vip.é]\n",
        "\"",
        "a=[\n",
    ] {
        let text = piece.repeat(MAX_FILE_BYTES / 4 / piece.len());
        let loaded = load("f", &text);
        assert!(loaded.diagnostics.len() <= MAX_DIAGNOSTICS + 1, "{piece}");
        assert!(loaded.model.is_none(), "{piece}");
        let _ = loaded.render(false);
    }
    let text = (0..30_000).map(|i| format!("k{i} = 1\n")).collect::<String>();
    assert_eq!(load("f", &text).diagnostics.len(), MAX_DIAGNOSTICS + 1);
    assert!(load("f", &"#".repeat(MAX_FILE_BYTES + 1)).render(false).contains("E0002"));
    assert!(started.elapsed().as_secs() < 60, "{:?}", started.elapsed());
}

#[test]
fn warnings_alone_never_refuse_a_file_however_many_they_are() {
    let mut text = vips(1);
    for i in 0..=MAX_DIAGNOSTICS {
        let _ = writeln!(text, "[check.c{i}]\ntype = \"tcp\"\naddress = \"10.9.0.1:80\"");
    }
    let loaded = load("f", &text);
    assert_eq!(loaded.diagnostics.len(), MAX_DIAGNOSTICS + 1);
    assert!(loaded.model.is_some());
    assert!(!loaded.diagnostics.iter().any(Diagnostic::is_error), "{}", loaded.render(false));
}

#[test]
fn files_from_other_editors_load_as_well() {
    let smallest = include_str!("good/smallest.toml");
    let crlf = smallest.replace('\n', "\r\n");
    let marked = format!("\u{feff}{smallest}");
    for text in [&crlf, &marked] {
        let loaded = load("f", text);
        assert_eq!(loaded.render(false), "");
        assert!(loaded.model.is_some());
        let bad = load("f", &text.replace("= 41", "= 410"));
        let finding = &findings(&bad.diagnostics, &[bad.source])[0];
        assert_eq!((finding.line, finding.column), (Some(12), Some(21)));
    }
}
