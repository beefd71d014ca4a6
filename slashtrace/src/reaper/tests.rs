use std::time::Duration;

use tokio::time::timeout;

use super::{
    Policy, Reaper,
    testing::{LOOP, Recorder, Subject, finding, spawn, wait_until},
};
use crate::{
    host::clock::boottime_ns,
    model::{Action, Body, FindingState, Kind, Mode, Observation, Outcome, Phase, Role, Step},
    profile::Profile,
    roster::Roster,
};

/// A reaper that is told of one orphan, and driven as the daemon drives it.
struct Bench {
    reaper: Reaper,
    recorder: Recorder,
    roster: Roster,
    subject: Subject,
}

impl Bench {
    fn new(mode: Mode, script: &str, term_grace: Duration) -> Self {
        let policy = Policy { mode, term_grace, min_age: Duration::ZERO, ..Policy::default() };
        let subject = Subject::worker(script);
        let mut bench = Self {
            reaper: Reaper::new(Profile::hermes(), policy),
            recorder: Recorder::default(),
            roster: Roster::blank(),
            subject,
        };
        let mut spawn = spawn(bench.subject.id(), Role::Worker);
        spawn.uid = bench.subject.uid();
        bench.tell(Body::Spawn(Box::new(spawn)));
        bench.find(FindingState::Opened);
        bench
    }

    fn tell(&mut self, body: Body) {
        let record = self.recorder.record(boottime_ns(), body);
        self.roster.observe(&record);
        self.reaper.observe(&record, &self.roster);
    }

    fn find(&mut self, state: FindingState) {
        let mut finding = finding(Kind::GatewayOrphan, &[self.subject.id()]);
        finding.state = state;
        self.tell(Body::Finding(Box::new(finding)));
    }

    /// What is said next; it is written.
    async fn next(&mut self) -> Vec<(Step, Phase, Option<Outcome>)> {
        let said = timeout(Duration::from_secs(20), self.reaper.next(&self.roster)).await.unwrap();
        let action = |observation: &Observation| match &observation.body {
            Body::Action(action) => Action::clone(action),
            other => panic!("{other:?}"),
        };
        let actions: Vec<Action> = said.iter().map(action).collect();
        for observation in said {
            self.tell(observation.body);
        }
        actions.iter().map(|action| (action.step, action.phase, action.outcome)).collect()
    }

    /// Nothing more is said.
    async fn silent(&mut self) {
        let next = timeout(Duration::from_millis(300), self.reaper.next(&self.roster)).await;
        assert!(next.is_err(), "{next:?}");
        assert_eq!(self.reaper.under_way(), 0);
    }
}

const LONG: Duration = Duration::from_mins(1);
const TERM_BEFORE: (Step, Phase, Option<Outcome>) = (Step::Terminate, Phase::Before, None);
const TERM_SENT: (Step, Phase, Option<Outcome>) =
    (Step::Terminate, Phase::After, Some(Outcome::Sent));
const KILL_BEFORE: (Step, Phase, Option<Outcome>) = (Step::Kill, Phase::Before, None);
const KILL_SENT: (Step, Phase, Option<Outcome>) = (Step::Kill, Phase::After, Some(Outcome::Sent));

fn result(outcome: Outcome) -> (Step, Phase, Option<Outcome>) {
    (Step::Result, Phase::After, Some(outcome))
}

#[tokio::test]
async fn every_step_is_told_before_it_is_done() {
    let mut bench = Bench::new(Mode::Enforce, &format!("echo; {LOOP}"), LONG);
    assert_eq!(bench.next().await, [TERM_BEFORE]);
    std::thread::sleep(Duration::from_millis(100));
    assert!(bench.subject.runs(), "it was only told");
    assert_eq!(bench.reaper.under_way(), 1);
    assert_eq!(bench.next().await, [TERM_SENT]);
    assert_eq!(bench.next().await, [result(Outcome::Exited)]);
    bench.silent().await;
}

#[tokio::test]
async fn what_was_announced_and_may_not_have_been_written_is_announced_again() {
    let grace = Duration::from_millis(200);
    let mut bench = Bench::new(Mode::Enforce, &format!("trap '' TERM; echo; {LOOP}"), grace);
    let again = |bench: &mut Bench| -> Vec<Step> {
        let again = bench.reaper.announce_again(boottime_ns()).into_iter();
        let step = |it: Observation| match it.body {
            Body::Action(action) => action.step,
            other => panic!("{other:?}"),
        };
        again.map(step).collect()
    };
    assert_eq!(bench.next().await, [TERM_BEFORE]);
    assert_eq!(again(&mut bench), [Step::Terminate]);
    assert_eq!(bench.next().await, [TERM_SENT]);
    assert_eq!(again(&mut bench), [], "it was done");
    assert_eq!(bench.next().await, [KILL_BEFORE]);
    assert_eq!(again(&mut bench), []);
    assert_eq!(bench.next().await, [KILL_BEFORE], "not done before it is announced again");
    assert_eq!(bench.next().await, [KILL_SENT]);
    assert_eq!(bench.next().await, [result(Outcome::Exited)]);
}

