use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use proptest::prelude::*;

use super::{AGAIN_NS, Decision, Judge, Policy, RESUME_NS, WINDOW_NS};
use crate::{
    engine::testing::recordings,
    model::{
        Body, Clients, Confidence, Connection, Exec, Exit, Finding, FindingState, FindingWorker,
        Gap, GapReason, Identity, Kind, Mode, Outcome, Record, Role, Sample, Source, Step, testing,
    },
    reaper::{
        Trigger,
        testing::{Recorder, finding, spawn},
    },
    roster::Roster,
};

const S: u64 = 1_000_000_000;

/// A judge that was told of workers that each have an open finding of their own.
struct Court {
    judge: Judge,
    roster: Roster,
    recorder: Recorder,
    now: u64,
}

fn id(pid: u32) -> Identity {
    Identity { pid, start_ns: S * u64::from(pid) }
}

fn policy() -> Policy {
    Policy { mode: Mode::Enforce, ..Policy::default() }
}

impl Court {
    fn new(policy: Policy) -> Self {
        Self {
            judge: Judge::new(policy),
            roster: Roster::blank(),
            recorder: Recorder::default(),
            now: 10_000 * S,
        }
    }

    fn tell(&mut self, body: Body) -> &mut Self {
        let record = self.recorder.record(self.now, body);
        self.roster.observe(&record);
        self.judge.observe(&record, &self.roster);
        self
    }

    /// A worker that was there before, long ago.
    fn worker(&mut self, pid: u32) -> &mut Self {
        let mut spawn = spawn(id(pid), Role::Worker);
        spawn.inherited = true;
        self.tell(Body::Spawn(Box::new(spawn)))
    }

    fn find(&mut self, kind: Kind, pids: &[u32], change: impl FnOnce(&mut Finding)) -> &mut Self {
        let ids: Vec<Identity> = pids.iter().map(|pid| id(*pid)).collect();
        let mut finding = finding(kind, &ids);
        change(&mut finding);
        self.tell(Body::Finding(Box::new(finding)))
    }

    fn orphans(&mut self, pids: &[u32]) -> &mut Self {
        for pid in pids {
            self.worker(*pid);
        }
        self.find(Kind::GatewayOrphan, pids, |_| {})
    }

    fn decide(&mut self) -> Vec<Decision> {
        let decided = self.judge.decide(self.now, &self.roster);
        if !decided.is_empty() {
            assert!(self.judge.decide(self.now, &self.roster).is_empty(), "said once");
        }
        decided
    }

    fn holds(&self, pid: u32) -> bool {
        self.judge.holds(&id(pid), &self.roster)
    }

    fn pids(&mut self) -> Vec<u32> {
        self.decide().iter().map(|decision| decision.worker.pid).collect()
    }

    fn after(&mut self, ns: u64) -> &mut Self {
        self.now += ns;
        self
    }

    /// The reaper's word on a decision.
    fn answer(&mut self, decision: &Decision, step: Step, outcome: Outcome) -> &mut Self {
        let action = decision.done(step, outcome, "");
        self.tell(Body::Action(Box::new(action)))
    }
}

#[test]
fn an_unused_worker_is_chosen_once_with_what_is_known_of_it() {
    let mut court = Court::new(policy());
    court.orphans(&[7]);
    let mut child = spawn(id(8), Role::Descendant);
    child.worker = Some(id(7));
    court.tell(Body::Spawn(Box::new(child)));
    let decided = court.decide();
    assert_eq!(decided.len(), 1);
    let decision = &decided[0];
    assert_eq!((decision.worker, decision.gateway), (id(7), Some(id(1))));
    assert_eq!((decision.kind, decision.confidence), (Kind::GatewayOrphan, Confidence::Strong));
    assert_eq!((decision.seq, decision.uid), (2, 1_000));
    assert_eq!(decision.session.as_deref(), Some("k"));
    assert_eq!(decision.descendants, [id(8)]);
    court.after(3_600 * S);
    assert_eq!(court.pids(), [0; 0], "it is under way");
}

