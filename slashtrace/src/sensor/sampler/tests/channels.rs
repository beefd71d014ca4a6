//! Who has the other ends of a worker's stdin and stdout.

use super::*;
use crate::host::unix::UnixEnd;

/// What a round says of the worker's stdout, if anything.
fn output(world: &mut World, second: u64) -> Option<(EndKind, OutputState, Option<u32>)> {
    let output = world.samples(second).iter().find(|sample| sample.pid == 20)?.output?;
    Some((output.kind, output.state, output.reader.map(|reader| reader.pid)))
}

/// What rounds say of the worker's stdin.
fn stdins(world: &mut World, seconds: std::ops::Range<u64>) -> Vec<(u64, StdinState, Option<u32>)> {
    let of_worker = |world: &mut World, second| {
        let samples = world.samples(second);
        let stdin = samples.iter().find(|sample| sample.pid == 20)?.stdin?;
        Some((second, stdin.state, stdin.holder.map(|holder| holder.pid)))
    };
    seconds.filter_map(|second| of_worker(world, second)).collect()
}

#[test]
fn the_kind_of_a_stdin_is_always_said() {
    let kinds = [
        ("socket:[500]", EndKind::Socket),
        ("/dev/pts/3", EndKind::Terminal),
        ("/dev/null", EndKind::Null),
        ("/tmp/fifo", EndKind::File),
        ("/dev/shm/null", EndKind::File),
        ("anon_inode:[eventfd]", EndKind::Other),
    ];
    for (target, kind) in kinds {
        let mut world = World::new();
        world.fake.fd(20, 0, target, "02");
        let stdin = world.samples(0)[0].stdin.unwrap();
        let unknown = StdinPeer { kind: Some(kind), state: StdinState::Unknown, holder: None };
        assert_eq!(stdin, unknown, "{target}");
    }
    let mut world = World::new();
    let stdin = world.samples(0)[0].stdin.unwrap();
    assert_eq!((stdin.kind, stdin.state), (Some(EndKind::Closed), StdinState::Unknown));
    let mut world = World::new();
    world.fake.hide_fds(20);
    let stdin = world.samples(0)[0].stdin.unwrap();
    assert_eq!((stdin.kind, stdin.state), (None, StdinState::Unknown), "it cannot be seen");
}

#[test]
fn who_keeps_its_own_stdin_open_is_not_held() {
    let mut world = World::new();
    let worker = world.id(20);
    for pid in [15, 16] {
        world.fake.put(&Fake { pid, ppid: 20, ..Fake::default() });
    }
    let child = world.id(15);
    world.sampler.track(child, Role::Descendant, Some(worker));
    world.fake.fd(20, 0, "pipe:[500]", "00");
    world.fake.fd(20, 9, "pipe:[500]", "01");
    // One that is tracked, and one that is not yet.
    world.fake.fd(15, 3, "pipe:[500]", "01");
    world.fake.fd(16, 3, "pipe:[500]", "01");
    assert_eq!(stdins(&mut world, 0..9), [(1, StdinState::Unheld, None)]);
    world.fake.put(&Fake { pid: 30, ..Fake::default() });
    world.fake.fd(30, 3, "pipe:[500]", "01");
    assert_eq!(stdins(&mut world, 9..40), [(11, StdinState::Held, Some(30))]);
}

#[test]
fn an_end_that_a_later_sibling_inherited_is_inherited() {
    let mut world = World::new();
    let sibling = world.worker(21);
    world.fake.put(&Fake { pid: 22, ppid: 21, ..Fake::default() });
    let below = world.id(22);
    world.sampler.track(below, Role::Descendant, Some(sibling));
    world.fake.fd(20, 0, "pipe:[500]", "00");
    world.fake.fd(21, 5, "pipe:[500]", "01");
    world.fake.fd(22, 5, "pipe:[500]", "01");
    world.fake.fd(10, 4, "pipe:[500]", "01");
    assert_eq!(stdins(&mut world, 0..2), [(0, StdinState::Held, Some(10))]);
    world.fake.close(10, 4);
    let [(at, StdinState::Inherited, Some(by))] = stdins(&mut world, 2..9)[..] else { panic!() };
    assert!(at <= 4 && [21, 22].contains(&by));
    for (pid, identity) in [(21, sibling), (22, below)] {
        world.fake.ran(pid, 1);
        world.fake.remove(pid);
        world.sampler.exited(identity);
    }
    let later = stdins(&mut world, 9..80);
    assert_eq!(later.last().unwrap().1, StdinState::Unheld, "{later:?}");
}

