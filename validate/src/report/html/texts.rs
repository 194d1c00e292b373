//! Texts token by token: how far the predictions lie apart, where another token is preferred, where greedy search
//! parts.

use std::fmt::{self, Formatter};

use super::super::TextTrace;
use super::super::escape::Html;
use super::super::figures::{count, figure, shortened};
use super::scale::Scale;

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 150.0;
const LEFT: f64 = 56.0;
const BOTTOM: f64 = 22.0;
const TOP: f64 = 8.0;

/// More bars than this are narrower than a pixel: several positions share one, which shows the worst of them.
const MOST_BARS: usize = 880;
const MOST_TEXTS: usize = 20;
/// Tokens of one text that are written; JSON has all.
const MOST_TOKENS: usize = 4000;
/// Tokens of all texts that say their number when pointed at; in longer ones only those that are tinted do.
const MOST_TITLES: usize = 3000;

/// KL divergence from which a token is tinted, in nats: hardly, a little, much, another text.
const TINTS: [f64; 4] = [0.01, 0.1, 0.5, 2.0];

pub(super) fn section(f: &mut Formatter<'_>, texts: &[TextTrace]) -> fmt::Result {
    if texts.is_empty() {
        return Ok(());
    }
    writeln!(f, "<section id=\"texts\">\n<h2>Along the text</h2>")?;
    writeln!(
        f,
        "<p>KL divergence of the prediction behind each token, in nats. The text is tinted by it, and underlined where \
         the two prefer another next token.</p>\n<ul class=\"legend\">\n<li><span class=\"t\">below {}</span></li>",
        TINTS[0]
    )?;
    for (index, from) in TINTS.iter().enumerate() {
        writeln!(f, "<li><span class=\"t t{}\">from {}</span></li>", index + 1, from)?;
    }
    writeln!(f, "<li><span class=\"t d\">another token preferred</span></li>\n</ul>")?;
    for text in texts.iter().take(MOST_TEXTS) {
        writeln!(f, "<h3>{}</h3>", Html(&text.name))?;
        bars(f, text)?;
        written(f, text)?;
        greedy(f, text)?;
    }
    if texts.len() > MOST_TEXTS {
        writeln!(f, "<p>{} more are in the JSON report only.</p>", count(texts.len() - MOST_TEXTS, "text"))?;
    }
    writeln!(f, "</section>")
}

fn bars(f: &mut Formatter<'_>, text: &TextTrace) -> fmt::Result {
    if text.kl.is_empty() {
        return Ok(());
    }
    let of_one = text.kl.len().div_ceil(MOST_BARS);
    let scale = Scale::around(text.kl.iter().copied());
    let (bottom, number) = (HEIGHT - BOTTOM, text.kl.len().div_ceil(of_one));
    let step = (WIDTH - LEFT) / number as f64;
    let width = (step * 0.8).min(24.0);
    writeln!(
        f,
        "<figure>\n<div class=\"scroll\"><svg class=\"chart\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"KL divergence at each token\">"
    )?;
    for (part, label) in scale.ticks() {
        let y = bottom - part * (bottom - TOP);
        writeln!(f, "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>")?;
        writeln!(f, "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>", LEFT - 8.0, y + 4.0)?;
    }
    for (bar, kl) in text.kl.chunks(of_one).enumerate() {
        let from = bar * of_one;
        let worst = kl.iter().copied().map(f64::abs).max_by(f64::total_cmp).unwrap_or(0.0);
        let height = (scale.part(worst) * (bottom - TOP)).max(1.0);
        let x = LEFT + step * bar as f64 + (step - width) / 2.0;
        let class = if worst.is_finite() { "amount" } else { "wrong" };
        let title = match kl.len() {
            1 => format!("{from}, {}: {}", shown(text.tokens.get(from), 40), figure(worst)),
            more => format!("{from} to {}: at most {}", from + more - 1, figure(worst)),
        };
        writeln!(
            f,
            "<g><rect class=\"{class}\" x=\"{x:.1}\" y=\"{:.1}\" width=\"{width:.2}\" height=\"{height:.1}\"/>\
             <rect class=\"hit\" x=\"{:.1}\" y=\"{TOP}\" width=\"{step:.2}\" height=\"{}\"/><title>{}</title></g>",
            bottom - height,
            LEFT + step * bar as f64,
            bottom - TOP,
            Html(&title)
        )?;
    }
    let mut marked = None;
    for bar in text.disagreements.iter().map(|position| position / of_one).filter(|bar| *bar < number) {
        if marked.replace(bar) != Some(bar) {
            let x = LEFT + step * (bar as f64 + 0.5);
            writeln!(
                f,
                "<circle class=\"wrong\" cx=\"{x:.1}\" cy=\"{}\" r=\"{:.1}\"/>",
                bottom + 8.0,
                (width / 2.0).clamp(1.0, 3.0)
            )?;
        }
    }
    writeln!(f, "</svg></div>")?;
    let shared = if of_one > 1 { format!(" Each bar is the worst of {of_one} positions.") } else { String::new() };
    let apart = text.disagreements.len();
    let apart =
        if apart == 0 { String::new() } else { format!(" Dots: {} of another choice.", count(apart, "position")) };
    writeln!(f, "<figcaption>{}, logarithmic.{shared}{apart}</figcaption>\n</figure>", count(text.kl.len(), "position"))
}

