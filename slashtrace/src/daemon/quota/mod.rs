//! How many bytes of evidence each user's processes may make, and all together: a stage between the
//! gate and the roster. What is left out here, nobody judges, so that a replay comes to the same.
//! Pure: it knows no time but that of the observations.
//!
//! Beyond the bound, news go first: samples (two of one process become one), signals, what descendants
//! execute. Then births of descendants, then those of workers, and what is seen of terminals and
//! clients. The end of a process whose birth was written is always written; so are actions, gaps and
//! findings, but findings count. What was left out is counted, and a `gap` names the user.

mod bucket;
mod owners;
mod size;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use self::{bucket::Bucket, owners::Owners};
use crate::{
    host::proc::Subordinates,
    model::{
        Body, Exec, Exit, Finding, Gap, GapReason, Identity, Observation, Role, Sample, Signal,
        Spawn, TerminalState,
    },
    roster::Roster,
};

/// Users that are told apart; more share one bound.
const USERS_MAX: usize = 1_024;
/// From the first record that is left out to the gap that says so, and between two gaps, ns.
const FIRST_TOLD: u64 = 1_000_000_000;
const TOLD_EVERY: u64 = 30_000_000_000;
/// How often it is looked whether there is room for samples that wait, ns.
const LOOK: u64 = 1_000_000_000;
/// A user who has used all of their own needs so much of everybody's to be left.
const OF_ALL: f64 = 0.75;
/// SIGKILL and SIGTERM (signal(7)).
const FATAL: [u8; 2] = [9, 15];

/// Bytes of evidence within a minute; none for no bound.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Bounds {
    /// Of each user. Root has what all have.
    pub user: Option<u64>,
    /// Of all.
    pub all: Option<u64>,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { user: Some(64 << 20), all: Some(192 << 20) }
    }
}

/// How much the findings need a record: what comes last here is left out last.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Need {
    /// Nothing rests on it alone.
    News,
    /// A process below a worker, and signals that end workers.
    Family,
    /// A worker, what it is for, and how it can be used.
    Worker,
    /// The end of what was written.
    End,
}

/// Who a record is charged to, and how much it is needed.
type Charge = (Option<u32>, Need);

#[derive(Debug)]
struct User {
    bucket: Bucket,
    /// News that were left out and that no gap has told of yet.
    news: u64,
    /// The same of what is needed.
    needed: u64,
    /// When a gap is due.
    tell_ns: u64,
    told_ns: Option<u64>,
    /// The newest sample of each process for which there was no room.
    waiting: BTreeMap<Identity, Observation>,
}

/// The stage.
#[derive(Debug)]
pub(super) struct Quota {
    bounds: Bounds,
    /// What users take for themselves are theirs.
    subordinates: Subordinates,
    all: Bucket,
    users: BTreeMap<Option<u32>, User>,
    owners: Owners,
    /// A gateway's program, which is told of just before the worker that it belongs to.
    program: Option<Observation>,
    now_ns: u64,
    /// When there is something to do beside the next observation.
    look_ns: u64,
    /// Whether anything was left out that findings need.
    left_out: bool,
}

