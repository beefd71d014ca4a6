use std::collections::BTreeMap;

use anstream::adapter::strip_str;

use super::*;
use crate::{
    model::{
        Body, Confidence, Exec, Finding, FindingState, Gap, GapReason, Kind, ParentSource, Role,
        Source, Stop,
    },
    report::digest::Digest,
    report::samples::{S, at, exit, finding, gateway, sample, spawn, start},
    roster::Roster,
    sink::Sink as _,
};

fn digest(records: Vec<(u64, Body)>) -> Report {
    let (mut digest, mut roster) = (Digest::new(), Roster::blank());
    for (moment, body) in records {
        let record = at(moment, body);
        roster.observe(&record);
        digest.record(&record, &roster).unwrap();
    }
    digest.flush().unwrap();
    digest.report()
}

fn painted(records: Vec<(u64, Body)>, width: Option<u16>) -> String {
    let mut out = Vec::new();
    render(&digest(records), width, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

fn text(records: Vec<(u64, Body)>, width: Option<u16>) -> String {
    strip_str(&painted(records, width)).to_string()
}

fn born(pid: u32, gateway_pid: u32, session: &str) -> Body {
    Body::Spawn(Box::new(spawn(pid, gateway(gateway_pid), session)))
}

fn said(finding: &Finding, state: FindingState) -> Body {
    let mut finding = finding.clone();
    finding.state = state;
    Body::Finding(Box::new(finding))
}

fn ended(pid: u32, reads: Option<u64>) -> Body {
    let mut exit = exit(pid);
    exit.reads = reads;
    Body::Exit(exit)
}

fn sampled(pid: u32, mib: u64, reads: Option<u64>) -> Body {
    Body::Sample(sample(pid, mib << 10, reads))
}

/// The cells of the row of a session, up to its verdict.
fn row<'a>(text: &'a str, session: &str) -> Vec<&'a str> {
    let found = text.lines().find(|line| line.split_whitespace().nth(2) == Some(session));
    found.unwrap_or_else(|| panic!("no row of {session} in\n{text}")).split_whitespace().collect()
}

fn busy() -> Vec<(u64, Body)> {
    let duplicate = finding(Kind::DuplicateWorker, Confidence::Proven, &[101, 102]);
    let lost = finding(Kind::LostWorker, Confidence::Strong, &[101]);
    let mut churn = finding(Kind::RespawnChurn, Confidence::Proven, &[]);
    churn.session = Some("L".to_owned());
    let mut inherited = spawn(50, gateway(1), "A");
    inherited.inherited = true;
    inherited.source = Source::Proc;
    if let Some(parent) = &mut inherited.parent {
        (parent.how, parent.reaper) = (ParentSource::Proc, true);
    }
    let mut presumed = spawn(51, gateway(40), "B");
    presumed.inherited = true;
    if let Some(parent) = &mut presumed.parent {
        parent.how = ParentSource::Proc;
    }
    let mut over = exit(90);
    over.role = Role::Gateway;
    vec![
        (100, Body::Start(Box::new(start(true)))),
        (100, Body::Spawn(Box::new(inherited))),
        (100, Body::Spawn(Box::new(presumed))),
        (101, born(101, 100, "K")),
        (102, born(102, 100, "K")),
        (103, born(103, 100, "K")),
        (104, sampled(101, 95, Some(0))),
        (104, sampled(102, 95, Some(4))),
        (104, sampled(50, 53, Some(1))),
        (105, ended(103, Some(2))),
        (107, said(&duplicate, FindingState::Opened)),
        (108, said(&lost, FindingState::Opened)),
        (110, born(110, 100, "L")),
        (111, ended(110, Some(1))),
        (112, said(&churn, FindingState::Opened)),
        (113, said(&churn, FindingState::Closed)),
        (120, born(120, 90, "M")),
        (121, Body::Exit(over)),
        (421, Body::Tick(crate::model::Tick::default())),
    ]
}

#[test]
fn as_in_the_bug_report() {
    insta::assert_snapshot!(text(busy(), None));
}

#[test]
fn fits_a_terminal() {
    for width in [20, 80, 120] {
        let text = text(busy(), Some(width));
        let rows = text.split("\n(").next().unwrap();
        let widest = rows.lines().map(|line| line.chars().count()).max().unwrap();
        assert!(widest <= usize::from(width.max(80)), "{widest} > {width}:\n{text}");
    }
    insta::assert_snapshot!(text(busy(), Some(80)));
}

