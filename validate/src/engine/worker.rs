//! The scheduler on a thread of its own, and what its callers hold.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::event::{Event, Usage};
use super::options::{EngineOptions, SessionOptions};
use super::scheduler::{Scheduler, SessionId};
use super::session::Place;
use crate::completion::{FinishReason, Token, TurnOptions, turn};
use crate::{Error, Model, Result, Tokenizer};

/// Runs turns on a thread of its own. To be shared by threads as it is; dropping it ends all turns as cancelled.
pub struct Engine {
    model: Arc<Model>,
    tokenizer: Arc<Tokenizer>,
    options: EngineOptions,
    line: Line,
    next_id: AtomicU64,
    worker: Mutex<Option<JoinHandle<()>>>,
}

/// How an engine ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// When all turns are over that have begun.
    Drain,
    /// At the next step; they are over as cancelled.
    Abort,
}

/// The way to the worker.
#[derive(Clone)]
struct Line {
    commands: Sender<Command>,
    waiting: Arc<AtomicUsize>,
    max_waiting: usize,
}

enum Command {
    Open(SessionId, SessionOptions),
    Begin(Box<Begin>),
    Rewind(SessionId, usize, Sender<Result<()>>),
    Len(SessionId, Sender<Result<usize>>),
    Close(SessionId),
    Shutdown(Shutdown),
}

struct Begin {
    session: SessionId,
    tokens: Vec<u32>,
    turn: turn::Turn,
    cancel: Arc<AtomicBool>,
    events: Sender<Event>,
    place: Place,
}

impl Engine {
    /// # Errors
    /// As [`Scheduler::new`]; [`Error::Execution`] if the system has no thread left.
    pub fn new(model: Arc<Model>, tokenizer: Arc<Tokenizer>, options: EngineOptions) -> Result<Self> {
        let (commands, received) = channel();
        let (started, outcome) = channel();
        let parts = (model.clone(), tokenizer.clone(), options.clone());
        // Adapters stay on the thread that loaded them, so the scheduler is made there.
        let work = move || match Scheduler::new(parts.0, parts.1, parts.2) {
            Ok(scheduler) => {
                let _ = started.send(Ok(()));
                Worker { scheduler, turns: BTreeMap::new(), ending: false }.run(&received);
            }
            Err(error) => drop(started.send(Err(error))),
        };
        let worker = std::thread::Builder::new().name("engine".to_owned()).spawn(work);
        let worker = worker.map_err(Error::execution("starting a thread"))?;
        outcome.recv().map_err(|_| gone())??;
        let line = Line { commands, waiting: Arc::default(), max_waiting: options.max_waiting };
        let worker = Mutex::new(Some(worker));
        Ok(Self { model, tokenizer, options, line, next_id: AtomicU64::new(0), worker })
    }

    /// Continues a prompt, once.
    ///
    /// # Errors
    /// [`Error::Busy`] if the queue is full; [`Error::Argument`] for a prompt that is empty, too long or outside the
    /// vocabulary, and for options out of their range; [`Error::Execution`] if the engine is shut down.
    pub fn submit(&self, prompt: &[u32], options: TurnOptions) -> Result<Turn> {
        // The session is dropped here, and so ends with its turn.
        self.session(SessionOptions::default())?.begin_turn(prompt, options)
    }

    /// A session without tokens, for several turns.
    ///
    /// # Errors
    /// [`Error::Argument`] for a length that the model does not have and an adapter that the engine does not;
    /// [`Error::Execution`] if the engine is shut down.
    pub fn session(&self, options: SessionOptions) -> Result<Session> {
        let max_length = options.check(&self.model, &self.options)?;
        let id = SessionId(self.next_id.fetch_add(1, Ordering::Relaxed));
        self.line.send(Command::Open(id, options))?;
        Ok(Session {
            id,
            model: self.model.clone(),
            tokenizer: self.tokenizer.clone(),
            eos_token_ids: self.options.eos_token_ids.clone(),
            max_length,
            line: self.line.clone(),
        })
    }

    /// Turns that wait.
    pub fn waiting(&self) -> usize {
        self.line.waiting.load(Ordering::Relaxed)
    }

