//! What a checkpoint may contain, and what happens when it does not. One binary, to link once.

mod adapters;
mod against_reference;
mod configs;
mod demo_model;
mod download;
mod download_faults;
mod headers;
mod hub;
mod links;
mod mock_hub;
mod reading;
mod renaming;
mod shards;
mod support;
