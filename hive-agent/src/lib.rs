//! rbee-hive: one machine's hands. It fetches models, starts workers, watches them and reports; it decides nothing.
//!
//! Two rooms do the work: [`catalog`] owns the models, [`workers`] owns the processes. Both write what changes onto one
//! [`events::Board`], from which every list, snapshot and event stream is read. [`http`] is the door and holds no
//! knowledge of its own.

pub mod catalog;
pub mod cli;
pub mod config;
pub mod detect;
pub mod events;
pub mod hive;
pub mod http;
mod lock;
mod process_group;
mod size;
pub mod workers;
