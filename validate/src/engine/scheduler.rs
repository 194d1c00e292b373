//! Which session runs next. No threads: [`Scheduler::step`] does one round, whoever calls it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::event::Event;
use super::options::{EngineOptions, SessionOptions};
use super::session::{Place, State};
use crate::completion::{FinishReason, TurnOptions, turn::Turn};
use crate::{Adapter, Error, Model, Result, Sequence, Tokenizer};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub(super) u64);

/// Sessions and who runs next. See [`super`] for the rules.
pub struct Scheduler {
    model: Arc<Model>,
    tokenizer: Arc<Tokenizer>,
    options: EngineOptions,
    sessions: BTreeMap<SessionId, State>,
    /// In the order in which their turns began.
    waiting: VecDeque<SessionId>,
    /// In the order in which they were admitted.
    running: Vec<SessionId>,
    prefixes: VecDeque<Prefix>,
    adapters: BTreeMap<String, Adapter>,
    next_id: u64,
}

/// A cache whose text is over.
struct Prefix {
    tokens: Vec<u32>,
    sequence: Sequence,
    max_length: usize,
    adapter: Option<String>,
}

impl Scheduler {
    /// # Errors
    /// [`Error::Argument`] for an option out of its range; as [`Adapter::load`].
    pub fn new(model: Arc<Model>, tokenizer: Arc<Tokenizer>, options: EngineOptions) -> Result<Self> {
        options.check(&model)?;
        let adapters = options.adapters.iter().map(|(name, file)| Ok((name.clone(), Adapter::load(file)?)));
        let adapters = adapters.collect::<Result<_>>()?;
        Ok(Self {
            model,
            tokenizer,
            options,
            sessions: BTreeMap::new(),
            waiting: VecDeque::new(),
            running: Vec::new(),
            prefixes: VecDeque::new(),
            adapters,
            next_id: 0,
        })
    }

    /// A session without tokens. Its cache is made when its first turn starts to run.
    ///
    /// # Errors
    /// [`Error::Argument`] for a length that the model does not have and an adapter that the engine does not.
    pub fn open(&mut self, options: SessionOptions) -> Result<SessionId> {
        let id = SessionId(self.next_id);
        self.open_as(id, options)?;
        Ok(id)
    }

    pub(super) fn open_as(&mut self, id: SessionId, options: SessionOptions) -> Result<()> {
        let max_length = options.check(&self.model, &self.options)?;
        self.next_id = self.next_id.max(id.0.saturating_add(1));
        self.sessions.insert(id, State::new(options, max_length));
        Ok(())
    }

    /// Puts tokens behind those of the session and asks for what follows. What an earlier turn generated last runs before
    /// them, whatever ended it.
    ///
    /// # Errors
    /// [`Error::Busy`] if the queue is full; [`Error::Argument`] for a session that is closed or has a turn under way, for
    /// no tokens, ids outside the vocabulary, more than fit, and options out of their range.
    pub fn begin_turn(&mut self, session: SessionId, tokens: &[u32], options: TurnOptions) -> Result<()> {
        if self.waiting.len() >= self.options.max_waiting {
            return Err(Error::Busy { waiting: self.waiting.len() });
        }
        let turn = Turn::new(&self.tokenizer, &self.options.eos_token_ids, self.model.vocab_size(), options)?;
        self.begin(session, tokens, turn, (Arc::default(), None))
    }

    pub(super) fn begin(
        &mut self,
        session: SessionId,
        tokens: &[u32],
        turn: Turn,
        (cancel, place): (Arc<AtomicBool>, Option<Place>),
    ) -> Result<()> {
        self.model.check_ids(tokens)?;
        self.state(session)?.begin(turn, tokens, cancel, place)?;
        self.waiting.push_back(session);
        Ok(())
    }

    /// Ends the turn of a session with the next step. Its prompt and the tokens that are out stay in the session. Without a
    /// turn nothing happens.
    pub fn cancel(&mut self, session: SessionId) {
        if let Some(state) = self.sessions.get(&session) {
            state.cancel();
        }
    }

    /// Forgets a session, at the end of its turn if it has one.
    pub fn close(&mut self, session: SessionId) {
        match self.sessions.get_mut(&session) {
            Some(state) if !state.is_idle() => state.closing = true,
            _ => self.forget(session),
        }
    }

    /// Tokens of all turns that are over, the generated ones included.
    ///
    /// # Errors
    /// [`Error::Argument`] for a session that is closed.
    pub fn session_len(&self, session: SessionId) -> Result<usize> {
        self.sessions.get(&session).map(State::len).ok_or_else(closed)
    }

    /// Forgets all tokens of a session but the first `length`.
    ///
    /// # Errors
    /// [`Error::Argument`] for a session that is closed or has a turn under way, and for a length beyond its own.
    pub fn rewind(&mut self, session: SessionId, length: usize) -> Result<()> {
        let state = self.state(session)?;
        if !state.is_idle() {
            return Err(Error::argument("the session to rewind", "running a turn", "one without a turn"));
        }
        if length > state.len() {
            return Err(Error::argument("the length to rewind to", length, format!("at most {}", state.len())));
        }
        state.rewind(length);
        Ok(())
    }

    /// Is a turn not over?
    pub fn has_pending(&self) -> bool {
        !self.waiting.is_empty() || !self.running.is_empty()
    }

