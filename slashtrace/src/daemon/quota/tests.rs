use std::collections::BTreeSet;

use jiff::Timestamp;
use proptest::{collection::vec, prelude::*};

use super::*;
use crate::{
    daemon::{Sink, pipeline::Pipeline, replay::replay},
    evidence::{Reader, line, samples},
    model::{FORMAT_VERSION, Record, StdinPeer, StdinState, Stop, TerminalEvent, Tick, testing},
    profile::Profile,
};

const S: u64 = 1_000_000_000;
const MS: u64 = 1_000_000;
const FLOODER: u32 = 1_000;
const OTHER: u32 = 2_000;

/// The stage, and a roster of what it lets pass.
struct World {
    quota: Quota,
    roster: Roster,
    written: Vec<Observation>,
}

impl World {
    fn new(user: Option<u64>, all: Option<u64>) -> Self {
        let quota = Quota::new(Bounds { user, all });
        Self { quota, roster: Roster::new(&Profile::hermes()), written: Vec::new() }
    }

    fn feed(&mut self, boottime_ns: u64, body: Body) {
        let mut passing = Vec::new();
        self.quota.pass(Observation { boottime_ns, body }, &self.roster, &mut passing);
        for observation in passing {
            let seq = self.written.len() as u64 + 1;
            let Observation { boottime_ns, body } = observation.clone();
            let time = Timestamp::UNIX_EPOCH;
            self.roster.observe(&Record { v: FORMAT_VERSION, seq, time, boottime_ns, body });
            self.written.push(observation);
        }
    }

    fn stop(&mut self, boottime_ns: u64) {
        let stop = Stop { reason: String::new(), counters: [].into(), complete: true };
        self.feed(boottime_ns, Body::Stop(stop));
    }

    fn gaps(&self) -> Vec<(u64, Gap)> {
        let gaps = self.written.iter().filter_map(|observation| match &observation.body {
            Body::Gap(gap) => Some((observation.boottime_ns, gap.clone())),
            _ => None,
        });
        gaps.collect()
    }

    fn told(&self, reason: GapReason, uid: u32) -> u64 {
        let of = |gap: &Gap| gap.reason == reason && gap.uid == Some(uid);
        self.gaps().iter().filter(|(_, gap)| of(gap)).map(|(_, gap)| gap.lost).sum()
    }

    fn count(&self, is: impl Fn(&Body) -> bool) -> usize {
        self.written.iter().filter(|observation| is(&observation.body)).count()
    }

    fn bytes(&self, is: impl Fn(&Body) -> bool) -> u64 {
        let of = self.written.iter().map(|observation| &observation.body);
        of.filter(|body| is(body)).map(size::of).sum()
    }
}

fn id(uid: u32, nth: u32) -> Identity {
    Identity { pid: uid * 100 + nth % 100_000, start_ns: u64::from(uid) * S + u64::from(nth) }
}

fn worker(uid: u32, nth: u32) -> Body {
    let gateway = id(uid, 0);
    Spawn { uid, ..testing::spawn(id(uid, nth)).forked_by(gateway).session("s") }.into()
}

fn child(uid: u32, nth: u32, of: u32) -> Body {
    Spawn { uid, ..testing::spawn(id(uid, nth)).below(id(uid, of)) }.into()
}

fn exit(uid: u32, nth: u32, role: Role) -> Body {
    Body::Exit(Exit { role, ..testing::exit(id(uid, nth)) })
}

fn sample(uid: u32, nth: u32, syscr: u64) -> Body {
    Body::Sample(Sample { syscr: Some(syscr), ..testing::sample(id(uid, nth)) })
}

fn is_spawn_of(uid: u32) -> impl Fn(&Body) -> bool {
    move |body| matches!(body, Body::Spawn(spawn) if spawn.uid == uid)
}

