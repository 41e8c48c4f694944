//! Cuts nginx's configuration language into words and marks, with their places.
//!
//! The rules are those that nginx documents and shows by behaviour: quotes count at the start of a
//! word only, a word ends at a blank, `;` or `{`, and `${` is part of a word.

use std::fmt;
use std::ops::Range;

/// What one token is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// Without its quotes and escapes. Bytes: nginx knows no encoding.
    Word(Vec<u8>),
    /// `;`
    End,
    /// `{`
    Open,
    /// `}`
    Close,
}

/// A token and its bytes in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    pub kind: TokenKind,
    pub span: Range<usize>,
    /// From 1.
    pub line: u32,
}

/// The file ends, or goes on, where nginx wouldn't let it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LexError {
    pub what: &'static str,
    pub span: Range<usize>,
    /// From 1.
    pub line: u32,
}

impl fmt::Display for LexError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.what)
    }
}

/// Gives the tokens of one file in order; after an error it is at its end.
#[derive(Clone, Debug)]
pub struct Lexer<'a> {
    bytes: &'a [u8],
    at: usize,
    line: u32,
    /// No word of the statement was seen yet.
    fresh: bool,
    /// The statement is a `*_by_lua_block`: its body is Lua.
    lua: bool,
    failed: bool,
}

impl<'a> Lexer<'a> {
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        // Editors put a byte order mark there; nginx skips it too.
        let at = if bytes.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
        Self { bytes, at, line: 1, fresh: true, lua: false, failed: false }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn next_byte(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        if byte == b'\n' {
            self.line = self.line.saturating_add(1);
        }
        Some(byte)
    }

    fn fail(
        &mut self,
        what: &'static str,
        start: usize,
        line: u32,
    ) -> Option<Result<Token, LexError>> {
        self.failed = true;
        Some(Err(LexError { what, span: start..self.at, line }))
    }

    /// Past blanks and comments.
    fn skip(&mut self) {
        while let Some(byte) = self.peek() {
            match byte {
                b' ' | b'\t' | b'\r' | b'\n' => {
                    self.next_byte();
                }
                b'#' => while self.next_byte().is_some_and(|byte| byte != b'\n') {},
                _ => return,
            }
        }
    }

    /// After the opening quote.
    fn quoted(&mut self, quote: u8) -> Result<Vec<u8>, &'static str> {
        let mut word = Vec::new();
        loop {
            match self.next_byte() {
                None => return Err("the file ends within quotes"),
                Some(b'\\') => self.escape(&mut word),
                Some(byte) if byte == quote => break,
                Some(byte) => word.push(byte),
            }
        }
        match self.peek() {
            None | Some(b' ' | b'\t' | b'\r' | b'\n' | b';' | b'{' | b')') => Ok(word),
            Some(_) => Err("a blank is missing after the closing quote"),
        }
    }

    fn plain(&mut self) -> Vec<u8> {
        let mut word = Vec::new();
        let mut dollar = false;
        while let Some(byte) = self.peek() {
            if byte == b'{' && dollar {
                dollar = false;
            } else if matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | b';' | b'{') {
                break;
            } else {
                dollar = byte == b'$';
            }
            self.next_byte();
            if byte == b'\\' { self.escape(&mut word) } else { word.push(byte) }
        }
        word
    }

    /// After the backslash: quotes, itself and three control characters; others keep the backslash.
    fn escape(&mut self, word: &mut Vec<u8>) {
        match self.next_byte() {
            Some(byte @ (b'"' | b'\'' | b'\\')) => word.push(byte),
            Some(b't') => word.push(b'\t'),
            Some(b'r') => word.push(b'\r'),
            Some(b'n') => word.push(b'\n'),
            Some(byte) => word.extend([b'\\', byte]),
            None => word.push(b'\\'),
        }
    }

    /// Up to the brace that closes the Lua block, which stays.
    fn skip_lua(&mut self) -> Result<(), &'static str> {
        const UNENDED: &str = "the file ends within a Lua block";
        let mut depth = 0_usize;
        loop {
            match self.peek().ok_or(UNENDED)? {
                b'{' => depth += 1,
                b'}' if depth == 0 => return Ok(()),
                b'}' => depth -= 1,
                b'[' => {
                    if let Some(level) = self.long_bracket() {
                        self.long_text(level).ok_or(UNENDED)?;
                        continue;
                    }
                }
                quote @ (b'"' | b'\'') => {
                    self.next_byte();
                    self.lua_text(quote).ok_or(UNENDED)?;
                    continue;
                }
                b'-' if self.bytes.get(self.at + 1) == Some(&b'-') => {
                    self.at += 2;
                    match self.long_bracket() {
                        Some(level) => self.long_text(level).ok_or(UNENDED)?,
                        None => while self.next_byte().ok_or(UNENDED)? != b'\n' {},
                    }
                    continue;
                }
                _ => {}
            }
            self.next_byte();
        }
    }

    /// Past a short text of Lua; it may not cross a line, so a stray quote costs one line only.
    fn lua_text(&mut self, quote: u8) -> Option<()> {
        loop {
            match self.next_byte()? {
                b'\\' => {
                    self.next_byte()?;
                }
                byte if byte == quote || byte == b'\n' => return Some(()),
                _ => {}
            }
        }
    }

    /// The count of `=` in `[==[`, if one is here.
    fn long_bracket(&self) -> Option<usize> {
        let rest = self.bytes.get(self.at..)?.strip_prefix(b"[")?;
        let level = rest.iter().take_while(|byte| **byte == b'=').count();
        (rest.get(level) == Some(&b'[')).then_some(level)
    }

    /// Past `]==]`.
    fn long_text(&mut self, level: usize) -> Option<()> {
        loop {
            if self.next_byte()? != b']' {
                continue;
            }
            let rest = self.bytes.get(self.at..)?;
            let closes = rest.iter().take_while(|byte| **byte == b'=').count() == level
                && rest.get(level) == Some(&b']');
            if closes {
                self.at += level + 1;
                return Some(());
            }
        }
    }
}

