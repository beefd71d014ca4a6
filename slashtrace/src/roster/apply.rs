//! What each record changes.

use std::sync::Arc;

use jiff::SignedDuration;

use super::{
    Roster, Subject,
    activity::Activity,
    attribution,
    family::Descendant,
    group::Listed,
    usage::Usage,
    worker::{Birth, Link, Moment, Worker},
};
use crate::model::{
    Body, Clients, Exec, Exit, GapReason, Identity, Maybe, Parent, ParentSource, Process, Record,
    Role, Sample, SensorKind, Source, Spawn, Step, USE_CAPABILITY,
};
use crate::profile::{Channel, OnePer};

/// SIGKILL and SIGTERM, the same on every architecture (signal(7)).
const KILL: u8 = 9;
const TERM: u8 = 15;
/// Launchers that are followed, one above the other.
const LAUNCHERS_MAX: usize = 16;

impl Roster {
    /// Takes one record. What it does not concern stays as it is; processes that are not known
    /// are no error.
    pub(crate) fn apply(&mut self, record: &Record) {
        match &record.body {
            Body::Start(start) => {
                self.rules.sampled_every(start.limits.sample_interval_ms);
                self.rules.sees_all = start.sensor == SensorKind::Ebpf;
                self.rules.sees_use = start.capabilities.iter().any(|it| it.name == USE_CAPABILITY);
            }
            Body::Spawn(spawn) => match spawn.role {
                Role::Worker => {
                    self.worker_spawned(record, spawn);
                    self.thread_forked(record, spawn);
                }
                Role::Descendant => self.descendant_spawned(record, spawn),
                Role::Gateway | Role::Ancestor => {}
            },
            Body::Exec(exec) => self.executed(record, exec),
            Body::Exit(exit) => self.exited(record, exit),
            Body::Sample(sample) => self.sampled(record, sample),
            Body::Clients(clients) => self.clients_counted(record, clients),
            Body::Terminal(event) => self.terminal_seen(record, event),
            Body::Action(action) => {
                let stopped = match action.step {
                    Step::Stop => Some((record.seq, action.detail.clone())),
                    Step::Resume => None,
                    _ => return,
                };
                if let Some(stopped) = stopped {
                    self.reaper_stopped.insert(action.uid, stopped);
                } else {
                    self.reaper_stopped.remove(&action.uid);
                }
                self.touch(Subject::Reaper(action.uid));
            }
            Body::Tick(tick) => {
                if let Some(memory) = tick.memory {
                    self.memory = Some((memory, record.seq));
                }
            }
            Body::Signal(signal) => {
                // What was only counted is told of later than it was sent.
                let sent_ns = signal.first_ns.unwrap_or(record.boottime_ns);
                if matches!(signal.signal, TERM | KILL)
                    && let Some(worker) = self.workers.get_mut(&signal.identity())
                    && sent_ns >= worker.rare().signalled_ns
                {
                    let sender = signal.sender.as_ref().filter(|_| !signal.parent_ended);
                    let sender = sender.map(|it| Identity { pid: it.pid, start_ns: it.start_ns });
                    let rare = worker.rare_mut();
                    (rare.signalled_by, rare.signalled_ns) = (sender, sent_ns);
                    if worker.exit().is_some() {
                        self.leave_alone(signal.identity());
                    }
                }
            }
            Body::Reply(reply) => self.replied(record, reply),
            Body::Gap(gap) if gap.reason == GapReason::NotWatched => self.was_not_watched(record),
            Body::Program(_)
            | Body::Gap(_)
            // What is in it is folded in record by record.
            | Body::Checkpoint(_)
            | Body::Finding(_)
            | Body::Stop(_) => {}
        }
    }

    /// Nobody watched until now.
    fn was_not_watched(&mut self, record: &Record) {
        let now = moment(record, Source::Proc);
        let live = self.workers.values().filter(|worker| worker.is_live());
        for id in live.map(|worker| worker.id).collect::<Vec<_>>() {
            if let Some(worker) = self.workers.get_mut(&id) {
                let rare = worker.rare_mut();
                (rare.interrupted, rare.unsettled) = (true, true);
                if let Some(client) = &mut worker.client {
                    client.was_not_watched(now);
                }
            }
            self.touch_around(id);
        }
        // Somebody may have been connected meanwhile.
        for clientless in self.clientless.values_mut() {
            *clientless = now;
        }
    }