#[test]
fn what_keeps_a_worker_from_being_ended_is_never_left_out() {
    let mut world = World::new(Some(16 << 10), None);
    world.feed(0, worker(FLOODER, 1));
    let mut nth = 2;
    while world.quota.has_room(Some(FLOODER), Need::Worker) {
        world.feed(MS, worker(FLOODER, nth));
        nth += 1;
    }
    // A terminal that shows its session; that it is another program by now.
    let terminal = TerminalEvent { uid: Some(FLOODER), ..testing::terminal(3, 5) };
    world.feed(2 * MS, Body::Terminal(Box::new(terminal.clone())));
    // Its user may name sessions without end: that is left out.
    for nth in 0..1_000 {
        let session = Some(format!("s{nth}"));
        let event = TerminalEvent { session, ..terminal.clone() };
        world.feed(2 * MS, Body::Terminal(Box::new(event)));
    }
    let terminals = |body: &Body| matches!(body, Body::Terminal(_));
    assert_eq!(world.count(terminals), 1);
    let state = TerminalState::Closed;
    let closed = TerminalEvent { state, ..terminal };
    world.feed(2 * MS, Body::Terminal(Box::new(closed)));
    assert_eq!(world.count(terminals), 2);
    let exec = Exec { role: Role::Worker, is_worker: false, ..testing::exec(id(FLOODER, 1)) };
    world.feed(2 * MS, Body::Exec(exec));
    assert_eq!(world.count(|body| matches!(body, Body::Exec(_))), 1);
    // Its work waits no longer than the births of others do.
    let work = Sample { cpu_ms: Some(7), ..testing::sample(id(FLOODER, 1)) };
    assert!(!is_news(&work));
    assert!(is_news(&testing::sample(id(FLOODER, 1))));
}

#[test]
fn what_users_take_for_themselves_is_theirs() {
    let subordinates = Subordinates::parse("a:100000:65536");
    let quota = Quota::new(Bounds { user: Some(64 << 10), all: None }).sharing(subordinates);
    let mut world = World { quota, ..World::new(None, None) };
    for nth in 1..2_000_u32 {
        world.feed(u64::from(nth) * MS, worker(100_000 + nth % 1_000, nth));
    }
    let spawned = world.count(|body| matches!(body, Body::Spawn(_)));
    assert!((50..400).contains(&spawned), "{spawned}");
}

#[test]
fn who_wrote_little_is_not_left_out_for_what_others_wrote() {
    let mut world = World::new(Some(64 << 10), Some(64 << 10));
    let mut nth = 0;
    while world.quota.all.left() > 0.0 {
        nth += 1;
        world.feed(MS, worker(3_000 + nth % 20, nth));
        world.feed(MS, exit(3_000 + nth % 20, nth, Role::Worker));
        assert!(nth < 10_000);
    }
    world.feed(2 * MS, worker(OTHER, 1));
    assert_eq!(world.count(is_spawn_of(OTHER)), 1);
}

#[test]
fn who_floods_is_left_out_and_nobody_else() {
    let mut world = World::new(Some(64 << 10), None);
    let mut offered = 0;
    for nth in 1..5_000 {
        let now = u64::from(nth) * 10 * MS;
        world.feed(now, worker(FLOODER, nth));
        world.feed(now + MS, exit(FLOODER, nth, Role::Worker));
        if nth % 100 == 0 {
            world.feed(now, worker(OTHER, nth));
            world.feed(now, sample(OTHER, nth, 1));
            world.feed(now, exit(OTHER, nth, Role::Worker));
            offered += 1;
        }
    }
    world.stop(50 * S);
    let (spawned, others) = (world.count(is_spawn_of(FLOODER)), world.count(is_spawn_of(OTHER)));
    assert_eq!(others, offered);
    let others_exits = |body: &Body| matches!(body, Body::Exit(it) if it.pid >= OTHER * 100);
    assert_eq!(world.count(others_exits), offered);
    assert_eq!(world.count(|body| matches!(body, Body::Sample(_))), offered);
    assert!((100..400).contains(&spawned), "{spawned}");
    // Whose birth is written, their end is, and no other.
    let exits = |body: &Body| matches!(body, Body::Exit(it) if it.pid < OTHER * 100);
    assert_eq!(world.count(exits), spawned);
    let left_out = 2 * (4_999 - spawned as u64);
    assert_eq!(world.told(GapReason::QuotaFull, FLOODER), left_out);
    assert_eq!(world.gaps().iter().map(|(_, gap)| gap.lost).sum::<u64>(), left_out);
    assert!(world.quota.left_out());
    // 50 s: a full bucket and what came in since.
    let bytes = world.bytes(|body| {
        is_spawn_of(FLOODER)(body) || matches!(body, Body::Exit(it) if it.pid < OTHER * 100)
    });
    assert!(bytes < (64 << 10) * 11 / 6 + 4_096, "{bytes}");
    assert!(world.gaps().len() <= 4, "{:?}", world.gaps());
}

