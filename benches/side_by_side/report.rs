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
    pub(crate) target: Option<String>,
    /// Whether the target is met; `None` where there is none.
    pub(crate) met: Option<bool>,
    pub(crate) notes: Vec<String>,
}

impl Figure {
    pub(crate) fn new(what: impl Into<String>, unit: &'static str) -> Self {
        let (what, notes) = (what.into(), Vec::new());
        let (standin, keepalived, bare, target, met) = (None, None, None, None, None);
        Self { what, unit, standin, keepalived, bare, target, met, notes }
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

impl Report {
    pub(crate) fn table(&self) -> String {
        let mut rows = vec![HEAD.map(str::to_owned)];
        rows.push(std::array::from_fn(|_| "---".to_owned()));
        rows.extend(self.figures.iter().map(row));
        let widths: [usize; HEAD.len()] = std::array::from_fn(|column| {
            rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)
        });
        let machine = &self.machine;
        let mut text = format!(
            "{}, {} cores, Linux {}, {}, load {} at the start\n\n",
            machine.processor, machine.cores, machine.kernel, machine.keepalived, machine.load
        );
        for row in &rows {
            let cells: Vec<_> = (row.iter().zip(widths))
                .map(|(cell, width)| match cell.as_str() {
                    "---" => "-".repeat(width.max(3)),
                    cell => format!("{cell:<width$}"),
                })
                .collect();
            text += &format!("| {} |\n", cells.join(" | "));
        }
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

fn row(figure: &Figure) -> [String; HEAD.len()] {
    let ratio = |other: Option<f64>| match (figure.standin, other) {
        (Some(own), Some(other)) if other > 0.0 => format!("{:.2}", own / other),
        _ => String::new(),
    };
    let verdict = match figure.met {
        Some(true) => ": met",
        Some(false) => ": MISSED",
        None => "",
    };
    [
        figure.what.clone(),
        figure.unit.to_owned(),
        number(figure.standin),
        number(figure.keepalived),
        number(figure.bare),
        ratio(figure.keepalived),
        ratio(figure.bare),
        format!("{}{verdict}", figure.target.clone().unwrap_or_default()),
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
