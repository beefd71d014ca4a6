//! The pipeline: sensor → record → engine → sinks.
//! May touch: everything; it is the only place where they meet.