impl Iterator for Lexer<'_> {
    type Item = Result<Token, LexError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        self.skip();
        let (start, line) = (self.at, self.line);
        let kind = match self.peek()? {
            mark @ (b';' | b'{' | b'}') => {
                self.next_byte();
                let lua = std::mem::take(&mut self.lua);
                self.fresh = true;
                match mark {
                    b';' => TokenKind::End,
                    b'}' => TokenKind::Close,
                    _ => {
                        let open = self.at;
                        if lua && let Err(what) = self.skip_lua() {
                            return self.fail(what, start, line);
                        }
                        return Some(Ok(Token { kind: TokenKind::Open, span: start..open, line }));
                    }
                }
            }
            quote @ (b'"' | b'\'') => {
                self.next_byte();
                match self.quoted(quote) {
                    Ok(word) => TokenKind::Word(word),
                    Err(what) => return self.fail(what, start, line),
                }
            }
            _ => TokenKind::Word(self.plain()),
        };
        if let TokenKind::Word(word) = &kind
            && std::mem::take(&mut self.fresh)
        {
            self.lua = word.ends_with(b"_by_lua_block");
        }
        Some(Ok(Token { kind, span: start..self.at, line }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        Lexer::new(text.as_bytes())
            .map(|token| match token {
                Ok(Token { kind: TokenKind::Word(word), .. }) => {
                    format!("<{}>", String::from_utf8_lossy(&word))
                }
                Ok(Token { kind: TokenKind::End, .. }) => ";".to_owned(),
                Ok(Token { kind: TokenKind::Open, .. }) => "{".to_owned(),
                Ok(Token { kind: TokenKind::Close, .. }) => "}".to_owned(),
                Err(error) => format!("!{error}"),
            })
            .collect()
    }

    #[test]
    fn words_and_marks_are_cut_as_nginx_cuts_them() {
        assert_eq!(shown("listen 80; # x\nserver{a b;}"), "<listen><80>;<server>{<a><b>;}");
        assert_eq!(shown("a \"b c;\" 'd\\'e' f\\;g;"), "<a><b c;><d'e><f\\;g>;");
        assert_eq!(shown("a b\"c\"d#e;"), "<a><b\"c\"d#e>;");
        assert_eq!(shown("set $a ${b}c$d{"), "<set><$a><${b}c$d>{");
        assert_eq!(shown("if ($a = \"b\") {"), "<if><($a><=><b><)>{");
        assert_eq!(shown("\u{feff}a b}c;"), "<a><b}c>;");
        assert_eq!(shown("a \"\\t\\x\";"), "<a><\t\\x>;");
    }

    #[test]
    fn lua_blocks_are_skipped_whole() {
        let lua = "x { content_by_lua_block {\n local t = { '}', \"\\\"}\", [[ } ]], [=[ ]] } ]=] } -- }\n \
                   --[[ } \n } ]] if a[1] then end\n } listen 80; }";
        assert_eq!(shown(lua), "<x>{<content_by_lua_block>{}<listen><80>;}");
        assert_eq!(shown("set_by_lua_block $x { return 1 } a;"), "<set_by_lua_block><$x>{}<a>;");
        let last = Lexer::new(lua.as_bytes()).last().unwrap().unwrap();
        assert_eq!(last.line, 5);
    }

    #[test]
    fn unended_texts_are_errors_at_their_start() {
        assert_eq!(shown("a;\n\"b;"), "<a>;!line 2: the file ends within quotes");
        assert_eq!(shown("a \"b\"c;"), "<a>!line 1: a blank is missing after the closing quote");
        assert_eq!(
            shown("a_by_lua_block { { }"),
            "<a_by_lua_block>!line 1: the file ends within a Lua block"
        );
        assert_eq!(shown("a\\"), "<a\\>");
    }

    #[test]
    fn spans_cover_the_words() {
        let text = "ab \"c d\";";
        let spans: Vec<_> =
            Lexer::new(text.as_bytes()).map(|token| text[token.unwrap().span].to_owned()).collect();
        assert_eq!(spans, ["ab", "\"c d\"", ";"]);
    }
}
