//! Error per layer: a line for each kind of tap, red where it is more than the precision explains.

use std::fmt::{self, Formatter};

use super::super::LayerError;
use super::super::escape::Html;
use super::super::figures::figure;
use super::super::layers::{first_beyond, place};
use super::scale::Scale;
use super::table::{Cell, table};

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 28.0;
const BOTTOM: f64 = 40.0;

/// Drawn, and listed below.
const MOST_TAPS: usize = 3000;

/// Colours that a picture has; further kinds share the last.
const CLASSES: [&str; 3] = ["key", "value", "other"];

pub(super) fn section(f: &mut Formatter<'_>, layers: &[LayerError]) -> fmt::Result {
    if layers.is_empty() {
        return Ok(());
    }
    let taps = &layers[..layers.len().min(MOST_TAPS)];
    writeln!(f, "<section id=\"layers\">\n<h2>Error per layer</h2>")?;
    match first_beyond(layers) {
        Some(tap) => writeln!(
            f,
            "<p><span class=\"fail\">✗ The difference begins at {}</span>, in <code>{}</code>: a relative error of {}, \
             more than the precision explains.</p>",
            Html(&place(tap)),
            Html(&tap.tap),
            figure(tap.relative_rms)
        )?,
        None => writeln!(f, "<p><span class=\"pass\">✓ All within what the precision explains.</span></p>")?,
    }
    let drawing = Drawing::of(taps);
    writeln!(f, "<figure>")?;
    drawing.legend(f)?;
    drawing.picture(f)?;
    writeln!(
        f,
        "<figcaption>Root mean square of the difference over that of the reference, on a logarithmic scale, in the \
         order of computation.{}</figcaption>\n</figure>",
        if taps.len() < layers.len() { " Only the first taps are drawn; JSON has all." } else { "" }
    )?;
    listing(f, taps)?;
    writeln!(f, "</section>")
}

struct Drawing<'a> {
    taps: &'a [LayerError],
    scale: Scale,
    /// For each tap the column in which it stands; taps of a layer share one.
    columns: Vec<usize>,
    /// Kinds of taps, as names without numbers.
    kinds: Vec<String>,
}

impl<'a> Drawing<'a> {
    fn of(taps: &'a [LayerError]) -> Self {
        let mut column = 0;
        let mut columns = Vec::with_capacity(taps.len());
        for (index, tap) in taps.iter().enumerate() {
            let before = index.checked_sub(1).and_then(|before| taps.get(before));
            if before.is_some_and(|before| tap.layer.is_none() || before.layer != tap.layer) {
                column += 1;
            }
            columns.push(column);
        }
        let mut kinds = Vec::new();
        for kind in taps.iter().map(kind) {
            if kinds.len() < CLASSES.len() && !kinds.contains(&kind) {
                kinds.push(kind);
            }
        }
        Self { taps, scale: Scale::around(taps.iter().map(|tap| tap.relative_rms)), columns, kinds }
    }

    /// Which of [`CLASSES`].
    fn class(&self, tap: &LayerError) -> usize {
        let kind = kind(tap);
        self.kinds.iter().position(|known| *known == kind).unwrap_or(CLASSES.len() - 1)
    }

    fn x(&self, column: usize) -> f64 {
        let last = self.columns.last().copied().unwrap_or(0);
        let room = WIDTH - LEFT - RIGHT - 16.0;
        LEFT + 8.0 + if last == 0 { room / 2.0 } else { room * column as f64 / last as f64 }
    }

    fn y(&self, value: f64) -> f64 {
        TOP + (HEIGHT - TOP - BOTTOM) * (1.0 - self.scale.part(value))
    }

