//! What a checkpoint may contain, and what happens when it does not. One binary, to link once.

mod against_reference;
mod configs;
mod demo_model;
mod headers;
mod hub;
mod links;
mod reading;
mod renaming;
mod shards;
mod support;
