//! The figures, as SVG.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use crate::candidate::Candidate;
use crate::number::{short, thousands};
use crate::sample::{Measured, Scenario};
use crate::traffic::{Direction, Protocol};

/// One figure.
pub struct Plot {
    /// Path-like, as those of the scenarios that it shows.
    pub id: String,
    pub title: String,
    kind: Kind,
}

enum Kind {
    /// Cost against the number of flows: a line a candidate.
    Lines(Vec<(u32, Scenario)>),
    /// A bar a candidate.
    Bars(Scenario),
}

impl Plot {
    /// Its file's name.
    pub fn file(&self) -> String {
        format!("{}.svg", self.id.trim_end_matches('/').replace('/', "-"))
    }

    /// Draws it into a folder.
    pub fn draw(&self, folder: &Path) -> Result<()> {
        let path = folder.join(self.file());
        let area = SVGBackend::new(&path, (900, 420)).into_drawing_area();
        area.fill(&WHITE).map_err(|error| anyhow!("{error}"))?;
        match &self.kind {
            Kind::Lines(scenarios) => lines(&area, &self.title, scenarios),
            Kind::Bars(scenario) => bars(&area, &self.title, scenario),
        }
        .and_then(|()| area.present().map_err(|error| anyhow!("{error}")))
        .map_err(|error| anyhow!("{}: {error}", path.display()))
    }
}

/// The figures of what was measured.
pub fn of(measured: &Measured) -> Vec<Plot> {
    let mut plots = Vec::new();
    for protocol in Protocol::BOTH {
        for direction in Direction::BOTH {
            let id = format!("established/{}/{}/", protocol.name(), direction.name());
            let of_it = measured
                .scenarios
                .iter()
                .filter_map(|scenario| Some((scenario.id.strip_prefix(&id)?.parse().ok()?, scenario.clone())));
            let scenarios: Vec<_> = of_it.collect();
            if !scenarios.is_empty() {
                let title = format!("{} {}, nanoseconds a packet", protocol.title(), direction.title());
                plots.push(Plot { id, title, kind: Kind::Lines(scenarios) });
            }
        }
    }
    for id in ["opening/udp", "opening/tcp", "program/tcp-crr", "program/tcp-rr", "program/udp-rr", "program/iperf3"] {
        let Some(scenario) = measured.scenario(id) else { continue };
        let what = if id.starts_with("opening") { "Opening flows: " } else { "" };
        let title = format!("{what}{} ({})", scenario.title, scenario.unit);
        plots.push(Plot { id: id.to_owned(), title, kind: Kind::Bars(scenario.clone()) });
    }
    plots
}

fn colour(candidate: Candidate) -> RGBColor {
    match candidate {
        Candidate::Floor => RGBColor(150, 150, 150),
        Candidate::Plain => RGBColor(60, 60, 60),
        Candidate::IptablesNft => RGBColor(213, 94, 0),
        Candidate::IptablesLegacy => RGBColor(230, 159, 0),
        Candidate::Nft => RGBColor(204, 121, 167),
        Candidate::Xnat => RGBColor(0, 114, 178),
        Candidate::XnatPeer => RGBColor(0, 158, 115),
    }
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn lines(area: &Area<'_>, title: &str, scenarios: &[(u32, Scenario)]) -> Result<()> {
    let fail = |error| anyhow!("{error}");
    let medians = |candidate| {
        let points = scenarios.iter().enumerate();
        points.filter_map(move |(place, (_, scenario))| Some((place as f64, scenario.summary(candidate)?.median)))
    };
    let highest = Candidate::ALL.into_iter().flat_map(medians).map(|(_, cost)| cost).fold(1.0, f64::max);
    let last = scenarios.len() as f64 - 1.0;
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(60)
        .build_cartesian_2d(-0.15..last + 1.15, 0.0..highest * 1.05)
        .map_err(|error| fail(error.to_string()))?;
    let name = |place: &f64| {
        let nearest = scenarios.get(place.round().max(0.0) as usize);
        nearest.filter(|_| (place - place.round()).abs() < 1e-6).map_or(String::new(), |(flows, _)| thousands(*flows))
    };
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(WHITE)
        .x_labels(scenarios.len() * 2 + 2)
        .x_label_formatter(&name)
        .y_label_formatter(&|figure: &f64| short(*figure))
        .x_desc("established flows")
        .y_desc("ns")
        .draw()
        .map_err(|error| fail(error.to_string()))?;
    for candidate in Candidate::ALL {
        let points: Vec<_> = medians(candidate).collect();
        if points.is_empty() {
            continue;
        }
        let style = colour(candidate).stroke_width(2);
        chart
            .draw_series(LineSeries::new(points.iter().copied(), style).point_size(3))
            .map_err(|error| fail(error.to_string()))?
            .label(candidate.title())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE)
        .draw()
        .map_err(|error| fail(error.to_string()))?;
    Ok(())
}

fn bars(area: &Area<'_>, title: &str, scenario: &Scenario) -> Result<()> {
    let fail = |error| anyhow!("{error}");
    let bars: Vec<_> =
        scenario.series.iter().filter_map(|series| Some((series.candidate, series.summary()?))).collect();
    let highest = bars.iter().map(|(_, summary)| summary.max).fold(0.1, f64::max);
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(70)
        .build_cartesian_2d((0..bars.len().saturating_sub(1)).into_segmented(), 0.0..highest * 1.1)
        .map_err(|error| fail(error.to_string()))?;
    let name = |place: &SegmentValue<usize>| match place {
        SegmentValue::CenterOf(place) => {
            bars.get(*place).map_or(String::new(), |(candidate, _)| candidate.name().into())
        }
        _ => String::new(),
    };
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(WHITE)
        .x_label_formatter(&name)
        .y_label_formatter(&|figure: &f64| short(*figure))
        .draw()
        .map_err(|error| fail(error.to_string()))?;
    let rectangles = bars.iter().enumerate().map(|(place, (candidate, summary))| {
        let corners = [(SegmentValue::Exact(place), 0.0), (SegmentValue::Exact(place + 1), summary.median)];
        let mut bar = Rectangle::new(corners, colour(*candidate).filled());
        bar.set_margin(0, 0, 18, 18);
        bar
    });
    chart.draw_series(rectangles).map_err(|error| fail(error.to_string()))?;
    // From the least to the greatest figure.
    let spans = bars.iter().enumerate().map(|(place, (_, summary))| {
        let at = SegmentValue::CenterOf(place);
        PathElement::new([(at.clone(), summary.min), (at, summary.max)], BLACK.stroke_width(2))
    });
    chart.draw_series(spans).map_err(|error| fail(error.to_string()))?;
    Ok(())
}
