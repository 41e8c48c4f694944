//! What came out, for a person and for a program.

use serde::Serialize;

/// One row: the same thing measured on each of them.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figure {
    pub(crate) what: String,
    pub(crate) unit: &'static str,
    pub(crate) standin: Option<f64>,
    pub(crate) keepalived: Option<f64>,
    /// The loop of [`crate::bare`], where it makes sense.
    pub(crate) bare: Option<f64>,
    /// inotifywait and an rsync daemon, where files are shared.
    pub(crate) rsync: Option<f64>,
    pub(crate) target: Option<String>,
    /// Whether the target is met; `None` where there is none.
    pub(crate) met: Option<bool>,
    pub(crate) notes: Vec<String>,
    /// It is about shared files: a table of its own.
    #[serde(skip)]
    files: bool,
}

impl Figure {
    /// About shared files.
    pub(crate) fn of_files(what: impl Into<String>, unit: &'static str) -> Self {
        Self { files: true, ..Self::new(what, unit) }
    }

    pub(crate) fn new(what: impl Into<String>, unit: &'static str) -> Self {
        let (what, notes) = (what.into(), Vec::new());
        let (standin, keepalived, bare, rsync) = (None, None, None, None);
        Self {
            what,
            unit,
            standin,
            keepalived,
            bare,
            rsync,
            target: None,
            met: None,
            notes,
            files: false,
        }
    }

    pub(crate) fn aim(mut self, target: impl Into<String>, met: bool) -> Self {
        (self.target, self.met) = (Some(target.into()), Some(met));
        self
    }
}

/// The machine, since figures without it mean little.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) kernel: String,
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) keepalived: String,
    /// Of one minute, when the run began.
    pub(crate) load: String,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    pub(crate) quick: bool,
    pub(crate) figures: Vec<Figure>,
}

const HEAD: [&str; 8] = ["", "unit", "standin", "keepalived", "bare loop", "s/k", "s/b", "target"];

const FILES: [&str; 6] = ["", "unit", "standin", "rsync", "s/r", "target"];

impl Report {
    pub(crate) fn table(&self) -> String {
        let machine = &self.machine;
        let mut text = format!(
            "{}, {} cores, Linux {}, {}, load {} at the start\n",
            machine.processor, machine.cores, machine.kernel, machine.keepalived, machine.load
        );
        let (files, others): (Vec<_>, Vec<_>) =
            self.figures.iter().partition(|figure| figure.files);
        text += &grid(&HEAD, others.into_iter().map(|it| row(it).to_vec()).collect());
        text += &grid(&FILES, files.into_iter().map(|it| files_row(it).to_vec()).collect());
        for figure in &self.figures {
            for note in &figure.notes {
                text += &format!("\n{}: {note}\n", figure.what);
            }
        }
        text
    }

    pub(crate) fn good(&self) -> bool {
        self.figures.iter().all(|figure| figure.met != Some(false))
    }
}

/// A table; nothing where there are no rows.
fn grid(head: &[&str], body: Vec<Vec<String>>) -> String {
    if body.is_empty() {
        return String::new();
    }
    let mut rows = vec![head.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>()];
    rows.push(vec!["---".to_owned(); head.len()]);
    rows.extend(body);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..head.len()).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = "\n".to_owned();
    for row in &rows {
        let cells: Vec<_> = (row.iter().zip(&widths))
            .map(|(cell, width)| match cell.as_str() {
                "---" => "-".repeat((*width).max(3)),
                cell => format!("{cell:<width$}"),
            })
            .collect();
        text += &format!("| {} |\n", cells.join(" | "));
    }
    text
}

fn ratio(own: Option<f64>, other: Option<f64>) -> String {
    match (own, other) {
        (Some(own), Some(other)) if other > 0.0 => format!("{:.2}", own / other),
        _ => String::new(),
    }
}

fn target(figure: &Figure) -> String {
    let verdict = match figure.met {
        Some(true) => ": met",
        Some(false) => ": MISSED",
        None => "",
    };
    format!("{}{verdict}", figure.target.clone().unwrap_or_default())
}

fn row(figure: &Figure) -> [String; HEAD.len()] {
    [
        figure.what.clone(),
        figure.unit.to_owned(),
        number(figure.standin),
        number(figure.keepalived),
        number(figure.bare),
        ratio(figure.standin, figure.keepalived),
        ratio(figure.standin, figure.bare),
        target(figure),
    ]
}

fn files_row(figure: &Figure) -> [String; FILES.len()] {
    [
        figure.what.clone(),
        figure.unit.to_owned(),
        number(figure.standin),
        number(figure.rsync),
        ratio(figure.standin, figure.rsync),
        target(figure),
    ]
}

fn number(value: Option<f64>) -> String {
    match value {
        None => String::new(),
        Some(value) if value.is_infinite() => "never".to_owned(),
        Some(value) if value >= 100.0 || value.fract() == 0.0 => format!("{value:.0}"),
        Some(value) => format!("{value:.2}"),
    }
}