#[test]
fn news_go_first_and_are_no_loss() {
    let mut world = World::new(Some(64 << 10), None);
    world.feed(S, worker(FLOODER, 1));
    let mut signal = testing::signal(id(FLOODER, 1), id(FLOODER, 1), 18);
    signal.sender.as_mut().unwrap().uid = FLOODER;
    let signal = Body::Signal(signal);
    for nth in 0..2_000_u64 {
        world.feed(S + nth * MS, signal.clone());
        world.feed(S + nth * MS, sample(FLOODER, 1, nth));
    }
    // There is room for a worker all the same, for how it is used, and for ends.
    world.feed(3 * S, worker(FLOODER, 2));
    let stdin = StdinPeer { kind: None, state: StdinState::Unheld, holder: None };
    let unheld = Sample { stdin: Some(stdin), ..testing::sample(id(FLOODER, 1)) };
    world.feed(3 * S, Body::Sample(unheld));
    world.feed(3 * S, exit(FLOODER, 2, Role::Worker));
    world.stop(4 * S);
    assert_eq!(world.count(is_spawn_of(FLOODER)), 2);
    let is_unheld = |body: &Body| matches!(body, Body::Sample(it) if it.stdin.is_some());
    assert_eq!(world.count(is_unheld), 1);
    assert!(world.told(GapReason::QuotaNews, FLOODER) > 2_000);
    assert_eq!(world.told(GapReason::QuotaFull, FLOODER), 0);
    assert!(!world.quota.left_out());
    let (written, told) = (
        world.count(|body| matches!(body, Body::Sample(_) | Body::Signal(_))) as u64,
        world.told(GapReason::QuotaNews, FLOODER),
    );
    assert_eq!(written + told, 4_001);
}

#[test]
fn samples_without_room_become_one_that_comes_later() {
    let mut world = World::new(Some(16 << 10), None);
    world.feed(S, worker(FLOODER, 1));
    world.quota.user(Some(FLOODER)).bucket.take(14 << 10);
    let rss = Sample { rss_kib: Some(7), ..testing::sample(id(FLOODER, 1)) };
    world.feed(2 * S, Body::Sample(Sample { rss_kib: Some(5), ..rss.clone() }));
    world.feed(3 * S, Body::Sample(Sample { state: 'R', ..rss }));
    world.feed(4 * S, sample(FLOODER, 1, 9));
    let samples = |world: &World| {
        let of = world.written.iter().filter_map(|observation| match &observation.body {
            Body::Sample(sample) => Some((observation.boottime_ns, sample.clone())),
            _ => None,
        });
        of.collect::<Vec<_>>()
    };
    assert!(samples(&world).is_empty());
    world.feed(70 * S, Body::Tick(Tick::default()));
    let found = samples(&world);
    assert_eq!(found.len(), 1);
    let (at, sample) = &found[0];
    assert_eq!((*at, sample.rss_kib, sample.syscr), (4 * S, Some(7), Some(9)));
    world.stop(71 * S);
    assert_eq!(world.told(GapReason::QuotaNews, FLOODER), 2);
}

#[test]
fn the_last_sample_of_a_process_comes_before_its_end() {
    let mut world = World::new(Some(16 << 10), None);
    world.feed(S, worker(FLOODER, 1));
    world.quota.user(Some(FLOODER)).bucket.take(14 << 10);
    world.feed(2 * S, sample(FLOODER, 1, 9));
    world.feed(3 * S, exit(FLOODER, 1, Role::Worker));
    world.stop(4 * S);
    let names: Vec<&str> = world.written.iter().map(|it| name(&it.body)).collect();
    assert_eq!(names, ["spawn", "sample", "exit", "stop"]);
}

fn name(body: &Body) -> &'static str {
    match body {
        Body::Spawn(_) => "spawn",
        Body::Sample(_) => "sample",
        Body::Exit(_) => "exit",
        Body::Program(_) => "program",
        Body::Stop(_) => "stop",
        _ => "other",
    }
}

#[test]
fn who_has_left_much_is_heard_where_all_together_write_too_much() {
    // Four that flood have the most of what there is; who comes now has room.
    let mut world = World::new(Some(64 << 10), Some(128 << 10));
    for nth in 1..2_000 {
        for uid in [1_001, 1_002, 1_003, 1_004] {
            world.feed(u64::from(nth) * MS, worker(uid, nth));
        }
    }
    for nth in 1..50 {
        world.feed(2 * S, worker(OTHER, nth));
    }
    let before = world.count(is_spawn_of(1_001));
    world.feed(2 * S, worker(1_001, 5_000));
    assert_eq!(world.count(is_spawn_of(1_001)), before);
    assert!(world.count(is_spawn_of(OTHER)) > 30);
    assert!(world.bytes(|body| matches!(body, Body::Spawn(_))) <= 128 << 10);
}

