//! Fills in what a pattern leaves open: `{{node.KEY}}` becomes this node's value.

use std::collections::BTreeMap;

/// What `{{node.KEY}}` means, by node and by key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Values {
    /// The node that this is.
    pub(super) own: String,
    pub(super) nodes: BTreeMap<String, BTreeMap<String, String>>,
}

/// What is wrong with a pattern, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    /// From 1.
    pub(super) line: usize,
    /// With the mend.
    pub(super) what: String,
}

/// Letters of a placeholder that are shown; nobody means a longer one.
const SHOWN: usize = 60;

impl Values {
    /// The pattern for this node, of `most` bytes. Two braces in a row always begin a placeholder.
    ///
    /// # Errors
    /// The first placeholder that can't be filled in, on this node or on another one: what one node
    /// would refuse is shipped to none.
    pub(super) fn fill(&self, pattern: &[u8], most: usize) -> Result<Vec<u8>, Fault> {
        fill(pattern, most, |inside| self.value(inside))
    }

    /// The pattern as it is whatever the values are: each is the same harmless word.
    pub(super) fn neutral(pattern: &[u8]) -> Vec<u8> {
        fill(pattern, usize::MAX, |_| Ok("value")).unwrap_or_default()
    }

    fn value(&self, inside: &str) -> Result<&str, String> {
        let shown: String = inside.chars().filter(|it| !it.is_control()).take(SHOWN).collect();
        let Some(key) = inside.strip_prefix("node.") else {
            return Err(format!(
                "{{{{{shown}}}}} is no placeholder; write {{{{node.KEY}}}}, or a blank between the \
                 braces if no value is meant"
            ));
        };
        let without = self.nodes.iter().filter(|(_, values)| !values.contains_key(key));
        let without: Vec<&str> = without.map(|(node, _)| node.as_str()).collect();
        let own = self.nodes.get(&self.own).and_then(|values| values.get(key));
        match (own, without.first()) {
            (Some(value), None) => Ok(value),
            _ => {
                let node = without.first().copied().unwrap_or(&self.own);
                let short = shown.strip_prefix("node.").unwrap_or_default();
                Err(format!(
                    "{{{{{shown}}}}} has no value for {}; add values = {{ {short} = \"…\" }} to \
                     [node.{node}] in the cluster file",
                    without.join(", ")
                ))
            }
        }
    }
}

fn fill<'a>(
    pattern: &[u8],
    most: usize,
    value: impl Fn(&str) -> Result<&'a str, String>,
) -> Result<Vec<u8>, Fault> {
    let mut filled = Vec::with_capacity(pattern.len());
    let (mut rest, mut line) = (pattern, 1);
    while let Some(at) = rest.windows(2).position(|two| two == b"{{") {
        let (before, from) = rest.split_at(at);
        line += newlines(before);
        filled.extend_from_slice(before);
        let after = from.get(2..).unwrap_or_default();
        let end = after.windows(2).position(|two| two == b"}}");
        let end = end.filter(|end| newlines(after.get(..*end).unwrap_or_default()) == 0);
        let fault = |what| Fault { line, what };
        let Some(end) = end else {
            let what = "two braces are opened and not closed on the same line; write \
                        {{node.KEY}}, or a blank between the braces if no value is meant";
            return Err(fault(what.to_owned()));
        };
        let inside = String::from_utf8_lossy(after.get(..end).unwrap_or_default()).into_owned();
        filled.extend_from_slice(value(inside.trim()).map_err(fault)?.as_bytes());
        if filled.len() > most {
            let what = format!(
                "with the values that it names the file has more than {} KiB; mend: a shorter pattern, \
                 or shorter values",
                most >> 10
            );
            return Err(Fault { line, what });
        }
        rest = after.get(end + 2..).unwrap_or_default();
    }
    filled.extend_from_slice(rest);
    Ok(filled)
}

fn newlines(text: &[u8]) -> usize {
    text.iter().filter(|byte| **byte == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values() -> Values {
        let of = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        Values {
            own: "n2".to_owned(),
            nodes: BTreeMap::from([
                ("n1".to_owned(), of(&[("address", "10.0.0.1"), ("zone", "a")])),
                ("n2".to_owned(), of(&[("address", "10.0.0.2")])),
            ]),
        }
    }

    #[test]
    fn every_placeholder_becomes_this_nodes_value_and_all_else_stays() {
        let pattern =
            b"listen {{node.address}}:80;\n# \xff {{ node.address }}{{node.address}} } {\n";
        let filled = values().fill(pattern, usize::MAX).unwrap();
        assert_eq!(filled, b"listen 10.0.0.2:80;\n# \xff 10.0.0.210.0.0.2 } {\n");
        assert_eq!(values().fill(b"", usize::MAX).unwrap(), b"");
        assert_eq!(values().fill(b"a { b }", usize::MAX).unwrap(), b"a { b }");
    }

    #[test]
    fn what_has_no_value_on_any_node_is_named_with_its_line() {
        let fault = |text: &str| values().fill(text.as_bytes(), usize::MAX).unwrap_err();
        let missing = fault("a;\nb;\nadd_header X \"{{node.zone}}\";\n");
        assert_eq!(missing.line, 3);
        assert!(missing.what.contains("{{node.zone}} has no value for n2;"), "{}", missing.what);
        assert!(missing.what.contains("zone = \"…\" } to [node.n2]"), "{}", missing.what);
        assert!(fault("{{nod.zone}}").what.contains("no placeholder"));
        assert!(fault("{{node.address}}\n{{node.\nzone}}").what.contains("not closed"));
        assert_eq!(fault("{{node.address}}\n{{node.").line, 2);
        assert!(fault("{{}}").what.contains("{{}} is no placeholder"));
        let mut other = values();
        other.own = "n1".to_owned();
        assert!(
            other.fill(b"{{node.zone}}", usize::MAX).is_err(),
            "a node refuses what another one lacks"
        );
    }
}
