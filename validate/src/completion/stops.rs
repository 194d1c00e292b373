//! Strings that end a text, wherever tokens begin and end.

use crate::{Error, Result};

/// Looks for stop strings in a text that comes in pieces. Holds back what could be the beginning of one.
#[derive(Clone, Debug, Default)]
pub(crate) struct StopStrings {
    stops: Vec<String>,
    /// Not passed on yet: the longest end of the text that one of them begins with.
    held: String,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Released {
    /// Text that no stop string can reach into.
    Text(String),
    /// The text before a stop string, and which one it is.
    Stopped(String, usize),
}

impl StopStrings {
    /// # Errors
    /// [`Error::Argument`] for an empty string, which would end every text at once.
    pub(crate) fn new(stops: Vec<String>) -> Result<Self> {
        match stops.iter().position(String::is_empty) {
            Some(at) => Err(Error::argument("a stop string", format!("empty, at {at}"), "text")),
            None => Ok(Self { stops, held: String::new() }),
        }
    }

    pub(crate) fn push(&mut self, piece: &str) -> Released {
        self.held.push_str(piece);
        let found = self.stops.iter().enumerate().filter_map(|(index, stop)| Some((self.held.find(stop)?, index)));
        if let Some((at, index)) = found.min() {
            self.held.truncate(at);
            return Released::Stopped(self.finish(), index);
        }
        let starts = self.held.char_indices().map(|(at, _)| at);
        let could_begin =
            |at: &usize| self.held.get(*at..).is_some_and(|end| self.stops.iter().any(|stop| stop.starts_with(end)));
        let keep_from = starts.into_iter().find(could_begin).unwrap_or(self.held.len());
        let held = self.held.split_off(keep_from);
        Released::Text(std::mem::replace(&mut self.held, held))
    }

    /// What is held back, when no more text comes.
    pub(crate) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Released {
        Released::Text(text.to_owned())
    }

    fn stopped(text: &str, index: usize) -> Released {
        Released::Stopped(text.to_owned(), index)
    }

    fn stops(stops: &[&str]) -> StopStrings {
        StopStrings::new(stops.iter().map(|stop| (*stop).to_owned()).collect()).unwrap()
    }

    #[test]
    fn a_stop_may_span_pieces() {
        let mut stops = stops(&["END", "\n\n"]);
        assert_eq!(stops.push("one E"), text("one "));
        assert_eq!(stops.push("N"), text(""));
        assert_eq!(stops.push("d\n"), text("ENd"));
        assert_eq!(stops.push("two"), text("\ntwo"));
        assert_eq!(stops.push("\n"), text(""));
        assert_eq!(stops.push("\nthree"), stopped("", 1));
    }

    #[test]
    fn the_first_in_the_text_counts() {
        assert_eq!(stops(&["c", "b"]).push("abc"), stopped("a", 1));
        assert_eq!(stops(&["bcd", "b"]).push("abcd"), stopped("a", 0));
        // A repeated beginning: the match starts one later than the first try.
        let mut repeated = stops(&["aab"]);
        assert_eq!(repeated.push("a"), text(""));
        assert_eq!(repeated.push("a"), text(""));
        assert_eq!(repeated.push("a"), text("a"));
        assert_eq!(repeated.push("b"), stopped("", 0));
    }

    #[test]
    fn what_was_held_comes_at_the_end() {
        let mut stops = stops(&["été"]);
        assert_eq!(stops.push("l'ét"), text("l'"));
        assert_eq!(stops.finish(), "ét");
        assert_eq!(stops.finish(), "");
        assert_eq!(self::stops(&[]).push("x"), text("x"));
        assert!(StopStrings::new(vec!["a".into(), String::new()]).is_err());
    }
}
