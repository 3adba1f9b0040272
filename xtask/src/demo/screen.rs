//! What the demo shows: short aligned lines, in colour on a terminal.

use std::{
    env,
    io::{self, IsTerminal as _, Write as _},
};

/// Standard output.
pub(super) struct Screen {
    out: io::Stdout,
    colours: bool,
}

const BOLD: &str = "1";
const DIM: &str = "2";
const RED: &str = "31";
const GREEN: &str = "32";

impl Screen {
    pub(super) fn of_stdout() -> Self {
        // https://no-color.org: any value but the empty one.
        let unwanted = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let out = io::stdout();
        let colours = out.is_terminal() && !unwanted;
        Self { out, colours }
    }

    /// A heading.
    pub(super) fn heading(&self, text: &str) {
        self.line("");
        self.line(&self.painted(BOLD, text));
    }

    /// A line as it is. A reader that has gone away is no reason to stop: there is something to remove at the end.
    pub(super) fn line(&self, text: &str) {
        let mut out = self.out.lock();
        let _ = writeln!(out, "{text}").and_then(|()| out.flush());
    }

    /// Who does what.
    pub(super) fn does(&self, who: &str, what: &str) {
        self.line(&format!("    {who:<6} {what}"));
    }

    /// Who did what, what came of it, and whether that was right.
    pub(super) fn outcome(&self, right: bool, who: &str, what: &str, outcome: &str) {
        let sign = if right { self.painted(GREEN, "✓") } else { self.painted(RED, "✗") };
        let gap = if what.is_empty() { "" } else { "  " };
        let width = if what.is_empty() { 0 } else { 25 };
        self.line(&format!("  {sign} {who:<6} {what:<width$}{gap}{outcome}"));
    }

    /// Output of a program, or a remark.
    pub(super) fn quote(&self, text: &str) {
        for line in text.lines() {
            self.line(&format!("    {line}"));
        }
    }

    /// A remark on what was just shown.
    pub(super) fn remark(&self, text: &str) {
        for line in text.lines() {
            self.line(&format!("    {}", self.painted(DIM, line)));
        }
    }

    fn painted(&self, style: &str, text: &str) -> String {
        if self.colours { format!("\x1b[{style}m{text}\x1b[0m") } else { text.to_owned() }
    }
}
