//! Worker rules by program, exclusion, position, environment and folder; what the kernel's filter
//! lets through and no rule matches; arguments longer than what it searches.
//!
//! Runs in guests of `cargo xtask vm`.

use std::{collections::BTreeMap, time::Duration};

use slashtrace_tests::{Program, Recorded, Recording, Setup, Step, Subject, host, recorded};

const KEY_SECONDS: Duration = Duration::from_secs(10);

/// A recording with these rules; `TOKEN` in them is the recording's own.
fn start(rules: &str) -> Recording {
    let setup = Setup::ebpf();
    let graces = "[graces]\noverlap = \"1s\"\norphan = \"2s\"\nunreachable = \"2s\"\n";
    let text = format!("name = \"test\"\n{rules}{graces}").replace("TOKEN", setup.token());
    setup.profile(text).start()
}

/// A program that serves until its stdin ends, with these arguments; `TOKEN` in them is the token.
fn serving(recording: &Recording, argv: &[&str]) -> Program {
    let mut argv = argv.iter().map(|token| token.replace("TOKEN", recording.token()));
    let program = Program::new(&argv.next().expect("an argv[0]"), vec![Step::Serve]);
    argv.fold(program, Program::arg)
}

/// Waits until so many workers were recorded.
fn wait_for_workers(recording: &Recording, count: usize) {
    recording.wait_for(&format!("{count} workers"), KEY_SECONDS, |records| {
        recorded::workers(records).len() >= count
    });
}

fn end(running: &mut [Subject]) {
    for subject in running {
        assert!(subject.wait().success());
    }
}

/// The workers' sessions and rules by pid.
fn seen(recorded: &Recorded) -> BTreeMap<u32, (Option<&str>, Option<&str>)> {
    let workers = recorded.workers();
    let of =
        |text: &Option<String>| -> Option<&'static str> { text.clone().map(|text| &*text.leak()) };
    workers.iter().map(|it| (it.pid, (of(&it.session), of(&it.rule)))).collect()
}

#[test]
fn a_program_is_known_by_its_name_however_it_is_run() {
    if !host::may_load_kernel_programs() {
        return;
    }
    let recording = start(
        "[worker]\nprogram = \"TOKEN\"\nexclude = [\"--type=*\"]\nsession = { flag = \"--session\" }\n",
    );
    let workers: [&[&str]; 6] = [
        &["/opt/deep/er/TOKEN", "--session", "0"],
        &["TOKEN", "--session=1"],
        &["node", "--no-warnings", "/app/node_modules/.bin/TOKEN", "--session", "2"],
        &["/usr/bin/python3", "-u", "-m", "TOKEN", "--session", "3"],
        &["python3", "-mTOKEN", "--session", "4"],
        &["/bin/sh", "/opt/TOKEN", "--session", "5"],
    ];
    let others: [&[&str]; 6] = [
        &["/opt/TOKEN", "--type=renderer"],
        &["cat", "/opt/TOKEN"],
        &["node", "srv.js", "TOKEN"],
        &["xTOKEN"],
        &["sh", "-c", "TOKEN --session K"],
        &["python3", "-c", "x", "TOKEN"],
    ];
    let mut running: Vec<Subject> =
        others.iter().map(|argv| serving(&recording, argv).start()).collect();
    let mut pids = BTreeMap::new();
    for (at, argv) in workers.iter().enumerate() {
        let worker = serving(&recording, argv).start();
        pids.insert(worker.pid(), at.to_string());
        running.push(worker);
    }
    wait_for_workers(&recording, workers.len());
    end(&mut running);
    let recorded = recording.stop();

    let found = seen(&recorded);
    let found: BTreeMap<u32, String> = found
        .iter()
        .map(|(pid, (session, _))| (*pid, session.unwrap_or_default().to_owned()))
        .collect();
    assert_eq!(found, pids, "{recorded}");
    // Of the others nothing is said, not even their end.
    assert_eq!(recorded.exits().len(), workers.len(), "{recorded}");
    assert_eq!(recorded.counter("matched"), 10, "the filter is no finer than that");
}