    fn worker_spawned(&mut self, record: &Record, spawn: &Spawn) {
        let id = spawn.identity();
        // A child that a launcher forked was its descendant until it executed.
        self.drop_descendant(id, None);
        let mut worker = new_worker(record, spawn);
        (worker.channel, worker.one_per) = self.rules.of_rule(spawn.rule.as_deref());
        let origin = self.origin_of(spawn);
        worker.gateway = origin.gateway;
        if !origin.launchers.is_empty() || origin.candidate.is_some() {
            let rare = worker.rare_mut();
            (rare.launchers, rare.candidate) = (origin.launchers, origin.candidate);
        }
        let mut came_back = false;
        if let Some(known) = self.workers.get(&id) {
            // Who is told to be a worker later than it was seen as a zombie lives.
            let revived = known.zombie().is_some_and(|zombie| zombie.at < record.boottime_ns);
            if revived {
                self.set_zombie(id, None);
            }
            let Some(known) = self.workers.get(&id) else { return };
            if !supersedes(&worker, known) {
                self.fill_in(id, worker);
                return;
            }
            came_back = known.left().is_some();
            let away = known.left().map(|left| left.at..record.boottime_ns);
            if let Some(away) = away.or_else(|| known.rare().away.clone()) {
                worker.rare_mut().away = Some(away);
            }
            worker.set_exit(known.exit());
            worker.set_zombie(known.zombie());
            worker.rss_kib = known.rss_kib;
            if let Some(launchers) = known.rare().launchers_rss_kib {
                worker.rare_mut().launchers_rss_kib = Some(launchers);
            }
            worker.activity = known.activity.clone();
            worker.usage = known.usage.clone();
            worker.launcher = known.launcher;
            worker.session = worker.session.or_else(|| known.session.clone());
            worker.terminal = worker.terminal.or(known.terminal);
            worker.opener = worker.opener.or(known.opener);
            worker.model = worker.model.or_else(|| known.model.clone());
            // One that was another program meanwhile is whose it was.
            if came_back || worker.gateway.is_none() {
                worker.gateway.clone_from(&known.gateway);
            }
            self.dismiss(id, false);
        } else {
            worker.set_exit(self.ends.get(id));
        }
        let parent = spawn.parent.as_ref().filter(|_| !came_back);
        let launcher = parent.map(|parent| parent.process.identity()).filter(|at| {
            self.workers.get(at).is_some_and(|parent| attribution::launched(parent, &worker))
        });
        if let Some(launcher) = launcher.and_then(|launcher| self.workers.get(&launcher)) {
            worker.gateway = self.beyond_launchers(launcher);
            worker.surety = worker.surety.min(launcher.surety);
            worker.launched_by(launcher);
        } else if let Some(link) = &mut worker.gateway {
            link.process = self.shared(Arc::clone(&link.process));
            let process = Arc::clone(&link.process);
            let gone = spawn
                .parent
                .as_ref()
                .filter(|parent| parent.gone && parent.process.identity() == process.identity());
            self.ensure_gateway(&process, gone.map(|_| moment(record, spawn.source)));
            self.share(&mut worker);
            if let Some(gateway) = self.gateways.get_mut(&process.identity())
                && gateway.forker.is_none()
            {
                gateway.forker = origin.forker;
            }
        }
        let ended = worker.exit().is_some();
        self.workers.insert(worker);
        self.enlist(id);
        self.note_launchers(id, spawn);
        if let Some(launcher) = launcher
            && !self.spreads(launcher, id)
        {
            self.step_back(launcher);
        }
        // Whom it forked while it was another program it did not launch.
        if !came_back {
            self.take_over_from(id);
        }
        if let Some(parent) = &spawn.parent {
            self.rehome(parent.process.identity(), id);
        }
        if ended {
            self.life_changed(id);
        } else {
            self.leave_alone(id);
        }
    }

    /// A launcher leaves its group to the worker that it launched.
    fn step_back(&mut self, launcher: Identity) {
        if self.workers.get(&launcher).is_some_and(|worker| !worker.launcher) {
            self.dismiss(launcher, false);
            if let Some(worker) = self.workers.get_mut(&launcher) {
                worker.launcher = true;
            }
        }
    }

