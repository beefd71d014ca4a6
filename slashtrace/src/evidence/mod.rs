//! Evidence: records to NDJSON and back, and the schema that documents them.
//! May touch: `model`, and the writer or reader it is handed.