#[test]
fn nobody_is_chosen_by_what_was_known_before_nobody_watched() {
    let mut court = Court::new(policy());
    court.orphans(&[7, 8]).after(3_600 * S);
    let reason = GapReason::NotWatched;
    court.tell(Body::Gap(Gap { reason, lost: 0, uid: None, resynced: true })).after(60 * S);
    assert_eq!(court.pids(), [0; 0]);
    assert!(!court.holds(7));
    let sample = |pid, syscr| Body::Sample(Sample { syscr, ..testing::sample(id(pid)) });
    court.tell(sample(7, None));
    assert_eq!(court.pids(), [0; 0], "whether it was used meanwhile was not seen");
    court.tell(sample(7, Some(40)));
    assert_eq!(court.pids(), [7], "it was looked at again");
    court.tell(sample(8, Some(40)));
    assert_eq!(court.pids(), [8]);
}

#[test]
fn who_else_was_connected_when_its_client_left_is_known_where_that_is_the_finding() {
    let decided = |confidence| {
        let triggers = vec!["abandoned=weak".parse::<Trigger>().unwrap()];
        let mut court = Court::new(Policy { triggers, ..policy() });
        let look = |court: &mut Court, here: &[u64], spoke: u64| {
            let heard = |id| (id == spoke).then_some(court.now);
            let connections: Vec<Connection> = here
                .iter()
                .map(|&id| Connection { id, since_ns: None, heard_ns: heard(id), port: None })
                .collect();
            let look = testing::clients(Identity { pid: 1, start_ns: S });
            let connected = here.len() as u32;
            court.tell(Body::Clients(Clients { connected, connections, ..look }));
        };
        for (pid, spoke) in [(7, 1), (8, 2)] {
            let mut spawn = spawn(id(pid), Role::Worker);
            spawn.session = Some(pid.to_string());
            court.after(60 * S).tell(Body::Spawn(Box::new(spawn)));
            look(&mut court, &[1, 2, 3], spoke);
        }
        court.after(60 * S);
        look(&mut court, &[2, 3], 0);
        // One more comes, and is a third worker's.
        let mut third = spawn(id(9), Role::Worker);
        third.session = Some("9".to_owned());
        court.after(60 * S).tell(Body::Spawn(Box::new(third)));
        look(&mut court, &[2, 3, 4], 4);
        court.after(3_600 * S).find(Kind::Abandoned, &[7], |it| it.confidence = confidence);
        let decided = court.decide();
        let [decision] = decided.as_slice() else { panic!("{decided:?}") };
        decision.other_clients.clone()
    };
    assert_eq!(decided(Confidence::Weak), BTreeSet::from([2, 3, 4]));
    assert_eq!(decided(Confidence::Strong), BTreeSet::new());
}

#[test]
fn what_does_not_justify_ending_a_worker() {
    type Change = fn(&mut Finding);
    let cases: [(&str, Kind, Change); 6] = [
        ("weak", Kind::GatewayOrphan, |it| it.confidence = Confidence::Weak),
        ("not unused", Kind::GatewayOrphan, |it| it.workers[0].unused = false),
        ("closed", Kind::GatewayOrphan, |it| it.state = FindingState::Closed),
        ("opt-in", Kind::LostWorker, |it| it.confidence = Confidence::Proven),
        ("no trigger", Kind::Accumulation, |it| it.confidence = Confidence::Proven),
        ("another process of that pid", Kind::GatewayOrphan, |it| it.workers[0].start_ns += 1),
    ];
    for (what, kind, change) in cases {
        let mut court = Court::new(policy());
        court.worker(7).find(kind, &[7], change);
        assert_eq!(court.pids(), [0; 0], "{what}");
        assert!(!court.holds(7), "{what}");
        assert_eq!(court.judge.next_deadline(), None, "{what}");
    }
}

#[test]
fn who_is_not_a_live_worker_is_not_chosen() {
    let mut court = Court::new(policy());
    court.find(Kind::GatewayOrphan, &[7], |_| {});
    assert_eq!(court.pids(), [0; 0], "never seen");
    court.tell(Body::Spawn(Box::new(spawn(id(7), Role::Descendant))));
    assert_eq!(court.pids(), [0; 0], "a descendant");
    court.worker(7);
    assert!(court.holds(7));
    court.tell(Body::Exec(Exec {
        pid: 7,
        start_ns: id(7).start_ns,
        role: Role::Worker,
        is_worker: false,
        comm: String::new(),
        argv0: None,
        helper: None,
        source: Source::Kernel,
    }));
    assert!(!court.holds(7));
    assert_eq!(court.pids(), [0; 0], "another program by now");
    court.worker(7).tell(exit(7));
    assert_eq!(court.pids(), [0; 0], "ended");
}

