//! Writes a node into the text of a cluster file, and nothing else of it changes.

use std::fmt::Write;
use std::net::IpAddr;

use standin_config::Cluster;
use standin_config::fingerprint::Fingerprint;

/// Who is to be written.
#[derive(Clone, Debug)]
pub(crate) struct Newcomer {
    pub(crate) name: String,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) priority: u8,
    pub(crate) fingerprint: Fingerprint,
}

impl Newcomer {
    /// `[node.NAME]` with its lines.
    pub(crate) fn section(&self) -> String {
        // Writing to a String can't fail.
        let mut out = format!("[node.{}]\naddress = ", quoted_if_needed(&self.name));
        let list: Vec<String> = self.addresses.iter().map(|it| format!("\"{it}\"")).collect();
        let _ = match list.as_slice() {
            [one] => writeln!(out, "{one}"),
            several => writeln!(out, "[{}]", several.join(", ")),
        };
        let _ = writeln!(out, "priority = {}", self.priority);
        let _ = writeln!(out, "fingerprint = \"{}\"", self.fingerprint);
        out
    }
}

/// A dot in a name would be a table of a table.
pub(crate) fn quoted_if_needed(name: &str) -> String {
    if name.contains('.') { format!("\"{name}\"") } else { name.to_owned() }
}

/// The file with the node in it. A section that is there already is given the fingerprint only.
///
/// # Errors
/// Why it can't be, in words for whoever wants to join.
pub(crate) fn add(text: &str, newcomer: &Newcomer) -> Result<String, String> {
    let name = &newcomer.name;
    let before = read(text).map_err(|faults| {
        format!("the cluster file of the node that was asked has errors:\n{faults}")
    })?;
    for node in before.nodes.iter().filter(|node| node.name != *name) {
        if let Some(address) = newcomer.addresses.iter().find(|it| node.addresses.contains(it)) {
            return Err(format!("{address} is node {}'s address", node.name));
        }
    }
    let new = match before.node(name) {
        Some(node) if node.fingerprint.is_some() => {
            return Err(format!(
                "node {name} has joined already. If its machine is a new one, remove the line \
                 `fingerprint` of [node.{name}] first"
            ));
        }
        Some(node) if node.vrrp_only => {
            return Err(format!("node {name} speaks VRRP only, says the cluster file"));
        }
        Some(node) if node.addresses != newcomer.addresses => {
            let list: Vec<String> = node.addresses.iter().map(ToString::to_string).collect();
            return Err(format!("node {name} has the address {}", list.join(" and ")));
        }
        Some(node) => {
            let line = end_of_line(text, node.span.end);
            let (head, tail) = text.split_at(line);
            format!("{head}fingerprint = \"{}\"\n{tail}", newcomer.fingerprint)
        }
        None => {
            let last = before.nodes.iter().map(|node| node.span.end).max().unwrap_or(0);
            let (head, tail) = text.split_at(end_of_section(text, last));
            let blank = if head.ends_with('\n') { "\n" } else { "\n\n" };
            format!("{head}{blank}{}{tail}", newcomer.section())
        }
    };
    // Whatever the file's way of writing is: what comes out says what was meant, and nothing else.
    let by_hand = |why: &str| {
        format!("{why}; add it there by hand, and let it join again:\n{}", newcomer.section())
    };
    let after = read(&new)
        .map_err(|faults| by_hand(&format!("the cluster file can't take the node:\n{faults}")))?;
    let same = after.node(name).is_some_and(|node| {
        node.fingerprint == Some(newcomer.fingerprint) && node.addresses == newcomer.addresses
    });
    let others = |cluster: &Cluster| -> Vec<_> {
        let others = cluster.nodes.iter().filter(|node| node.name != *name);
        others.map(|node| (node.name.clone(), node.addresses.clone(), node.fingerprint)).collect()
    };
    if !same || others(&before) != others(&after) || before.vips.len() != after.vips.len() {
        return Err(by_hand("the cluster file is written in a way that standin can't edit"));
    }
    Ok(new)
}

/// The file without the node's fingerprint; its section stays.
///
/// # Errors
/// Why it can't be.
pub(crate) fn expel(text: &str, name: &str) -> Result<String, String> {
    let before = read(text).map_err(|faults| format!("the cluster file has errors:\n{faults}"))?;
    let node = before.node(name).ok_or_else(|| format!("the cluster file has no node {name}"))?;
    let Some(fingerprint) = node.fingerprint else {
        return Err(format!("{name} has no key in the cluster file: it is no member"));
    };
    let words = fingerprint.to_string();
    let own = |line: &&str| line.trim_start().starts_with("fingerprint") && line.contains(&words);
    let new: String = text.split_inclusive('\n').filter(|line| !own(line)).collect();
    let by_hand = || {
        format!(
            "the cluster file is written in a way that standin can't edit: remove the fingerprint of \
             {name} there by hand, then try again"
        )
    };
    let after = read(&new).map_err(|_| by_hand())?;
    let keys = |cluster: &Cluster| -> Vec<_> {
        let nodes = cluster.nodes.iter().filter(|node| node.name != name);
        nodes.map(|node| (node.name.clone(), node.fingerprint)).collect()
    };
    let done = after.node(name).is_some_and(|node| node.fingerprint.is_none());
    if done && keys(&before) == keys(&after) { Ok(new) } else { Err(by_hand()) }
}

