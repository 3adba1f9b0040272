//! Figures of several rounds.

use anyhow::Result;
use serde::Serialize;

use crate::candidate::Candidate;
use crate::interrupt;

/// Middle, least and greatest.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Summary {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Summary {
    /// Sums up; none of no figures.
    pub fn of(figures: &[f64]) -> Option<Self> {
        let mut sorted = figures.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let half = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 { sorted[half] } else { f64::midpoint(sorted[half - 1], sorted[half]) };
        Some(Self { median, min, max })
    }
}

/// One thing that was measured, by all candidates in turn, several times.
#[derive(Clone, Debug, Serialize)]
pub struct Scenario {
    /// Path-like: `established/udp/outward/1024`.
    pub id: String,
    pub title: String,
    pub unit: &'static str,
    pub series: Vec<Series>,
}

/// One candidate's figures, a round each.
#[derive(Clone, Debug, Serialize)]
pub struct Series {
    pub candidate: Candidate,
    /// None where the run failed.
    pub rounds: Vec<Option<f64>>,
    /// What went wrong; each error once.
    pub errors: Vec<String>,
}

impl Scenario {
    /// Without figures yet.
    pub fn new(id: String, title: String, unit: &'static str, candidates: impl IntoIterator<Item = Candidate>) -> Self {
        let empty = |candidate| Series { candidate, rounds: Vec::new(), errors: Vec::new() };
        Self { id, title, unit, series: candidates.into_iter().map(empty).collect() }
    }

    /// Takes down the outcome of a candidate's next round.
    pub fn add(&mut self, candidate: Candidate, outcome: Result<f64, String>) {
        let Some(series) = self.series.iter_mut().find(|series| series.candidate == candidate) else { return };
        match outcome {
            Ok(figure) => series.rounds.push(Some(figure)),
            Err(error) => {
                series.rounds.push(None);
                if !series.errors.contains(&error) {
                    series.errors.push(error);
                }
            }
        }
    }

    /// A candidate's series.
    pub fn series(&self, candidate: Candidate) -> Option<&Series> {
        self.series.iter().find(|series| series.candidate == candidate)
    }

    /// A candidate's figures, summed up.
    pub fn summary(&self, candidate: Candidate) -> Option<Summary> {
        self.series(candidate)?.summary()
    }

    /// The middle of the ratios of two candidates, round by round.
    pub fn ratio(&self, candidate: Candidate, to: Candidate) -> Option<f64> {
        ratio(self.series(candidate)?, self.series(to)?)
    }
}

/// A round that is cut into slices, so that what the machine does within a second meets all candidates alike: a candidate's
/// figure is the mean of its slices', if none failed.
pub struct Round(Vec<(Candidate, Result<Vec<f64>, String>)>);

impl Round {
    /// Without slices yet.
    pub fn of(candidates: impl IntoIterator<Item = Candidate>) -> Self {
        Self(candidates.into_iter().map(|candidate| (candidate, Ok(Vec::new()))).collect())
    }

    /// Takes down the outcome of a candidate's next slice.
    pub fn add(&mut self, candidate: Candidate, outcome: Result<f64, String>) {
        let Some((_, figures)) = self.0.iter_mut().find(|(it, _)| *it == candidate) else { return };
        match (figures.as_mut(), outcome) {
            (Ok(figures), Ok(figure)) => figures.push(figure),
            (Ok(_), Err(error)) => *figures = Err(error),
            (Err(_), _) => {}
        }
    }

    /// Ends it: takes it down in the scenario.
    pub fn end(self, scenario: &mut Scenario) {
        for (candidate, figures) in self.0 {
            scenario.add(candidate, figures.map(|figures| figures.iter().sum::<f64>() / figures.len() as f64));
        }
    }
}

impl Series {
    /// The figures, summed up.
    pub fn summary(&self) -> Option<Summary> {
        Summary::of(&self.rounds.iter().flatten().copied().collect::<Vec<_>>())
    }

    /// How many rounds failed.
    pub fn failed(&self) -> usize {
        self.rounds.iter().filter(|round| round.is_none()).count()
    }
}

/// The middle of the ratios of two series, round by round, where both have a figure.
pub fn ratio(this: &Series, to: &Series) -> Option<f64> {
    let both = this.rounds.iter().zip(&to.rounds);
    let ratios: Vec<f64> = both.filter_map(|(this, to)| Some((*this)? / (*to)?)).collect();
    Summary::of(&ratios).map(|summary| summary.median)
}

/// A figure that is not compared round by round.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// Path-like: `memory/xnat/flow`.
    pub id: String,
    pub title: String,
    pub unit: &'static str,
    pub value: f64,
}

/// All that was measured.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Measured {
    pub scenarios: Vec<Scenario>,
    pub figures: Vec<Figure>,
    /// Parts that could not be measured, and why.
    pub failures: Vec<String>,
}

impl Measured {
    /// A scenario by its id.
    pub fn scenario(&self, id: &str) -> Option<&Scenario> {
        self.scenarios.iter().find(|scenario| scenario.id == id)
    }

    /// A figure by its id.
    pub fn figure(&self, id: &str) -> Option<f64> {
        self.figures.iter().find(|figure| figure.id == id).map(|figure| figure.value)
    }

    /// Takes down that something could not be measured, and goes on, so that what else is measured is written all the same.
    /// Not after Ctrl-C.
    pub fn or_failure(&mut self, what: &str, outcome: Result<()>) -> Result<()> {
        interrupt::check()?;
        self.failures.extend(outcome.err().map(|error| format!("{what}: {error:#}")));
        Ok(())
    }

    /// Takes down the middle one and the longest of several runs.
    pub fn note_runs(&mut self, id: &str, title: &str, unit: &'static str, figures: &[f64]) {
        let Some(summary) = Summary::of(figures) else { return };
        self.note(id, title, unit, summary.median);
        self.note(&format!("{id}/max"), &format!("{title}, longest of {}", figures.len()), unit, summary.max);
    }

    /// Takes down a figure.
    pub fn note(&mut self, id: &str, title: &str, unit: &'static str, value: f64) {
        self.figures.push(Figure { id: id.to_owned(), title: title.to_owned(), unit, value });
    }
}