fn exit(pid: u32) -> Body {
    Body::Exit(Exit {
        pid,
        start_ns: id(pid).start_ns,
        role: Role::Worker,
        code: Some(0),
        signal: None,
        reads: None,
        source: Source::Kernel,
    })
}

#[test]
fn a_young_worker_is_left_alone_until_it_is_old_enough() {
    let mut court = Court::new(policy());
    let born = court.now;
    // Its process is old, but it is a worker only since now.
    court.tell(Body::Spawn(Box::new(spawn(id(7), Role::Worker))));
    court.find(Kind::GatewayOrphan, &[7], |_| {});
    assert_eq!(court.judge.next_deadline(), Some(born + 60 * S));
    assert_eq!(court.after(60 * S - 1).pids(), [0; 0]);
    assert_eq!(court.after(1).pids(), [7]);
    assert_eq!(court.judge.next_deadline(), None);
}

#[test]
fn triggers_that_were_opted_into_choose_only_the_unused_one() {
    let triggers = vec!["duplicate-worker=proven".parse::<Trigger>().unwrap()];
    let mut court = Court::new(Policy { triggers, ..policy() });
    court.worker(7).worker(8).find(Kind::DuplicateWorker, &[7, 8], |it| {
        it.confidence = Confidence::Proven;
        it.workers[1].unused = false;
    });
    assert_eq!(court.pids(), [7]);
}

#[test]
fn observe_decides_nothing() {
    let mut court = Court::new(Policy::default());
    court.orphans(&[7]);
    assert_eq!(court.pids(), [0; 0]);
    assert_eq!(court.judge.next_deadline(), None);
}

#[test]
fn a_dry_run_says_it_once_while_the_finding_is_open() {
    let mut court = Court::new(Policy { mode: Mode::DryRun, ..policy() });
    let decided = court.orphans(&[7]).decide();
    court.tell(Body::Action(Box::new(decided[0].done(Step::WouldEnd, Outcome::Sent, ""))));
    assert_eq!(court.after(2 * AGAIN_NS).pids(), [0; 0]);
    court.find(Kind::GatewayOrphan, &[7], |it| it.state = FindingState::Closed);
    court.find(Kind::GatewayOrphan, &[7], |_| {});
    assert_eq!(court.pids(), [7]);
}

#[test]
fn one_that_was_refused_waits_for_news_or_five_minutes() {
    let mut court = Court::new(policy());
    let decided = court.orphans(&[7, 8]).decide();
    court.answer(&decided[0], Step::Refuse, Outcome::Refused);
    court.answer(&decided[1], Step::Result, Outcome::Survived);
    let again = court.now + AGAIN_NS;
    assert_eq!(court.judge.next_deadline(), Some(again));
    // Others came or went: no news of these.
    court.find(Kind::GatewayOrphan, &[7, 8, 9], |it| it.state = FindingState::Updated);
    assert_eq!(court.after(AGAIN_NS - 1).pids(), [0; 0]);
    let decided = court.after(1).decide();
    assert_eq!(decided.len(), 2);

    court.answer(&decided[0], Step::Refuse, Outcome::Refused);
    court.find(Kind::GatewayOrphan, &[7, 8], |it| it.confidence = Confidence::Proven);
    assert_eq!(court.pids(), [7], "surer; 8 is under way");
}

#[test]
fn one_that_was_seen_to_have_ended_is_not_chosen_for_another_finding() {
    for (step, outcome) in [(Step::Result, Outcome::Exited), (Step::Refuse, Outcome::Gone)] {
        let mut court = Court::new(policy());
        let decided = court.orphans(&[7]).decide();
        court.find(Kind::Unreachable, &[7], |_| {});
        court.answer(&decided[0], step, outcome);
        assert_eq!(court.after(AGAIN_NS).pids(), [0; 0], "its exit is on its way");
        assert_eq!(court.judge.next_deadline(), None);
    }
}

#[test]
fn a_finding_that_was_withdrawn_justifies_nothing_until_it_is_opened_again() {
    let mut court = Court::new(policy());
    let decided = court.orphans(&[7]).decide();
    assert!(court.holds(7));
    court.find(Kind::GatewayOrphan, &[7], |it| it.state = FindingState::Closed);
    assert!(!court.holds(7));
    court.answer(&decided[0], Step::Result, Outcome::Withdrawn);
    assert_eq!(court.after(S).pids(), [0; 0]);
    court.find(Kind::GatewayOrphan, &[7], |_| {});
    assert_eq!(court.pids(), [7]);
}