impl Quota {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            subordinates: Subordinates::default(),
            all: Bucket::new(bounds.all),
            users: BTreeMap::new(),
            owners: Owners::default(),
            program: None,
            now_ns: 0,
            look_ns: u64::MAX,
            left_out: false,
        }
    }

    /// Charges users for what they take for themselves.
    pub(super) fn sharing(mut self, subordinates: Subordinates) -> Self {
        self.subordinates = subordinates;
        self
    }

    /// Whether anything was left out that findings need: what is recorded is not complete.
    pub(super) fn left_out(&self) -> bool {
        self.left_out
    }

    /// Takes an observation that has passed the gate; what is to be recorded now is added to `into`.
    pub(super) fn pass(
        &mut self,
        observation: Observation,
        roster: &Roster,
        into: &mut Vec<Observation>,
    ) {
        self.now_ns = self.now_ns.max(observation.boottime_ns);
        let last = matches!(observation.body, Body::Stop(_));
        if last || self.now_ns >= self.look_ns {
            self.look(last, into);
        }
        if matches!(observation.body, Body::Program(_)) {
            self.pass_program(roster, None, into);
            self.program = Some(observation);
            return;
        }
        let charge = self.charge_of(&observation.body, roster);
        if self.program.is_some() {
            // It belongs to the worker that comes after it.
            let with = charge.filter(|_| matches!(observation.body, Body::Spawn(_)));
            self.pass_program(roster, with, into);
        }
        if let Some((uid, need)) = charge
            && let Some(id) = subject(&observation.body)
            && self.owners.is_left_out(id)
            && roster.owner(id).is_none()
        {
            // Nothing of it is recorded.
            self.count((uid, need));
            self.owners.note(&observation.body, uid, false, None);
            return;
        }
        match (charge, observation.body) {
            (Some(charge), Body::Sample(sample)) => {
                self.sampled(charge, sample, observation.boottime_ns, roster, into);
            }
            (Some(charge), body) => {
                if let Body::Exit(exit) = &body {
                    // What was seen of it last comes before its end.
                    self.release(charge.0, exit.identity(), into);
                }
                let admitted = self.admit(charge, size::of(&body));
                let of_worker = subject(&body).and_then(|id| roster.owner(id));
                self.owners.note(&body, charge.0, admitted, of_worker);
                if admitted {
                    into.push(Observation { boottime_ns: observation.boottime_ns, body });
                }
            }
            (None, body) => {
                into.push(Observation { boottime_ns: observation.boottime_ns, body });
            }
        }
    }

    /// Charges what the engine made of a record: it is written in any case, and leaves less for what
    /// its user does next.
    pub(super) fn charge(&mut self, finding: &Finding, body: &Body, roster: &Roster) {
        let worker = finding.workers.first().map(crate::model::FindingWorker::identity);
        let gateway = || {
            let gateway = finding.gateway.as_ref()?;
            Some(Identity { pid: gateway.pid, start_ns: gateway.start_ns })
        };
        let owner = worker.or_else(gateway).and_then(|id| roster.owner(id));
        self.admit((owner, Need::End), size::of(body));
    }

    /// Whose it is and how much it is needed; none for what is neither counted nor left out.
    fn charge_of(&self, body: &Body, roster: &Roster) -> Option<Charge> {
        let owner = |id: Identity| self.owner(id, roster);
        Some(match body {
            Body::Spawn(spawn) => self.of_spawn(spawn, roster),
            Body::Exec(exec) => (owner(exec.identity()), of_exec(exec, roster)),
            Body::Exit(exit) => (owner(exit.identity()), self.of_exit(exit, roster)),
            Body::Signal(signal) => (self.of_signal(signal, roster), need_of_signal(signal)),
            Body::Sample(sample) => {
                let need = if is_news(sample) { Need::News } else { Need::Worker };
                (owner(sample.identity()), need)
            }
            Body::Terminal(event) => {
                let master = event.master.as_ref().and_then(|master| owner(master.identity()));
                // The sensors pace openings and closes, which keep workers from being ended. How often a
                // process names another session is up to its user.
                let news = roster.has_terminal(event) && event.state == TerminalState::Opened;
                (event.uid.or(master), if news { Need::Worker } else { Need::End })
            }
            Body::Program(program) => (owner(program.identity()), Need::Worker),
            Body::Clients(clients) => (owner(clients.identity()), Need::Worker),
            Body::Reply(reply) => (owner(reply.identity()), Need::Worker),
            Body::Start(_)
            | Body::Checkpoint(_)
            | Body::Action(_)
            | Body::Tick(_)
            | Body::Gap(_)
            | Body::Finding(_)
            | Body::Stop(_) => return None,
        })
    }

    /// Whose a process is.
    fn owner(&self, id: Identity, roster: &Roster) -> Option<u32> {
        self.owners.of(id).or_else(|| roster.owner(id))
    }

    /// A descendant is its own user's, unless it became root.
    fn of_spawn(&self, spawn: &Spawn, roster: &Roster) -> Charge {
        if spawn.role == Role::Worker {
            return (Some(spawn.uid), Need::Worker);
        }
        let own = Some(spawn.uid).filter(|uid| *uid != 0);
        let of_worker = || self.owner(spawn.worker?, roster);
        (own.or_else(of_worker).or(Some(0)), Need::Family)
    }

    fn of_exit(&self, exit: &Exit, roster: &Roster) -> Need {
        let id = exit.identity();
        if self.owner(id, roster).is_some() { Need::End } else { Need::Worker }
    }

    fn of_signal(&self, signal: &Signal, roster: &Roster) -> Option<u32> {
        let sender = signal.sender.as_ref().map(|sender| sender.uid).filter(|uid| *uid != 0);
        sender.or_else(|| self.owner(signal.identity(), roster))
    }

    /// Two samples of one process become one where there is no room for both.
    fn sampled(
        &mut self,
        charge: Charge,
        sample: Sample,
        boottime_ns: u64,
        roster: &Roster,
        into: &mut Vec<Observation>,
    ) {
        let id = sample.identity();
        let (uid, need) = charge;
        let mut observation = Observation { boottime_ns, body: Body::Sample(sample) };
        let before = self.user(uid).waiting.remove(&id);
        if let Some(before) = before {
            observation = newer(before, observation);
            self.count((uid, Need::News));
        }
        let need = need_of_sample(&observation).max(need);
        if self.has_room(uid, need) {
            self.admit((uid, Need::End), size::of(&observation.body));
            into.push(observation);
        } else if roster.owner(id).is_some() {
            self.user(uid).waiting.insert(id, observation);
            self.look_ns = self.look_ns.min(self.now_ns.saturating_add(LOOK));
        } else {
            self.count(charge);
        }
    }

    /// A gateway's program, with the worker that it was seen for.
    fn pass_program(&mut self, roster: &Roster, with: Option<Charge>, into: &mut Vec<Observation>) {
        let Some(program) = self.program.take() else { return };
        let own = self.charge_of(&program.body, roster);
        if let Some(charge) = with.or(own)
            && self.admit((charge.0, Need::Worker), size::of(&program.body))
        {
            into.push(program);
        }
    }

    /// Has a sample that waits recorded now.
    fn release(&mut self, uid: Option<u32>, id: Identity, into: &mut Vec<Observation>) {
        let waiting = self.user(uid).waiting.remove(&id);
        if let Some(observation) = waiting {
            self.admit((uid, Need::End), size::of(&observation.body));
            into.push(observation);
        }
    }

    /// Counts a record, or says that there is no room for it.
    fn admit(&mut self, (uid, need): Charge, bytes: u64) -> bool {
        if !self.has_room(uid, need) {
            self.count((uid, need));
            return false;
        }
        self.user(uid).bucket.take(bytes);
        self.all.take(bytes);
        true
    }

    fn has_room(&mut self, uid: Option<u32>, need: Need) -> bool {
        let now_ns = self.now_ns;
        self.all.refill(now_ns);
        let bucket = &mut self.user(uid).bucket;
        bucket.refill(now_ns);
        let own = bucket.left();
        let reserve = match need {
            Need::News => 0.25,
            Need::Family => 0.125,
            Need::Worker => 0.0,
            Need::End => return true,
        };
        // Who has hardly written anything is not left out for what others wrote.
        if need == Need::Worker && own > OF_ALL {
            return true;
        }
        // Where all together write much, those who write most are left out first.
        own > reserve && self.all.left() - reserve > OF_ALL * (1.0 - own)
    }

    fn count(&mut self, (uid, need): Charge) {
        let now_ns = self.now_ns;
        let user = self.user(uid);
        if user.news == 0 && user.needed == 0 {
            let again = user.told_ns.map_or(0, |told| told.saturating_add(TOLD_EVERY));
            user.tell_ns = again.max(now_ns.saturating_add(FIRST_TOLD));
        }
        let tell_ns = user.tell_ns;
        if need == Need::News {
            user.news += 1;
        } else {
            user.needed += 1;
            self.left_out = true;
        }
        self.look_ns = self.look_ns.min(tell_ns);
    }

    /// A user's account. One of too many is nobody's in particular.
    fn user(&mut self, uid: Option<u32>) -> &mut User {
        let uid = uid.map(|uid| self.subordinates.account_of(uid));
        let key = if self.users.contains_key(&uid) || self.users.len() < USERS_MAX {
            uid
        } else {
            let now_ns = self.now_ns;
            self.users.retain(|_, user| !user.is_idle(now_ns));
            if self.users.len() < USERS_MAX { uid } else { None }
        };
        let bound = if key == Some(0) { self.bounds.all } else { self.bounds.user };
        self.users.entry(key).or_insert_with(|| User {
            bucket: Bucket::new(bound),
            news: 0,
            needed: 0,
            tell_ns: 0,
            told_ns: None,
            waiting: BTreeMap::new(),
        })
    }

    /// Tells of what was left out, and records samples that wait where there is room. At the end, all
    /// of it.
    fn look(&mut self, last: bool, into: &mut Vec<Observation>) {
        let now_ns = self.now_ns;
        let mut waiting = Vec::new();
        for (uid, user) in &mut self.users {
            if last || user.tell_ns <= now_ns {
                user.tell(*uid, now_ns, into);
            }
            let all = user.waiting.iter();
            waiting.extend(all.map(|(id, sample)| (*uid, *id, need_of_sample(sample))));
        }
        for (uid, id, need) in waiting {
            if last || self.has_room(uid, need) {
                self.release(uid, id, into);
            }
        }
        let next = self.users.values().filter_map(|user| {
            let tell = (user.news > 0 || user.needed > 0).then_some(user.tell_ns);
            let look = (!user.waiting.is_empty()).then(|| now_ns.saturating_add(LOOK));
            tell.into_iter().chain(look).min()
        });
        self.look_ns = next.min().unwrap_or(u64::MAX);
    }
}

