//! Reads what shared files may say differently on each node: `values` of a node.

use std::collections::BTreeMap;

use super::{Fields, Walk, shown};
use crate::codes;
use crate::keys;

/// Of one node.
const MAX_VALUES: usize = 256;

/// Bytes of a key: it is typed between two pairs of braces.
const MAX_KEY: usize = 64;

/// Bytes of a value: a host name has 253.
const MAX_VALUE: usize = 255;

/// Known of every node.
const GIVEN: [&str; 2] = ["name", "address"];

/// What would end a word of nginx's language, or mean something else than itself there.
const SPECIAL: &[char] = &['"', '\'', '\\', ';', '{', '}', '$', '#'];

impl Walk {
    pub(super) fn node_values(&mut self, fields: &Fields<'_, '_>) -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        let Some(value) = fields.get(&keys::NODE_VALUES) else { return found };
        let Some(table) = value.get_ref().as_table() else {
            self.wrong_type("values", "a table of texts", value, "write values = { zone = \"a\" }");
            return found;
        };
        for (key, value) in table.iter().take(MAX_VALUES) {
            let name: &str = key.get_ref();
            if !fit(name) {
                self.error(
                    codes::NAME,
                    format!("values has a key that can't be used, {}", shown(name)),
                    key.span(),
                    "",
                    "keys are small letters, digits and _, at most 64; name and address are given",
                );
            }
            let what = format!("the value {}", shown(name));
            let Some(text) = self.any_text(value, &what) else { continue };
            if text.len() > MAX_VALUE || text.contains(SPECIAL) || text.contains(char::is_control) {
                self.error(
                    codes::WORD,
                    format!("{what} could mean more than itself in nginx's files"),
                    value.span(),
                    "",
                    "at most 255 bytes, without quotes, backslash, braces, $, # and semicolon; write \
                     those into the shared file itself",
                );
            }
            found.insert(name.to_owned(), text);
        }
        if table.len() > MAX_VALUES {
            let message = format!("a node has at most {MAX_VALUES} values");
            self.error(
                codes::RANGE,
                message,
                value.span(),
                "",
                "remove those that nobody asks for",
            );
        }
        found
    }
}

fn fit(key: &str) -> bool {
    let letter = |it: u8| it.is_ascii_lowercase() || it.is_ascii_digit() || it == b'_';
    (1..=MAX_KEY).contains(&key.len()) && key.bytes().all(letter) && !GIVEN.contains(&key)
}
