use std::collections::BTreeSet;

use crate::model::{Action, Confidence, Identity, Kind, Outcome, Phase, Step, Terminal};

/// That a worker is to be ended, and why. What is in it is what was observed; it is checked against
/// the world at the moment of acting.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Decision {
    /// The worker.
    pub worker: Identity,
    /// Its gateway, where it is known.
    pub gateway: Option<Identity>,
    /// Real user id at its spawn.
    pub uid: u32,
    /// The session key that its argv named, escaped.
    pub session: Option<String>,
    /// Whether the session key may only not have been seen because argv was cut.
    pub argv_truncated: bool,
    /// The finding that justifies it: its id, kind and confidence.
    pub finding: String,
    /// Its kind.
    pub kind: Kind,
    /// Its confidence.
    pub confidence: Confidence,
    /// The terminal that it says was closed.
    pub terminal: Option<Terminal>,
    /// Whether the kernel saw it execute what made it a worker: an argv that is another by now, in a
    /// program that is the same, is a title that it wrote over the old one.
    pub seen_exec: bool,
    /// Read system calls that it had made when it was last sampled, if that could be read and its
    /// start was over.
    pub syscr: Option<u64>,
    /// Whether nobody was seen to read its output, which has another end.
    pub output_unread: bool,
    /// Connections to its gateway (inodes of that one's sockets) that are not its own client, come
    /// back: they were there when that one left, or are clients of other workers. Only of a worker that
    /// is taken for abandoned, and none where that is because nobody is connected.
    pub other_clients: BTreeSet<u64>,
    /// What was seen of each way to use it, for a person.
    pub ways: String,
    /// Sequence number of the record that last said it.
    pub seq: u64,
    /// Live processes below the worker. They are watched, never signalled.
    pub descendants: Vec<Identity>,
    /// Live workers that this worker forked: it is a gateway itself.
    pub gateway_of: Vec<Identity>,
}

impl Decision {
    /// An action about this worker.
    pub(super) fn action(&self, step: Step, phase: Phase, detail: impl Into<String>) -> Action {
        Action {
            uid: None,
            worker: Some(self.worker),
            step,
            phase,
            finding: Some(self.finding.clone()),
            kind: Some(self.kind),
            confidence: Some(self.confidence),
            because: vec![self.seq],
            outcome: None,
            took_ms: None,
            descendants: Vec::new(),
            detail: detail.into(),
        }
    }

    /// The same for a step that was done, with what came of it.
    pub(crate) fn done(&self, step: Step, outcome: Outcome, detail: impl Into<String>) -> Action {
        Action { outcome: Some(outcome), ..self.action(step, Phase::After, detail) }
    }
}
