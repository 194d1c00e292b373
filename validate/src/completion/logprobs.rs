//! How likely the model finds tokens.

/// The natural logarithm of a token's probability, and those of the likeliest ones in its place. Of the model's own
/// distribution: before temperature, penalties, bias, masks and cuts.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprobs {
    pub logprob: f64,
    /// Token and logprob, the likeliest first; equals in the order of their ids.
    pub top: Vec<(u32, f64)>,
}

impl TokenLogprobs {
    /// Of `token` and the `count` likeliest, from one row of logits.
    pub fn of(logits: &[f32], token: u32, count: usize) -> Self {
        let total = log_sum(logits);
        let logprob = logits.get(token as usize).map_or(f64::NEG_INFINITY, |&logit| f64::from(logit) - total);
        let mut order: Vec<u32> = (0..logits.len()).filter_map(|token| u32::try_from(token).ok()).collect();
        let at = |token: &u32| logits.get(*token as usize).copied().unwrap_or(f32::NEG_INFINITY);
        let likelier = |a: &u32, b: &u32| at(b).total_cmp(&at(a)).then(a.cmp(b));
        if count < order.len() {
            order.select_nth_unstable_by(count, likelier);
            order.truncate(count);
        }
        order.sort_unstable_by(likelier);
        let top = order.into_iter().map(|token| (token, f64::from(at(&token)) - total)).collect();
        Self { logprob, top }
    }
}

/// The logarithm of the sum of all weights, without overflow.
fn log_sum(logits: &[f32]) -> f64 {
    let best = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    best + logits.iter().map(|&logit| (f64::from(logit) - best).exp()).sum::<f64>().ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_of_a_known_distribution() {
        let logits = [0.125f32, 0.5, 0.25, 0.125].map(|share| share.ln() + 300.0);
        let found = TokenLogprobs::of(&logits, 2, 3);
        let close = |a: f64, b: f64| (a - b).abs() < 1e-4;
        assert!(close(found.logprob, 0.25f64.ln()), "{found:?}");
        assert_eq!(found.top.iter().map(|(token, _)| *token).collect::<Vec<_>>(), [1, 2, 0]);
        assert!(found.top.iter().zip([0.5f64, 0.25, 0.125]).all(|((_, log), share)| close(*log, share.ln())));
        assert_eq!(TokenLogprobs::of(&logits, 0, 0).top, []);
        assert_eq!(TokenLogprobs::of(&logits, 0, 9).top.len(), 4);
    }
}