#[test]
fn confidences_and_health_stand_out() {
    let painted = painted(busy(), Some(100));
    assert!(painted.contains("\x1b[1m\x1b[31m(proven)\x1b[0m"), "{painted:?}");
    assert!(painted.contains("\x1b[32mhealthy\x1b[0m"), "{painted:?}");
}

#[test]
fn no_workers_is_one_sentence() {
    let mut below = spawn(101, gateway(100), "K");
    below.role = Role::Descendant;
    let records = vec![(1, Body::Start(Box::new(start(false)))), (2, Body::Spawn(Box::new(below)))];
    assert_eq!(text(records, None), "No worker was seen.\n");
}

#[test]
fn loss_is_said() {
    let gap = Body::Gap(Gap { reason: GapReason::RingFull, lost: 12, resynced: true, uid: None });
    assert!(
        text(vec![(1, gap)], None)
            .ends_with("12 events were not seen: workers may be missing from this table.\n")
    );
    let stop = Stop { reason: "duration".into(), counters: BTreeMap::new(), complete: false };
    assert!(text(vec![(1, Body::Stop(stop))], None).contains("Not everything was seen"));
}

#[test]
fn calls_are_exact_or_not_claimed() {
    let counted = || (1, Body::Start(Box::new(start(true))));
    let calls = |records| row(&text(records, None), "K")[8].to_owned();
    let k = || born(101, 100, "K");
    assert_eq!(calls(vec![counted(), (101, k()), (102, sampled(101, 1, Some(3)))]), "3");
    assert_eq!(calls(vec![counted(), (101, k()), (102, ended(101, Some(0)))]), "0");
    assert_eq!(calls(vec![counted(), (101, k())]), "–");

    let sampled_only = vec![(1, Body::Start(Box::new(start(false)))), (101, k())];
    assert!(text(sampled_only, None).contains(" – "));
}

#[test]
fn an_end_is_counted_once_and_may_come_first() {
    let reference = || vec![(101, born(101, 100, "K")), (102, ended(101, None))];
    let mut twice = reference();
    twice.extend([(103, ended(101, None)), (104, born(101, 100, "K"))]);
    let late = vec![(102, ended(101, None)), (101, born(101, 100, "K"))];
    for records in [reference(), twice, late] {
        let text = text(records, None);
        assert_eq!(row(&text, "K")[3..6], ["0", "1", "1"], "{text}");
    }
}

#[test]
fn a_launcher_is_not_counted_in_either_order() {
    let launcher = || (101, born(101, 100, "K"));
    let launched = || (102, born(102, 101, "K"));
    for records in [vec![launcher(), launched()], vec![launched(), launcher()]] {
        let shown = text(records.clone(), None);
        assert_eq!(row(&shown, "K")[..6], ["100", "python", "K", "1", "1", "0"], "{shown}");
        assert_eq!(digest(records.clone()).sessions.len(), 1, "{shown}");
        let ends = [(103, ended(101, None)), (104, ended(102, None))];
        let shown = text([records, ends.to_vec()].concat(), None);
        assert_eq!(row(&shown, "K")[3..6], ["0", "1", "1"], "{shown}");
    }
}

#[test]
fn what_is_no_worker_any_more_or_a_zombie_is_not_live() {
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
    let mut zombie = sample(102, 0, None);
    zombie.state = 'Z';
    let records = vec![
        (101, born(101, 100, "K")),
        (102, born(102, 100, "K")),
        (103, Body::Exec(exec)),
        (104, Body::Sample(zombie)),
    ];
    let text = text(records, None);
    assert_eq!(row(&text, "K")[3..6], ["0", "2", "2"], "{text}");
}

#[test]
fn a_finding_about_a_worker_shows_in_its_row_and_counts() {
    let mut records = vec![(101, born(101, 100, "K")), (102, born(102, 100, "K"))];
    for pid in [101, 102] {
        let mut orphan = finding(Kind::GatewayOrphan, Confidence::Proven, &[pid]);
        orphan.gateway = None;
        orphan.session = None;
        records.push((103, said(&orphan, FindingState::Opened)));
    }
    let shown = text(records, None);
    assert!(shown.contains("gateway-orphan (proven) ×2"), "{shown}");
}

#[test]
fn hostile_text_is_shown_as_text() {
    let shown = painted(vec![(101, born(101, 100, "\x1b[2J\n"))], None);
    assert!(shown.contains("\\u{1b}[2J\\n"), "{shown:?}");
}
