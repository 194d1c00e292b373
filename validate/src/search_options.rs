//! How a sequence is continued: the `search` block of `genai_config.json`, typed.

use serde::Serialize;
use serde_json::Value;

use crate::{Error, Result};

/// Names, meanings and defaults are those of onnxruntime-genai 0.18; lengths are in tokens, prompt included.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SearchOptions {
    /// Draws tokens; else the likeliest is taken.
    pub do_sample: bool,
    /// Below it no end token is taken.
    pub min_length: usize,
    /// 0 stands for the model's context length.
    pub max_length: usize,
    /// Sequences that are run together, 1 to 32.
    pub batch_size: usize,
    /// 1 to 32; more than one is a beam search.
    pub num_beams: usize,
    /// Of each prompt, 1 to `num_beams`.
    pub num_return_sequences: usize,
    /// Divides the positive scores of tokens that were seen, and multiplies the negative; 1 changes nothing.
    pub repetition_penalty: f32,
    /// 0 keeps all tokens, 1 takes the likeliest.
    pub top_k: usize,
    /// Has an effect between 0 and 1.
    pub top_p: f32,
    /// 0 takes the likeliest token.
    pub temperature: f32,
    /// A beam search ends as soon as it has `num_beams` sequences.
    pub early_stopping: bool,
    /// No sequence of so many tokens comes twice; 0 allows all.
    pub no_repeat_ngram_size: usize,
    /// Read by nothing, in the peer neither.
    pub diversity_penalty: f32,
    /// The score of a finished beam is divided by its length to this power.
    pub length_penalty: f32,
    /// One cache buffer for past and present. Beams have none of it.
    pub past_present_share_buffer: bool,
    /// None draws a seed from the operating system.
    pub random_seed: Option<u32>,
    /// The first prompt goes in by so many tokens a run.
    pub chunk_size: Option<usize>,
    /// Of transducers, which nothing here runs.
    pub blank_penalty: f32,
}

impl Default for SearchOptions {
    fn default() -> Self {
        Self {
            do_sample: false,
            min_length: 0,
            max_length: 0,
            batch_size: 1,
            num_beams: 1,
            num_return_sequences: 1,
            repetition_penalty: 1.0,
            top_k: 50,
            top_p: 0.0,
            temperature: 1.0,
            early_stopping: true,
            no_repeat_ngram_size: 0,
            diversity_penalty: 0.0,
            length_penalty: 1.0,
            past_present_share_buffer: false,
            random_seed: None,
            chunk_size: None,
            blank_penalty: 0.0,
        }
    }
}

impl SearchOptions {
    /// Sets the option of that name, in the types of `genai_config.json`: whole numbers may be written as 1.0, a
    /// negative `random_seed` or a `chunk_size` of 0 or less stands for none.
    ///
    /// # Errors
    /// [`Error::Argument`] for an unknown name, listing all, and for a value of the wrong type. What is out of range
    /// for a model is told by [`SearchOptions::check`].
    pub fn set(&mut self, name: &str, value: &Value) -> Result<()> {
        let Some(known) = Self::NAMES.into_iter().find(|known| *known == name) else {
            return Err(Error::argument(
                "a search option",
                format!("{name:?}"),
                format!("one of {}", Self::NAMES.join(", ")),
            ));
        };
        let refused = match known {
            "do_sample" => flag(value, &mut self.do_sample),
            "min_length" => count(value, &mut self.min_length),
            "max_length" => count(value, &mut self.max_length),
            "batch_size" => count(value, &mut self.batch_size),
            "num_beams" => count(value, &mut self.num_beams),
            "num_return_sequences" => count(value, &mut self.num_return_sequences),
            "repetition_penalty" => number(value, &mut self.repetition_penalty),
            "top_k" => count(value, &mut self.top_k),
            "top_p" => number(value, &mut self.top_p),
            "temperature" => number(value, &mut self.temperature),
            "early_stopping" => flag(value, &mut self.early_stopping),
            "no_repeat_ngram_size" => count(value, &mut self.no_repeat_ngram_size),
            "diversity_penalty" => number(value, &mut self.diversity_penalty),
            "length_penalty" => number(value, &mut self.length_penalty),
            "past_present_share_buffer" => flag(value, &mut self.past_present_share_buffer),
            "random_seed" => optional(value, 0, &mut self.random_seed),
            "chunk_size" => optional(value, 1, &mut self.chunk_size),
            _ => number(value, &mut self.blank_penalty),
        };
        refused.map_err(|expected| Error::argument(known, value, expected))
    }

    /// The value of the option of that name; null for a seed or a chunk size that is none.
    pub fn get(&self, name: &str) -> Option<Value> {
        serde_json::to_value(self).ok()?.get(name).cloned()
    }

