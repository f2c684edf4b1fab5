//! Plots.

use std::error::Error;
use std::path::Path;

use plotters::prelude::*;

use crate::case::{Case, Measure};
use crate::results::Results;
use crate::ways::Way;

/// What a plot shows, and the number of a case that goes along.
struct Plot {
    file: &'static str,
    title: &'static str,
    along: &'static str,
    shown: fn(&Case) -> bool,
    at: fn(&Case) -> usize,
}

const PLOTS: [Plot; 10] = [
    Plot {
        file: "stream",
        title: "Stream, one sender and one receiver, each on its own core",
        along: "bytes of a message",
        shown: |case| case.measure == Measure::Stream && case.pinned,
        at: |case| case.bytes,
    },
    Plot {
        file: "stream-free",
        title: "Stream, one sender and one receiver, wherever the scheduler puts them",
        along: "bytes of a message",
        shown: |case| case.measure == Measure::Stream && !case.pinned,
        at: |case| case.bytes,
    },
    Plot {
        file: "bytes",
        title: "Stream of messages of bytes, each process on its own core",
        along: "bytes of a message",
        shown: |case| case.measure == Measure::Bytes && case.pinned,
        at: |case| case.bytes,
    },
    Plot {
        file: "bytes-free",
        title: "Stream of messages of bytes, wherever the scheduler puts the processes",
        along: "bytes of a message",
        shown: |case| case.measure == Measure::Bytes && !case.pinned,
        at: |case| case.bytes,
    },
    Plot {
        file: "shapes",
        title: "Several senders and as many receivers, pinned, 8 bytes",
        along: "senders, and receivers",
        shown: |case| case.measure == Measure::Shapes && case.pinned && case.senders == case.receivers,
        at: |case| case.senders,
    },
    Plot {
        file: "shapes-free",
        title: "Several senders and as many receivers, free, 8 bytes",
        along: "senders, and receivers",
        shown: |case| case.measure == Measure::Shapes && !case.pinned && case.senders == case.receivers,
        at: |case| case.senders,
    },
    Plot {
        file: "batch",
        title: "Stream of 8 bytes, several a call",
        along: "messages of a call",
        shown: |case| case.measure == Measure::Batch,
        at: |case| case.batch,
    },
    Plot {
        file: "capacity",
        title: "Stream of 8 bytes through rings of all sizes",
        along: "messages that fit",
        shown: |case| case.measure == Measure::Capacity,
        at: |case| case.capacity,
    },
    Plot {
        file: "objects",
        title: "Stream of 8 bytes through one of many queues",
        along: "queues in the segment",
        shown: |case| case.measure == Measure::Objects,
        at: |case| case.objects,
    },
    Plot {
        file: "participants",
        title: "Stream of 8 bytes while others are attached",
        along: "idle participants",
        shown: |case| case.measure == Measure::Participants,
        at: |case| case.idle,
    },
];

/// Those that there is something to show in.
pub fn draw(results: &Results, directory: &Path) -> Result<(), Box<dyn Error>> {
    for plot in &PLOTS {
        let line = |way: Way| {
            let entries =
                results.entries.iter().filter(move |entry| entry.case.way == way && (plot.shown)(&entry.case));
            let point = |entry: &crate::results::Entry| {
                let summary = entry.summary(|sample| Some(sample.value))?;
                Some(((plot.at)(&entry.case) as f64, summary.median))
            };
            (way, entries.filter_map(point).collect::<Vec<(f64, f64)>>())
        };
        let lines: Vec<_> = Way::ALL.into_iter().map(line).filter(|(_, points)| !points.is_empty()).collect();
        if !lines.is_empty() {
            lines_plot(&directory.join(plot.file).with_extension("svg"), plot, &lines)?;
        }
    }
    Ok(())
}

/// Of a plot, and of the column of names beside it.
const WIDTH: u32 = 960;
const NAMES: i32 = 250;

fn lines_plot(path: &Path, plot: &Plot, lines: &[(Way, Vec<(f64, f64)>)]) -> Result<(), Box<dyn Error>> {
    let root = SVGBackend::new(path, (WIDTH, 560)).into_drawing_area();
    root.fill(&WHITE)?;
    let range = |of: fn(&(f64, f64)) -> f64| {
        let values = || lines.iter().flat_map(|(_, points)| points).map(of);
        values().fold(f64::INFINITY, f64::min) / 1.2..values().fold(0.0, f64::max) * 1.2
    };
    let mut chart = ChartBuilder::on(&root)
        .caption(plot.title, ("sans-serif", 20))
        .margin(12)
        .margin_right(NAMES)
        .x_label_area_size(44)
        .y_label_area_size(60)
        .build_cartesian_2d(range(|point| point.0).log_scale(), range(|point| point.1).log_scale())?;
    let mut mesh = chart.configure_mesh();
    let number = |value: &f64| format!("{value:.0}");
    mesh.x_desc(plot.along).y_desc("ns per message").x_label_formatter(&number).y_label_formatter(&number);
    mesh.light_line_style(WHITE).draw()?;
    for (row, (way, points)) in (0..).zip(lines) {
        let index = Way::ALL.iter().position(|other| other == way).unwrap_or(0);
        let color = Palette99::pick(index).to_rgba();
        let style = color.stroke_width(if way.is_gimmal() || way.is_gimmal_of_bytes() { 4 } else { 2 });
        chart.draw_series(LineSeries::new(points.iter().copied(), style))?;
        let (x, y) = (WIDTH as i32 - NAMES + 8, 60 + 20 * row);
        root.draw(&PathElement::new([(x, y), (x + 20, y)], style))?;
        root.draw(&Text::new(way.name(), (x + 28, y - 7), ("sans-serif", 14)))?;
        chart.draw_series(points.iter().map(|&point| Circle::new(point, 3, color.filled())))?;
    }
    root.present()?;
    Ok(())
}
