//! Which workers could not be judged, and why: the one place that says so. No finding about a worker
//! means that it is fine only where there is no such reason.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Reach, Roster, usage::Unseen, worker::Worker};
use crate::{model::Identity, profile::OnePer};

/// Why a worker could not be judged, or not in full.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unjudged {
    /// There is to be one per session, and its arguments name none.
    NoSession,
    /// The same, and its arguments were cut: the key may be in the part that was not read.
    ArgvCut,
    /// Nobody is known to be its gateway.
    NoGateway,
    /// Its stdin, its output or its sockets could not be looked at.
    Hidden,
    /// The same, because the processes of its user take too long to read.
    OverBudget,
    /// Its start is not over, and one of its session lives beside it.
    Starting,
    /// It was there before the recording: what came before is not known.
    Inherited,
}

/// Workers by why they could not be judged.
pub type Reasons = BTreeMap<Unjudged, u64>;

impl Unjudged {
    /// Whether it was judged by everything but what was not seen yet, or before the recording.
    pub const fn in_part(self) -> bool {
        matches!(self, Self::Starting | Self::Inherited)
    }

    /// For people.
    pub const fn words(self) -> &'static str {
        match self {
            Self::NoSession => "no session key",
            Self::ArgvCut => "arguments cut before the session key",
            Self::NoGateway => "no gateway known",
            Self::Hidden => "stdin and output not visible",
            Self::OverBudget => "its user's processes take too long to read",
            Self::Starting => "still starting",
            Self::Inherited => "there before the recording",
        }
    }
}

impl Roster {
    /// Why a worker could not be judged; `None` if it was, or is no worker of its own.
    pub(crate) fn unjudged(&self, id: Identity) -> Option<Unjudged> {
        let worker = self.worker(id).filter(|worker| worker.counts())?;
        self.cannot_place(worker)
            .or_else(|| self.cannot_see(worker))
            .or_else(|| self.is_starting(worker).then_some(Unjudged::Starting))
            .or_else(|| worker.birth.inherited.then_some(Unjudged::Inherited))
    }

    /// How many workers of the recording could not be judged.
    pub(crate) fn all_unjudged(&self) -> Reasons {
        let mut all = self.unjudged_before.clone();
        for why in self.workers.values().filter_map(|worker| self.unjudged(worker.id)) {
            *all.entry(why).or_default() += 1;
        }
        all
    }

    /// Without a key or a gateway nobody knows which workers it is one too many of, or whom it
    /// outlives. One that nobody can use is judged by that alone; and one that ended within the
    /// overlap grace can be none too many.
    fn cannot_place(&self, worker: &Worker) -> Option<Unjudged> {
        let end = worker.end().map_or(u64::MAX, |end| end.at);
        let short = end.saturating_sub(worker.birth.at) < self.rules.overlap;
        if short || matches!(worker.reach(&self.rules), Reach::Nobody { .. }) {
            return None;
        }
        if worker.one_per == OnePer::Session && worker.session.is_none() {
            let cut = worker.argv_truncated;
            return Some(if cut { Unjudged::ArgvCut } else { Unjudged::NoSession });
        }
        worker.gateway.is_none().then_some(Unjudged::NoGateway)
    }

    /// A look takes a moment. What was recorded without one was judged without.
    fn cannot_see(&self, worker: &Worker) -> Option<Unjudged> {
        let since = worker.birth.at.max(worker.seen_ns);
        let looked = self.now.saturating_sub(since) >= self.rules.orphan;
        let hidden = matches!(worker.reach(&self.rules), Reach::Unknown(Unseen::Hidden));
        let over = worker.usage().is_over_budget();
        let why = if over { Unjudged::OverBudget } else { Unjudged::Hidden };
        (self.rules.sees_use && worker.is_live() && looked && hidden).then_some(why)
    }

    /// Which of several of one session serves is known once each has started.
    fn is_starting(&self, worker: &Worker) -> bool {
        let group = worker.key().and_then(|key| self.group(&key));
        self.rules.sees_use
            && worker.is_live()
            && group.is_some_and(|group| group.live.len() > 1)
            && worker.served(self.now, &self.rules).is_none()
    }