impl User {
    fn tell(&mut self, uid: Option<u32>, now_ns: u64, into: &mut Vec<Observation>) {
        let counts = [
            (GapReason::QuotaFull, std::mem::take(&mut self.needed)),
            (GapReason::QuotaNews, std::mem::take(&mut self.news)),
        ];
        for (reason, lost) in counts.into_iter().filter(|(_, lost)| *lost > 0) {
            self.told_ns = Some(now_ns);
            let body = Body::Gap(Gap { reason, lost, resynced: false, uid });
            into.push(Observation { boottime_ns: now_ns, body });
        }
    }

    fn is_idle(&mut self, now_ns: u64) -> bool {
        self.bucket.refill(now_ns);
        self.news == 0 && self.needed == 0 && self.waiting.is_empty() && self.bucket.is_full()
    }
}

/// The process that a record is about, or that its own is below.
fn subject(body: &Body) -> Option<Identity> {
    match body {
        Body::Spawn(spawn) => spawn.worker.filter(|_| spawn.role == Role::Descendant),
        Body::Exec(exec) => Some(exec.identity()),
        Body::Exit(exit) => Some(exit.identity()),
        Body::Signal(signal) => Some(signal.identity()),
        Body::Sample(sample) => Some(sample.identity()),
        Body::Program(program) => Some(program.identity()),
        Body::Clients(clients) => Some(clients.identity()),
        Body::Reply(reply) => Some(reply.identity()),
        _ => None,
    }
}

