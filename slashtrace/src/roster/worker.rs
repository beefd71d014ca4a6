//! One worker: what is known of its life, its attribution and its work.

use std::sync::Arc;

use jiff::Timestamp;

use super::{
    activity::{Activity, Rise, Served},
    attribution::GroupKey,
    client::Client,
    group::Listed,
    rules::Rules,
    usage::Usage,
};
use crate::{
    model::{
        Confidence, FindingWorker, GatewayRef, Identity, Maybe, MaybeId, MaybeTerminal,
        ParentSource, Process, Source,
    },
    profile::{Channel, OnePer},
};

/// Something happened: when, which record says so, how it was observed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    pub(crate) at: u64,
    pub(crate) seq: u64,
    pub(crate) source: Source,
}

/// How a worker came to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Birth {
    /// Live since, ns of the boot clock.
    pub(crate) at: u64,
    pub(crate) seq: u64,
    pub(crate) time: Timestamp,
    pub(crate) source: Source,
    pub(crate) inherited: bool,
}

/// A worker's gateway, as its spawn named it.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) process: Arc<Process>,
    pub(crate) how: ParentSource,
}

/// A sibling that served while a worker did not, kept when the sibling itself is forgotten.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Witness {
    pub(crate) id: Identity,
    pub(crate) spawn_seq: u64,
    pub(crate) rise_seq: u64,
    /// From when on it may have served, ns of the boot clock.
    pub(crate) from: u64,
    pub(crate) surety: Confidence,
    pub(crate) exact: bool,
}

/// The other one of a pair that was born at once: its gateway ended it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Survived {
    pub(crate) id: Identity,
    pub(crate) spawn_seq: u64,
    pub(crate) end: Moment,
    /// It came later, its calls were counted, and it served one.
    pub(crate) preferred: bool,
}

/// What is known of few workers.
#[derive(Debug, Default)]
pub(crate) struct Rare {
    /// The worker that it is a part of: that one forked several with its own key.
    pub(crate) part_of: Option<Identity>,
    /// What launched it, nearest first, and the end of one of these.
    pub(crate) launchers: Vec<Identity>,
    pub(crate) launcher_exit: Option<Moment>,
    /// The resident sets of these, KiB.
    pub(super) launchers_rss_kib: Option<u64>,
    /// Who is its gateway once it is seen to hold its stdin.
    pub(super) candidate: Option<Link>,
    /// Who sent it the last signal that ends a process.
    pub(super) signalled_by: Option<Identity>,
    /// When that was, ns of the boot clock.
    pub(super) signalled_ns: u64,
    /// What it outlived of its session, born at the same time.
    pub(crate) survived: Option<Survived>,
    /// It executed something that is no worker.
    pub(crate) left: Option<Moment>,
    /// When it was another program before it became a worker again, ns of the boot clock.
    pub(super) away: Option<std::ops::Range<u64>>,
    /// First sample in state `Z`, until it is reaped.
    pub(crate) zombie: Option<Moment>,
    /// There was a time in which nobody watched it: what it served then is not counted.
    pub(super) interrupted: bool,
    /// Whether it read something then is not known yet.
    pub(super) unsettled: bool,
    pub(crate) witness: Option<Witness>,
}

/// What is known of one that has ended, became another program, or is a zombie.
#[derive(Debug, Default)]
pub(super) struct Ended {
    exit: Option<Moment>,
    /// It exited by itself, with 0.
    well: bool,
    /// Until when it is kept, ns of the boot clock.
    kept_until: u64,
}

static NOTHING: Rare = Rare {
    part_of: None,
    launchers: Vec::new(),
    launcher_exit: None,
    launchers_rss_kib: None,
    candidate: None,
    signalled_by: None,
    signalled_ns: 0,
    survived: None,
    left: None,
    away: None,
    zombie: None,
    interrupted: false,
    unsettled: false,
    witness: None,
};

/// A worker, live or not long ended. Small, for there may be many: what is so of few is boxed.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(crate) struct Worker {
    pub(crate) id: Identity,
    pub(crate) birth: Birth,
    pub(crate) gateway: Option<Link>,
    pub(crate) surety: Confidence,
    /// Real user id at its spawn.
    pub(crate) uid: u32,
    /// Its parent and the processes above it, as its spawn named them, nearest first.
    pub(crate) above: Arc<[Identity]>,
    /// Whether its argv was cut when it was read.
    pub(crate) argv_truncated: bool,
    /// Who above it opens terminals for sessions.
    pub(super) opener: MaybeId,
    /// Controlling terminal that its spawn named.
    pub(super) terminal: MaybeTerminal,
    /// When its spawn was reported, ns of the boot clock.
    pub(crate) seen_ns: u64,
    pub(crate) session: Option<Arc<str>>,
    pub(crate) model: Option<Arc<str>>,
    /// It only launched the real worker.
    pub(crate) launcher: bool,
    /// It forked several with its own key, which are parts of it.
    pub(super) spread: bool,
    pub(super) rare: Option<Box<Rare>>,
    pub(super) ended: Option<Box<Ended>>,
    /// Its own resident set, KiB.
    pub(super) rss_kib: Maybe,
    pub(crate) activity: Activity,
    /// Who can use it, as far as was seen.
    pub(super) usage: Usage,
    /// How it is spoken to, if its profile says.
    pub(super) channel: Option<Channel>,
    /// What there is one worker per.
    pub(super) one_per: OnePer,
    /// The client that it is for.
    pub(crate) client: Option<Box<Client>>,
    /// A look at its gateway's connections has said who that is, or that it cannot be known.
    pub(crate) client_judged: bool,
    /// Somebody else has used it since its client left: nobody is its client any more.
    pub(super) taken: bool,
    /// Where it is listed.
    pub(super) listed: Listed,
}