    /// Is this a search that a model of `vocab_size` tokens can do? The peer lets through what is marked with *.
    ///
    /// # Errors
    /// [`Error::Argument`] for a `max_length` or `min_length`* beyond the context, a batch or beams out
    /// of 1 to 32, more returned sequences than beams, sampling with beams, a penalty* or temperature* below 0 or not
    /// finite, a repetition penalty* of 0, `top_p` outside 0 to 1 or NaN*, and a `top_k` beyond the vocabulary.
    pub fn check(&self, vocab_size: usize, context_length: usize) -> Result<()> {
        let within = |name, value: usize, least: usize, most: usize| {
            let expected = || format!("a whole number from {least} to {most}");
            if (least..=most).contains(&value) { Ok(()) } else { Err(Error::argument(name, value, expected())) }
        };
        let finite = |name, value: f32, holds: bool, expected: &str| {
            if holds && value.is_finite() { Ok(()) } else { Err(Error::argument(name, value, expected)) }
        };
        within("max_length", self.max_length, 0, context_length)?;
        within("min_length", self.min_length, 0, context_length)?;
        within("batch_size", self.batch_size, 1, 32)?;
        within("num_beams", self.num_beams, 1, 32)?;
        within("num_return_sequences", self.num_return_sequences, 1, self.num_beams)?;
        if self.num_beams > 1 && self.do_sample {
            return Err(Error::argument("num_beams", self.num_beams, "1 with do_sample: a beam search does not draw"));
        }
        if self.num_beams > 1 && vocab_size < 2 {
            return Err(Error::argument("num_beams", self.num_beams, "1 in a vocabulary of one token"));
        }
        let penalty = self.repetition_penalty;
        finite("repetition_penalty", penalty, penalty > 0.0, "a finite number above 0")?;
        finite("temperature", self.temperature, self.temperature >= 0.0, "a finite number of at least 0")?;
        finite("length_penalty", self.length_penalty, true, "a finite number")?;
        finite("diversity_penalty", self.diversity_penalty, true, "a finite number")?;
        finite("blank_penalty", self.blank_penalty, true, "a finite number")?;
        finite("top_p", self.top_p, (0.0..=1.0).contains(&self.top_p), "a number from 0 to 1")?;
        if self.do_sample {
            within("top_k", self.top_k, 0, vocab_size)?;
        }
        Ok(())
    }

    /// Every name that [`SearchOptions::set`] knows.
    pub const NAMES: [&str; 18] = [
        "do_sample",
        "min_length",
        "max_length",
        "batch_size",
        "num_beams",
        "num_return_sequences",
        "repetition_penalty",
        "top_k",
        "top_p",
        "temperature",
        "early_stopping",
        "no_repeat_ngram_size",
        "diversity_penalty",
        "length_penalty",
        "past_present_share_buffer",
        "random_seed",
        "chunk_size",
        "blank_penalty",
    ];
}

/// A whole number, which may be written as 1.0. They are 32-bit signed in the peer.
pub(crate) fn whole(value: &Value) -> Option<i64> {
    let number = value.as_i64().or_else(|| {
        let number = value.as_f64().filter(|number| number.fract() == 0.0 && number.abs() <= f64::from(i32::MAX))?;
        Some(number as i64)
    });
    number.filter(|number| i32::try_from(*number).is_ok())
}

// Each sets the field, or says what was expected.

fn flag(value: &Value, field: &mut bool) -> Result<(), &'static str> {
    *field = value.as_bool().ok_or("true or false")?;
    Ok(())
}

fn count(value: &Value, field: &mut usize) -> Result<(), &'static str> {
    let count = whole(value).and_then(|number| usize::try_from(number).ok());
    *field = count.ok_or("a whole number from 0 to 2147483647")?;
    Ok(())
}

fn number(value: &Value, field: &mut f32) -> Result<(), &'static str> {
    let number = value.as_f64().map(|number| number as f32);
    *field = number.filter(|number| number.is_finite()).ok_or("a finite number")?;
    Ok(())
}

