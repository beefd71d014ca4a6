//! Tests of the roster by itself.

use super::Roster;
use crate::{
    model::{Body, Exec, Identity, Role, Sample, Source, Spawn, TerminalState, testing},
    profile::Profile,
};

const S: u64 = 1_000_000_000;

fn fold(bodies: impl IntoIterator<Item = Body>) -> Roster {
    let mut roster = Roster::new(&Profile::hermes());
    for (seq, body) in (1..).zip(bodies) {
        let time = testing::time_since("2026-11-22T12:00:00Z", seq * S);
        roster.observe(&testing::record(seq, time, seq * S, body));
    }
    roster
}

const fn id(pid: u32) -> Identity {
    testing::id(pid, 1)
}

fn worker(pid: u32, parent: u32) -> Body {
    let spawn: Spawn = testing::spawn(id(pid)).forked_by(id(parent)).session("K");
    Body::Spawn(Box::new(spawn))
}

fn exec(pid: u32, is_worker: bool) -> Body {
    Body::Exec(Exec {
        pid,
        start_ns: 1,
        role: Role::Worker,
        is_worker,
        comm: "sh".to_owned(),
        argv0: None,
        helper: None,
        source: Source::Kernel,
    })
}

fn gateway_of(roster: &Roster, pid: u32) -> Option<u32> {
    roster.worker(id(pid))?.gateway_id().map(|gateway| gateway.pid)
}

/// A terminal of gateway 100 whose process was started to show a session.
fn terminal(index: u32, resumes: Option<String>, state: TerminalState) -> Body {
    let mut event = testing::terminal(index, u64::from(index));
    (event.master, event.resumes) = (Some(testing::process(id(100))), resumes);
    event.state = state;
    Body::Terminal(Box::new(event))
}

#[test]
fn whether_a_session_is_shown_costs_no_look_at_the_terminals_of_others() {
    let all = (1..=1_000).map(|n| terminal(n, Some(format!("s{n}")), TerminalState::Opened));
    let spawn = testing::spawn(id(200)).forked_by(id(100)).session("s7");
    let named = || Body::Spawn(Box::new(spawn.clone()));
    let roster = fold(all.clone().chain([named()]));
    let looked_at = |roster: &Roster, session| roster.terminals.started_for(session).count();
    let is_shown = |roster: &Roster| roster.is_shown(roster.worker(id(200)).expect("it lives"));
    assert_eq!((looked_at(&roster, "s7"), is_shown(&roster)), (1, true));
    // It is started anew to show another session, or closes.
    let other = terminal(7, Some("s8".to_owned()), TerminalState::Opened);
    let roster = fold(all.clone().chain([named(), other]));
    assert_eq!((looked_at(&roster, "s7"), looked_at(&roster, "s8")), (0, 2));
    assert!(!is_shown(&roster));
    let roster = fold(all.chain([named(), terminal(7, None, TerminalState::Closed)]));
    assert!(!is_shown(&roster));
}

#[test]
fn a_launched_worker_that_comes_back_is_still_its_launchers() {
    let roster = fold([
        worker(202, 100),
        worker(203, 202),
        exec(202, false),
        exec(203, false),
        worker(203, 202),
    ]);
    assert_eq!(gateway_of(&roster, 203), Some(100));
    assert_eq!((roster.totals().spawned, roster.totals().live), (1, 1));
}

#[test]
fn who_executes_was_no_zombie() {
    let mut zombie = testing::sample(id(7));
    zombie.state = 'Z';
    let seen = [worker(7, 100), Body::Sample(zombie)];
    assert_eq!(fold(seen.clone()).totals().live, 0);
    assert_eq!(fold(seen.into_iter().chain([exec(7, true)])).totals().live, 1);
}

#[test]
fn the_order_of_launcher_and_worker_does_not_matter() {
    for order in [[worker(202, 100), worker(203, 202)], [worker(203, 202), worker(202, 100)]] {
        let roster = fold(order);
        assert_eq!(gateway_of(&roster, 203), Some(100));
        assert_eq!((roster.totals().spawned, roster.totals().live), (1, 1));
    }
}

/// A storm pushes out what ended early; who had descendants then is forgotten once these have ended.
#[test]
fn whoever_was_passed_over_in_a_storm_is_forgotten_later() {
    const STORM: u32 = 10_000;
    let exit = |pid| Body::Exit(testing::exit(id(pid)));
    let mut below = testing::spawn(id(8)).forked_by(id(7)).below(id(7));
    below.role = Role::Descendant;
    let first = [worker(7, 100), Body::Spawn(Box::new(below)), exit(7)];
    let storm = (0..STORM).flat_map(|n| {
        let mut spawn = testing::spawn(id(1_000 + n)).forked_by(id(100));
        spawn.session = Some(format!("S{n}"));
        [Body::Spawn(Box::new(spawn)), exit(1_000 + n)]
    });
    let mut roster = Roster::new(&Profile::hermes());
    let mut feed = |seq: u64, at: u64, body| {
        let time = testing::time_since("2026-11-22T12:00:00Z", at);
        roster.observe(&testing::record(seq, time, at, body));
        roster.workers.len()
    };
    let all = first.into_iter().chain(storm).chain([exit(8)]);
    // A millisecond each: within every window.
    let most = (1..).zip(all).map(|(seq, body)| feed(seq, seq * S / 1_000, body)).max();
    assert!(most.is_some_and(|most| most <= super::retire::ENDED_MAX + 2), "{most:?}");
    let tick = Body::Tick(crate::model::Tick::default());
    assert_eq!(feed(100_000, 24 * 3_600 * S, tick), 0);
    assert_eq!(roster.totals(), super::Totals { spawned: 10_001, inherited: 0, live: 0 });
    assert!(roster.sizes().iter().all(|&size| size == 0), "{:?}", roster.sizes());
}