#[test]
fn a_gateway_s_program_goes_with_its_worker() {
    let mut world = World::new(Some(16 << 10), None);
    let program = |uid: u32| {
        let is_program = |body: &Body| matches!(body, Body::Program(_));
        let found = samples::all().into_iter().map(|record| record.body).find(is_program);
        let Some(Body::Program(mut program)) = found else { unreachable!() };
        (program.pid, program.start_ns) = (id(uid, 0).pid, id(uid, 0).start_ns);
        Body::Program(program)
    };
    world.feed(S, program(FLOODER));
    world.feed(S, worker(FLOODER, 1));
    assert_eq!(
        world.written.iter().map(|it| name(&it.body)).collect::<Vec<_>>(),
        ["program", "spawn"]
    );
    world.quota.user(Some(FLOODER)).bucket.take(64 << 10);
    world.feed(S, program(FLOODER));
    world.feed(S, worker(FLOODER, 2));
    world.feed(S, program(OTHER));
    world.feed(S, worker(OTHER, 1));
    assert_eq!(world.written.len(), 4, "only the other's");
}

#[test]
fn more_users_than_are_told_apart_share_a_bound() {
    let mut world = World::new(Some(16 << 10), None);
    for uid in 0..3 * USERS_MAX as u32 {
        world.feed(S, worker(uid + 1, 1));
        world.quota.user(Some(uid + 1)).bucket.take(1);
    }
    assert!(world.quota.users.len() <= USERS_MAX + 1);
    assert!(world.quota.left_out());
}

#[test]
fn a_descendant_is_its_own_user_s_unless_it_became_root() {
    let mut world = World::new(Some(16 << 10), None);
    world.feed(S, worker(0, 1));
    let below = |nth: u32, uid: u32, of: Identity| {
        Body::from(Spawn { uid, ..testing::spawn(id(FLOODER, nth)).below(of) })
    };
    for nth in 1..200 {
        world.feed(S, below(nth, FLOODER, id(0, 1)));
        world.feed(S, exit(FLOODER, nth, Role::Descendant));
    }
    assert!(world.count(is_spawn_of(FLOODER)) < 60);
    assert_eq!(world.count(is_spawn_of(0)), 1);
    // Who becomes root below another user's worker is not root's.
    world.feed(S, worker(OTHER, 1));
    for nth in 300..500 {
        world.feed(S, below(nth, 0, id(OTHER, 1)));
    }
    assert!(world.count(is_spawn_of(0)) < 60);
    world.stop(S);
    assert!(world.told(GapReason::QuotaFull, FLOODER) > 200);
    assert!(world.told(GapReason::QuotaFull, OTHER) > 100);
}

#[test]
fn without_bounds_everything_passes() {
    let mut world = World::new(None, None);
    for nth in 1..1_000 {
        world.feed(S, worker(FLOODER, nth));
        world.feed(S, sample(FLOODER, nth, 1));
    }
    assert_eq!(world.written.len(), 2 * 999);
}

#[derive(Default)]
struct Lines(Vec<String>);

impl Sink for Lines {
    fn record(&mut self, record: &Record, _roster: &Roster) -> anyhow::Result<()> {
        self.0.push(line(record)?);
        Ok(())
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        Ok(())
    }
}

#[test]
fn what_was_left_out_is_not_judged_so_a_replay_comes_to_the_same() {
    let mut lines = Lines::default();
    let start = samples::start();
    let bounds = Bounds { user: Some(64 << 10), all: None };
    let mut pipeline = Pipeline::new(&start.profile, vec![&mut lines]).bounded(bounds);
    let mut at = |boottime_ns: u64, body: Body| {
        let time = samples::time(boottime_ns);
        let found = pipeline.observe(Observation { boottime_ns, body }, time).unwrap();
        (found.len(), pipeline.left_out())
    };
    at(S, Body::Start(Box::new(start)));
    let mut found = 0;
    for nth in 1..600 {
        let now = S + u64::from(nth) * 100 * MS;
        found += at(now, worker(FLOODER, nth)).0;
        found += at(now, sample(FLOODER, nth, 3)).0;
        found += at(now + MS, child(FLOODER, nth + 10_000, nth)).0;
        if nth % 3 == 0 {
            found += at(now + 2 * MS, exit(FLOODER, nth, Role::Worker)).0;
        }
        found += at(now + 3 * MS, Body::Tick(Tick::default())).0;
    }
    let stop = Stop { reason: String::new(), counters: [].into(), complete: false };
    let (_, left_out) = at(90 * S, Body::Stop(stop));
    assert!(left_out && found > 3, "{found}");
    let text = lines.0.join("\n") + "\n";
    let mut again = Lines::default();
    let replayed = replay(Reader::new(text.as_bytes()), vec![&mut again]).unwrap();
    assert_eq!(replayed.last().unwrap().difference, None);
    assert_eq!(again.0, lines.0);
}

