//! Numbers as people read them, the same on every page.

/// Three digits: `0.0123`, `12.3`, `1.23e-7`.
pub(crate) fn figure(value: f64) -> String {
    let size = value.abs();
    match size {
        0.0 => "0".to_owned(),
        _ if !size.is_finite() => value.to_string(),
        _ if !(1e-3..99_999.5).contains(&size) => format!("{value:.2e}"),
        _ if size < 0.009_999_5 => format!("{value:.5}"),
        _ if size < 0.099_95 => format!("{value:.4}"),
        _ if size < 0.999_5 => format!("{value:.3}"),
        _ if size < 9.995 => format!("{value:.2}"),
        _ if size < 99.95 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// A size for people, in binary units.
pub fn bytes(count: u64) -> String {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match units.iter().find(|(_, shift)| count >= 1 << shift) {
        Some((unit, shift)) => format!("{:.2} {unit}", count as f64 / (1_u64 << shift) as f64),
        None => format!("{count} B"),
    }
}

/// `1 error`, `2 errors`.
pub(crate) fn count(number: usize, one: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{number} {one}s") }
}

/// Of at most `most` characters, the end left out with `…`.
pub(crate) fn shortened(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits() {
        let shown =
            [0.0, 1.234e-7, 0.0012345, 0.01234, 0.1234, 1.234, 12.34, 123.4, 12345.6, 1.2e6, f64::NAN].map(figure);
        let want = ["0", "1.23e-7", "0.00123", "0.0123", "0.123", "1.23", "12.3", "123", "12346", "1.20e6", "NaN"];
        assert_eq!(shown, want);
        assert_eq!([0.99999, 9.999, 99.99, -0.5].map(figure), ["1.00", "10.0", "100", "-0.500"]);
        assert_eq!([bytes(12), bytes(1 << 20)], ["12 B", "1.00 MiB"]);
        assert_eq!([count(1, "error"), count(0, "error")], ["1 error", "0 errors"]);
        assert_eq!([shortened("äöü", 3), shortened("äöüß", 3)], ["äöü", "äö…"]);
    }
}