fn of_exec(exec: &Exec, roster: &Roster) -> Need {
    let worker = roster.worker(exec.identity()).is_some_and(crate::roster::Worker::is_live);
    match exec.role {
        // Once for each that was admitted: it is no worker any more, and not to be ended.
        Role::Worker if worker && !exec.is_worker => Need::End,
        Role::Gateway | Role::Ancestor => Need::Worker,
        // How long it may outlive its worker depends on which helper it is.
        Role::Descendant if exec.helper.is_some() => Need::Family,
        Role::Worker | Role::Descendant => Need::News,
    }
}

fn need_of_signal(signal: &Signal) -> Need {
    let ends = FATAL.contains(&signal.signal) && signal.role == Role::Worker;
    if ends { Need::Family } else { Need::News }
}

fn need_of_sample(observation: &Observation) -> Need {
    match &observation.body {
        Body::Sample(sample) if is_news(sample) => Need::News,
        _ => Need::Worker,
    }
}

/// Whether a sample says nothing of whether its process lives, works, and who can use it.
fn is_news(sample: &Sample) -> bool {
    let used = sample.stdin.is_some() || sample.output.is_some() || sample.sockets.is_some();
    let worked = sample.cpu_ms.is_some() || sample.syscr_below.is_some();
    !used && !worked && !sample.waits && !matches!(sample.state, 'Z' | 'X')
}

/// Two samples of one process as one: what was read later holds.
fn newer(before: Observation, now: Observation) -> Observation {
    let boottime_ns = before.boottime_ns.max(now.boottime_ns);
    let (Body::Sample(before), Body::Sample(now)) = (before.body, &now.body) else { return now };
    let Sample {
        pid,
        start_ns,
        state,
        rss_kib,
        launchers_rss_kib,
        pss_kib,
        threads,
        syscr,
        reads,
        stdin,
        output,
        sockets,
        waits,
        over_budget,
        cpu_ms,
        syscr_below,
    } = now.clone();
    // It is about the look at these.
    let looked = stdin.is_some() || output.is_some();
    let body = Body::Sample(Sample {
        pid,
        start_ns,
        state,
        rss_kib: rss_kib.or(before.rss_kib),
        launchers_rss_kib: launchers_rss_kib.or(before.launchers_rss_kib),
        pss_kib: pss_kib.or(before.pss_kib),
        // One that is a zombie now has no threads of before.
        threads: threads.or(before.threads.filter(|_| state != 'Z')),
        syscr: syscr.or(before.syscr),
        reads: reads.or(before.reads),
        stdin: stdin.or(before.stdin),
        output: output.or(before.output),
        sockets: sockets.or(before.sockets),
        waits: waits || before.waits,
        over_budget: if looked { over_budget } else { before.over_budget },
        cpu_ms: cpu_ms.or(before.cpu_ms),
        syscr_below: syscr_below.or(before.syscr_below),
    });
    Observation { boottime_ns, body }
}
