//! argv as no shell would write it: long, hostile, or nearly a worker's.
//!
//! Runs in guests of `cargo xtask vm`.

use std::time::Duration;

use slashtrace::model::Record;
use slashtrace_tests::{Program, Recording, Step, host, recorded};

#[test]
fn an_argv_of_a_mebibyte_is_matched_and_its_true_length_told() {
    if !host::may_load_kernel_programs() {
        return;
    }
    let recording = Recording::start();
    // So long that it is looked at by those who watch for others, too.
    let mut worker = recording.worker("long", vec![Step::Sleep(300)]);
    for _ in 0..16 {
        worker = worker.arg(vec![b'x'; (64 << 10) - 1]);
    }
    assert!(worker.argv_bytes() > 1 << 20);
    let pid = worker.run();
    let recorded = recording.stop();

    let spawn = recorded.worker("long");
    assert_eq!((spawn.pid, spawn.argv_bytes), (pid, worker.argv_bytes()));
    assert!(spawn.argv_truncated);
    assert_eq!(spawn.model.as_deref(), Some("test-model"));
    assert_eq!(recorded.counter("argv-truncated"), 1);
    assert_eq!(recorded.exit_of(spawn.identity()).code, Some(0));
}

#[test]
fn a_session_key_that_is_cut_off_is_none() {
    if !host::may_load_kernel_programs() {
        return;
    }
    let recording = Recording::start();
    // It is gone before anybody can read the rest.
    recording.freeze(true);
    recording.worker(&"k".repeat(1_000), Vec::new()).run();
    recording.freeze(false);
    let recorded = recording.stop();

    let workers = recorded.workers();
    let [spawn] = workers.as_slice() else { panic!("{} workers\n{recorded}", workers.len()) };
    assert_eq!((spawn.session.as_ref(), spawn.argv_truncated), (None, true));
}

#[test]
fn a_session_key_behind_what_the_record_carries_is_read_from_proc() {
    if !host::may_load_kernel_programs() {
        return;
    }
    let recording = Recording::start();
    let first = recording.worker("first", vec![Step::Serve]).arg("y".repeat(2_000));
    let mut worker = first.arg("--session-key").arg("last").start();
    let watched = |records: &[Record]| !recorded::workers(records).is_empty();
    recording.wait_for("the worker", Duration::from_secs(20), watched);
    assert!(worker.wait().success());
    let recorded = recording.stop();
    assert_eq!(recorded.worker("last").pid, worker.pid(), "the last one holds");
}

