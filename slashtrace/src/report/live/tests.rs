use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use anstream::adapter::strip_str;

use super::*;
use crate::roster::Roster;
use crate::{
    model::{Confidence, GapReason, Kind, Sender, Source, Tick, signal_name},
    report::samples::{S, at, exit, finding, gateway, sample, spawn, start},
};

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The lines, with their colours.
fn painted(bodies: Vec<(u64, Body)>) -> String {
    let out = Shared::default();
    let zone = TimeZone::fixed(jiff::tz::offset(1));
    let mut live = Live::in_zone(Box::new(out.clone()), zone);
    let mut roster = Roster::blank();
    for (moment, body) in bodies {
        let record = at(moment, body);
        roster.observe(&record);
        live.record(&record, &roster).unwrap();
    }
    live.flush().unwrap();
    drop(live);
    let bytes = out.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}

fn shown(bodies: Vec<(u64, Body)>) -> String {
    strip_str(&painted(bodies)).to_string()
}

fn signal(pid: u32, number: i32, sender: Option<Sender>) -> Body {
    Body::Signal(Signal {
        pid,
        start_ns: u64::from(pid) * S,
        role: Role::Worker,
        signal: number as u8,
        name: signal_name(number as u8).into_owned(),
        si_code: 0,
        parent_ended: false,
        count: None,
        first_ns: None,
        last_ns: None,
        delivered: true,
        sender,
    })
}

fn bash() -> Sender {
    Sender { pid: 7, start_ns: 1, comm: "bash".to_owned(), uid: 0 }
}

#[test]
fn a_day_of_it() {
    let mut found = finding(Kind::DuplicateWorker, Confidence::Proven, &[101, 102]);
    found.text = "2 live workers, side by side for 5 s or longer: 101 and 102".to_owned();
    let mut closed = found.clone();
    closed.state = FindingState::Closed;
    closed.text = format!("no longer so: {}", closed.text);
    let mut inherited = spawn(99, gateway(1), "A");
    inherited.inherited = true;
    if let Some(parent) = &mut inherited.parent {
        parent.how = ParentSource::Proc;
        parent.reaper = true;
    }
    let mut descendant = spawn(300, gateway(100), "K");
    descendant.role = Role::Descendant;
    let mut served = exit(102);
    served.reads = Some(3);
    let mut killed = exit(101);
    (killed.code, killed.signal) = (None, Some(libc::SIGTERM as u8));
    let mut over = exit(100);
    over.role = Role::Gateway;
    let stop = Stop { reason: "interrupted".to_owned(), counters: BTreeMap::new(), complete: true };
    let bodies = vec![
        (200, Body::Start(Box::new(start(true)))),
        (200, Body::Spawn(Box::new(inherited))),
        (201, Body::Spawn(Box::new(spawn(101, gateway(100), "K")))),
        (202, Body::Spawn(Box::new(spawn(102, gateway(100), "K")))),
        (203, Body::Spawn(Box::new(descendant))),
        (207, Body::Finding(Box::new(found))),
        (208, signal(101, libc::SIGTERM, Some(bash()))),
        (208, signal(101, libc::SIGCHLD, None)),
        (208, Body::Exit(killed)),
        (208, Body::Finding(Box::new(closed))),
        (
            90_000,
            Body::Gap(Gap { reason: GapReason::RingFull, lost: 12, resynced: true, uid: None }),
        ),
        (90_001, signal(102, libc::SIGHUP, None)),
        (90_002, Body::Exit(served)),
        (90_003, Body::Exit(over)),
        (90_003, Body::Stop(stop)),
    ];
    insta::assert_snapshot!(shown(bodies));
}

#[test]
fn the_only_escape_codes_are_our_colours() {
    let body = Body::Spawn(Box::new(spawn(101, gateway(100), "\u{1b}[2J")));
    let ours = painted(vec![(200, body)]);
    assert!(ours.contains("\\u{1b}[2J") && !ours.contains("\x1b[2J"), "{ours:?}");
    let found = Body::Finding(Box::new(finding(Kind::Zombie, Confidence::Proven, &[101])));
    let painted = painted(vec![(200, found)]);
    assert!(painted.contains("\x1b[1m\x1b[31mOPENED zombie (proven)\x1b[0m"), "{painted:?}");
}

#[test]
fn samples_ticks_and_descendants_are_silent() {
    let mut below = exit(300);
    below.role = Role::Descendant;
    below.source = Source::Proc;
    let bodies = vec![
        (1, Body::Sample(sample(101, 1, None))),
        (2, Body::Tick(Tick::default())),
        (3, Body::Exit(below)),
    ];
    assert_eq!(shown(bodies), "");
}

#[test]
fn a_worker_that_becomes_another_program_is_shown() {
    let exec = Exec {
        pid: 101,
        start_ns: 101 * S,
        role: Role::Worker,
        is_worker: false,
        comm: "sh".to_owned(),
        argv0: None,
        helper: None,
        source: Source::Kernel,
    };
    let born = Body::Spawn(Box::new(spawn(101, gateway(100), "K")));
    let lines = shown(vec![(200, born), (201, Body::Exec(exec))]);
    assert!(lines.ends_with("worker 101 session K became sh, no worker any more\n"), "{lines}");
}

#[test]
fn a_place_is_said_once() {
    let mut found = finding(Kind::DuplicateWorker, Confidence::Proven, &[101]);
    found.text = "2 live workers for session K under gateway python(100)".to_owned();
    assert_eq!(place(&found), None);
    found.text = "3 spawns".to_owned();
    assert_eq!(place(&found).unwrap(), "session K under gateway python(100)");
}

#[test]
fn a_closed_pipe_ends_the_lines_and_nothing_else() {
    struct Closed(u32);
    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            self.0 += 1;
            assert_eq!(self.0, 1, "written again");
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            panic!("flushed")
        }
    }
    let born = at(1, Body::Spawn(Box::new(spawn(1, gateway(2), "K"))));
    let mut live = Live::new(Box::new(Closed(0)));
    live.record(&born, &Roster::blank()).unwrap();
    live.record(&born, &Roster::blank()).unwrap();
    live.flush().unwrap();

    struct Full;
    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut live = Live::new(Box::new(Full));
    assert!(live.record(&born, &Roster::blank()).is_err(), "other errors are told");
}
