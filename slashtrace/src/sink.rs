//! Where records go: the evidence file, live lines, the table at the end. A room of its own, so
//! that those who write records need not know who hands them out.

use anyhow::Result;

use crate::{model::Record, roster::Roster};

/// Takes the records of a recording, in order of `seq`, each once.
pub trait Sink {
    /// Takes one record. The roster has folded it in already.
    fn record(&mut self, record: &Record, roster: &Roster) -> Result<()>;

    /// Called after each batch of records: what was taken should now be visible outside.
    fn flush(&mut self) -> Result<()>;
}
