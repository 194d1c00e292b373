//! Strings that end a text, looked for while the text comes in pieces.

use crate::{Error, Result};

/// Watches a growing text for stop strings. Text that may turn out to begin one is held back, and the stop string
/// itself never comes out, however it is spread over pieces.
///
/// The string that is complete first wins, of several the longest, so that the cut does not depend on the pieces.
#[derive(Clone, Debug)]
pub struct StopStrings {
    stops: Vec<String>,
    /// A proper prefix of one of the stops, as yet.
    held: String,
    found: bool,
}

/// What [`StopStrings::push`] lets through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// Whole characters; possibly none.
    pub text: String,
    /// The index of the stop string behind `text`, which ends it.
    pub stop: Option<usize>,
}

impl StopStrings {
    /// # Errors
    /// [`Error::Argument`] for an empty string, which every text has.
    pub fn new<S: Into<String>>(stops: impl IntoIterator<Item = S>) -> Result<Self> {
        let stops: Vec<String> = stops.into_iter().map(Into::into).collect();
        if stops.iter().any(String::is_empty) {
            return Err(Error::argument("stop string", "empty", "at least one character"));
        }
        Ok(Self { stops, held: String::new(), found: false })
    }

    /// Takes the next piece of the text. Behind a stop string nothing comes out any more.
    pub fn push(&mut self, piece: &str) -> Passed {
        if self.found {
            return Passed::default();
        }
        self.held.push_str(piece);
        let matches = self.stops.iter().enumerate().filter_map(|(index, stop)| {
            let start = self.held.find(stop.as_str())?;
            Some((start + stop.len(), start, index))
        });
        if let Some((_, start, index)) = matches.min() {
            self.found = true;
            self.held.truncate(start);
            return Passed { text: std::mem::take(&mut self.held), stop: Some(index) };
        }
        let kept = self.undecided();
        let text = self.held.drain(..kept).collect();
        Passed { text, stop: None }
    }

    /// What was held back, once no more text comes.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Where the longest end of the held text starts that a stop string starts with.
    fn undecided(&self) -> usize {
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        let from = (self.held.len() + 1).saturating_sub(longest);
        let ends = self.held.char_indices().map(|(at, _)| (at, self.held.get(at..).unwrap_or_default()));
        ends.filter(|(at, _)| *at >= from)
            .find(|(_, end)| self.stops.iter().any(|stop| stop.starts_with(end)))
            .map_or(self.held.len(), |(at, _)| at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(stops: &[&str], pieces: &[&str]) -> (String, Option<usize>) {
        let mut matcher = StopStrings::new(stops.iter().copied()).unwrap();
        let mut text = String::new();
        for piece in pieces {
            let passed = matcher.push(piece);
            text += &passed.text;
            if passed.stop.is_some() {
                assert_eq!(matcher.push("more"), Passed::default());
                assert_eq!(matcher.finish(), "");
                return (text, passed.stop);
            }
        }
        (text + &matcher.finish(), None)
    }

    #[test]
    fn the_stop_string_never_comes_out() {
        assert_eq!(run(&["</s>"], &["a <", "/", "s", "> b"]), ("a ".into(), Some(0)));
        assert_eq!(run(&["</s>"], &["a <", "/", "t>"]), ("a </t>".into(), None));
        assert_eq!(run(&["\n\n", "User:"], &["x\nUs", "er", ": y"]), ("x\n".into(), Some(1)));
        assert_eq!(run(&["ab"], &["aa", "ab"]), ("aa".into(), Some(0)));
        assert_eq!(run(&["aab"], &["a", "a", "a", "b"]), ("a".into(), Some(0)));
        assert_eq!(run(&[], &["a", "b"]), ("ab".into(), None));
        assert_eq!(run(&["x"], &["ax"]), ("a".into(), Some(0)));
    }

    #[test]
    fn the_first_complete_string_wins_and_of_several_the_longest() {
        assert_eq!(run(&["abcde", "bcd"], &["abcde"]), ("a".into(), Some(1)));
        assert_eq!(run(&["cd", "bcd"], &["abcd"]), ("a".into(), Some(1)));
        assert_eq!(run(&["ab", "abc"], &["abc"]), (String::new(), Some(0)));
    }

    #[test]
    fn characters_stay_whole() {
        assert_eq!(run(&["é🙂"], &["xé", "é", "🙂"]), ("xé".into(), Some(0)));
        assert_eq!(run(&["🙂🙂"], &["🙂", "🙃"]), ("🙂🙃".into(), None));
    }

    #[test]
    fn only_what_may_begin_a_stop_string_is_held_back() {
        let mut matcher = StopStrings::new(["stop"]).unwrap();
        assert_eq!(matcher.push("a st").text, "a ");
        assert_eq!(matcher.push("ar").text, "star");
        assert_eq!(matcher.push("s").text, "");
        assert_eq!(matcher.finish(), "s");
        assert!(StopStrings::new(["a", ""]).unwrap_err().to_string().contains("stop string is empty"));
    }

    #[test]
    fn how_a_text_is_cut_in_pieces_does_not_matter() {
        let alphabet = ["a", "b", "é", "🙂"];
        let mut state = 7u64;
        let mut below = |n: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % n
        };
        for _ in 0..2000 {
            let mut word = |least: usize, most: usize| -> String {
                (0..least + below(most - least + 1)).map(|_| alphabet[below(4)]).collect()
            };
            let stops = [word(1, 3), word(1, 4)];
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let text = word(0, 12);
            let whole = run(&stops, &[&text]);
            let single: Vec<String> = text.chars().map(String::from).collect();
            let single: Vec<&str> = single.iter().map(String::as_str).collect();
            assert_eq!(run(&stops, &single), whole, "{stops:?} in {text}");
            assert!(stops.iter().all(|stop| !whole.0.contains(stop)), "{stops:?} in {text}");
        }
    }
}
