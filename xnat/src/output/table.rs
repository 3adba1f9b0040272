//! The aligned table for a person: one line a flow, with both directions.

use std::io::{self, Write};

use xnat_common::Tuple;
use xnat_common::flow::{Direction, Flow, Kind};
use xnat_common::packet::proto;

use super::line::Line;
use super::{Expiry, identifier, state_name};
use crate::filter::Protocol;
use crate::say::HEADING;

const COLUMNS: usize = 8;
const TITLES: [&str; COLUMNS] = ["PROTO", "STATE", "KIND", "ORIGINAL", "REPLY", "EXPIRES", "PACKETS", "BYTES"];
/// Columns of figures, which are aligned at their right.
const RIGHT: [bool; COLUMNS] = [false, false, false, false, false, true, true, true];
const GAP: usize = 2;

/// The widths of the columns, which grow with the flows that are shown to it.
#[derive(Debug)]
pub(crate) struct Table {
    widths: [usize; COLUMNS],
    cell: Line,
}

impl Default for Table {
    fn default() -> Self {
        Self { widths: TITLES.map(str::len), cell: Line::default() }
    }
}

impl Table {
    /// Makes room for the flow.
    pub(crate) fn measure(&mut self, flow: &Flow, expiry: &Expiry) {
        for (column, width) in self.widths.iter_mut().enumerate() {
            let start = self.cell.len();
            append(&mut self.cell, column, flow, expiry);
            *width = (*width).max(self.cell.len() - start);
        }
        self.cell.clear();
    }

    /// Writes the titles.
    pub(crate) fn head(&mut self, out: &mut impl Write, bold: bool) -> io::Result<()> {
        let mut line = Line::default();
        for (column, title) in TITLES.into_iter().enumerate() {
            self.place(&mut line, column, |cell| {
                cell.text(title);
            });
        }
        if bold {
            write!(out, "{HEADING}")?;
        }
        line.end(out)?;
        if bold { write!(out, "{HEADING:#}") } else { Ok(()) }
    }

    /// Writes the flow.
    pub(crate) fn row(&mut self, line: &mut Line, flow: &Flow, expiry: &Expiry) {
        for column in 0..COLUMNS {
            self.place(line, column, |cell| append(cell, column, flow, expiry));
        }
    }

    fn place(&mut self, line: &mut Line, column: usize, fill: impl FnOnce(&mut Line)) {
        let left: usize = self.widths[..column].iter().map(|width| width + GAP).sum();
        line.pad_to(left);
        if RIGHT[column] {
            fill(&mut self.cell);
            line.pad_to((left + self.widths[column]).saturating_sub(self.cell.len()));
            line.append(&mut self.cell);
        } else {
            fill(line);
        }
    }
}

fn append(cell: &mut Line, column: usize, flow: &Flow, expiry: &Expiry) {
    match column {
        0 => match Protocol(flow.proto).name() {
            Some(name) => cell.text(name),
            None => cell.number(flow.proto.into()),
        },
        1 => cell.text(state_name(flow)),
        2 => cell.text(Kind::from_u8(flow.kind).map_or("unknown", Kind::name)),
        3 => tuple(cell, flow.proto, &flow.original),
        4 => tuple(cell, flow.proto, &flow.reply),
        5 => duration(cell, expiry.seconds(flow)),
        6 => cell.number(flow.packets(Direction::Original)).text("/").number(flow.packets(Direction::Reply)),
        _ => cell.size(flow.bytes(Direction::Original)).text("/").size(flow.bytes(Direction::Reply)),
    };
}

fn tuple<'a>(cell: &'a mut Line, protocol: u8, tuple: &Tuple) -> &'a mut Line {
    let ports = Protocol(protocol).has_ports();
    cell.address(tuple.src);
    if ports {
        cell.text(":").port(tuple.sport);
    }
    cell.text(" > ").address(tuple.dst);
    if ports {
        cell.text(":").port(tuple.dport);
    } else if protocol == proto::ICMP {
        cell.text(" id ").number(identifier(tuple).into());
    }
    cell
}

fn duration(cell: &mut Line, seconds: u64) -> &mut Line {
    match seconds {
        0..60 => cell.number(seconds).text("s"),
        60..3600 => cell.number(seconds / 60).text("m").two_digits(seconds % 60).text("s"),
        _ => cell.number(seconds / 3600).text("h").two_digits(seconds / 60 % 60).text("m"),
    }
}

#[cfg(test)]
mod tests {
    use xnat_common::Ticks;
    use xnat_common::config::Config;

    use super::*;
    use crate::output::sample;

    #[test]
    fn columns_are_aligned() {
        let expiry = Expiry::new(&Config::default(), Ticks::from_secs(10));
        let flows = [sample::tcp(), sample::udp(), sample::icmp(), sample::other()];
        let mut table = Table::default();
        for flow in &flows {
            table.measure(flow, &expiry);
        }
        let (mut out, mut line) = (Vec::new(), Line::default());
        table.head(&mut out, false).unwrap();
        for flow in &flows {
            table.row(&mut line, flow, &expiry);
            line.end(&mut out).unwrap();
        }
        let expected = "\
PROTO  STATE        KIND     ORIGINAL                                 REPLY                               EXPIRES  PACKETS    BYTES
tcp    ESTABLISHED  peer     192.168.110.11:40000 > 192.168.220.11:80  172.29.0.17:80 > 172.29.0.4:40000    2h03m      5/4  400/300
";
        let text = String::from_utf8(out).unwrap();
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(words(lines[0]), words(expected.lines().next().unwrap()));
        assert_eq!(words(lines[1]), words(expected.lines().nth(1).unwrap()));
        assert_eq!(lines.len(), 5);
        let starts = |title: &str| lines[0].find(title).unwrap();
        assert!(lines[1][starts("REPLY")..].starts_with("172.29.0.17:80"), "{text}");
        assert!(lines[3][starts("ORIGINAL")..].starts_with("172.29.0.17 > 172.29.0.4 id 77"), "{text}");
        assert!(lines.iter().all(|line| line.len() == lines[0].len()), "figures end in one column\n{text}");
    }

    #[test]
    fn what_comes_in_is_named_by_its_kind() {
        let expiry = Expiry::new(&Config::default(), Ticks::from_secs(10));
        let [forward, mapped] = [Kind::Forward, Kind::Mapped].map(sample::from_outside);
        for (flow, kind) in [(forward, "forward"), (mapped, "mapped"), (sample::hairpin(), "hairpin")] {
            let mut line = Line::default();
            let mut table = Table::default();
            table.measure(&flow, &expiry);
            table.row(&mut line, &flow, &expiry);
            let text = line.take();
            assert!(text.contains(&format!("ESTABLISHED  {kind}")), "{text}");
        }
    }

    #[test]
    fn figures_are_short() {
        let show = |fill: &dyn Fn(&mut Line)| {
            let mut cell = Line::default();
            fill(&mut cell);
            cell.take()
        };
        for (seconds, text) in [(59, "59s"), (60, "1m00s"), (3599, "59m59s"), (7440, "2h04m")] {
            assert_eq!(show(&|cell| _ = duration(cell, seconds)), text);
        }
        for (bytes, text) in [(0, "0"), (9_999, "9999"), (10_000, "9.7K"), (1 << 30, "1.0G"), (u64::MAX, "15.9E")] {
            assert_eq!(show(&|cell| _ = cell.size(bytes)), text);
        }
    }
}