    /// The gateway of a launcher: above it there may be another one, reported later than it was.
    fn beyond_launchers(&self, launcher: &Worker) -> Option<Link> {
        let above = |below: &&Worker| {
            let above = self.worker(below.gateway_id()?)?;
            (!above.counts() && attribution::launched(above, below)).then_some(above)
        };
        let outermost = std::iter::successors(Some(launcher), above).take(LAUNCHERS_MAX).last();
        outermost.and_then(|outermost| outermost.gateway.clone())
    }

    /// The same where the launched worker was reported before its launcher: it stands below the
    /// launcher as if that were its gateway.
    fn take_over_from(&mut self, launcher: Identity) {
        let Some(below) = self.gateways.get(&launcher) else { return };
        let Some(parent) = self.workers.get(&launcher) else { return };
        let link = self.beyond_launchers(parent);
        let surety = parent.surety;
        let client = (parent.client.clone(), parent.client_judged);
        let children: Vec<Identity> = below
            .live
            .iter()
            .copied()
            .chain(below.ended.iter().map(|(_, id)| id))
            .filter(|&child| {
                self.worker(child).is_some_and(|child| attribution::launched(parent, child))
            })
            .collect();
        for &child in &children {
            self.dismiss(child, false);
            if let Some(child) = self.workers.get_mut(&child) {
                child.gateway.clone_from(&link);
                child.surety = child.surety.min(surety);
                (child.client, child.client_judged) = client.clone();
            }
            self.enlist(child);
        }
        if !children.is_empty() {
            self.step_back(launcher);
        }
    }

    /// A spawn that was known already adds what was missing.
    fn fill_in(&mut self, id: Identity, later: Worker) {
        let Some(known) = self.workers.get(&id) else { return };
        let link = known.gateway.is_none() && later.gateway.is_some() && !known.launcher;
        let session = known.session.is_none() && later.session.is_some();
        let terminal = !known.terminal.is_some() && later.terminal.is_some();
        if link || session || terminal {
            self.dismiss(id, false);
        }
        let Some(known) = self.workers.get_mut(&id) else { return };
        if link {
            known.surety = known.surety.min(later.surety);
            known.gateway = later.gateway;
        }
        known.session = known.session.take().or(later.session);
        known.terminal = known.terminal.or(later.terminal);
        known.opener = known.opener.or(later.opener);
        known.model = known.model.take().or(later.model);
        if link || session || terminal {
            self.enlist(id);
        }
    }

    fn descendant_spawned(&mut self, record: &Record, spawn: &Spawn) {
        let id = spawn.identity();
        let Some(worker) = self.worker_above(spawn) else { return };
        if self.workers.contains_key(&id) || self.ends.get(id).is_some() {
            return;
        }
        if let Some(known) = self.descendants.get_mut(&id) {
            if known.helper.is_none() {
                known.helper.clone_from(&spawn.helper);
            }
        } else {
            let parent = spawn.parent.as_ref().map(|parent| parent.process.identity());
            let between =
                spawn.parent.as_ref().filter(|parent| parent.process.identity() != worker);
            let ended = between.and_then(|parent| self.ends.get(parent.process.identity()));
            let detached_at = ended
                .map(|end| end.at)
                .or_else(|| between.filter(|parent| is_lost(parent)).map(|_| record.boottime_ns));
            let spawned = moment(record, spawn.source);
            let helper = spawn.helper.clone();
            self.adopt(
                id,
                Descendant { worker, parent, spawned, helper, detached_at, grace: None },
            );
        }
        self.touch(Subject::Worker(worker));
    }

    /// The nearest worker above a descendant.
    fn worker_above(&self, spawn: &Spawn) -> Option<Identity> {
        let parent = spawn.parent.as_ref().map(|parent| parent.process.identity());
        let nearest = parent.and_then(|parent| {
            let worker = self.workers.contains_key(&parent).then_some(parent);
            worker.or_else(|| self.descendants.get(&parent).map(|parent| parent.worker))
        });
        nearest.or(spawn.worker)
    }

