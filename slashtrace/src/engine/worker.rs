//! One worker: what is known of its life, its attribution and its work.

use std::sync::Arc;

use jiff::Timestamp;

use super::{
    activity::{Activity, Rise, Served},
    attribution::GroupKey,
    client::Client,
    rules::Rules,
};
use crate::model::{
    Confidence, FindingWorker, GatewayRef, Identity, ParentSource, Process, Source, Terminal,
};

/// Something happened: when, which record says so, how it was observed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) at: u64,
    pub(super) seq: u64,
    pub(super) source: Source,
}

/// How a worker came to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Birth {
    /// Live since, ns of the boot clock.
    pub(super) at: u64,
    pub(super) seq: u64,
    pub(super) time: Timestamp,
    pub(super) source: Source,
    pub(super) inherited: bool,
}

/// A worker's gateway, as its spawn named it.
#[derive(Clone, Debug)]
pub(super) struct Link {
    pub(super) gateway: Process,
    pub(super) how: ParentSource,
}

/// A sibling that served while a worker did not, kept when the sibling itself is forgotten.
#[derive(Clone, Copy, Debug)]
pub(super) struct Witness {
    pub(super) id: Identity,
    pub(super) spawn_seq: u64,
    pub(super) rise_seq: u64,
    pub(super) surety: Confidence,
    pub(super) exact: bool,
}

/// A worker, live or not long ended.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) id: Identity,
    pub(super) birth: Birth,
    pub(super) link: Option<Link>,
    pub(super) surety: Confidence,
    /// Real user id at its spawn.
    pub(super) uid: u32,
    /// Its parent and the processes above it, as its spawn named them.
    pub(super) above: Vec<Identity>,
    /// Who above it opens terminals for sessions.
    pub(super) opener: Option<Identity>,
    /// Controlling terminal that its spawn named.
    pub(super) terminal: Option<Terminal>,
    /// When its spawn was reported, ns of the boot clock.
    pub(super) seen_ns: u64,
    pub(super) session: Option<Arc<str>>,
    pub(super) model: Option<String>,
    /// It only launched the real worker.
    pub(super) launcher: bool,
    pub(super) exit: Option<Moment>,
    /// It executed something that is no worker.
    pub(super) left: Option<Moment>,
    /// First sample in state `Z`, until it is reaped.
    pub(super) zombie: Option<Moment>,
    pub(super) rss_kib: Option<u64>,
    pub(super) activity: Activity,
    /// First look at which nobody held the write end of its stdin.
    pub(super) unheld: Option<Moment>,
    pub(super) witness: Option<Witness>,
    /// The client that it is for.
    pub(super) client: Option<Client>,
    /// A look at its gateway's connections has said who that is, or that it cannot be known.
    pub(super) client_judged: bool,
    /// Once it has ended: until when it is kept.
    pub(super) kept_until: u64,
}

impl Worker {
    pub(super) fn key(&self) -> Option<GroupKey> {
        let session = Arc::clone(self.session.as_ref()?);
        Some(GroupKey { gateway: self.link.as_ref()?.gateway.identity(), session })
    }

    /// When it stopped being a live worker.
    pub(super) fn end(&self) -> Option<Moment> {
        [self.exit, self.left, self.zombie].into_iter().flatten().min_by_key(|end| end.at)
    }

    pub(super) fn is_live(&self) -> bool {
        self.exit.is_none() && self.left.is_none() && self.zombie.is_none()
    }

    /// When it becomes older than the overlap grace.
    pub(super) fn matures_at(&self, rules: &Rules) -> u64 {
        self.birth.at.saturating_add(rules.overlap)
    }

    pub(super) fn served(&self, now: u64, rules: &Rules) -> Option<Served> {
        let until = self.end().map_or(now, |end| end.at.min(now));
        self.activity.served(until, !self.birth.inherited, rules)
    }

    /// How long two workers lived side by side.
    pub(super) fn overlap(&self, other: &Self, now: u64) -> u64 {
        let end = |worker: &Self| worker.end().map_or(now, |end| end.at);
        end(self).min(end(other)).saturating_sub(self.birth.at.max(other.birth.at))
    }

    pub(super) fn named(&self) -> FindingWorker {
        FindingWorker {
            pid: self.id.pid,
            start_ns: self.id.start_ns,
            spawned_at: self.birth.time,
            rss_kib: self.rss_kib,
            reads: self.activity.reads().filter(|_| !self.birth.inherited),
            unused: false,
        }
    }

    pub(super) fn gateway_ref(&self) -> Option<GatewayRef> {
        self.link.as_ref().map(|link| GatewayRef {
            pid: link.gateway.pid,
            start_ns: link.gateway.start_ns,
            comm: link.gateway.comm.clone(),
            argv0: link.gateway.argv0.clone(),
            how: link.how,
        })
    }
}

/// Whether `sibling` was seen to serve (at `rise`) while it lived beside `worker`, and both lived
/// side by side for longer than a restart takes.
pub(super) fn witness(
    worker: &Worker,
    sibling: &Worker,
    rise: Rise,
    now: u64,
    rules: &Rules,
) -> Option<Witness> {
    let beside = rise.from >= worker.birth.at.max(sibling.birth.at);
    let served = sibling.served(now, rules)?;
    // One of another user is nobody's sibling: it may be there to be taken for one.
    let kin = worker.id != sibling.id && worker.uid == sibling.uid;
    (kin && beside && worker.overlap(sibling, now) >= rules.overlap).then_some(Witness {
        id: sibling.id,
        spawn_seq: sibling.birth.seq,
        rise_seq: rise.seq,
        surety: sibling.surety,
        exact: served.exact,
    })
}
