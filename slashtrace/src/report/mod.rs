//! What people see: live lines, tables. One file a format; `words.rs` has what they share.
//! May touch: `model`, and the writer it is handed.

#[cfg(test)]
mod agreement;
pub(crate) mod columns;
pub mod diff;
pub mod digest;
mod ending;
mod facts;
pub mod github;
pub mod html;
pub mod junit;
#[cfg(test)]
mod lengths;
pub mod live;
pub mod markdown;
pub mod ps;
pub mod reap;
#[cfg(test)]
mod samples;
pub(crate) mod style;
pub mod table;
pub mod text;
pub(crate) mod words;

pub use live::Live;
pub use table::terminal_width;
