//! One line of text, built without allocating: a million of them take less than a second.

use std::io::{self, Write};

use xnat_common::{Addr, Port};

/// A line under construction. It is emptied, not freed, between lines.
#[derive(Debug, Default)]
pub(crate) struct Line {
    text: Vec<u8>,
}

impl Line {
    /// Appends text.
    pub(crate) fn text(&mut self, text: &str) -> &mut Self {
        self.text.extend_from_slice(text.as_bytes());
        self
    }

    /// Appends a number.
    pub(crate) fn number(&mut self, number: u64) -> &mut Self {
        let mut buffer = itoa::Buffer::new();
        self.text(buffer.format(number))
    }

    /// Appends an address.
    pub(crate) fn address(&mut self, address: Addr) -> &mut Self {
        let [a, b, c, d] = address.octets().map(u64::from);
        self.number(a).text(".").number(b).text(".").number(c).text(".").number(d)
    }

    /// Appends a port.
    pub(crate) fn port(&mut self, port: Port) -> &mut Self {
        self.number(port.number().into())
    }

    /// Appends a number below 100 as two digits.
    pub(crate) fn two_digits(&mut self, number: u64) -> &mut Self {
        self.text(if number < 10 { "0" } else { "" }).number(number)
    }

    /// Appends a number of bytes, in binary units where it is long.
    pub(crate) fn size(&mut self, bytes: u64) -> &mut Self {
        if bytes < 10_000 {
            return self.number(bytes);
        }
        let power = bytes.ilog2() / 10;
        let tenths = (u128::from(bytes) * 10) >> (power * 10);
        let unit = ["", "K", "M", "G", "T", "P", "E"][power as usize];
        self.number((tenths / 10) as u64).text(".").number((tenths % 10) as u64).text(unit)
    }

    /// Moves another line's text to the end of this one.
    pub(crate) fn append(&mut self, other: &mut Self) -> &mut Self {
        self.text.append(&mut other.text);
        self
    }

    /// Empties the line.
    pub(crate) fn clear(&mut self) {
        self.text.clear();
    }

    /// How long the line is so far.
    pub(crate) const fn len(&self) -> usize {
        self.text.len()
    }

    /// Appends spaces until the line is `column` long.
    pub(crate) fn pad_to(&mut self, column: usize) -> &mut Self {
        let column = column.max(self.text.len());
        self.text.resize(column, b' ');
        self
    }

    /// Writes the line, without what trails, and empties it.
    pub(crate) fn end(&mut self, out: &mut impl Write) -> io::Result<()> {
        let len = self.text.trim_ascii_end().len();
        self.text.truncate(len);
        self.text.push(b'\n');
        let written = out.write_all(&self.text);
        self.text.clear();
        written
    }

    /// What has been built, for tests.
    #[cfg(test)]
    pub(crate) fn take(&mut self) -> String {
        let mut out = Vec::new();
        self.end(&mut out).unwrap();
        String::from_utf8(out).unwrap().trim_end_matches('\n').to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builds_and_pads() {
        let mut line = Line::default();
        line.text("a").pad_to(4).address(Addr::new([10, 0, 255, 1])).text(":").port(Port::new(80)).pad_to(2).text("  ");
        assert_eq!(line.take(), "a   10.0.255.1:80");
        assert_eq!(line.number(u64::MAX).take(), "18446744073709551615");
        assert_eq!(line.len(), 0);
    }
}
