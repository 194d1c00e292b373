//! What changes the scores of one row before the choice, as in the peer: lengths, repetition, n-grams.

/// What a score is that must not be chosen.
pub(super) const NEVER: f32 = f32::MIN;

/// No end before its time.
pub(crate) fn forbid(scores: &mut [f32], ids: &[u32]) {
    for &id in ids {
        if let Some(score) = scores.get_mut(id as usize) {
            *score = NEVER;
        }
    }
}

/// Makes every token of `ids` less likely, once each.
pub(crate) fn penalise_repetition(scores: &mut [f32], ids: &[u32], penalty: f32) {
    let mut seen = vec![false; scores.len()];
    for &id in ids {
        let (Some(score), Some(seen)) = (scores.get_mut(id as usize), seen.get_mut(id as usize)) else { continue };
        if !std::mem::replace(seen, true) {
            *score = if *score < 0.0 { *score * penalty } else { *score / penalty };
        }
    }
}

/// Forbids what would complete `size` tokens that stand in `ids` already.
pub(crate) fn forbid_repeated_ngrams(scores: &mut [f32], ids: &[u32], size: usize) {
    let Some(known) = size.checked_sub(1).filter(|_| ids.len() >= size) else { return };
    let beginning = ids.get(ids.len() - known..).unwrap_or_default();
    for ngram in ids.windows(size) {
        if let Some((last, before)) = ngram.split_last()
            && before == beginning
        {
            forbid(scores, &[*last]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_penalised_once() {
        let mut scores = [2.0, -2.0, 0.0, 3.0];
        penalise_repetition(&mut scores, &[0, 1, 0, 1, 2, 9], 2.0);
        assert_eq!(scores, [1.0, -4.0, 0.0, 3.0]);
    }

    #[test]
    fn an_ngram_does_not_come_twice() {
        let banned = |ids: &[u32], size| {
            let mut scores = [0.0; 6];
            forbid_repeated_ngrams(&mut scores, ids, size);
            scores.iter().enumerate().filter(|(_, score)| **score == NEVER).map(|(id, _)| id).collect::<Vec<_>>()
        };
        assert_eq!(banned(&[1, 2, 3, 1, 2], 3), [3]);
        assert_eq!(banned(&[1, 2, 1, 3, 1], 2), [2, 3]);
        assert_eq!(banned(&[1, 2, 2, 9], 1), [1, 2]);
        assert_eq!(banned(&[1, 2], 3), [0; 0]);
        assert_eq!(banned(&[1, 1], 2), [1]);
        assert_eq!(banned(&[1, 2, 3, 1, 2], 0), [0; 0]);
    }
}