    /// Takes no more turns, and returns when the last one is over.
    pub fn shutdown(&self, how: Shutdown) {
        // An engine that is gone already needs no telling.
        let _ = self.line.send(Command::Shutdown(how));
        let worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(worker) = worker {
            let _ = worker.join();
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.shutdown(Shutdown::Abort);
    }
}

/// A context that grows by turns; its cache is kept between them. Dropping it forgets both, at the end of a turn that is
/// under way.
pub struct Session {
    id: SessionId,
    model: Arc<Model>,
    tokenizer: Arc<Tokenizer>,
    eos_token_ids: Vec<u32>,
    max_length: usize,
    line: Line,
}

impl Session {
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// In tokens, of all turns together.
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    /// Puts tokens behind those of the session and asks for what follows. One turn at a time: a second one is over at
    /// once, as failed.
    ///
    /// # Errors
    /// As [`Engine::submit`]. More tokens than the session has room for end the turn as failed.
    pub fn begin_turn(&self, tokens: &[u32], options: TurnOptions) -> Result<Turn> {
        self.model.check_ids(tokens)?;
        if tokens.len() > self.max_length {
            let expected = format!("at most max_length {}", self.max_length);
            return Err(Error::argument("the length of the prompt", tokens.len(), expected));
        }
        let turn = turn::Turn::new(&self.tokenizer, &self.eos_token_ids, self.model.vocab_size(), options)?;
        let place = self.line.place()?;
        let (events, received) = channel();
        let cancel = Arc::<AtomicBool>::default();
        let begin = Begin { session: self.id, tokens: tokens.to_vec(), turn, cancel: cancel.clone(), events, place };
        self.line.send(Command::Begin(Box::new(begin)))?;
        Ok(Turn { events: received, cancel, over: false })
    }

    /// Tokens of all turns that are over.
    ///
    /// # Errors
    /// [`Error::Execution`] if the engine is shut down.
    pub fn len(&self) -> Result<usize> {
        self.ask(|reply| Command::Len(self.id, reply))
    }

    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Forgets all tokens but the first `length`, the length before a turn to take that back.
    ///
    /// # Errors
    /// As [`Scheduler::rewind`]; [`Error::Execution`] if the engine is shut down.
    pub fn rewind(&self, length: usize) -> Result<()> {
        self.ask(|reply| Command::Rewind(self.id, length, reply))
    }

    fn ask<T>(&self, command: impl FnOnce(Sender<Result<T>>) -> Command) -> Result<T> {
        let (reply, answer) = channel();
        self.line.send(command(reply))?;
        answer.recv().map_err(|_| gone())?
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.line.send(Command::Close(self.id));
    }
}

impl Line {
    fn send(&self, command: Command) -> Result<()> {
        self.commands.send(command).map_err(|_| gone())
    }

    fn place(&self) -> Result<Place> {
        let more = |waiting: usize| (waiting < self.max_waiting).then_some(waiting + 1);
        match self.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more) {
            Ok(_) => Ok(Place(self.waiting.clone())),
            Err(waiting) => Err(Error::Busy { waiting }),
        }
    }
}

/// A turn under way: its events, as an iterator that ends behind [`Event::Finished`]. Dropping it cancels.
pub struct Turn {
    events: Receiver<Event>,
    cancel: Arc<AtomicBool>,
    over: bool,
}

/// A turn that is over, as a whole.
#[derive(Debug)]
pub struct Output {
    pub tokens: Vec<Token>,
    /// Without the stop string.
    pub text: String,
    pub reason: FinishReason,
    pub usage: Usage,
    pub error: Option<Error>,
}

impl Turn {
    /// Ends it with the next step. Its last event still comes.
    pub fn cancel(&self) {
        self.cancel.store(true, Ordering::Relaxed);
    }

    /// The next event, if it comes within that time.
    pub fn next_within(&mut self, time: Duration) -> Option<Event> {
        if self.over {
            return None;
        }
        match self.events.recv_timeout(time) {
            Ok(event) => Some(self.note(event)),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => Some(self.lost()),
        }
    }