#[test]
fn the_memory_of_a_worker_is_its_launchers_too_and_no_other_s() {
    let start = || {
        let mut start = testing::start();
        let (name, ok, detail) = (crate::model::USE_CAPABILITY.to_owned(), true, String::new());
        start.capabilities = vec![crate::model::Capability { name, ok, detail }];
        Body::Start(Box::new(start))
    };
    let below = |pid, launcher: Option<&str>| {
        let mut spawn = testing::spawn(id(pid)).forked_by(id(90)).session(&format!("of {pid}"));
        let parent = spawn.parent.as_mut().expect("it was just set");
        parent.process.launcher = launcher.map(str::to_owned);
        spawn.ancestors = vec![testing::process(id(100))];
        Body::Spawn(Box::new(spawn))
    };
    let sampled = |pid, rss_kib, launchers_rss_kib| {
        Body::Sample(Sample { rss_kib, launchers_rss_kib, ..testing::sample(id(pid)) })
    };
    let rss = |bodies: &[Body], pid| {
        let roster = fold(std::iter::once(start()).chain(bodies.iter().cloned()));
        roster.worker(id(pid)).and_then(|worker| worker.named().rss_kib)
    };
    let one = [below(201, Some("npm exec")), sampled(201, Some(30), Some(50))];
    assert_eq!(rss(&one, 201), Some(80));
    // Each keeps its last value.
    let later = [&one[..], &[sampled(201, Some(31), None)]].concat();
    assert_eq!(rss(&later, 201), Some(81));
    assert_eq!(rss(&[below(201, None), sampled(201, Some(30), None)], 201), Some(30));
    // What launched two is the gateway of both.
    let two = [&one[..], &[below(202, Some("npm exec")), sampled(202, Some(7), Some(50))]].concat();
    assert_eq!((rss(&two, 201), rss(&two, 202)), (Some(30), Some(7)));
    // A launcher with a worker's arguments has samples of its own.
    let uv = [worker(202, 100), worker(203, 202), sampled(202, Some(40), None)];
    let uv = [&uv[..], &[sampled(203, Some(60), Some(40))]].concat();
    assert_eq!(rss(&uv, 203), Some(100));
}

#[test]
fn a_snapshot_is_read_by_the_profile_in_use() {
    let text = "name = \"p\"\n[worker]\ntokens = [\"-m\", \"w\"]\nsession = \"none\"\n\
                one_per = \"gateway\"\n";
    let one_each = Profile::parse(text).expect("it is one");
    let spawn = |n| testing::spawn(id(n)).forked_by(id(100));
    let spawns = [spawn(1), spawn(2)];
    let grouped = |profile: &Profile| {
        let roster = Roster::of(profile, &spawns, S);
        roster.worker(id(1)).and_then(|worker| Some(roster.group(&worker.key()?)?.live.len()))
    };
    assert_eq!(grouped(&one_each), Some(2), "both of one gateway");
    assert_eq!(grouped(&Profile::hermes()), None, "they name no session");
}

#[test]
fn after_a_storm_time_alone_makes_it_forget() {
    let mut roster = Roster::new(&Profile::hermes());
    let mut seq = 0;
    let mut feed = |roster: &mut Roster, at: u64, body| {
        seq += 1;
        roster.observe(&testing::record(
            seq,
            testing::time_since("2026-11-22T12:00:00Z", at),
            at,
            body,
        ));
    };
    let mut storm = |roster: &mut Roster, from: u32, lives: u32| {
        for n in from..from + lives {
            let mut spawn = testing::spawn(id(n)).forked_by(id(100));
            spawn.session = Some(format!("S{n}"));
            feed(roster, S, Body::Spawn(Box::new(spawn)));
            feed(roster, S, Body::Exit(testing::exit(id(n))));
        }
    };
    storm(&mut roster, 1_000, 300);
    assert_eq!(roster.next_retirement(), None, "few are not worth a record");
    storm(&mut roster, 2_000, 5_000);
    let mut ticks = Vec::new();
    while let Some(at) = roster.next_retirement() {
        let tick = Body::Tick(crate::model::Tick::default());
        roster.observe(&testing::record(
            20_000,
            testing::time_since("2026-11-22T12:00:00Z", at),
            at,
            tick,
        ));
        ticks.push(at / S);
    }
    // Ends are remembered for a minute, and workers for the ten minutes of the churn window.
    assert_eq!(ticks, [71, 611]);
    assert!(roster.sizes().iter().all(|&size| size == 0), "{:?}", roster.sizes());
    assert!(roster.workers.capacity() < 200, "{}", roster.workers.capacity());
}
