//! Reads single values: type, range and default come from the table of keys.

use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeInteger, DeValue};

use super::{Fields, MAX_LIST, Value, Walk, shown};
use crate::codes;
use crate::duration;
use crate::keys::{self, Absent, Key, Kind};
use crate::model::Cadence;
use crate::nearest::nearest;

/// The table's default; a test holds that it can be read.
pub(super) fn default_integer(key: &Key) -> i64 {
    match key.default {
        Absent::Is(text) => text.parse().unwrap_or(0),
        Absent::Required | Absent::Means(_) => 0,
    }
}

fn default_duration(key: &Key) -> Duration {
    match key.default {
        Absent::Is(text) => duration::parse(text).unwrap_or_default(),
        Absent::Required | Absent::Means(_) => Duration::ZERO,
    }
}

fn default_text(key: &Key) -> &'static str {
    match key.default {
        Absent::Is(text) => text,
        Absent::Required | Absent::Means(_) => "",
    }
}

fn type_words(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a number with decimals",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

fn as_i64(value: &DeInteger<'_>) -> Option<i64> {
    i64::from_str_radix(value.as_str(), value.radix()).ok()
}

impl Walk {
    pub(super) fn wrong_type(&mut self, name: &str, wanted: &str, value: &Value<'_>, mend: &str) {
        let found = type_words(value.get_ref());
        self.error(
            codes::WRONG_TYPE,
            format!("{name} must be {wanted}, not {found}"),
            value.span(),
            format!("this is {found}"),
            mend,
        );
    }

    pub(super) fn missing(&mut self, fields: &Fields<'_, '_>, key: &Key, example: &str) {
        self.error(
            codes::MISSING_KEY,
            format!("{} has no `{}`, which has no default", fields.title, key.name),
            fields.span.clone(),
            "",
            format!("add {example}"),
        );
    }

    /// Any text; `None` when absent or no text (which is reported).
    pub(super) fn text(
        &mut self,
        fields: &Fields<'_, '_>,
        key: &Key,
    ) -> Option<(String, Range<usize>)> {
        let value = fields.get(key)?;
        self.any_text(value, key.name).map(|text| (text, value.span()))
    }

    pub(super) fn any_text(&mut self, value: &Value<'_>, name: &str) -> Option<String> {
        let Some(text) = value.get_ref().as_str() else {
            let plain = match value.get_ref() {
                DeValue::Integer(number) => Some(number.to_string()),
                DeValue::Boolean(flag) => Some(flag.to_string()),
                _ => None,
            };
            let mend = plain.map_or_else(
                || "write a text in quotes".to_owned(),
                |plain| format!("write \"{plain}\", with quotes"),
            );
            self.wrong_type(name, "a text", value, &mend);
            return None;
        };
        if text.is_empty() {
            self.error(
                codes::EMPTY,
                format!("{name} must not be empty"),
                value.span(),
                "",
                "give it a value, or remove it",
            );
            return None;
        }
        Some(text.to_owned())
    }

    /// One of the table's words, or the default.
    pub(super) fn word(&mut self, fields: &Fields<'_, '_>, key: &Key) -> &'static str {
        let default = default_text(key);
        let Kind::Word(words) = key.kind else { return default };
        let Some((text, span)) = self.text(fields, key) else { return default };
        if let Some(word) = words.iter().find(|word| **word == text) {
            return word;
        }
        let near = nearest(&text, words.iter().copied());
        let label = near.map(|near| format!("did you mean \"{near}\"?")).unwrap_or_default();
        self.error(
            codes::WORD,
            format!("{} can't be \"{}\"", key.name, shown(&text)),
            span,
            label,
            format!("it may be one of {}", key.kind),
        );
        default
    }

    pub(super) fn boolean(&mut self, fields: &Fields<'_, '_>, key: &Key) -> bool {
        let default = default_text(key) == "true";
        let Some(value) = fields.get(key) else { return default };
        value.get_ref().as_bool().unwrap_or_else(|| {
            let no = match value.get_ref() {
                DeValue::Integer(number) => as_i64(number) == Some(0),
                DeValue::String(text) => {
                    matches!(&*text.to_ascii_lowercase(), "false" | "no" | "off" | "0")
                }
                _ => false,
            };
            let meant = if no { "false" } else { "true" };
            self.wrong_type(
                key.name,
                "true or false",
                value,
                &format!("write {} = {meant}, without quotes", key.name),
            );
            default
        })
    }

    /// Within the table's range, or the default.
    pub(super) fn integer(&mut self, fields: &Fields<'_, '_>, key: &Key) -> i64 {
        self.given_integer(fields, key).unwrap_or_else(|| default_integer(key))
    }

    pub(super) fn small_integer(&mut self, fields: &Fields<'_, '_>, key: &Key) -> u8 {
        // The ranges of the keys that are read with this one fit a byte.
        u8::try_from(self.integer(fields, key)).unwrap_or(u8::MAX)
    }

    fn given_integer(&mut self, fields: &Fields<'_, '_>, key: &Key) -> Option<i64> {
        let value = fields.get(key)?;
        let number =
            self.any_integer(value, key.name, &format!("{} = {}", key.name, default_integer(key)))?;
        if let Kind::Integer(min, max) = key.kind
            && !(min..=max).contains(&number)
        {
            self.error(
                codes::RANGE,
                format!("{} must be {}", key.name, key.kind),
                value.span(),
                "",
                about(key),
            );
            return None;
        }
        Some(number)
    }

    /// A number that doesn't fit is given as the nearest one that does: every range is narrower.
    pub(super) fn any_integer(
        &mut self,
        value: &Value<'_>,
        name: &str,
        example: &str,
    ) -> Option<i64> {
        if let DeValue::Integer(integer) = value.get_ref() {
            let beyond = if integer.as_str().starts_with('-') { i64::MIN } else { i64::MAX };
            return Some(as_i64(integer).unwrap_or(beyond));
        }
        let bare = value.get_ref().as_str().filter(|text| text.parse::<i64>().is_ok());
        let mend = bare.map_or_else(
            || format!("write {example}"),
            |number| format!("write {number}, without quotes"),
        );
        self.wrong_type(name, "a whole number", value, &mend);
        None
    }

    /// Within the table's range, or the default.
    pub(super) fn duration(&mut self, fields: &Fields<'_, '_>, key: &Key) -> Duration {
        self.given_duration(fields, key).unwrap_or_else(|| default_duration(key))
    }

    /// `None` when absent or unusable (which is reported).
    pub(super) fn given_duration(
        &mut self,
        fields: &Fields<'_, '_>,
        key: &Key,
    ) -> Option<Duration> {
        let value = fields.get(key)?;
        let Kind::Duration(min, max) = key.kind else { return None };
        let range = Duration::from_millis(min)..=Duration::from_millis(max);
        let duration = self.any_duration(value, key.name, &range)?;
        if range.contains(&duration) {
            return Some(duration);
        }
        let code = if *key == keys::VIP_ADVERT_INTERVAL { codes::INTERVAL } else { codes::RANGE };
        let message = format!("{} must be {}", key.name, key.kind);
        self.error(code, message, value.span(), "", about(key));
        None
    }

    /// `range` is what its reader will accept: only such values are proposed.
    pub(super) fn any_duration(
        &mut self,
        value: &Value<'_>,
        name: &str,
        range: &RangeInclusive<Duration>,
    ) -> Option<Duration> {
        let number = match value.get_ref() {
            DeValue::String(text) => match duration::parse(text) {
                Some(parsed) => return Some(parsed),
                None => text.trim().to_owned(),
            },
            DeValue::Integer(number) => number.to_string(),
            DeValue::Float(number) => number.to_string(),
            _ => {
                self.wrong_type(name, "a duration", value, "write a text such as \"100ms\"");
                return None;
            }
        };
        let candidates: Vec<String> = [("s", "seconds"), ("ms", "milliseconds"), ("m", "minutes")]
            .into_iter()
            .filter(|(unit, _)| {
                duration::parse(&format!("{number}{unit}")).is_some_and(|d| range.contains(&d))
            })
            .take(2)
            .map(|(unit, word)| format!("\"{number}{unit}\" for {word}"))
            .collect();
        if candidates.is_empty() {
            self.error(
                codes::DURATION,
                format!("{name} is no duration: \"{}\"", shown(&number)),
                value.span(),
                "",
                "write a number and one unit, ms, s, m or h: \"100ms\", \"1.5s\", \"30m\"",
            );
        } else {
            self.error(
                codes::DURATION,
                format!("{name} must be a duration with its unit"),
                value.span(),
                "which unit?",
                format!("write {}", candidates.join(", ")),
            );
        }
        None
    }

    /// A list of texts, each with its place; empty when absent.
    pub(super) fn spanned_texts(
        &mut self,
        fields: &Fields<'_, '_>,
        key: &Key,
    ) -> Vec<(String, Range<usize>)> {
        let Some(value) = fields.get(key) else { return Vec::new() };
        let Some(list) = value.get_ref().as_array() else {
            let mend = match value.get_ref().as_str() {
                // A command line in one text: its words are the entries.
                Some(text) if text.contains(' ') && !text.contains(['"', '\'', '\\']) => {
                    let words: Vec<String> = text
                        .split_whitespace()
                        .map(|word| format!("\"{}\"", shown(word)))
                        .collect();
                    format!("write {} = [{}]", key.name, words.join(", "))
                }
                Some(text) => format!("write {} = [\"{}\"], with brackets", key.name, shown(text)),
                None => format!("write {} = [\"...\"]", key.name),
            };
            self.wrong_type(key.name, &format!("a list of {}", list_of(key)), value, &mend);
            return Vec::new();
        };
        if list.len() > MAX_LIST {
            self.error(
                codes::RANGE,
                format!("{} has more than {MAX_LIST} entries", key.name),
                value.span(),
                "",
                "shorten the list",
            );
        }
        let entries: Vec<&Spanned<DeValue<'_>>> = list.iter().take(MAX_LIST).collect();
        let name = format!("each entry of {}", key.name);
        entries
            .into_iter()
            .filter_map(|entry| Some((self.any_text(entry, &name)?, entry.span())))
            .collect()
    }

    pub(super) fn path(&mut self, fields: &Fields<'_, '_>, key: &Key) -> Option<PathBuf> {
        let (text, span) = self.text(fields, key)?;
        self.absolute(&text, span, key.name)
    }

    pub(super) fn paths(&mut self, fields: &Fields<'_, '_>, key: &Key) -> Vec<PathBuf> {
        let mut paths = Vec::new();
        for (text, span) in self.spanned_texts(fields, key) {
            let Some(path) = self.absolute(&text, span.clone(), key.name) else { continue };
            if paths.contains(&path) {
                self.repeated(key.name, &text, span);
            } else {
                paths.push(path);
            }
        }
        paths
    }

    pub(super) fn repeated(&mut self, name: &str, text: &str, span: Range<usize>) {
        let message = format!("{name} has \"{}\" twice", shown(text));
        self.error(codes::REPEATED, message, span, "the second time", "remove one of them");
    }

    pub(super) fn absolute(
        &mut self,
        text: &str,
        span: Range<usize>,
        name: &str,
    ) -> Option<PathBuf> {
        let path = PathBuf::from(text);
        let climbs = path.components().any(|part| part == std::path::Component::ParentDir);
        if path.is_absolute() && !climbs && !text.contains(char::is_control) {
            return Some(path);
        }
        let (label, help) = if climbs {
            ("`..` leaves the path to chance", "write it without `..`")
        } else if text.contains(char::is_control) {
            ("it has control characters", "write it without them")
        } else {
            ("this is relative, and to what nobody knows", "begin it with /")
        };
        let message = format!("{name} must be an absolute path, not \"{}\"", shown(text));
        self.error(codes::PATH, message, span, label, help);
        None
    }

    pub(super) fn user(&mut self, fields: &Fields<'_, '_>, key: &Key) -> Option<String> {
        let (text, span) = self.text(fields, key)?;
        let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '$');
        if text.len() <= 32 && text.chars().all(fine) && !text.starts_with('-') {
            return Some(text);
        }
        self.error(
            codes::NAME,
            "user must be the name of a user",
            span,
            "",
            "write a name as in /etc/passwd, e.g. \"standin\"",
        );
        None
    }

    /// The four timing keys of `[nginx]` and `[check.NAME]`, which have the same names.
    pub(super) fn cadence(&mut self, fields: &Fields<'_, '_>, default_timeout: &str) -> Cadence {
        let nginx = fields.section == keys::Section::Nginx;
        let pick = |for_nginx: Key, for_check: Key| if nginx { for_nginx } else { for_check };
        let interval = self.duration(fields, &pick(keys::NGINX_INTERVAL, keys::CHECK_INTERVAL));
        let timeout_key = pick(keys::NGINX_TIMEOUT, keys::CHECK_TIMEOUT);
        let fallback = duration::parse(default_timeout).unwrap_or_default().min(interval * 2);
        let timeout = self.given_duration(fields, &timeout_key).unwrap_or(fallback);
        if timeout > interval * 2
            && let Some(value) = fields.get(&timeout_key)
        {
            let most = duration::format(interval * 2);
            self.error(
                codes::TIMEOUT,
                format!("timeout must be at most twice the interval, \"{most}\" here"),
                value.span(),
                "two probes may be under way, not more",
                "shorten the timeout, or lengthen the interval",
            );
        }
        Cadence {
            interval,
            timeout,
            fall: self.small_integer(fields, &pick(keys::NGINX_FALL, keys::CHECK_FALL)),
            rise: self.small_integer(fields, &pick(keys::NGINX_RISE, keys::CHECK_RISE)),
        }
    }
}

/// What the key is for and what holds without it.
fn about(key: &Key) -> String {
    match key.default {
        Absent::Is(text) if matches!(key.kind, Kind::Integer(..)) => {
            format!("the default is {text}. {}", key.doc)
        }
        Absent::Is(text) => format!("the default is \"{text}\". {}", key.doc),
        Absent::Means(words) => format!("the default is {words}. {}", key.doc),
        Absent::Required => key.doc.to_owned(),
    }
}

fn list_of(key: &Key) -> &'static str {
    match key.kind {
        Kind::List(what) => what,
        _ => "texts",
    }
}
