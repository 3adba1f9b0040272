//! What xnat says while it works: findings on stdout, events and complaints on stderr.
//!
//! A reader that has gone away is no reason to stop translating, so failures to write are ignored.

use std::fmt::Display;
use std::io::Write;

use anstyle::{AnsiColor, Style};

const WARNING: Style = AnsiColor::Yellow.on_default().bold();
const ERROR: Style = AnsiColor::Red.on_default().bold();
/// Something is as it should be.
pub(crate) const GOOD: Style = AnsiColor::Green.on_default();
/// Something is missing or wrong.
pub(crate) const BAD: Style = AnsiColor::Red.on_default();
/// Headings.
pub(crate) const HEADING: Style = Style::new().bold();

/// Prints a line on stdout, at once.
pub(crate) fn line(text: impl Display) {
    let mut out = anstream::stdout();
    let _ = writeln!(out, "{text}");
    let _ = out.flush();
}

/// Reports an event.
pub(crate) fn event(text: impl Display) {
    let _ = writeln!(anstream::stderr(), "{text}");
}

/// Reports something that somebody should look at.
pub(crate) fn warning(text: impl Display) {
    let _ = writeln!(anstream::stderr(), "{WARNING}warning:{WARNING:#} {text}");
}

/// Reports why a command failed.
pub(crate) fn error(text: impl Display) {
    let _ = writeln!(anstream::stderr(), "{ERROR}error:{ERROR:#} {text}");
}

/// `1 flow`, `2 flows`.
pub(crate) fn count(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

/// The items in a row, with commas.
pub(crate) fn list<T: Display>(items: impl IntoIterator<Item = T>) -> String {
    let words: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    words.join(", ")
}