/// A token in a title: quoted, short, nothing invisible.
fn shown(token: Option<&String>, most: usize) -> String {
    token.map_or(String::new(), |token| format!("“{}”", shortened(&token.replace('\n', "\\n"), most)))
}

fn written(f: &mut Formatter<'_>, text: &TextTrace) -> fmt::Result {
    // Where nothing is set side by side, the continuation is in no other place.
    let whole = text.expected.is_empty() && text.found.is_empty();
    let end = if whole { text.tokens.len() } else { text.prompt_tokens.min(text.tokens.len()) };
    let tokens = &text.tokens[..end];
    if tokens.is_empty() {
        return Ok(());
    }
    let (seen, folded) = (tokens.len().min(MOST_TOKENS), tokens.len().saturating_sub(MOST_TOKENS));
    let disagrees: std::collections::BTreeSet<usize> = text.disagreements.iter().copied().collect();
    write!(f, "<div class=\"text\" dir=\"auto\">")?;
    for (position, token) in tokens[..seen].iter().enumerate() {
        let kl = text.kl.get(position).copied().unwrap_or(0.0);
        let tint = tint(kl);
        let apart = disagrees.contains(&position);
        if tokens.len() > MOST_TITLES && tint == 0 && !apart {
            letters(f, token)?;
            continue;
        }
        let classes = match (tint, apart) {
            (0, false) => String::new(),
            (0, true) => " class=\"d\"".to_owned(),
            (tint, false) => format!(" class=\"t{tint}\""),
            (tint, true) => format!(" class=\"t{tint} d\""),
        };
        let choice = if apart { ", another token preferred" } else { "" };
        write!(f, "<span{classes} title=\"{position}: {} nats{choice}\">", figure(kl))?;
        letters(f, token)?;
        write!(f, "</span>")?;
    }
    writeln!(f, "</div>")?;
    if folded > 0 {
        writeln!(f, "<p class=\"quiet\">{} more are in the JSON report only.</p>", count(folded, "token"))?;
    }
    Ok(())
}

/// A NaN is the worst.
fn tint(kl: f64) -> usize {
    TINTS.iter().filter(|from| kl.is_nan() || kl >= **from).count()
}

/// Ends of lines are seen as such, since a model predicts them too.
fn letters(f: &mut Formatter<'_>, token: &str) -> fmt::Result {
    let mut parts = token.split('\n');
    if let Some(first) = parts.next() {
        write!(f, "{}", Html(first))?;
    }
    parts.try_for_each(|part| write!(f, "<span class=\"break\">↵</span>\n{}", Html(part)))
}

fn greedy(f: &mut Formatter<'_>, text: &TextTrace) -> fmt::Result {
    if text.expected.is_empty() && text.found.is_empty() {
        return Ok(());
    }
    let (expected, found) = (&text.expected, &text.found);
    let parts = text.greedy.as_ref().and_then(|greedy| greedy.first_divergence);
    match (&text.greedy, parts) {
        (Some(greedy), Some(step)) => {
            let margin = greedy.margin_there.map_or(String::new(), |margin| {
                format!(", where the package prefers its own by {} in logits", figure(margin))
            });
            let (equal, of) = (greedy.equal, greedy.of);
            writeln!(
                f,
                "<p><span class=\"ambiguous\">≠ Greedy search parts at token {step}</span> ({equal} of {of} equal){margin}.</p>"
            )?;
        }
        (Some(greedy), None) => writeln!(
            f,
            "<p><span class=\"pass\">✓ Greedy search gives the same {}.</span></p>",
            count(greedy.of, "token")
        )?,
        (None, _) => writeln!(f, "<p class=\"quiet\">Greedy search, not compared.</p>")?,
    }
    writeln!(f, "<div class=\"sides\">")?;
    let same = parts.is_none() && expected == found;
    if same {
        side(f, "expected and found", expected, None)?;
    } else {
        side(f, "expected", expected, parts)?;
        side(f, "found", found, parts)?;
    }
    writeln!(f, "</div>")
}

fn side(f: &mut Formatter<'_>, title: &str, tokens: &[String], parts: Option<usize>) -> fmt::Result {
    write!(f, "<div><h4>{title}</h4><div class=\"text\" dir=\"auto\">")?;
    let end = parts.unwrap_or(tokens.len()).min(tokens.len());
    let (same, other) = tokens.split_at(end);
    same.iter().take(MOST_TOKENS).try_for_each(|token| letters(f, token))?;
    if let Some((first, rest)) = other.split_first() {
        write!(f, "<span class=\"parting\" title=\"token {end}\">")?;
        letters(f, first)?;
        write!(f, "</span><span class=\"after\">")?;
        rest.iter().take(MOST_TOKENS).try_for_each(|token| letters(f, token))?;
        write!(f, "</span>")?;
    } else if parts.is_some() {
        write!(f, "<span class=\"parting\">nothing</span>")?;
    }
    writeln!(f, "</div></div>")
}
