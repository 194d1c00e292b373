//! A logarithmic axis, in whole decades.

/// More are of no use to an eye, and rounding makes zeros of any size.
const MOST_DECADES: i32 = 9;

/// Powers of ten that values lie between.
pub(super) struct Scale {
    low: i32,
    high: i32,
}

impl Scale {
    /// Around all values that are positive numbers.
    pub(super) fn around(values: impl Iterator<Item = f64>) -> Self {
        let logs: Vec<f64> = values.filter(|value| value.is_finite() && *value > 0.0).map(libm::log10).collect();
        let greatest = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let least = logs.iter().copied().fold(f64::INFINITY, f64::min);
        if logs.is_empty() {
            return Self { low: -6, high: 0 };
        }
        // Below a decade of a double is nothing: the cast is of a number between -324 and 309.
        let high = (greatest.ceil() as i32).max(least.floor() as i32 + 1);
        Self { low: (least.floor() as i32).max(high - MOST_DECADES), high }
    }

    /// From 0, at the bottom, to 1. What is too small, or zero, lies at the bottom; what is no number at the top.
    pub(super) fn part(&self, value: f64) -> f64 {
        if value <= 0.0 {
            return 0.0;
        }
        if !value.is_finite() {
            return 1.0;
        }
        let (low, high) = (f64::from(self.low), f64::from(self.high));
        ((libm::log10(value) - low) / (high - low)).clamp(0.0, 1.0)
    }

    /// Where lines are drawn, and what is written at them.
    pub(super) fn ticks(&self) -> impl Iterator<Item = (f64, String)> {
        let span = self.high - self.low;
        let step = if span > 5 { 2 } else { 1 };
        (self.low..=self.high).rev().step_by(step).map(move |decade| {
            let label = match decade {
                0 => "1".to_owned(),
                1 => "10".to_owned(),
                _ => format!("1e{decade}"),
            };
            (f64::from(decade - self.low) / f64::from(span), label)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_lie_between_whole_decades() {
        let scale = Scale::around([2e-7, 0.3, f64::NAN, 0.0].into_iter());
        assert_eq!((scale.low, scale.high), (-7, 0));
        assert_eq!(
            [0.0, 1e-9, 1e-7, 1.0, 5.0, f64::NAN].map(|value| scale.part(value)),
            [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]
        );
        assert!((scale.part(10f64.powf(-3.5)) - 0.5).abs() < 1e-12);
        let one = Scale::around([1.0, 1.0].into_iter());
        assert_eq!((one.low, one.high), (0, 1));
        assert_eq!(one.ticks().map(|(_, label)| label).collect::<Vec<_>>(), ["10", "1"]);
        let none = Scale::around(std::iter::empty());
        assert!(none.low < none.high);
        let wide = Scale::around([1e-300, 1e300].into_iter());
        assert_eq!(wide.high - wide.low, MOST_DECADES);
    }
}