    /// Keeps the reason of a worker that is about to be forgotten.
    pub(super) fn keep_unjudged(&mut self, id: Identity) {
        if let Some(why) = self.unjudged(id) {
            *self.unjudged_before.entry(why).or_default() += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        evidence::samples::{record, spawn},
        model::{
            Body, EndKind, OutputPeer, OutputState, Sample, Spawn, StdinPeer, StdinState, testing,
        },
        profile::Profile,
    };

    const S: u64 = 1_000_000_000;

    /// A roster that has seen this worker for a minute, with these samples of it.
    fn seen(spawn: Spawn, samples: &[Sample]) -> Roster {
        let mut roster = Roster::new(&Profile::hermes());
        roster.rules.sees_use = true;
        let spawned = spawn.start_ns;
        roster.observe(&record(1, spawned, Body::Spawn(Box::new(spawn))));
        for (seq, sample) in (2..).zip(samples) {
            let body = Body::Sample(sample.clone());
            roster.observe(&record(seq, spawned + (seq - 1) * S, body));
        }
        let tick = Body::Tick(crate::model::Tick::default());
        roster.observe(&record(100, spawned + 60 * S, tick));
        roster
    }

    fn sample(state: StdinState) -> Sample {
        let holder = spawn().parent.unwrap().process.identity();
        let holder = (state == StdinState::Held).then_some(holder);
        Sample {
            stdin: Some(StdinPeer { kind: Some(EndKind::Pipe), state, holder }),
            output: Some(OutputPeer {
                kind: EndKind::Null,
                state: OutputState::Unknown,
                reader: None,
            }),
            ..testing::sample(spawn().identity())
        }
    }

    fn why(change: impl FnOnce(&mut Spawn), samples: &[Sample]) -> Option<Unjudged> {
        let mut spawn = spawn();
        change(&mut spawn);
        let id = spawn.identity();
        seen(spawn, samples).unjudged(id)
    }

    #[test]
    fn a_healthy_worker_was_judged() {
        assert_eq!(why(|_| (), &[sample(StdinState::Held)]), None);
    }

    #[test]
    fn without_a_key_or_a_gateway_it_was_not() {
        let held = [sample(StdinState::Held)];
        assert_eq!(why(|spawn| spawn.session = None, &held), Some(Unjudged::NoSession));
        let cut = |spawn: &mut Spawn| (spawn.session, spawn.argv_truncated) = (None, true);
        assert_eq!(why(cut, &held), Some(Unjudged::ArgvCut));
        assert_eq!(why(|spawn| spawn.parent = None, &held), Some(Unjudged::NoGateway));
        assert_eq!(why(|spawn| spawn.inherited = true, &held), Some(Unjudged::Inherited));
    }

    #[test]
    fn one_that_nobody_can_use_was_judged_by_that() {
        let closed = [sample(StdinState::Held), sample(StdinState::Unheld)];
        assert_eq!(why(|spawn| spawn.session = None, &closed), None);
        assert_eq!(why(|spawn| spawn.parent = None, &closed), None);
    }

    #[test]
    fn one_that_could_not_be_looked_at_was_not() {
        assert_eq!(why(|_| (), &[]), Some(Unjudged::Hidden));
        let blind = Sample { output: None, ..sample(StdinState::Unknown) };
        assert_eq!(why(|_| (), &[blind]), Some(Unjudged::Hidden));
        let over = Sample { over_budget: true, ..sample(StdinState::Unknown) };
        assert_eq!(why(|_| (), std::slice::from_ref(&over)), Some(Unjudged::OverBudget));
        assert_eq!(why(|_| (), &[over, sample(StdinState::Held)]), None);
        // One with no stdin that could show anything was looked at.
        let mut null = sample(StdinState::Unknown);
        null.stdin = null.stdin.map(|stdin| StdinPeer { kind: Some(EndKind::Null), ..stdin });
        assert_eq!(why(|_| (), &[null]), None);
    }

    #[test]
    fn one_that_ended_at_once_is_none_too_many_and_is_counted_when_it_is_forgotten() {
        let ended_after = |s: u64| {
            let keyless = Spawn { session: None, ..spawn() };
            let (start, id) = (keyless.start_ns, keyless.identity());
            let mut roster = Roster::new(&Profile::hermes());
            roster.observe(&record(1, start, Body::Spawn(Box::new(keyless))));
            let exit = Body::Exit(testing::exit(id));
            roster.observe(&record(2, start + s * S, exit));
            let tick = || Body::Tick(crate::model::Tick::default());
            roster.observe(&record(3, start + 86_400 * S, tick()));
            roster.observe(&record(4, start + 86_401 * S, tick()));
            assert!(roster.worker(id).is_none(), "it is forgotten");
            roster.all_unjudged()
        };
        assert_eq!(ended_after(1), Reasons::new());
        assert_eq!(ended_after(60), [(Unjudged::NoSession, 1)].into());
    }
}
