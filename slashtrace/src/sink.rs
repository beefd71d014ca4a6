//! Where records go: the evidence file, live lines, the digest of a report. A room of its own, so
//! that those who write records need not know who hands them out.

use anyhow::Result;

use crate::{model::Record, roster::Roster};

/// Takes the records of a recording, in order of `seq`, each once.
pub trait Sink {
    /// Takes one record. The roster has folded it in already.
    fn record(&mut self, record: &Record, roster: &Roster) -> Result<()>;

    /// Takes a record of a `checkpoint`: it was recorded before, and is told again for whoever keeps
    /// account of workers.
    fn recall(&mut self, _record: &Record, _roster: &Roster) -> Result<()> {
        Ok(())
    }

    /// Called after each batch of records: what was taken should soon be visible outside. Does not
    /// wait for whoever reads it.
    fn flush(&mut self) -> Result<()>;

    /// Has everything written that was taken, without waiting for long. Whether it is.
    fn commit(&mut self) -> Result<bool> {
        self.flush()?;
        Ok(true)
    }

    /// Whether [`Self::standing`] has something new to say, apart from what was handed over since. It
    /// is asked often.
    fn has_news(&self) -> bool {
        false
    }

    /// How the writing is going.
    fn standing(&mut self) -> Result<Standing> {
        Ok(Standing::default())
    }

    /// Opens its file anew: somebody rotates logs.
    fn reopen(&mut self) {}
}

/// How a sink's writing is going.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Standing {
    /// Records cannot be written at the moment.
    pub behind: bool,
    /// Records are on their way.
    pub waiting: bool,
    /// Records that were left out, where a gap can tell of them now: what came before is written.
    pub missed: u64,
    /// Why nothing can be written, for people.
    pub trouble: Option<String>,
    /// What else people are to know.
    pub notes: Vec<String>,
}
