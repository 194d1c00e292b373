//! Several texts at once on one model.
//!
//! ```text
//!  Engine::submit, Session::begin_turn ──► queue ──► worker thread: Scheduler::step ──► Turn (a channel of events)
//!                                                     1. one token for each text that is under way
//!                                                     2. chunks of prompts, the oldest first
//! ```
//!
//! Every session has its own [`crate::Sequence`]; they take turns in running the model, one sequence a run. That needs
//! nothing of the graph, and so holds for every package. What a text is does not depend on what else runs: chunks of a
//! prompt are cut by its own length alone, and random states belong to their text. The one exception is
//! [`EngineOptions::kept_prefixes`].
//!
//! # What the peer's engine calls it
//!
//! | onnxruntime-genai up to 0.16 (seed 001) | 0.18 | here |
//! | --- | --- | --- |
//! | `Engine(model)` | `Engine(model)` | [`Engine::new`] with its own thread, or [`Scheduler::new`] without |
//! | `Request(params)`, `add_request` | `create_request(options)` | [`Engine::session`], [`Scheduler::open`]; [`Engine::submit`] for one turn alone |
//! | `request.add_tokens`, `continue_with` | `begin_turn(tokens, TurnOptions)` | [`Session::begin_turn`], [`Scheduler::begin_turn`] |
//! | `engine.step()` | `engine.run(events)` | [`Scheduler::step`]; the engine's thread calls it |
//! | `has_pending_requests()` | | [`Scheduler::has_pending`] |
//! | `has_unseen_tokens()`, `get_unseen_token()` | events with `TOKEN` | [`Event::Token`], from the iterator [`Turn`] |
//! | `is_done()`, `is_turn_complete` | events with `TURN_FINISHED` | [`Event::Finished`] |
//! | | `finish_reason`, `usage`, `error_code` | the same in [`Event::Finished`], as [`crate::completion::FinishReason`], [`Usage`], [`crate::Error`] |
//! | | `cancel_turn` | [`Turn::cancel`], or dropping it; [`Scheduler::cancel`] |
//! | | `rewind_to_start_of_turn` | [`Session::rewind`] to any length; a failed turn is rewound by itself |
//! | `remove_request` | `request.close` | dropping the [`Session`]; [`Scheduler::close`] |
//! | `set_opaque_data`, `get_opaque_data` | | nothing: keep it beside the [`Turn`], or by [`SessionId`] |
//! | | `CAPACITY_BLOCKED`, `RETRYABLE` | [`crate::Error::Busy`] when the queue is full; a cache is allocated as a whole when its text starts |
//!
//! The peer's dynamic batching runs several sequences in one run of a graph with PagedAttention, a kernel of CUDA.

mod event;
mod options;
mod scheduler;
mod session;
mod worker;

pub use event::{Event, Usage};
pub use options::{EngineOptions, SessionOptions};
pub(crate) use scheduler::common;
pub use scheduler::{Scheduler, SessionId};
pub use worker::{Engine, Output, Session, Shutdown, Turn};