/// What one of two users does.
#[derive(Clone, Debug)]
enum Act {
    Worker(u32),
    Child(u32, u32),
    Exit(u32, Role),
    Sample(u32),
    Wait(u64),
}

fn act() -> impl Strategy<Value = (bool, Act)> {
    let nth = 1..40_u32;
    let act = prop_oneof![
        4 => nth.clone().prop_map(Act::Worker),
        2 => (nth.clone(), nth.clone()).prop_map(|(nth, of)| Act::Child(nth + 100, of)),
        3 => nth.clone().prop_map(|nth| Act::Exit(nth, Role::Worker)),
        1 => nth.clone().prop_map(|nth| Act::Exit(nth + 100, Role::Descendant)),
        3 => nth.prop_map(Act::Sample),
        1 => (1..3_000_u64).prop_map(Act::Wait),
    ];
    // One in ten is the other's.
    (prop::bool::weighted(0.9), act)
}

/// What is written of these acts; the others' alone where `alone` is set. And how many were offered.
fn run(acts: &[(bool, Act)], alone: bool) -> (World, u64) {
    let mut world = World::new(Some(32 << 10), Some(1 << 20));
    let (mut now, mut offered) = (S, 0);
    let mut living: BTreeSet<(u32, u32)> = BTreeSet::new();
    for (flooder, act) in acts {
        if let Act::Wait(ms) = act {
            now += ms * MS;
        }
        if *flooder && alone {
            continue;
        }
        // Who floods does it with twenty processes.
        let (uid, times) = if *flooder { (FLOODER, 20) } else { (OTHER, 1) };
        for time in 0..times {
            let at = |nth: u32| nth + 1_000 * time;
            let body = match act {
                Act::Worker(nth) => worker(uid, at(*nth)),
                Act::Child(nth, of) => child(uid, at(*nth), at(*of)),
                Act::Exit(nth, role) if living.contains(&(uid, at(*nth))) => {
                    exit(uid, at(*nth), *role)
                }
                Act::Sample(nth) if living.contains(&(uid, at(*nth))) => {
                    sample(uid, at(*nth), offered)
                }
                Act::Exit(..) | Act::Sample(_) | Act::Wait(_) => continue,
            };
            match act {
                Act::Worker(nth) | Act::Child(nth, _) => drop(living.insert((uid, at(*nth)))),
                Act::Exit(nth, _) => drop(living.remove(&(uid, at(*nth)))),
                Act::Sample(_) | Act::Wait(_) => {}
            }
            offered += 1;
            world.feed(now, body);
        }
    }
    world.stop(now);
    (world, offered)
}

proptest! {
    #[test]
    fn a_flood_costs_its_user_alone_and_every_record_is_accounted_for(
        acts in vec(act(), 1..400),
    ) {
        let (world, offered) = run(&acts, false);
        let others = |world: &World| {
            let own = |it: &&Observation| match &it.body {
                Body::Spawn(it) => it.uid == OTHER,
                Body::Exit(it) => it.pid >= OTHER * 100,
                _ => false,
            };
            world.written.iter().filter(own).cloned().collect::<Vec<_>>()
        };
        prop_assert_eq!(others(&world), others(&run(&acts, true).0));
        let gaps: u64 = world.gaps().iter().map(|(_, gap)| gap.lost).sum();
        let written = world.written.len() - world.gaps().len() - 1;
        prop_assert_eq!(written as u64 + gaps, offered);
        // Every end has its birth.
        let mut born = BTreeSet::new();
        for observation in &world.written {
            match &observation.body {
                Body::Spawn(spawn) => drop(born.insert(spawn.identity())),
                Body::Exit(exit) => prop_assert!(born.contains(&exit.identity()), "{exit:?}"),
                _ => {}
            }
        }
    }
}
