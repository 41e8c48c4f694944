//! How a drill goes, on standard error.

use std::io::{IsTerminal, Write};

/// One line per fault: on a terminal it is live.
pub(super) struct Progress {
    live: bool,
    count: usize,
    current: usize,
}

impl Progress {
    pub(super) fn new(count: usize) -> Self {
        Self { live: std::io::stderr().is_terminal(), count, current: 0 }
    }

    pub(super) fn begin(&mut self, title: &str) {
        self.current += 1;
        self.say(title);
    }

    pub(super) fn say(&self, what: &str) {
        if self.live {
            self.write(&format!("\r\x1b[K{:>3}/{} {what} …", self.current, self.count));
        }
    }

    pub(super) fn end(&self, line: &str) {
        let start = if self.live { "\r\x1b[K" } else { "" };
        self.write(&format!("{start}{:>3}/{} {line}\n", self.current, self.count));
    }

    fn write(&self, text: &str) {
        let mut stderr = std::io::stderr().lock();
        // Nobody watches any more: the drill's result still counts.
        let _unwatched = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
    }
}
