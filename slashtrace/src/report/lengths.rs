//! No text of a recording is so long or so strange that a report cannot be made of it. What slashtrace
//! records is cut; a file may be somebody else's.

use jiff::tz::TimeZone;
use proptest::{prelude::*, sample::select};

use super::{
    diff,
    digest::{Digest, Report},
    github, html, junit,
    live::Live,
    markdown, ps,
    samples::{at, exit, finding, gateway, sample, spawn, start},
    table, text,
};
use crate::{
    model::{Body, Confidence, Kind, Record, Spawn, Stop},
    profile::Profile,
    roster::Roster,
    sink::Sink as _,
};

/// Around what formats count with (256 characters, 65,535 columns), and more than that.
const LENGTHS: [usize; 10] = [0, 1, 255, 256, 257, 1_024, 65_535, 65_536, 70_000, 140_000];

/// Texts made of one piece, again and again.
fn long() -> impl Strategy<Value = String> {
    let pieces = [
        "k",
        "key ",
        "é",
        "東京",
        "🦀",
        "\u{200b}",
        "\u{202e}x",
        "a\n",
        "\t",
        "|`<&\"'>",
        "\\x1b",
        "\u{7}",
        "👩\u{200d}👩",
        "e\u{301}",
    ];
    let length = prop_oneof![select(LENGTHS.to_vec()), 0..2_000_usize];
    (select(pieces.to_vec()), length).prop_map(|(piece, length)| {
        let times = length / piece.chars().count();
        piece.repeat(times)
    })
}

fn spawned(texts: &[String]) -> Spawn {
    let mut parent = gateway(100);
    parent.process.comm.clone_from(&texts[0]);
    parent.process.argv0 = Some(texts[1].clone());
    Spawn {
        comm: texts[2].clone(),
        argv: vec![texts[3].clone(), texts[4].clone()],
        model: Some(texts[5].clone()),
        ..spawn(301, parent, &texts[6])
    }
}

/// Every record that has text; and what live lines say of them.
fn recorded(texts: &[String]) -> (Report, Vec<Spawn>) {
    let worker = spawned(texts);
    let mut found = finding(Kind::LostWorker, Confidence::Strong, &[301]);
    found.session = worker.session.clone();
    found.text.clone_from(&texts[7]);
    found.id.clone_from(&texts[6]);
    let mut other = spawn(302, gateway(100), &texts[7]);
    other.inherited = true;
    let reason = texts[0].clone();
    let bodies = [
        (300, Body::Start(Box::new(start(true)))),
        (301, Body::Spawn(Box::new(worker.clone()))),
        (302, Body::Spawn(Box::new(other.clone()))),
        (303, Body::Sample(sample(301, 95_000, Some(0)))),
        (304, Body::Finding(Box::new(found))),
        (305, Body::Exit(exit(302))),
        (306, Body::Stop(Stop { reason, counters: [].into(), complete: true })),
    ];
    let (mut digest, mut roster) = (Digest::new(), Roster::blank());
    let mut live = Live::in_zone(Box::new(std::io::sink()), TimeZone::UTC);
    for (seq, (second, body)) in (1..).zip(bodies) {
        let record = Record { seq, ..at(second, body) };
        roster.observe(&record);
        digest.record(&record, &roster).unwrap();
        live.record(&record, &roster).unwrap();
    }
    (digest.report(), vec![worker, other])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_format_takes_any_text(texts in prop::collection::vec(long(), 8), columns in 1..300_u16) {
        let (report, spawns) = recorded(&texts);
        let zone = TimeZone::UTC;
        let mut out = Vec::new();
        for width in [None, Some(20), Some(columns)] {
            table::render(&report, width, &mut out).unwrap();
            text::render(&report, width, &zone, &mut out).unwrap();
        }
        html::render(&report, &mut out).unwrap();
        let texts_out = [markdown::render(&report, &zone), junit::render(&report), github::annotations(&report)];
        let diff = diff::compare(&report, &report);
        diff.text(&mut out).unwrap();
        serde_json::to_writer(&mut out, &report).unwrap();
        let groups = ps::group(&Profile::hermes(), &spawns, 400_000_000_000, |_| None);
        ps::table(&groups, &texts[7], &mut out).unwrap();
        ps::json(&groups, &mut out).unwrap();
        let read: usize = texts.iter().map(String::len).sum();
        let written = out.len() + texts_out.iter().map(String::len).sum::<usize>();
        // Each text is in a few places of each format, escaped there.
        prop_assert!(written < 2_000_000 + read * 400, "{written} bytes of {read}");
    }
}