#[test]
fn keys_come_from_the_first_place_that_has_one() {
    if !host::may_load_kernel_programs() {
        return;
    }
    let recording = start(
        "[[worker]]\ntokens = [\"-m\", \"TOKEN\"]\n\
         session = [{ flag = \"--session\" }, { position = 1 }, { env = \"TEST_SESSION\" }]\n\
         [[worker]]\nname = \"server\"\nprogram = \"TOKEN\"\nsession = { cwd = true }\n",
    );
    let folder = tempfile::tempdir().expect("a folder");
    let forms: [(&[&str], Option<&str>, Option<&str>); 7] = [
        (&["python3", "-mTOKEN", "--session", "FLAG", "POS"], Some("ENV"), Some("FLAG")),
        (&["python3", "--session=EARLY", "-m", "TOKEN"], None, Some("EARLY")),
        (&["python3", "-m", "TOKEN", "--session", "", "POS"], Some("ENV"), Some("POS")),
        (&["python3", "-m", "TOKEN", "--session="], Some("ENV"), Some("ENV")),
        (&["python3", "-m", "TOKEN", "--Session", "UP"], Some(""), None),
        (&["python3", "-m", "TOKEN"], None, None),
        (&["/opt/TOKEN"], None, folder.path().to_str()),
    ];
    let mut running = Vec::new();
    let mut wanted = BTreeMap::new();
    for (argv, env, key) in forms {
        let program = serving(&recording, argv);
        let mut command = program.command();
        env.map(|value| command.env("TEST_SESSION", value));
        command.env("TEST_SESSIONS", "other").current_dir(folder.path());
        let subject = Subject::of(&mut command);
        let rule = if argv.len() == 1 { "server" } else { "worker" };
        wanted.insert(subject.pid(), (key, Some(rule)));
        running.push(subject);
    }
    wait_for_workers(&recording, forms.len());
    end(&mut running);
    let recorded = recording.stop();
    assert_eq!(seen(&recorded), wanted, "{recorded}");
}

#[test]
fn what_the_filter_lets_through_stays_what_it_was() {
    if !host::may_load_kernel_programs() {
        return;
    }
    let recording = start(
        "[worker]\nprogram = \"TOKEN\"\nexclude = [\"--type=*\"]\nsession = { position = 1 }\n",
    );
    // Below a worker: its helper has its name, and is none; what that starts is below the worker.
    let grandchild = Program::new("grandchild", vec![Step::Exit(4)]);
    let helper = serving(&recording, &["/opt/TOKEN", "--type=zygote"]);
    let helper =
        Program { steps: vec![Step::Sleep(300), Step::Spawn(grandchild), Step::Reap], ..helper };
    let worker = serving(&recording, &["/opt/TOKEN", "K"]);
    let worker = Program { steps: vec![Step::Spawn(helper), Step::Reap, Step::Exit(3)], ..worker };
    // Above a worker: it is taken for one itself, and then forks one.
    let inner = Program { steps: vec![Step::Exit(5)], ..serving(&recording, &["/opt/TOKEN", "L"]) };
    let above = serving(&recording, &["vi", "/opt/TOKEN"]);
    let above = Program { steps: vec![Step::Sleep(300), Step::Spawn(inner), Step::Reap], ..above };
    worker.run();
    let above = above.run();
    let recorded = recording.stop();

    assert_eq!(recorded.workers().len(), 2, "{recorded}");
    let worker = recorded.worker("K");
    assert_eq!(recorded.exit_of(worker.identity()).code, Some(3));
    let below = recorded.descendants_of(worker.identity());
    assert_eq!(below.len(), 2, "{recorded}");
    for spawn in below {
        assert_eq!(recorded.exit_of(spawn.identity()).role, spawn.role, "{recorded}");
    }
    let parent = recorded.worker("L").parent.as_ref().expect("it was forked");
    assert_eq!(parent.process.pid, above);
    recorded.exit_of(parent.process.identity());
}

