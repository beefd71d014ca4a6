//! When each subject is to be judged again although no record is about it.

use std::collections::BTreeSet;

use crate::roster::{Index, Subject, give_back};

/// A queue with at most one moment for each subject.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    queue: BTreeSet<(u64, Subject)>,
    by_subject: Index<Subject, u64>,
}

impl Deadlines {
    pub(super) fn first(&self) -> Option<u64> {
        self.queue.first().map(|&(at, _)| at)
    }

    pub(super) fn set(&mut self, subject: Subject, at: Option<u64>) {
        let before = match at {
            Some(at) => self.by_subject.insert(subject.clone(), at),
            None => self.by_subject.remove(&subject),
        };
        if before == at {
            return;
        }
        if let Some(before) = before {
            self.queue.remove(&(before, subject.clone()));
        }
        if let Some(at) = at {
            self.queue.insert((at, subject));
        }
    }

    /// Takes out the subjects whose moment has come.
    pub(super) fn due(&mut self, now: u64, due: &mut BTreeSet<Subject>) {
        while self.queue.first().is_some_and(|&(at, _)| at <= now) {
            if let Some((_, subject)) = self.queue.pop_first() {
                self.by_subject.remove(&subject);
                give_back(&mut self.by_subject);
                due.insert(subject);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn sizes(&self) -> Vec<usize> {
        vec![self.queue.len(), self.by_subject.len()]
    }
}
