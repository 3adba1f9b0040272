//! `xnat conntrack`: dump and count.

use std::io::{self, BufWriter, Write};

use anstream::{AutoStream, ColorChoice};
use xnat_common::Flow;

use super::{Failure, unless_closed};
use crate::cli::{ConntrackArgs, ConntrackCommand, DumpArgs, FilterArgs, FlowFormat};
use crate::output::line::Line;
use crate::output::table::Table;
use crate::output::{Expiry, conntrack, json};
use crate::table::FlowTable;
use crate::{clock, say};

/// Big enough that a dump takes few system calls.
const BUFFER: usize = 1 << 18;

/// Runs the command.
pub(crate) fn run(args: &ConntrackArgs) -> Result<(), Failure> {
    match &args.command {
        ConntrackCommand::Dump(args) => dump(args),
        ConntrackCommand::Count(args) => {
            let table = FlowTable::open(&args.instance.instance)?;
            say::line(table.flows().filter(|flow| args.filter.matches(flow)).count());
            Ok(())
        }
    }
}

fn dump(args: &DumpArgs) -> Result<(), Failure> {
    let table = FlowTable::open(&args.instance.instance)?;
    let expiry = Expiry::new(table.config(), clock::now());
    let bold = AutoStream::choice(&io::stdout()) != ColorChoice::Never;
    let mut out = BufWriter::with_capacity(BUFFER, io::stdout().lock());
    let listing = Listing { table: &table, filter: &args.filter, expiry };
    let written = match args.format {
        FlowFormat::Table => listing.table(&mut out, bold),
        FlowFormat::Conntrack => listing.lines(&mut out, conntrack::flow),
        FlowFormat::Json => listing.lines(&mut out, json::flow),
    };
    let written = written.and_then(|shown| out.flush().map(|()| shown));
    let Ok(shown) = written else { return unless_closed(written.map(drop)) };
    match args.format {
        FlowFormat::Table => say::event(say::count(shown, "flow")),
        // The words of conntrack-tools, which scripts drop or look for.
        FlowFormat::Conntrack => {
            let version = env!("CARGO_PKG_VERSION");
            say::event(format_args!("xnat v{version} (conntrack-tools): {shown} flow entries have been shown."));
        }
        FlowFormat::Json => {}
    }
    Ok(())
}

struct Listing<'a> {
    table: &'a FlowTable,
    filter: &'a FilterArgs,
    expiry: Expiry,
}

impl Listing<'_> {
    fn flows(&self) -> impl Iterator<Item = Flow> {
        self.table.flows().filter(|flow| self.filter.matches(flow))
    }

    fn lines(&self, out: &mut impl Write, append: fn(&mut Line, &Flow, &Expiry)) -> io::Result<usize> {
        let mut line = Line::default();
        let mut shown = 0;
        for flow in self.flows() {
            append(&mut line, &flow, &self.expiry);
            line.end(out)?;
            shown += 1;
        }
        Ok(shown)
    }

    /// Two passes: the first finds the widths. Flows that come in between may stick out, and that is all.
    fn table(&self, out: &mut impl Write, bold: bool) -> io::Result<usize> {
        let mut table = Table::default();
        for flow in self.flows() {
            table.measure(&flow, &self.expiry);
        }
        table.head(out, bold)?;
        let mut line = Line::default();
        let mut shown = 0;
        for flow in self.flows() {
            table.row(&mut line, &flow, &self.expiry);
            line.end(out)?;
            shown += 1;
        }
        Ok(shown)
    }
}