#[test]
fn who_ends_while_it_is_put_into_the_table_ends_once() {
    if !host::may_load_kernel_programs() {
        return;
    }
    let recording =
        start("[worker]\nprogram = \"TOKEN\"\nsession = { position = 1 }\nchannel = \"task\"\n");
    // Taken for a worker, so the kernel's entry of it goes; then above one, so it gets one again
    // about when it ends.
    let mut running = Vec::new();
    for at in 0..40 {
        let inner = serving(&recording, &["/opt/TOKEN", &format!("key-{at}")]);
        let inner = Program { steps: vec![Step::Exit(0)], ..inner };
        let above = serving(&recording, &["vi", "/opt/TOKEN"]);
        let steps = vec![Step::Sleep(200), Step::Spawn(inner), Step::Reap];
        running.push(Program { steps, ..above }.start());
    }
    end(&mut running);
    let recorded = recording.stop();

    assert_eq!(recorded.workers().len(), running.len(), "{recorded}");
    for worker in recorded.workers() {
        recorded.exit_of(worker.identity());
        recorded.exit_of(worker.parent.as_ref().expect("it was forked").process.identity());
    }
}

#[test]
fn tokens_behind_what_is_searched_are_found_at_once() {
    if !host::may_load_kernel_programs() {
        return;
    }
    let recording = Recording::start();
    let far = |length: usize, session: &str, steps: Vec<Step>| {
        let program = Program::new("python3", steps).arg("y".repeat(length));
        program.arg("-m").arg(recording.token()).arg("--session-key").arg(session)
    };
    // Around the end of what is searched, at each alignment; behind a class path; at a length that
    // the kernel's filters do not look through.
    let mut running = Vec::new();
    for length in (970..1_020).step_by(7).chain([2_001, 6_002, 100_003]) {
        running.push(far(length, &format!("k{length}"), vec![Step::Serve]).start());
    }
    let many = Program::new("python3", vec![Step::Serve]);
    let many = (0..6).fold(many, |it, _| it.arg("z".repeat(60_000)));
    let many = many.arg("-m").arg(recording.token()).arg("--session-key").arg("kmany").start();
    running.push(many);
    let count = running.len();
    recording.wait_for("all of them", Duration::from_secs(2), |records| {
        recorded::workers(records).len() >= count
    });
    end(&mut running);
    // One that ends soon; and a stranger of that length, which is no concern.
    let short = far(3_000, "short", vec![Step::Sleep(200)]).run();
    Program::new("cc", vec![Step::Exit(0)]).arg("-I".repeat(3_000)).run();
    let recorded = recording.stop();

    assert_eq!(recorded.workers().len(), count + 1, "{recorded}");
    assert_eq!(recorded.worker("short").pid, short);
    for worker in recorded.workers() {
        let parent = worker.parent.as_ref().expect("it was forked");
        assert_eq!(parent.process.pid, std::process::id(), "{recorded}");
        assert!(!worker.inherited, "its birth was seen");
        recorded.exit_of(worker.identity());
    }
    assert!(recorded.counter("argv-not-searched") <= count as u64 + 1, "not the stranger");
}

#[test]
fn one_that_may_have_been_a_worker_and_is_gone_is_a_gap() {
    if !host::may_load_kernel_programs() {
        return;
    }
    let recording = Recording::start();
    recording.freeze(true);
    let far = Program::new("python3", vec![Step::Exit(0)]).arg("y".repeat(2_000));
    far.arg("-m").arg(recording.token()).run();
    recording.freeze(false);
    let recorded = recording.stop_incomplete();
    assert!(recorded.workers().is_empty(), "{recorded}");
    // Compilers elsewhere on the machine may have such arguments, too.
    let missed = recorded.counter("argv-not-searched");
    assert!(missed >= 1);
    let text = String::from_utf8_lossy(&recorded.bytes);
    assert!(text.contains(r#""reason":"argv-not-searched","lost":"#), "{text}");
}