#[test]
fn a_gateway_holds_even_if_it_is_another_session_s_worker() {
    let mut world = World::new();
    // 21 is a worker of 10, and forked 20 by way of 25, which is below it.
    let agent = world.worker(21);
    world.fake.put(&Fake { pid: 25, ppid: 21, ..Fake::default() });
    world.fake.put(&Fake { pid: 20, ppid: 25, cmdline: WORKER, ..Fake::default() });
    let (worker, shell) = (world.id(20), world.id(25));
    world.sampler.track(shell, Role::Descendant, Some(agent));
    world.fake.fd(20, 0, "pipe:[500]", "00");
    world.fake.fd(21, 5, "pipe:[500]", "01");
    for gateway in [25, 21] {
        world.sampler.untrack(worker);
        let gateway = world.id(gateway);
        world.sampler.track(worker, Role::Worker, Some(gateway));
        let at = 20 * u64::from(gateway.pid);
        assert_eq!(stdins(&mut world, at..at + 20), [(at, StdinState::Held, Some(21))]);
    }
}

#[test]
fn a_socket_whose_peer_is_closed_is_unheld_at_once() {
    let mut world = World::new();
    world.fake.fd(20, 0, "socket:[500]", "02");
    world.fake.fd(10, 4, "socket:[501]", "02");
    world.sampler.channels.unix.made.insert(500, UnixEnd { peer: Some(501), ..<_>::default() });
    let [sample] = world.samples(0).try_into().unwrap();
    let gateway = world.id(10);
    let kind = Some(EndKind::Socket);
    let held = StdinPeer { kind, state: StdinState::Held, holder: Some(gateway) };
    assert_eq!(sample.stdin, Some(held));
    assert!(world.samples(1).is_empty());
    // It keeps the socket and says that it sends nothing more.
    let shut = UnixEnd { peer: Some(501), mute: true, deaf: false };
    world.sampler.channels.unix.made.insert(500, shut);
    assert_eq!(stdins(&mut world, 2..99), [(2, StdinState::Unheld, None)]);
}

#[test]
fn a_socket_of_which_the_kernel_does_not_tell_is_unknown() {
    let mut world = World::new();
    world.fake.fd(20, 0, "socket:[500]", "02");
    assert_eq!(stdins(&mut world, 0..99), [(0, StdinState::Unknown, None)]);
    let other = UnixEnd { peer: Some(501), ..<_>::default() };
    world.sampler.channels.unix.made.insert(500, other);
    let later = stdins(&mut world, 99..120);
    assert_eq!(later.len(), 1, "nobody has its peer: {later:?}");
    assert_eq!(later[0].1, StdinState::Unheld);
}

#[test]
fn who_reads_an_output_is_known_by_the_time_it_matters() {
    let mut world = World::new();
    world.fake.fd(20, 0, "pipe:[500]", "00");
    world.fake.fd(20, 1, "pipe:[600]", "01");
    world.fake.fd(10, 4, "pipe:[500]", "01");
    world.fake.fd(10, 5, "pipe:[600]", "00");
    assert_eq!(output(&mut world, 0), Some((EndKind::Pipe, OutputState::Read, Some(10))));
    world.fake.close(10, 5);
    for second in 1..5 {
        assert_eq!(output(&mut world, second), None, "nothing depends on it");
    }
    world.fake.close(10, 4);
    let sample = (5..9).find_map(|second| world.samples(second).pop()).unwrap();
    assert_eq!(sample.stdin.unwrap().state, StdinState::Unheld);
    assert_eq!(sample.output.unwrap().state, OutputState::Unread, "at the same moment");
}

#[test]
fn a_gateway_that_closed_stdin_and_reads_on_is_seen_to() {
    let mut world = World::new();
    world.fake.fd(20, 0, "pipe:[500]", "00");
    world.fake.fd(20, 1, "pipe:[600]", "01");
    world.fake.fd(10, 5, "pipe:[600]", "00");
    let sample = (0..9).find_map(|second| world.samples(second).pop()).unwrap();
    assert_eq!(sample.output.unwrap().state, OutputState::Read);
    assert_eq!(stdins(&mut world, 1..9), [(1, StdinState::Unheld, None)]);
    world.fake.close(10, 5);
    let unread = (9..99).find_map(|second| output(&mut world, second));
    assert_eq!(unread, Some((EndKind::Pipe, OutputState::Unread, None)));
}

#[test]
fn a_reader_that_only_inherited_the_output_does_not_read_it() {
    let mut world = World::new();
    world.worker(21);
    world.fake.fd(20, 1, "pipe:[600]", "01");
    world.fake.fd(20, 9, "pipe:[600]", "00");
    world.fake.fd(21, 5, "pipe:[600]", "00");
    let unread = (0..9).find_map(|second| output(&mut world, second));
    assert_eq!(unread, Some((EndKind::Pipe, OutputState::Unread, None)));
}

#[test]
fn a_gateway_s_own_output_is_a_log() {
    let mut world = World::new();
    world.fake.fd(20, 0, "/dev/null", "00");
    world.fake.fd(20, 1, "pipe:[600]", "01");
    world.fake.fd(10, 0, "/dev/null", "00");
    world.fake.fd(10, 2, "pipe:[600]", "01");
    world.fake.fd(1, 5, "pipe:[600]", "00");
    let log = Some((EndKind::Pipe, OutputState::Unknown, None));
    assert_eq!(output(&mut world, 0), log);
    // It stays that when the gateway has gone.
    world.fake.ran(10, 1);
    world.fake.remove(10);
    for second in 1..100 {
        assert_eq!(output(&mut world, second), None);
    }
}