    /// One round: a token for each text that is under way, then chunks of prompts, the oldest first.
    pub fn step(&mut self, on_event: &mut dyn FnMut(SessionId, Event)) {
        self.admit(on_event);
        let (decoding, prompts): (Vec<_>, Vec<_>) =
            self.running.iter().copied().partition(|id| self.sessions.get(id).is_some_and(State::decodes));
        for &session in &decoding {
            self.run(session, on_event);
        }
        let mut budget = self.options.max_scheduled_tokens.saturating_sub(decoding.len());
        let mut first = true;
        for session in prompts {
            loop {
                let state = self.sessions.get(&session);
                let tokens =
                    state.filter(|state| !state.decodes()).map_or(0, |s| s.next_run(self.options.chunk_tokens));
                if tokens == 0 {
                    break;
                }
                if tokens > budget && !first {
                    return;
                }
                self.run(session, on_event);
                budget = budget.saturating_sub(tokens);
                first = false;
            }
        }
    }

    /// Ends every turn as cancelled.
    pub fn abort(&mut self, on_event: &mut dyn FnMut(SessionId, Event)) {
        let all = std::mem::take(&mut self.running).into_iter().chain(std::mem::take(&mut self.waiting));
        for session in all.collect::<Vec<_>>() {
            self.finish(session, FinishReason::Cancelled, None, on_event);
        }
    }

    /// Turns cancelled while they wait are over; others start as long as there is room.
    fn admit(&mut self, on_event: &mut dyn FnMut(SessionId, Event)) {
        let cancelled = |id: &SessionId| self.sessions.get(id).is_some_and(State::is_cancelled);
        let (over, waiting): (VecDeque<_>, VecDeque<_>) = self.waiting.drain(..).partition(cancelled);
        self.waiting = waiting;
        for session in over {
            self.finish(session, FinishReason::Cancelled, None, on_event);
        }
        while self.running.len() < self.options.max_active {
            let Some(session) = self.waiting.pop_front() else { return };
            let prefix = self.take_prefix(session);
            let Some(state) = self.sessions.get_mut(&session) else { continue };
            if state.sequence.is_none() {
                state.sequence = prefix;
            }
            let adapter = state.options.adapter.as_ref().and_then(|name| self.adapters.get(name));
            match state.prepare(&self.model, adapter) {
                Ok(()) => self.running.push(session),
                Err(error) => self.finish(session, FinishReason::Failed, Some(error), on_event),
            }
        }
    }

    fn run(&mut self, session: SessionId, on_event: &mut dyn FnMut(SessionId, Event)) {
        let Some(state) = self.sessions.get_mut(&session) else { return };
        state.run(self.options.chunk_tokens, &mut |event| on_event(session, event));
        self.settle(session);
    }

    fn finish(
        &mut self,
        session: SessionId,
        reason: FinishReason,
        error: Option<Error>,
        on_event: &mut dyn FnMut(SessionId, Event),
    ) {
        if let Some(state) = self.sessions.get_mut(&session) {
            state.finish(reason, error, &mut |event| on_event(session, event));
            self.settle(session);
        }
    }

    /// Makes room where a turn is over.
    fn settle(&mut self, session: SessionId) {
        let Some(state) = self.sessions.get(&session) else { return };
        if state.is_idle() {
            let closing = state.closing;
            self.running.retain(|id| *id != session);
            if closing {
                self.forget(session);
            }
        }
    }

    fn forget(&mut self, session: SessionId) {
        let Some(state) = self.sessions.remove(&session) else { return };
        if self.options.kept_prefixes == 0 {
            return;
        }
        let (max_length, adapter) = (state.max_length, state.options.adapter.clone());
        if let Some((tokens, sequence)) = state.into_prefix() {
            self.prefixes.push_back(Prefix { tokens, sequence, max_length, adapter });
        }
        while self.prefixes.len() > self.options.kept_prefixes {
            self.prefixes.pop_front();
        }
    }

    /// The cache that has most of the session's prompt, cut to what they have in common. It must be half of either at
    /// least: the cut destroys the rest for others.
    fn take_prefix(&mut self, session: SessionId) -> Option<Sequence> {
        let state = self.sessions.get(&session).filter(|state| state.sequence.is_none())?;
        let context = state.context();
        let fits = |prefix: &Prefix| prefix.max_length == state.max_length && prefix.adapter == state.options.adapter;
        let candidates = self.prefixes.iter().enumerate().filter(|(_, prefix)| fits(prefix));
        // The last token has to run, for its logits.
        let shared = |prefix: &Prefix| common(&prefix.tokens, context).min(context.len().saturating_sub(1));
        let (length, at) = candidates.map(|(at, prefix)| (shared(prefix), at)).max()?;
        let enough = |prefix: &Prefix| length > 0 && length * 2 >= prefix.tokens.len().min(context.len());
        self.prefixes.get(at).filter(|prefix| enough(prefix))?;
        let mut sequence = self.prefixes.remove(at)?.sequence;
        sequence.rewind(length).is_ok().then_some(sequence)
    }

    fn state(&mut self, session: SessionId) -> Result<&mut State> {
        self.sessions.get_mut(&session).ok_or_else(closed)
    }
}

/// Tokens that both begin with.
pub(crate) fn common(one: &[u32], other: &[u32]) -> usize {
    one.iter().zip(other).take_while(|(a, b)| a == b).count()
}

fn closed() -> Error {
    Error::argument("the session", "closed", "an open one")
}