/// The file's model, or its faults as text.
fn read(text: &str) -> Result<Cluster, String> {
    let mut loaded = standin_config::load("the cluster file", text);
    loaded.model.take().ok_or_else(|| loaded.render(false))
}

fn end_of_line(text: &str, from: usize) -> usize {
    let rest = text.get(from..).unwrap_or_default();
    rest.find('\n').map_or(text.len(), |at| from + at + 1)
}

/// After the last line of the section that says something; what follows belongs to the next one.
fn end_of_section(text: &str, from: usize) -> usize {
    let mut at = end_of_line(text, from);
    let mut end = at;
    while at < text.len() {
        let next = end_of_line(text, at);
        let line = text.get(at..next).unwrap_or_default().trim();
        if line.starts_with('[') {
            break;
        }
        if !line.is_empty() && !line.starts_with('#') {
            end = next;
        }
        at = next;
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "cluster = \"edge\"\n\n[node.n1]\naddress = \"192.168.1.189\" # first\n\n\
                        # what is kept\n[vip.web]\nvirtual_router_id = 41\n\
                        addresses = [\"192.168.1.41/24\"]\nchecks = []\n";

    fn newcomer(name: &str, address: &str) -> Newcomer {
        Newcomer {
            name: name.to_owned(),
            addresses: vec![address.parse().unwrap()],
            priority: 100,
            fingerprint: Fingerprint([7; 32]),
        }
    }

    #[test]
    fn a_node_is_written_behind_the_others() {
        let new = add(FILE, &newcomer("n2", "192.168.1.190")).unwrap();
        let at = |what: &str| new.find(what).unwrap();
        assert!(at("# first") < at("[node.n2]") && at("[node.n2]") < at("# what is kept"), "{new}");
        assert!(new.contains("# first\n\n[node.n2]"), "{new}");
        let cluster = read(&new).unwrap();
        assert_eq!(cluster.node("n2").unwrap().fingerprint, Some(Fingerprint([7; 32])));
        let dotted = add(
            &new,
            &Newcomer {
                fingerprint: Fingerprint([8; 32]),
                ..newcomer("n3.example", "192.168.1.191")
            },
        );
        assert_eq!(read(&dotted.unwrap()).unwrap().nodes.len(), 3);
        let at_the_end = "[vip.web]\nvirtual_router_id = 41\naddresses = [\"192.168.1.41/24\"]\n\
                          checks = []\n[node.n1]\naddress = \"192.168.1.189\"";
        let at_the_end = format!("cluster = \"edge\"\n{at_the_end}");
        assert!(add(&at_the_end, &newcomer("n2", "192.168.1.190")).is_ok());
    }

    #[test]
    fn a_node_that_stands_there_is_given_its_fingerprint() {
        let with = add(FILE, &newcomer("n1", "192.168.1.189")).unwrap();
        assert_eq!(
            with.replace(&format!("fingerprint = \"{}\"\n", Fingerprint([7; 32])), ""),
            FILE
        );
        let again = add(&with, &newcomer("n1", "192.168.1.189")).unwrap_err();
        assert!(again.contains("joined already"), "{again}");
    }

    #[test]
    fn who_is_expelled_loses_its_fingerprint_and_nothing_else() {
        let with = add(FILE, &newcomer("n2", "192.168.1.190")).unwrap();
        let without = expel(&with, "n2").unwrap();
        let line = format!("fingerprint = \"{}\"\n", Fingerprint([7; 32]));
        assert_eq!(without, with.replace(&line, ""));
        assert!(expel(&without, "n2").unwrap_err().contains("no member"));
        assert!(expel(&with, "n9").unwrap_err().contains("no node n9"));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let refused = |text: &str, name: &str, address: &str| {
            add(text, &newcomer(name, address)).unwrap_err()
        };
        assert!(refused(FILE, "n2", "192.168.1.189").contains("n1's address"));
        assert!(refused(FILE, "n1", "192.168.1.7").contains("192.168.1.189"));
        assert!(refused(FILE, "n 2", "192.168.1.190").contains("can't take"));
        assert!(refused(FILE, "n2", "192.168.1.41").contains("can't take"));
        assert!(refused(FILE, "x]\n[api", "192.168.1.190").contains("can't take"));
        assert!(refused("cluster = 7", "n2", "192.168.1.190").contains("has errors"));
        let inline = "cluster = \"edge\"\nnode = { n1 = { address = \"192.168.1.189\" } }\n\
                      [vip.web]\nvirtual_router_id = 41\naddresses = [\"192.168.1.41/24\"]\n\
                      checks = []\n";
        assert!(refused(inline, "n2", "192.168.1.190").contains("by hand"));
    }
}