    fn executed(&mut self, record: &Record, exec: &Exec) {
        let id = exec.identity();
        if let Some(descendant) = self.descendants.get_mut(&id) {
            descendant.helper.clone_from(&exec.helper);
            let worker = descendant.worker;
            self.touch(Subject::Worker(worker));
        }
        if self.workers.get(&id).is_some_and(|worker| worker.zombie().is_some()) {
            self.set_zombie(id, None);
        }
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if exec.is_worker == worker.left().is_some() && worker.exit().is_none() {
            if let Some(left) = worker.left() {
                worker.rare_mut().away = Some(left.at..record.boottime_ns);
            }
            worker.set_left((!exec.is_worker).then(|| moment(record, exec.source)));
            self.life_changed(id);
        }
    }

    fn exited(&mut self, record: &Record, exit: &Exit) {
        let id = exit.identity();
        let end = moment(record, exit.source);
        if let Some(worker) = self.workers.get_mut(&id) {
            if let Some(reads) = exit.reads {
                let since = (!worker.birth.inherited).then_some(worker.birth.at);
                worker.activity.counted(
                    reads,
                    (record.boottime_ns, record.seq),
                    since,
                    &self.rules,
                );
            }
            let news = surer(end, worker.exit());
            if news {
                worker.set_exit(Some(end));
                worker.set_exited_well(exit.code == Some(0));
            }
            self.activity_changed(id);
            if news {
                self.release(id, end);
                self.life_changed(id);
            }
        }
        self.passed_through(exit, end.at);
        self.launcher_ended(id, end);
        self.ended_below(id, end);
        self.drop_descendant(id, Some(end.at));
        if let Some(gateway) = self.gateways.get_mut(&id)
            && surer(end, gateway.exit)
        {
            gateway.exit = Some(end);
            self.refresh_left_behind(id);
            self.touch(Subject::Gateway(id));
        }
        self.clientless.remove(&id);
        if surer(end, self.ends.get(id)) {
            self.ends.remember(id, end, self.now);
        }
    }

    fn set_zombie(&mut self, id: Identity, zombie: Option<Moment>) {
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.set_zombie(zombie);
            self.life_changed(id);
        }
    }

    /// A gateway that does not listen, or was not seen whole, is not known to be without clients.
    fn clients_counted(&mut self, record: &Record, clients: &Clients) {
        let id = clients.identity();
        if self.ends.get(id).is_some() {
            return;
        }
        if clients.complete && clients.listening > 0 && clients.connected == 0 {
            self.clientless.entry(id).or_insert(moment(record, clients.source));
        } else {
            self.clientless.remove(&id);
        }
        if let Some(gateway) = self.gateways.get_mut(&id) {
            gateway.outbound = clients.outbound;
        }
        self.clients_told(record, id, clients);
        self.touch(Subject::Gateway(id));
    }

    fn sampled(&mut self, record: &Record, sample: &Sample) {
        let id = sample.identity();
        let at = (record.boottime_ns, record.seq);
        let launched = sample.launchers_rss_kib.filter(|_| self.is_launched(id));
        let Some(worker) = self.workers.get_mut(&id) else {
            self.sampled_below(record, sample);
            return;
        };
        worker.rss_kib = sample.rss_kib.or(worker.rss_kib.get()).into();
        if let Some(launchers) = launched {
            worker.rare_mut().launchers_rss_kib = Some(launchers);
        }

        let mut active = false;
        // The first look since nobody watched that shows whether it read meanwhile.
        let resumed = worker.rare().unsettled && sample.syscr.is_some();
        if resumed {
            worker.rare_mut().unsettled = false;
            if worker.usage.syscr().is_none_or(|before| sample.syscr > Some(before)) {
                worker.activity.went_uncounted(at, &self.rules);
                active = true;
            }
        }
        if let Some(reads) = sample.reads {
            let since = (!worker.birth.inherited).then_some(worker.birth.at);
            active |= worker.activity.counted(reads, at, since, &self.rules);
        }
        let used = worker.usage.sampled(sample, record, &self.rules);
        if sample.waits {
            worker.activity.waits(at.0);
        }
        // Of a stdin that nobody holds a read returns at once.
        let spoken_to = worker.channel == Some(Channel::Stdin);
        if sample.waits || (spoken_to && sample.reads.is_some_and(|reads| reads > 0)) {
            worker.usage.was_held();
        }
        if (sample.syscr.is_some() || sample.syscr_below.is_some())
            && let Some(syscr) = worker.usage.syscr_of_tree()
        {
            active |= worker.activity.sampled(syscr, at, &self.rules);
        }
        let key = worker.key().filter(|_| active || used);
        let gateway = worker.gateway_id().filter(|_| active || used);

        let left = worker.client.as_ref().is_some_and(|client| client.gone().is_some());
        let seen = moment(record, Source::Proc);
        let before = (worker.zombie().is_some(), worker.exit().is_some());
        match sample.state {
            // A leader that ended before its other threads is shown as Z too, and lives on.
            'Z' if sample.threads.is_none_or(|threads| threads <= 1) => {
                worker.set_zombie(worker.zombie().or(Some(seen)));
            }
            'X' => {
                worker.set_zombie(None);
                worker.set_exit(worker.exit().or(Some(seen)));
            }
            _ => worker.set_zombie(None),
        }
        let held = sample.stdin.filter(|_| worker.rare().candidate.is_some());
        let life = before != (worker.zombie().is_some(), worker.exit().is_some());

        if active {
            self.activity_changed(id);
        }
        if let Some(key) = key {
            self.touch(Subject::Group(key));
        }
        let asks = |id: &Identity| {
            let gone = self.gateways.get(id).is_some_and(|gateway| gateway.exit.is_some());
            left || (gone && used) || self.clientless.contains_key(id)
        };
        if let Some(gateway) = gateway.filter(asks) {
            self.touch(Subject::Gateway(gateway));
        }
        if let Some(stdin) = held {
            self.stdin_is_held(id, stdin);
        }
        if life {
            self.life_changed(id);
        } else if used || active || resumed {
            self.touch(Subject::Worker(id));
        }
    }
}