#[tokio::test]
async fn one_that_does_not_end_is_killed_after_the_grace() {
    let grace = Duration::from_millis(200);
    let mut bench = Bench::new(Mode::Enforce, &format!("trap '' TERM; echo; {LOOP}"), grace);
    assert_eq!(bench.next().await, [TERM_BEFORE]);
    let told = boottime_ns();
    assert_eq!(bench.next().await, [TERM_SENT]);
    assert_eq!(bench.next().await, [KILL_BEFORE]);
    assert!(boottime_ns() - told >= 199_000_000, "the signal came after it was told of");
    assert!(bench.subject.runs());
    assert_eq!(bench.next().await, [KILL_SENT]);
    assert_eq!(bench.next().await, [result(Outcome::Exited)]);
    bench.silent().await;
}

#[tokio::test]
async fn a_finding_that_is_withdrawn_saves_it() {
    let grace = Duration::from_millis(200);
    let mut bench = Bench::new(Mode::Enforce, &format!("trap '' TERM; echo; {LOOP}"), grace);
    bench.next().await;
    assert_eq!(bench.next().await, [TERM_SENT]);
    bench.find(FindingState::Closed);
    assert_eq!(bench.next().await, [result(Outcome::Withdrawn)]);
    bench.silent().await;
    assert!(bench.subject.runs());

    // And the same before SIGTERM.
    bench.find(FindingState::Opened);
    assert_eq!(bench.next().await, [TERM_BEFORE]);
    bench.find(FindingState::Closed);
    assert_eq!(bench.next().await, [(Step::Refuse, Phase::After, Some(Outcome::Refused))]);
    bench.silent().await;
    assert!(bench.subject.runs());
}

#[tokio::test]
async fn waiting_for_it_may_be_given_up_at_any_time() {
    let mut bench = Bench::new(Mode::Enforce, &format!("trap '' TERM; echo; {LOOP}"), LONG);
    bench.next().await;
    bench.next().await;
    for _ in 0..5 {
        assert!(timeout(Duration::from_millis(5), bench.reaper.next(&bench.roster)).await.is_err());
    }
    bench.subject.signal(rustix::process::Signal::KILL);
    assert_eq!(bench.next().await, [result(Outcome::Exited)]);
}

#[tokio::test]
async fn a_dry_run_says_what_it_would_do_and_observe_says_nothing() {
    let script = format!("echo; {LOOP}");
    let mut bench = Bench::new(Mode::DryRun, &script, LONG);
    assert_eq!(bench.next().await, [(Step::WouldEnd, Phase::After, None)]);
    bench.silent().await;
    assert!(bench.subject.runs());
    let mut bench = Bench::new(Mode::Observe, &script, LONG);
    bench.silent().await;
    assert!(bench.subject.runs());
}

#[tokio::test]
async fn a_storm_is_told_of_and_ends_nobody() {
    let mut bench = Bench::new(Mode::Enforce, &format!("echo; {LOOP}"), LONG);
    let id = bench.subject.id();
    let mut ids = vec![id];
    for pid in 0..20 {
        let other = crate::model::Identity { pid: 4_000_000 + pid, ..id };
        let mut spawn = spawn(other, Role::Worker);
        spawn.uid = bench.subject.uid();
        bench.tell(Body::Spawn(Box::new(spawn)));
        ids.push(other);
    }
    bench.tell(Body::Finding(Box::new(finding(Kind::GatewayOrphan, &ids))));
    assert_eq!(bench.next().await, [(Step::Stop, Phase::After, None)]);
    assert!(bench.reaper.is_stopped());
    bench.silent().await;
    assert!(bench.subject.runs());
    bench.reaper.resume();
    let said = bench.next().await;
    assert_eq!(said.len(), 11);
    assert!(said.contains(&(Step::Resume, Phase::After, None)), "{said:?}");
    let gone = (Step::Refuse, Phase::After, Some(Outcome::Gone));
    assert_eq!(said.iter().filter(|one| **one == gone).count(), 9);
    wait_until(|| bench.subject.runs());
}

#[tokio::test]
async fn what_the_end_of_a_worker_takes_is_opened_while_there_is_nothing_to_do() {
    let subject = Subject::worker(&format!("echo; {LOOP}"));
    for (mode, opens) in [(Mode::Enforce, true), (Mode::DryRun, true), (Mode::Observe, false)] {
        let policy = Policy { mode, min_age: Duration::ZERO, ..Policy::default() };
        let mut reaper = Reaper::new(Profile::hermes(), policy);
        let spawn = Body::Spawn(Box::new(spawn(subject.id(), Role::Worker)));
        let record = Recorder::default().record(boottime_ns(), spawn);
        let mut roster = Roster::blank();
        roster.observe(&record);
        reaper.observe(&record, &roster);
        assert_eq!(reaper.executor.next_to_prepare().is_some(), opens);
        let next = timeout(Duration::from_millis(400), reaper.next(&roster)).await;
        assert!(next.is_err(), "{next:?}");
        assert_eq!(reaper.executor.next_to_prepare(), None, "it was, and is not looked for again");
    }
}
