//! Evidence: records to NDJSON and back, and the schema that documents them.
//! May touch: `model`, and the writer or reader it is handed.

mod place;
mod queue;
mod reader;
#[cfg(test)]
pub(crate) mod samples;
/// The JSON Schema of a record, made from the Rust types, and its copy in docs/EVIDENCE.md.
pub mod schema;
mod source;
mod store;
mod target;
mod writer;

use anyhow::{Context as _, Result};

pub(crate) use place::holder as lock_holder;
pub use reader::{Defect, Problem, Reader};
pub use source::NAMES as EVIDENCE_NAMES;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use source::of_bytes;
pub use store::{Known, checkpoints, last_known};
pub use writer::EvidenceWriter;

use crate::model::Record;

/// A record as it is written: one line of JSON, without its newline.
pub fn line(record: &Record) -> Result<String> {
    serde_json::to_string(record).context("cannot turn a record into JSON")
}