#[test]
fn a_launcher_hands_on_what_its_gateway_gave_it() {
    let mut world = World::new();
    world.fake.put(&Fake { pid: 15, ppid: 10, ..Fake::default() });
    world.fake.put(&Fake { pid: 20, ppid: 15, cmdline: WORKER, ..Fake::default() });
    let (worker, launcher) = (world.id(20), world.id(15));
    world.sampler.track(worker, Role::Worker, Some(launcher));
    for pid in [15, 20] {
        world.fake.fd(pid, 0, "pipe:[500]", "00");
        world.fake.fd(pid, 1, "pipe:[600]", "01");
    }
    world.fake.fd(10, 4, "pipe:[500]", "01");
    world.fake.fd(10, 5, "pipe:[600]", "00");
    let sample = world.samples(0).pop().unwrap();
    let stdin = sample.stdin.unwrap();
    assert_eq!((stdin.state, stdin.holder.unwrap().pid), (StdinState::Held, 10));
    let output = sample.output.unwrap();
    assert_eq!((output.state, output.reader.unwrap().pid), (OutputState::Read, 10));
}

/// A worker that was spawned at `spawned_ms`, and what is found by its first look.
fn first_look(world: &mut World, spawned_ms: u64, now_ms: u64) -> Vec<Sample> {
    let worker = world.id(20);
    world.sampler.spawned(worker, spawned_ms * 1_000_000);
    let found = world.sampler.first_look(now_ms * 1_000_000, &mut world.book);
    let sample = |observation: Observation| match observation.body {
        Body::Sample(sample) => Some(sample),
        _ => None,
    };
    found.into_iter().filter_map(sample).collect()
}

#[test]
fn a_new_worker_s_stdin_is_looked_at_between_the_rounds() {
    let mut world = World::new();
    world.fake.fd(20, 0, "pipe:[500]", "00");
    world.fake.fd(10, 4, "pipe:[500]", "01");
    assert_eq!(first_look(&mut world, 1_000, 1_000), []);
    assert_eq!(world.sampler.first_look_due_ns(), Some(1_300_000_000));
    assert_eq!(world.samples(1)[0].stdin, None, "too early");
    let [sample] = first_look(&mut world, 1_000, 1_300).try_into().unwrap();
    assert_eq!(sample.stdin.unwrap().state, StdinState::Held);
    assert_eq!(first_look(&mut world, 1_000, 1_600), [], "once");
    world.fake.close(10, 4);
    assert_eq!(stdins(&mut world, 2..9), [(3, StdinState::Unheld, None)]);
}

#[test]
fn a_stdin_that_is_closed_at_the_start_was_never_held() {
    let mut world = World::new();
    world.fake.fd(20, 0, "pipe:[500]", "00");
    world.fake.fd(10, 4, "pipe:[500]", "01");
    let worker = world.id(20);
    world.sampler.spawned(worker, 1_900_000_000);
    assert_eq!(world.samples(2)[0].stdin, None);
    world.fake.close(10, 4);
    assert_eq!(world.sampler.first_look(2_200_000_000, &mut world.book), []);
    assert_eq!(stdins(&mut world, 3..9), [(4, StdinState::Unheld, None)]);
}

#[test]
fn in_a_storm_first_looks_are_few() {
    let mut world = World::new();
    world.fake.fd(10, 4, "pipe:[500]", "01");
    for pid in 1000..1400 {
        let worker = world.worker(pid);
        world.fake.fd(pid, 0, "pipe:[500]", "00");
        world.sampler.spawned(worker, 0);
    }
    let mut looks = |ms: u64| world.sampler.first_look(ms * 1_000_000, &mut world.book).len();
    assert_eq!((300..1_000).map(&mut looks).filter(|&count| count > 0).count(), 7);
    assert!((1_000..1_100).map(looks).all(|count| count <= 64));
}

#[test]
fn a_worker_that_reads_all_the_time_is_looked_at_again() {
    let mut world = World::new();
    world.fake.fd(20, 1, "/tmp/log", "01");
    let reads = |world: &mut World, second| {
        let syscr = Some(100 + second);
        world.fake.put(&Fake { pid: 20, ppid: 10, syscr, cmdline: WORKER, ..FAKE });
        world.fake.ran(20, second + 1);
        world.samples(second).first().and_then(|sample| sample.output)
    };
    assert_eq!(reads(&mut world, 0).unwrap().kind, EndKind::File);
    assert_eq!((1..5).find_map(|second| reads(&mut world, second)), None);
    // It puts another one in its place.
    world.fake.fd(20, 1, "/dev/null", "01");
    let output = (5..20).find_map(|second| reads(&mut world, second));
    assert_eq!(output.unwrap().kind, EndKind::Null);
}
