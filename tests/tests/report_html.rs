//! report.html in a browser: it draws, filters, is used by keyboard, asks nobody for anything, and
//! does not stall with thousands of workers.
//!
//! Runs alone: it measures how long a page takes to draw.

use std::{fs::File, process::Command};

use serde_json::{Value, json};
use slashtrace::{
    daemon::replay::replay,
    evidence::Reader,
    profile::Profile,
    report::{digest::Digest, html},
};
use slashtrace_tests::host;

const S: u64 = 1_000_000_000;

/// Evidence of so many workers of sessions of fifty, every other of whose gateways dies.
fn evidence(workers: u64) -> String {
    let process = |pid: u64| json!({"pid": pid, "start_ns": pid * 1_000, "comm": "python3"});
    let mut records = vec![(
        S,
        json!({
            "type": "start", "version": env!("CARGO_PKG_VERSION"), "sensor": "ebpf",
            "capabilities": [], "calls_counted": true, "profile": Profile::hermes(),
            "host": {"kernel": "6.12", "arch": "x86_64", "cpus": 2, "memory": {"total_kib": 8_000_000,
                "available_kib": 6_000_000, "swap_total_kib": 0, "swap_free_kib": 0}},
            "limits": {"argv_searched_bytes": 1024, "ring_bytes": 1, "tracked_max": 1,
                "sample_interval_ms": 1000},
        }),
    )];
    for n in 0..workers {
        let (pid, gateway) = (100_000 + n, 1_000 + n / 50);
        let session = format!("20261125_{:06}_{:06x}", n / 50, n / 50);
        let mut parent = process(gateway);
        parent["how"] = json!("fork");
        let at = S + n * S / 10;
        records.push((
            at,
            json!({
                "type": "spawn", "role": "worker", "pid": pid, "start_ns": at, "source": "kernel",
                "parent": parent, "comm": "python3", "uid": 0, "session": session,
                "argv": ["python3", "-m", "tui_gateway.slash_worker", "--session-key", session],
            }),
        ));
        records.push((
            at + S / 20,
            json!({
                "type": "sample", "pid": pid, "start_ns": at, "state": "S", "rss_kib": 95_000,
                "reads": 1 + n % 3,
            }),
        ));
        if n % 50 == 49 && n / 50 % 2 == 1 {
            records.push((
                at + S / 15,
                json!({
                    "type": "exit", "pid": gateway, "start_ns": gateway * 1_000, "role": "gateway",
                    "signal": 9, "source": "kernel",
                }),
            ));
        }
    }
    let end = S + workers * S / 10 + 60 * S;
    records.push((end, json!({"type": "tick"})));
    records.push((end, json!({"type": "stop", "reason": "duration", "complete": true})));
    let mut text = String::new();
    for (seq, (at, mut record)) in (1..).zip(records) {
        let fields = record.as_object_mut().expect("a record is an object");
        fields.insert("v".to_owned(), json!(1));
        fields.insert("seq".to_owned(), json!(seq));
        fields.insert("boottime_ns".to_owned(), json!(at));
        fields.insert("time".to_owned(), json!("2026-11-25T08:00:00Z"));
        text.push_str(&record.to_string());
        text.push('\n');
    }
    text
}

#[test]
fn it_is_drawn_filtered_and_used_by_keyboard() {
    let Some(browser) = host::chromium() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    for workers in [500, 5_000] {
        let text = evidence(workers);
        let mut digest = Digest::new();
        let judged = replay(Reader::new(text.as_bytes()), vec![&mut digest]).expect("evidence");
        assert!(judged.defect.is_none(), "{:?}", judged.defect);
        let report = digest.report();
        assert_eq!((report.total.live, report.total.stale), (workers, workers / 2));
        let file = folder.path().join("report.html");
        html::render(&report, &mut File::create(&file).expect("a file")).expect("it is rendered");
        let size = file.metadata().expect("it is there").len();
        let tried = Command::new("python3")
            .arg(host::fixture("chromium.py"))
            .arg(&browser)
            .arg(&file)
            .output()
            .expect("python3 runs");
        assert!(tried.status.success(), "{}", String::from_utf8_lossy(&tried.stderr));
        let found: Value = serde_json::from_slice(&tried.stdout).expect("it says what it found");
        println!(
            "{workers} workers: {} KiB, ready after {} ms (script {} ms), a frame {} ms",
            size >> 10,
            found["ready_ms"],
            found["script_ms"],
            found["frame_ms"]
        );
        let number = |name: &str| found[name].as_u64().unwrap_or(u64::MAX);
        assert_eq!((number("workers"), number("all")), (workers, workers));
        assert_eq!((number("of_first_session"), number("rows")), (50, 1), "{found}");
        assert_eq!(number("unused_only"), workers / 2, "{found}");
        let first = report.findings[0].workers.len() as u64;
        assert_eq!(number("of_first_finding"), first, "{found}");
        // The second of all, by two strokes of a key.
        assert!(
            found["details"]
                .as_str()
                .is_some_and(|text| text.contains(&found["chosen"].to_string()))
        );
        let (zoomed, whole) = (found["zoomed"].as_f64(), found["whole"].as_f64());
        assert_eq!(zoomed.map(|zoomed| zoomed * 2.0), whole, "{found}");
        assert_eq!((&found["closed"], &found["painted"]), (&json!(true), &json!(true)), "{found}");
        assert_eq!(found["console"], json!([]), "nothing is said on the console");
        let url = format!("file://{}", file.display());
        assert_eq!(found["requests"], json!([url]), "nobody is asked for anything");
    }
}
