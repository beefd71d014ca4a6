//! Evidence: records to NDJSON and back, and the schema that documents them.
//! May touch: `model`, and the writer or reader it is handed.

mod reader;
mod schema;
mod writer;

pub use reader::{Damage, Evidence, read};
pub use schema::schema;
pub use writer::EvidenceWriter;
