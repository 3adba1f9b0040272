//! The forwards for a person.

use std::io::{self, Write};

use crate::forward::table::Shown;
use crate::say::HEADING;

const TITLES: [&str; 4] = ["PROTO", "PORTS", "TARGET", "ADDED"];

/// Prints the forwards as an aligned table.
pub(crate) fn print(out: &mut impl Write, forwards: &[Shown]) -> io::Result<()> {
    let rows: Vec<[String; 4]> = forwards.iter().map(row).collect();
    let mut widths = TITLES.map(str::len);
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.len());
        }
    }
    let [protocol, ports, target, _] = widths;
    let mut line = |[a, b, c, d]: [&str; 4], (on, off): (&str, &str)| {
        writeln!(out, "{on}{a:protocol$}  {b:ports$}  {c:target$}  {d}{off}")
    };
    line(TITLES, (&HEADING.render().to_string(), &HEADING.render_reset().to_string()))?;
    rows.iter().try_for_each(|row| line(row.each_ref().map(String::as_str), ("", "")))
}

fn row(forward: &Shown) -> [String; 4] {
    let Shown { protocol, ports, address, target_ports, runtime } = forward;
    let added = if *runtime { "while running" } else { "by a flag" };
    [protocol.to_string(), ports.to_string(), format!("{address}:{target_ports}"), added.to_owned()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::table::Forwards;

    fn text(forwards: &[Shown]) -> String {
        let mut out = Vec::new();
        print(&mut out, forwards).unwrap();
        anstream::adapter::strip_bytes(&out).into_vec().try_into().unwrap()
    }

    #[test]
    fn columns_are_aligned() {
        let flags = ["udp:5000-5010=192.168.110.11:6000-6010", "tcp:8080=192.168.110.12:80"];
        let mut forwards = Forwards::configured(&flags.map(|it| it.parse().unwrap()));
        let added = forwards.missing(&"tcp:22=10.0.0.1".parse().unwrap()).unwrap();
        forwards.add(added);
        let expected = "\
PROTO  PORTS      TARGET                    ADDED
tcp    22         10.0.0.1:22               while running
tcp    8080       192.168.110.12:80         by a flag
udp    5000-5010  192.168.110.11:6000-6010  by a flag
";
        assert_eq!(text(&forwards.shown()), expected);
    }

    #[test]
    fn the_titles_are_there_without_forwards() {
        assert_eq!(text(&[]).lines().count(), 1);
    }
}