/// None for a number below `least`.
fn optional<T: TryFrom<i64>>(value: &Value, least: i64, field: &mut Option<T>) -> Result<(), &'static str> {
    let number = whole(value).ok_or("a whole number")?;
    *field = T::try_from(number).ok().filter(|_| number >= least);
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_option_is_set_and_got_by_its_name() {
        let value = |name: &str| match name {
            "do_sample" | "past_present_share_buffer" => json!(true),
            "early_stopping" => json!(false),
            name if name.ends_with("penalty") || ["top_p", "temperature"].contains(&name) => json!(0.25),
            _ => json!(7),
        };
        let plain = SearchOptions::default();
        for name in SearchOptions::NAMES {
            let mut options = plain.clone();
            options.set(name, &value(name)).unwrap();
            assert_eq!(options.get(name), Some(value(name)), "{name}");
            assert_ne!(options, plain, "{name}");
        }
        let fields = serde_json::to_value(&plain).unwrap();
        let fields: Vec<&String> = fields.as_object().unwrap().keys().collect();
        assert_eq!(fields, SearchOptions::NAMES);
        assert_eq!(plain.get("bogus"), None);
    }

    #[test]
    fn values_of_other_types_are_refused() {
        for (name, value, expected) in [
            ("bogus", json!(1), "a search option is \"bogus\", expected one of do_sample, min_length"),
            ("do_sample", json!(1), "do_sample is 1, expected true or false"),
            ("do_sample", json!("true"), "do_sample is \"true\", expected true or false"),
            ("top_k", json!(1.5), "top_k is 1.5, expected a whole number"),
            ("top_k", json!(true), "top_k is true, expected a whole number"),
            ("min_length", json!(-3), "min_length is -3, expected a whole number from 0"),
            ("max_length", json!(1u64 << 31), "expected a whole number from 0 to 2147483647"),
            ("temperature", json!("hot"), "expected a finite number"),
            ("temperature", json!(1e300), "expected a finite number"),
            ("random_seed", json!(0.5), "random_seed is 0.5, expected a whole number"),
            ("chunk_size", json!(1.5), "chunk_size is 1.5, expected a whole number"),
            ("top_p", json!(null), "top_p is null, expected a finite number"),
        ] {
            let mut options = SearchOptions::default();
            let error = options.set(name, &value).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
            assert_eq!(options, SearchOptions::default());
        }
    }

    #[test]
    fn numbers_are_read_as_the_peer_reads_them() {
        let mut options = SearchOptions::default();
        for (name, value) in [("top_k", json!(3.0)), ("random_seed", json!(-5)), ("chunk_size", json!(-1))] {
            options.set(name, &value).unwrap();
        }
        assert_eq!((options.top_k, options.random_seed, options.chunk_size), (3, None, None));
        options.set("random_seed", &json!(0)).unwrap();
        options.set("chunk_size", &json!(0)).unwrap();
        assert_eq!((options.random_seed, options.chunk_size), (Some(0), None));
    }

    /// What the peer refuses when it makes a generator, and what it lets through and computes nonsense with.
    #[test]
    fn what_no_search_can_do_is_refused() {
        let accepted = |name: &str, value: Value, with: &[(&str, Value)]| {
            let mut options = SearchOptions::default();
            for (name, value) in with {
                options.set(name, value).unwrap();
            }
            options.set(name, &value).unwrap();
            options.check(98, 64)
        };
        let sampling = [("do_sample", json!(true))];
        let beams = [("num_beams", json!(4))];
        for (name, value, with) in [
            ("batch_size", json!(0), &[][..]),
            ("batch_size", json!(33), &[]),
            ("num_beams", json!(0), &[]),
            ("num_beams", json!(33), &[]),
            ("num_beams", json!(2), &sampling),
            ("num_return_sequences", json!(0), &[]),
            ("num_return_sequences", json!(2), &[]),
            ("num_return_sequences", json!(5), &beams),
            ("max_length", json!(65), &[]),
            ("min_length", json!(65), &[]),
            ("top_k", json!(99), &sampling),
            ("top_p", json!(1.5), &[]),
            ("top_p", json!(-0.5), &[]),
            ("temperature", json!(-1), &[]),
            ("repetition_penalty", json!(0), &[]),
            ("repetition_penalty", json!(-1), &[]),
        ] {
            let error = accepted(name, value.clone(), with).unwrap_err();
            assert!(matches!(&error, Error::Argument { name: told, .. } if *told == name), "{name} {value}: {error}");
        }
        let nan = SearchOptions { top_p: f32::NAN, ..SearchOptions::default() };
        assert!(nan.check(98, 64).is_err());
        let lone = SearchOptions { num_beams: 2, ..SearchOptions::default() };
        assert!(lone.check(1, 64).is_err());
        for (name, value, with) in [
            ("batch_size", json!(32), &[][..]),
            ("num_beams", json!(32), &[]),
            ("num_return_sequences", json!(4), &beams),
            ("max_length", json!(64), &[]),
            ("top_k", json!(99), &[]),
            ("top_k", json!(98), &sampling),
            ("top_p", json!(1), &sampling),
            ("temperature", json!(0), &sampling),
        ] {
            accepted(name, value, with).unwrap();
        }
    }
}