#[test]
fn a_storm_ends_nobody_and_opens_the_breaker_until_it_is_resumed() {
    let mut court = Court::new(policy());
    let all: Vec<u32> = (100..600).collect();
    assert_eq!(court.orphans(&all).pids(), [0; 0]);
    assert!(court.judge.is_stopped());
    let told = court.judge.take_told();
    let [stop] = told.as_slice() else { panic!("told once: {told:?}") };
    assert_eq!((stop.step, stop.worker, stop.because.clone()), (Step::Stop, None, vec![501]));
    assert_eq!(stop.uid, Some(1_000));
    assert!(
        stop.detail.starts_with("500 workers of user 1000 are to be ended at once; the budget")
    );
    let closes = court.now + RESUME_NS;
    assert_eq!(court.judge.next_deadline(), Some(closes));
    assert_eq!(court.after(RESUME_NS - 1).pids(), [0; 0]);
    assert!(court.judge.take_told().is_empty());
    // By itself it closes and, for they are all still there, opens again.
    assert_eq!(court.after(1).pids(), [0; 0]);
    let steps: Vec<Step> = court.judge.take_told().iter().map(|it| it.step).collect();
    assert_eq!(steps, [Step::Resume, Step::Stop]);
    assert!(court.judge.is_stopped());

    // Agreed to: at the pace of the budget, oldest first.
    court.judge.resume();
    assert_eq!(court.pids(), (100..110).collect::<Vec<_>>());
    assert_eq!(court.judge.next_deadline(), Some(court.now + WINDOW_NS));
    assert_eq!(court.after(WINDOW_NS).pids(), (110..120).collect::<Vec<_>>());
    // Somebody new while the budget is used up: that was not agreed to.
    court.worker(50).find(Kind::Unreachable, &[50], |_| {});
    assert_eq!(court.pids(), [0; 0]);
    assert!(court.judge.is_stopped() && !court.judge.take_told().is_empty());
}

#[test]
fn one_user_s_storm_stops_nobody_else_s_workers() {
    let mut court = Court::new(policy());
    for pid in 100..111 {
        let mut spawn = spawn(id(pid), Role::Worker);
        (spawn.inherited, spawn.uid) = (true, 2_000);
        court.tell(Body::Spawn(Box::new(spawn)));
    }
    court.find(Kind::Unreachable, &(100..111).collect::<Vec<_>>(), |_| {});
    court.orphans(&[7]);
    assert_eq!(court.pids(), [7]);
    assert!(court.judge.is_stopped());
    assert_eq!(court.judge.take_told()[0].uid, Some(2_000));
    assert_eq!(court.after(S).worker(8).find(Kind::GatewayOrphan, &[7, 8], |_| {}).pids(), [8]);
    // One of the eleven ends by itself: the others are within the budget when the breaker closes.
    court.tell(exit(100));
    assert_eq!(court.after(RESUME_NS).pids(), (101..111).collect::<Vec<_>>());
    assert!(!court.judge.is_stopped());
}

#[test]
fn one_that_became_another_user_s_waits_in_that_one_s_queue_alone() {
    let mut court = Court::new(policy());
    court.orphans(&[7]);
    let mut again = spawn(id(7), Role::Worker);
    again.uid = 2_000;
    court.tell(Body::Spawn(Box::new(again)));
    assert_eq!(court.roster.worker(id(7)).unwrap().uid, 2_000, "told by the kernel");
    court.tell(exit(7));
    assert_eq!(court.judge.next_deadline(), None);
    assert_eq!(court.pids(), [0; 0]);
}

#[test]
fn the_budget_is_of_any_minute() {
    let mut court = Court::new(Policy { budget_per_minute: 2, ..policy() });
    assert_eq!(court.orphans(&[7]).pids(), [7]);
    court.after(40 * S).worker(8).find(Kind::Unreachable, &[8], |_| {});
    assert_eq!(court.pids(), [8]);
    court.after(20 * S).worker(9).find(Kind::Unreachable, &[9], |it| it.id.push('9'));
    assert_eq!(court.pids(), [9], "the first one is a minute ago");
    court.worker(10).find(Kind::Unreachable, &[10], |it| it.id.push_str("10"));
    assert_eq!(court.pids(), [0; 0]);
    assert!(court.judge.is_stopped());
}