    /// Waits for the end.
    pub fn wait(mut self) -> Output {
        let (mut tokens, mut whole) = (Vec::new(), String::new());
        loop {
            match self.next() {
                Some(Event::Token(token)) => {
                    whole.push_str(&token.text);
                    tokens.push(token);
                }
                Some(Event::Finished { reason, text, usage, error }) => {
                    whole.push_str(&text);
                    return Output { tokens, text: whole, reason, usage, error };
                }
                // The iterator was at its end before.
                None => {
                    let error = Some(Error::argument("the turn to wait for", "over", "one whose end was not told yet"));
                    let (reason, usage) = (FinishReason::Failed, Usage::default());
                    return Output { tokens, text: whole, reason, usage, error };
                }
            }
        }
    }

    fn note(&mut self, event: Event) -> Event {
        self.over = matches!(event, Event::Finished { .. });
        event
    }

    /// The engine ended without a word.
    fn lost(&mut self) -> Event {
        self.over = true;
        let (reason, usage) = (FinishReason::Failed, Usage::default());
        Event::Finished { reason, text: String::new(), usage, error: Some(gone()) }
    }
}

impl Iterator for Turn {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        if self.over {
            return None;
        }
        match self.events.recv() {
            Ok(event) => Some(self.note(event)),
            Err(_) => Some(self.lost()),
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.cancel();
    }
}

struct Worker {
    scheduler: Scheduler,
    turns: BTreeMap<SessionId, Listener>,
    ending: bool,
}

struct Listener {
    events: Sender<Event>,
    cancel: Arc<AtomicBool>,
}

impl Worker {
    fn run(mut self, commands: &Receiver<Command>) {
        loop {
            match commands.try_recv() {
                Ok(command) => {
                    if self.obey(command).is_none() {
                        return;
                    }
                }
                Err(TryRecvError::Empty) if self.scheduler.has_pending() => {
                    let turns = &mut self.turns;
                    self.scheduler.step(&mut |session, event| tell(turns, session, event));
                }
                Err(TryRecvError::Empty) if self.ending => return,
                Err(TryRecvError::Empty) => match commands.recv() {
                    Ok(command) => {
                        if self.obey(command).is_none() {
                            return;
                        }
                    }
                    Err(_) => return,
                },
                // Neither the engine nor a session is left.
                Err(TryRecvError::Disconnected) if !self.scheduler.has_pending() => return,
                Err(TryRecvError::Disconnected) => self.abort(),
            }
        }
    }

    /// None where it is the last.
    fn obey(&mut self, command: Command) -> Option<()> {
        match command {
            // Its options were checked by who sent it.
            Command::Open(id, options) => drop(self.scheduler.open_as(id, options)),
            Command::Begin(begin) => self.begin(*begin),
            Command::Rewind(id, length, reply) => drop(reply.send(self.scheduler.rewind(id, length))),
            Command::Len(id, reply) => drop(reply.send(self.scheduler.session_len(id))),
            Command::Close(id) => self.scheduler.close(id),
            Command::Shutdown(Shutdown::Drain) => self.ending = true,
            Command::Shutdown(Shutdown::Abort) => {
                self.abort();
                return None;
            }
        }
        Some(())
    }

    fn begin(&mut self, begin: Begin) {
        let Begin { session, tokens, turn, cancel, events, place } = begin;
        let begun = match self.ending {
            true => Err(gone()),
            false => self.scheduler.begin(session, &tokens, turn, (cancel.clone(), Some(place))),
        };
        match begun {
            Ok(()) => drop(self.turns.insert(session, Listener { events, cancel })),
            Err(error) => {
                let (reason, usage) = (FinishReason::Failed, Usage::default());
                let _ = events.send(Event::Finished { reason, text: String::new(), usage, error: Some(error) });
            }
        }
    }

    fn abort(&mut self) {
        let turns = &mut self.turns;
        self.scheduler.abort(&mut |session, event| tell(turns, session, event));
    }
}

/// Passes an event on. Where nobody listens any more, the turn is cancelled.
fn tell(turns: &mut BTreeMap<SessionId, Listener>, session: SessionId, event: Event) {
    let over = matches!(event, Event::Finished { .. });
    if let Some(listener) = turns.get(&session)
        && listener.events.send(event).is_err()
    {
        listener.cancel.store(true, Ordering::Relaxed);
    }
    if over {
        turns.remove(&session);
    }
}

fn gone() -> Error {
    Error::execution("asking the engine")("it is shut down")
}
