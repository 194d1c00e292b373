//! One file per verb: call the libraries, print the result.

pub(crate) mod build;
pub(crate) mod chat;
pub(crate) mod child;
pub(crate) mod diff;
pub(crate) mod inspect;
pub(crate) mod plan;
pub(crate) mod run;
pub(crate) mod runtime;
pub(crate) mod tables;
pub(crate) mod validate;
pub(crate) mod verify;