#[test]
fn hostile_bytes_are_escaped_and_never_reach_the_file() {
    if !host::may_load_kernel_programs() {
        return;
    }
    let recording = Recording::start();
    let keys: [(&[u8], &str); 4] = [
        (b"k\xff\xfe", r"k\xff\xfe"),
        (b"two\nlines\r\x1b[31mred\x07\x7f", r"two\nlines\r\x1b[31mred\x07\x7f"),
        ("csi\u{9b}31m bidi\u{202e}".as_bytes(), r"csi\u{9b}31m bidi\u{202e}"),
        (br#"{"type":"finding"}"#, r#"{"type":"finding"}"#),
    ];
    for (key, _) in keys {
        let worker = Program::new("py\x1b]0;title\x07thon\n", Vec::new())
            .arg("-m")
            .arg(recording.token())
            .arg("--session-key")
            .arg(key)
            .arg("")
            .arg(b"--\x1b[2Jflag\n");
        worker.run();
    }
    let recorded = recording.stop();

    for (key, shown) in keys {
        let spawn = recorded.worker(shown);
        assert_eq!(spawn.session.as_deref(), Some(shown), "{key:?}");
        recorded.exit_of(spawn.identity());
    }
    assert_eq!(recorded.workers().len(), keys.len());
    let text = std::str::from_utf8(&recorded.bytes).expect("evidence is UTF-8");
    assert!(!text.contains(|c: char| c != '\n' && c.is_control()), "a control character");
    assert!(!text.contains('\u{202e}'), "a change of direction");
    assert_eq!(text.lines().count(), recorded.records.len());
}

#[test]
fn what_nearly_is_a_worker_is_none() {
    if !host::may_load_kernel_programs() {
        return;
    }
    let recording = Recording::start();
    let token = recording.token().to_owned();
    let shorter = &token[..token.len() - 1];
    let near_misses: Vec<Vec<String>> = [
        // Not the whole token.
        vec!["python3", "-m", &format!("{token}x")],
        vec!["python3", "-m", &format!("x{token}")],
        vec!["python3", "-m", shorter],
        vec!["python3", "-m", &format!("{token}.main")],
        vec!["python3", "-m", &token.to_uppercase()],
        vec!["python3", "--m", &token],
        // Not one behind the other, or the wrong way round.
        vec!["python3", "-m", "", &token],
        vec!["python3", "-m", "x", &token],
        vec!["python3", &token, "-m"],
        vec!["python3", "-m"],
        vec!["python3", &token],
        // One argument.
        vec!["python3", &format!("-m {token}")],
        vec!["python3", &format!("-m{token}x")],
        vec!["python3", &format!("-m={token}")],
        vec!["sh", "-c", &format!("python3 -m {token} --session-key k")],
        // argv[0] never counts.
        vec!["-m", &token],
        vec![&token],
        vec![&format!("python3 -m {token}"), "--session-key", "k"],
    ]
    .into_iter()
    .map(|argv| argv.into_iter().map(str::to_owned).collect())
    .collect();
    for argv in &near_misses {
        let mut tokens = argv.iter();
        let argv0 = tokens.next().expect("an argv[0]");
        tokens.fold(Program::new(argv0, Vec::new()), Program::arg).run();
    }
    // And one that is: the recording does watch.
    let pid = recording.worker("real", Vec::new()).run();
    let recorded = recording.stop();

    let seen: Vec<u32> = recorded.workers().iter().map(|worker| worker.pid).collect();
    assert_eq!(seen, [pid], "{recorded}");
    assert_eq!(recorded.counter("matched"), 1);
    assert_eq!(recorded.exits().len(), 1, "{recorded}");
}

#[test]
fn tokens_behind_a_long_path_still_match() {
    if !host::may_load_kernel_programs() {
        return;
    }
    let recording = Recording::start();
    // At each alignment of the words that the kernel's filter looks at.
    for n in 0..8 {
        let path = format!("/opt/{}", "deep/".repeat(179) + &"p".repeat(n));
        let worker = Program::new(&path, Vec::new())
            .arg("-m")
            .arg(recording.token())
            .arg(format!("--session-key=deep_{n}"));
        assert!((900..1_024).contains(&worker.argv_bytes()), "{}", worker.argv_bytes());
        worker.run();
    }
    let recorded = recording.stop();
    for n in 0..8 {
        let spawn = recorded.worker(&format!("deep_{n}"));
        assert!(!spawn.argv_truncated);
    }
    assert_eq!(recorded.workers().len(), 8);
}

#[test]
fn the_session_is_read_as_argparse_reads_it() {
    if !host::may_load_kernel_programs() {
        return;
    }
    let recording = Recording::start();
    let worker = |tail: &[&str]| {
        let program =
            Program::new("python3", vec![Step::Exit(0)]).arg("-u").arg("-m").arg(recording.token());
        tail.iter().fold(program, Program::arg).run()
    };
    let inline = worker(&["--session-key=inline=1", "--model=m"]);
    let last = worker(&["--session-key", "first", "--session-key", "last"]);
    let none = worker(&["--session-keys", "other"]);
    let recorded = recording.stop();

    assert_eq!(recorded.worker("inline=1").pid, inline);
    assert_eq!(recorded.worker("inline=1").model.as_deref(), Some("m"));
    assert_eq!(recorded.worker("last").pid, last);
    let nameless: Vec<u32> =
        recorded.workers().iter().filter(|w| w.session.is_none()).map(|w| w.pid).collect();
    assert_eq!(nameless, [none]);
}