fn moment(record: &Record, source: Source) -> Moment {
    Moment { at: record.boottime_ns, seq: record.seq, source }
}

/// Whether a later report of an end is to be taken instead of what is known.
fn surer(end: Moment, known: Option<Moment>) -> bool {
    known.is_none_or(|known| known.source != Source::Kernel && end.source == Source::Kernel)
}

/// Whether a process between a worker and its descendant was gone already.
fn is_lost(parent: &Parent) -> bool {
    parent.gone || (parent.how == ParentSource::Proc && parent.reaper)
}

/// Whether a second spawn of an identity tells its birth better than the first: the kernel saw it,
/// or it had become something else and is a worker again.
fn supersedes(later: &Worker, known: &Worker) -> bool {
    let seen = |worker: &Worker| worker.birth.source == Source::Kernel && !worker.birth.inherited;
    known.left().is_some() || (seen(later) && !seen(known))
}

fn new_worker(record: &Record, spawn: &Spawn) -> Worker {
    // Where the moment of the spawn was not seen, it has lived since it started.
    let seen = spawn.source == Source::Kernel && !spawn.inherited;
    let at = if seen { record.boottime_ns } else { spawn.start_ns.min(record.boottime_ns) };
    let age = i64::try_from(record.boottime_ns.saturating_sub(spawn.start_ns)).unwrap_or(i64::MAX);
    let time = if spawn.inherited {
        record.time.checked_sub(SignedDuration::from_nanos(age)).unwrap_or(record.time)
    } else {
        record.time
    };
    Worker {
        id: spawn.identity(),
        birth: Birth {
            at,
            seq: record.seq,
            time,
            source: spawn.source,
            inherited: spawn.inherited,
        },
        gateway: attribution::gateway_of(spawn),
        surety: attribution::surety(spawn),
        uid: spawn.uid,
        above: {
            let parent = spawn.parent.iter().map(|parent| &parent.process);
            parent.chain(&spawn.ancestors).map(Process::identity).collect()
        },
        opener: spawn.opener.as_ref().map(Process::identity).into(),
        terminal: spawn.terminal.into(),
        seen_ns: record.boottime_ns,
        session: spawn.session.as_deref().map(Arc::from),
        model: spawn.model.as_deref().map(Arc::from),
        argv_truncated: spawn.argv_truncated,
        launcher: false,
        spread: false,
        rare: None,
        ended: None,
        rss_kib: Maybe::NONE,
        activity: Activity::default(),
        usage: Usage::default(),
        channel: None,
        one_per: OnePer::Session,
        client: None,
        client_judged: false,
        taken: false,
        listed: Listed::default(),
    }
}
