//! One step: run what is new, change the scores, choose.

use super::Generator;
use super::processors::{NEVER, forbid, forbid_repeated_ngrams, penalise_repetition};
use crate::model::Wanted;
use crate::sampling::greedy;
use crate::{Error, Result, log};

impl Generator {
    /// Chooses the next token of each row that has not ended.
    ///
    /// # Errors
    /// [`Error::Argument`] without a token to start from, and when [`Self::is_done`]; [`Error::Cancelled`]; those of the
    /// hooks; [`Error::Execution`] if the run fails, or gives no number to choose by.
    pub fn generate_next_token(&mut self) -> Result<()> {
        if self.is_done() {
            let why = match self.length >= self.search.max_length {
                true => format!("at max_length {}", self.search.max_length),
                false => "at its end".into(),
            };
            return Err(Error::argument("the generator", why, "one that is not done; append or rewind to go on"));
        }
        self.compute()?;
        self.runs.begin()?;
        self.process()?;
        self.ready = false;
        match self.beams {
            Some(_) => self.step_beams()?,
            None => self.choose()?,
        }
        self.tell_step();
        Ok(())
    }

    fn tell_step(&self) {
        tracing::debug!(target: log::NEXT_TOKEN, ids = ?self.next, length = self.length);
        let eos = self.model.eos_token_ids();
        for (row, id) in self.next.iter().enumerate().filter(|(_, id)| eos.contains(id)) {
            tracing::debug!(target: log::HIT_EOS, row, id);
        }
        if self.length >= self.search.max_length {
            tracing::debug!(target: log::HIT_MAX_LENGTH, length = self.length);
        }
    }

    fn process(&mut self) -> Result<()> {
        let search = &self.search;
        let model = &self.model;
        for (index, (row, scores)) in self.rows.iter().zip(self.scores.chunks_exact_mut(model.vocab_size())).enumerate()
        {
            if row.finished {
                continue;
            }
            if let Some(constraint) = self.constraints.get_mut(index) {
                constraint.mask(scores)?;
                if !scores.iter().any(|score| *score > NEVER) {
                    let value = format!("no token in row {index}");
                    return Err(Error::argument("what a constraint allows", value, "at least one token"));
                }
            }
            if self.length < search.min_length {
                forbid(scores, model.eos_token_ids());
            }
            if search.repetition_penalty != 1.0 {
                penalise_repetition(scores, &row.ids, search.repetition_penalty);
            }
            forbid_repeated_ngrams(scores, &row.ids, search.no_repeat_ngram_size);
            for processor in &mut self.processors {
                processor.process(&row.ids, scores)?;
            }
        }
        Ok(())
    }

    fn choose(&mut self) -> Result<()> {
        let vocab = self.model.vocab_size();
        let mut chosen = Vec::with_capacity(self.rows.len());
        for (row, scores) in self.rows.iter().zip(self.scores.chunks_exact(vocab)) {
            chosen.push(match &mut self.sampler {
                _ if row.finished => self.model.pad,
                Some(sampler) => sampler.pick(scores)?,
                None => greedy(scores)?,
            });
        }
        self.next = chosen;
        let eos = self.model.eos_token_ids();
        for (index, (row, id)) in self.rows.iter_mut().zip(&self.next).enumerate() {
            if row.finished {
                continue;
            }
            if let Some(constraint) = self.constraints.get_mut(index) {
                constraint.commit(*id)?;
            }
            row.finished = eos.contains(id);
            if !row.finished {
                row.ids.push(*id);
            }
        }
        if self.rows.iter().any(|row| !row.finished) {
            self.length += 1;
            self.append_forced()?;
        }
        Ok(())
    }

    /// What a constraint leaves no choice about.
    fn append_forced(&mut self) -> Result<()> {
        let ([row], [constraint]) = (self.rows.as_mut_slice(), self.constraints.as_mut_slice()) else {
            return Ok(());
        };
        if !self.forced_tokens || row.finished {
            return Ok(());
        }
        for id in constraint.forced()? {
            row.finished = self.model.eos_token_ids().contains(&id);
            if row.finished || self.length >= self.search.max_length {
                break;
            }
            row.ids.push(id);
            self.length += 1;
        }
        Ok(())
    }

