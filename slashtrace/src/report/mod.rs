//! What people see: live lines, tables. One file a format; `words.rs` has what they share.
//! May touch: `model`, and the writer it is handed.

pub mod digest;
pub mod live;
pub mod ps;
pub mod reap;
#[cfg(test)]
mod samples;
pub mod table;
mod words;

pub use live::Live;
pub use table::{Table, terminal_width};