impl Worker {
    /// What is known of few workers.
    pub(crate) fn rare(&self) -> &Rare {
        self.rare.as_deref().unwrap_or(&NOTHING)
    }

    /// The same, to note something that is so of few.
    pub(super) fn rare_mut(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// Its end, if that was seen.
    pub(crate) fn exit(&self) -> Option<Moment> {
        self.ended.as_deref()?.exit
    }

    pub(super) fn set_exit(&mut self, exit: Option<Moment>) {
        if exit.is_some() || self.ended.is_some() {
            self.ended.get_or_insert_default().exit = exit;
        }
    }

    /// Whether it exited by itself, with 0.
    pub(super) fn exited_well(&self) -> bool {
        self.ended.as_deref().is_some_and(|ended| ended.well)
    }

    pub(super) fn set_exited_well(&mut self, well: bool) {
        self.ended.get_or_insert_default().well = well;
    }

    /// Until when it is kept once it has ended, ns of the boot clock.
    pub(super) fn kept_until(&self) -> u64 {
        self.ended.as_deref().map_or(0, |ended| ended.kept_until)
    }

    /// Sets that; until when it was to be kept before.
    pub(super) fn keep_until(&mut self, until: u64) -> u64 {
        std::mem::replace(&mut self.ended.get_or_insert_default().kept_until, until)
    }

    /// When it was first seen as a zombie that is not reaped yet.
    pub(crate) fn zombie(&self) -> Option<Moment> {
        self.rare().zombie
    }

    pub(super) fn set_zombie(&mut self, zombie: Option<Moment>) {
        if zombie.is_some() || self.rare.is_some() {
            self.rare_mut().zombie = zombie;
        }
    }

    /// When it executed something that is no worker.
    pub(crate) fn left(&self) -> Option<Moment> {
        self.rare().left
    }

    pub(super) fn set_left(&mut self, left: Option<Moment>) {
        if left.is_some() || self.rare.is_some() {
            self.rare_mut().left = left;
        }
    }

    /// The group that it belongs to: where one worker is supposed to be.
    pub(crate) fn key(&self) -> Option<GroupKey> {
        let session = match self.one_per {
            OnePer::Session => Arc::clone(self.session.as_ref()?),
            OnePer::Gateway => Arc::from(""),
            OnePer::None => return None,
        };
        Some(GroupKey { gateway: self.gateway_id()?, session })
    }

    /// The gateway that it is below.
    pub(crate) fn gateway_id(&self) -> Option<Identity> {
        self.gateway.as_ref().map(|link| link.process.identity())
    }

    /// When it stopped being a live worker.
    pub(crate) fn end(&self) -> Option<Moment> {
        [self.exit(), self.left(), self.zombie()].into_iter().flatten().min_by_key(|end| end.at)
    }

    pub(crate) fn is_live(&self) -> bool {
        self.exit().is_none() && self.left().is_none() && self.zombie().is_none()
    }

    /// When it becomes older than the overlap grace.
    pub(crate) fn matures_at(&self, rules: &Rules) -> u64 {
        self.birth.at.saturating_add(rules.overlap)
    }

    pub(crate) fn served(&self, now: u64, rules: &Rules) -> Option<Served> {
        let until = self.end().map_or(now, |end| end.at.min(now));
        self.activity.served(until, !self.birth.inherited && !self.rare().interrupted, rules)
    }

    /// Whether what is known of it is no longer only of before a time in which nobody watched.
    pub(crate) fn was_seen_again(&self) -> bool {
        !self.rare().unsettled
    }

    /// How long two workers lived side by side.
    pub(crate) fn overlap(&self, other: &Self, now: u64) -> u64 {
        let end = |worker: &Self| worker.end().map_or(now, |end| end.at);
        end(self).min(end(other)).saturating_sub(self.birth.at.max(other.birth.at))
    }

    /// The resident set of it and of what only launched it, KiB: they are one worker.
    pub(crate) fn rss_kib(&self) -> Option<u64> {
        let launchers = self.rare().launchers_rss_kib.unwrap_or(0);
        Some(self.rss_kib.get()?.saturating_add(launchers))
    }

    pub(crate) fn named(&self) -> FindingWorker {
        FindingWorker {
            pid: self.id.pid,
            start_ns: self.id.start_ns,
            spawned_at: self.birth.time,
            rss_kib: self.rss_kib(),
            reads: self.activity.reads().filter(|_| !self.birth.inherited),
            unused: false,
        }
    }

    pub(crate) fn gateway_ref(&self) -> Option<GatewayRef> {
        self.gateway.as_ref().map(|link| GatewayRef {
            pid: link.process.pid,
            start_ns: link.process.start_ns,
            comm: link.process.comm.clone(),
            argv0: link.process.argv0.clone(),
            how: link.how,
        })
    }
}

/// Whether `sibling` was seen to serve (at `rise`) while it lived beside `worker`, and both lived
/// side by side for longer than a restart takes.
pub(crate) fn witness(
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
        from: rise.from,
        surety: sibling.surety,
        exact: served.exact,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::roster::Group;

    /// There is one of each for every live worker. The allocator rounds up by a quarter at most.
    #[test]
    fn what_each_live_worker_takes_stays_small() {
        assert!(size_of::<Worker>() <= 396, "{}", size_of::<Worker>());
        assert!(size_of::<Group>() <= 60, "{}", size_of::<Group>());
    }
}