    fn step_beams(&mut self) -> Result<()> {
        let Some(beams) = &mut self.beams else { return Ok(()) };
        // NaN compares with nothing, so that a search over it would be over chance.
        if let Some(at) = self.scores.iter().position(|score| score.is_nan() || *score == f32::INFINITY) {
            let value = self.scores.get(at).copied().unwrap_or_default();
            return Err(Error::argument("logits", value, "numbers below infinity"));
        }
        let (vocab, eos, pad) = (self.model.vocab_size(), self.model.eos_token_ids(), self.model.pad);
        let ids: Vec<&[u32]> = self.rows.iter().map(|row| row.ids.as_slice()).collect();
        let step = beams.step(&mut self.scores, vocab, &ids, eos, pad);
        let rows = step.rows.iter().zip(&step.tokens).map(|(&from, &token)| {
            let mut row = self.rows.get(from).cloned().unwrap_or_default();
            row.ids.push(token);
            row
        });
        self.rows = rows.collect();
        self.length += 1;
        self.next = step.tokens;
        if self.is_done() {
            // Nothing is run any more.
            return Ok(());
        }
        self.lanes.reorder(&self.model, &step.rows)
    }

    /// Runs what was not run yet, so that the scores are those behind the last tokens.
    pub(super) fn compute(&mut self) -> Result<()> {
        let options = self.runs.begin()?;
        if self.ready {
            return Ok(());
        }
        if self.length == 0 {
            return Err(Error::argument("the sequence length", 0, "at least one token, of append_tokens"));
        }
        self.stale |= self.lanes.columns() > 0 && self.switches_rope(self.lanes.columns(), self.length);
        let ran = if self.rows.len() == 1 { self.run_row(&options) } else { self.run_batch(&options) };
        match ran {
            Ok(()) => {
                self.ready = true;
                Ok(())
            }
            Err(error) => {
                self.stale |= !self.lanes.survives_failure(&self.model);
                Err(self.runs.explain(error))
            }
        }
    }

    fn run_row(&mut self, options: &ort::session::RunOptions) -> Result<()> {
        let Some(row) = self.rows.first() else { return Ok(()) };
        let mut ran = self.lanes.columns();
        if self.stale || ran >= row.ids.len() {
            // The logits behind the last token are wanted once more, so it runs once more.
            let kept = if self.stale { 0 } else { row.ids.len() - 1 };
            ran = if self.lanes.forgetful(&self.model, kept).is_some() { 0 } else { kept };
            self.lanes.cut(&self.model, ran)?;
            self.stale = false;
        }
        let new = row.ids.get(ran..).unwrap_or_default();
        for part in new.chunks(self.search.chunk_size.filter(|&size| size > 0).unwrap_or(usize::MAX)) {
            self.lanes.feed(&self.model, &[part], options, Wanted::Last(&mut self.scores))?;
        }
        Ok(())
    }

    /// All rows take one column, or everything anew.
    fn run_batch(&mut self, options: &ort::session::RunOptions) -> Result<()> {
        if !self.stale && self.lanes.columns() > 0 && self.lanes.columns() + 1 == self.length {
            let column: Vec<&[u32]> = self.next.chunks(1).collect();
            return self.lanes.feed(&self.model, &column, options, Wanted::Last(&mut self.scores));
        }
        self.lanes.cut(&self.model, 0)?;
        let pad = [self.model.pad];
        // A row may have ended before it began.
        let rows = self.rows.iter().map(|row| if row.ids.is_empty() { &pad } else { row.ids.as_slice() });
        let rows: Vec<&[u32]> = rows.collect();
        self.lanes.feed(&self.model, &rows, options, Wanted::Last(&mut self.scores))?;
        self.length = self.lanes.columns();
        self.stale = false;
        Ok(())
    }
}