    fn legend(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "<ul class=\"legend\">")?;
        for (index, (kind, class)) in self.kinds.iter().zip(CLASSES).enumerate() {
            let shares =
                index + 1 == CLASSES.len() && self.taps.iter().any(|tap| !self.kinds.contains(&self::kind(tap)));
            let others = if shares { " and others" } else { "" };
            let kind = Html(kind);
            writeln!(
                f,
                "<li><svg viewBox=\"0 0 10 8\" aria-hidden=\"true\">{}</svg>{kind}{others}</li>",
                mark(class, 5.0, 4.0)
            )?;
        }
        if self.taps.iter().any(|tap| tap.beyond) {
            let mark = mark("beyond", 5.0, 4.0);
            writeln!(
                f,
                "<li><svg viewBox=\"0 0 10 8\" aria-hidden=\"true\">{mark}</svg>more than the precision explains</li>"
            )?;
        }
        writeln!(f, "</ul>")
    }

    fn picture(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        writeln!(
            f,
            "<div class=\"scroll\"><svg class=\"chart\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
             aria-label=\"relative error of each layer\">"
        )?;
        for (part, label) in self.scale.ticks() {
            let y = bottom - part * (bottom - TOP);
            writeln!(f, "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>")?;
            writeln!(f, "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>", LEFT - 8.0, y + 4.0)?;
        }
        self.names_below(f)?;
        for (class, name) in CLASSES.iter().enumerate() {
            self.line(f, class, name)?;
        }
        if let Some(first) = self.taps.iter().position(|tap| tap.beyond) {
            let x = self.x(self.columns[first]);
            let (anchor, beside) = if x > WIDTH / 2.0 { ("end", x - 6.0) } else { ("start", x + 6.0) };
            let place = place(&self.taps[first]);
            writeln!(f, "<line class=\"first\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"12\" y2=\"{bottom}\"/>")?;
            writeln!(
                f,
                "<text class=\"first-name\" x=\"{beside:.1}\" y=\"18\" text-anchor=\"{anchor}\">begins at {}</text>",
                Html(&super::super::figures::shortened(&place, 40))
            )?;
        }
        for (index, tap) in self.taps.iter().enumerate() {
            let class = if tap.beyond { "beyond" } else { CLASSES[self.class(tap)] };
            let (x, y) = (self.x(self.columns[index]), self.y(tap.relative_rms));
            let name = if tap.layer.is_some() { format!("{}, {}", place(tap), tap.tap) } else { tap.tap.clone() };
            let title = format!("{name}: relative {}, max abs {}", figure(tap.relative_rms), figure(tap.max_abs));
            writeln!(f, "<g>{}<title>{}</title></g>", mark(class, x, y), Html(&title))?;
        }
        writeln!(f, "</svg></div>")
    }

    /// The numbers of the layers, as many as have room.
    fn names_below(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let y = HEIGHT - BOTTOM + 18.0;
        let last = self.columns.last().copied().unwrap_or(0);
        let every = (last / 28) + 1;
        let mut drawn = None;
        for (tap, &column) in self.taps.iter().zip(&self.columns) {
            let Some(layer) = tap.layer else { continue };
            if drawn != Some(column) && column.is_multiple_of(every) {
                drawn = Some(column);
                writeln!(f, "<text x=\"{:.1}\" y=\"{y}\" text-anchor=\"middle\">{layer}</text>", self.x(column))?;
            }
        }
        let middle = (LEFT + WIDTH - RIGHT) / 2.0;
        writeln!(f, "<text x=\"{middle:.0}\" y=\"{}\" text-anchor=\"middle\">layer</text>", HEIGHT - 4.0)
    }

    fn line(&self, f: &mut Formatter<'_>, class: usize, name: &str) -> fmt::Result {
        let of_class =
            self.taps.iter().zip(&self.columns).filter(|(tap, _)| tap.layer.is_some() && self.class(tap) == class);
        let points: Vec<String> =
            of_class.map(|(tap, &column)| format!("{:.1},{:.1}", self.x(column), self.y(tap.relative_rms))).collect();
        if points.len() < 2 {
            return Ok(());
        }
        writeln!(f, "<polyline class=\"{name}\" points=\"{}\"/>", points.join(" "))
    }
}

/// A shape for each kind, so that colour is not all that tells them apart.
fn mark(class: &str, x: f64, y: f64) -> String {
    match class {
        "key" => format!("<circle class=\"key\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\"/>"),
        "value" => {
            format!("<rect class=\"value\" x=\"{:.1}\" y=\"{:.1}\" width=\"5\" height=\"5\"/>", x - 2.5, y - 2.5)
        }
        "other" => {
            let (left, right, low, high) = (x - 3.5, x + 3.5, y + 2.5, y - 3.5);
            format!("<path class=\"other\" d=\"M{left:.1} {low:.1}H{right:.1}L{x:.1} {high:.1}Z\"/>")
        }
        _ => {
            let (left, right, low, high) = (x - 4.5, x + 4.5, y + 4.5, y - 4.5);
            format!(
                "<path class=\"beyond\" d=\"M{left:.1} {y:.1}L{x:.1} {high:.1}L{right:.1} {y:.1}L{x:.1} {low:.1}Z\"/>"
            )
        }
    }
}

/// The name of a tap without the numbers in it: `present.*.key`.
fn kind(tap: &LayerError) -> String {
    let parts = tap
        .tap
        .split('.')
        .map(|part| if !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()) { "*" } else { part });
    parts.collect::<Vec<_>>().join(".")
}

fn listing(f: &mut Formatter<'_>, taps: &[LayerError]) -> fmt::Result {
    writeln!(f, "<details><summary>all figures</summary>")?;
    let rows = taps.iter().map(|tap| {
        let layer = Cell::Number(tap.layer.map_or(String::new(), |layer| layer.to_string()));
        let numbers = [tap.relative_rms, tap.max_abs].map(|value| Cell::Number(figure(value)));
        let judged = Cell::Judged(!tap.beyond, if tap.beyond { "✗ beyond" } else { "✓ within" });
        let cosine = Cell::Number(format!("{:.6}", tap.cosine));
        [vec![layer, Cell::Code(tap.tap.clone())], numbers.into(), vec![cosine, judged]].into_iter().flatten().collect()
    });
    table(f, &["#layer", "tap", "#relative", "#max abs", "#cosine", "limit"], rows)?;
    writeln!(f, "</details>")
}