#[test]
fn a_worker_that_forked_another_is_known_as_its_gateway() {
    let mut court = Court::new(policy());
    court.orphans(&[7]);
    let mut other = spawn(id(8), Role::Worker);
    other.parent.as_mut().unwrap().process.pid = 7;
    other.parent.as_mut().unwrap().process.start_ns = id(7).start_ns;
    court.tell(Body::Spawn(Box::new(other)));
    assert_eq!(court.decide()[0].gateway_of, [id(8)]);
}

/// What a person would say who reads the records: who lives and is named unused, by findings that
/// are triggers, and since when a worker is one.
#[derive(Default)]
struct Reader {
    born: BTreeMap<Identity, u64>,
    open: BTreeMap<String, Finding>,
}

impl Reader {
    fn read(&mut self, record: &Record) {
        match &record.body {
            Body::Spawn(spawn) if spawn.role == Role::Worker => {
                self.born.insert(spawn.identity(), record.boottime_ns);
            }
            Body::Exit(exit) => drop(self.born.remove(&exit.identity())),
            Body::Exec(exec) if !exec.is_worker => drop(self.born.remove(&exec.identity())),
            Body::Finding(finding) if finding.state == FindingState::Closed => {
                self.open.remove(&finding.id);
            }
            Body::Finding(finding) => {
                self.open.insert(finding.id.clone(), (**finding).clone());
            }
            _ => {}
        }
    }

    fn covered(&self, now: u64) -> BTreeSet<Identity> {
        let kinds = [Kind::GatewayOrphan, Kind::TerminalOrphan, Kind::Unreachable];
        let sure = |it: &&Finding| it.confidence >= Confidence::Strong && kinds.contains(&it.kind);
        let unused = self.open.values().filter(sure).flat_map(|it| &it.workers);
        let ids = unused.filter(|worker| worker.unused).map(FindingWorker::identity);
        ids.filter(|id| self.born.get(id).is_some_and(|born| born + 60 * S <= now)).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(128) })]

    #[test]
    fn with_enough_budget_exactly_the_unused_are_chosen_once(records in recordings()) {
        let mut judge = Judge::new(Policy { budget_per_minute: 10_000, ..policy() });
        let mut roster = Roster::blank();
        let mut reader = Reader::default();
        let mut chosen = BTreeSet::new();
        let mut now = 0;
        for record in &records {
            now = now.max(record.boottime_ns);
            roster.observe(record);
            judge.observe(record, &roster);
            reader.read(record);
            let covered = reader.covered(now);
            for decision in judge.decide(now, &roster) {
                prop_assert!(covered.contains(&decision.worker), "{decision:?}");
                prop_assert!(chosen.insert(decision.worker), "twice: {decision:?}");
            }
            for id in &covered {
                prop_assert!(judge.holds(id, &roster) && chosen.contains(id), "overlooked: {id:?}");
            }
            prop_assert!(judge.next_deadline().is_none_or(|due| due > now));
        }
    }

    #[test]
    fn never_more_than_the_budget_in_any_minute(
        records in recordings(),
        budget in 0_u32..4,
        resume in 1_usize..40,
    ) {
        let min_age = Duration::from_secs(1);
        let mut judge = Judge::new(Policy { budget_per_minute: budget, min_age, ..policy() });
        let mut roster = Roster::blank();
        let mut decided: Vec<(u32, u64)> = Vec::new();
        let mut stopped: BTreeSet<u32> = BTreeSet::new();
        let mut now = 0;
        for (at, record) in records.iter().enumerate() {
            now = now.max(record.boottime_ns);
            roster.observe(record);
            judge.observe(record, &roster);
            if at % resume == 0 {
                judge.resume();
            }
            let some = judge.decide(now, &roster);
            for action in judge.take_told() {
                let uid = action.uid.expect("a user's");
                let opened = action.step == Step::Stop;
                let news = if opened { stopped.insert(uid) } else { stopped.remove(&uid) };
                prop_assert!(news);
            }
            prop_assert_eq!(judge.is_stopped(), !stopped.is_empty());
            prop_assert!(some.iter().all(|decision| !stopped.contains(&decision.uid)));
            decided.extend(some.iter().map(|decision| (decision.uid, now)));
            let mut minute: BTreeMap<u32, u32> = BTreeMap::new();
            for (uid, _) in decided.iter().filter(|(_, at)| at + WINDOW_NS > now) {
                *minute.entry(*uid).or_default() += 1;
            }
            prop_assert!(minute.values().all(|count| *count <= budget));
            prop_assert!(judge.next_deadline().is_none_or(|due| due > now));
        }
    }
}
