//! What is written is bounded and shows no secret: session keys that open doors or lead to people are
//! pseudonyms wherever they could stand, and who floods the evidence has a share of it.
//!
//! Runs alone: it forks thousands of processes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::BufReader,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use slashtrace::{
    evidence::Reader,
    model::{Body, GapReason, Kind, Record},
};
use slashtrace_tests::{
    Program, Recorded, Recording, Setup, Step, host,
    recorded::{has_exited, opened, pids, workers},
};

const PATIENCE: Duration = Duration::from_mins(1);
/// Nobody else on this machine is one of these.
const FLOODER: u32 = 64_711;
const VICTIM: u32 = 64_712;

const JWT: &str = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJxdWVudGluIn0.c2lnbmF0dXJl";
/// Session keys, and what of each must be nowhere.
const SECRETS: [(&str, &[&str]); 6] = [
    (JWT, &["eyJhbGciOiJIUzI1NiJ9", "c2lnbmF0dXJl"]),
    ("sk-live-Q7x9Zr2Lm4Kp8Wt5", &["sk-live-Q7x9", "Zr2Lm4Kp8Wt5"]),
    ("https://quentin:hunter2@chat.example.org/rooms/7", &["hunter2", "chat.example.org"]),
    ("quentin.tarsus@example.net", &["quentin.tarsus", "example.net"]),
    ("client-203.0.113.77:51234", &["203.0.113.77"]),
    ("ghp_16C7e42F292c6912E7710c838347Ae178B4a", &["ghp_16C7"]),
];
const ORDINARY: &str = "20260312_101112_ab12cd";

/// A profile, evidence and state of a test's own.
struct Place {
    folder: tempfile::TempDir,
    setup: Setup,
}

impl Place {
    fn new() -> Self {
        let (folder, setup) = (tempfile::tempdir().expect("a folder"), Setup::ebpf());
        fs::write(folder.path().join("profile.toml"), setup.own_profile()).expect("it is ours");
        Self { folder, setup }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn slashtrace(&self, args: &[&str]) -> Command {
        let mut command = Command::new(host::slashtrace());
        command
            .env("SLASHTRACE_STATE_DIR", self.path("state"))
            .env("SLASHTRACE_RUNTIME_DIR", self.path("run"))
            .arg("--profile")
            .arg(self.path("profile.toml"))
            .args(args)
            .stdin(Stdio::null());
        command
    }

    /// Starts `run` with live lines, and waits until it watches.
    fn run(&self, name: &str, flags: &[&str]) -> Running {
        let (file, stderr) = (self.path(name), self.path(&format!("{name}.stderr")));
        let mut command = self.slashtrace(&["run", "--sensor", "ebpf", "--evidence"]);
        command.arg(&file).args(flags).stdout(Stdio::null());
        command.stderr(File::create(&stderr).expect("a file"));
        let running = Running { child: command.spawn().expect("slashtrace runs"), file, stderr };
        running.wait_for("the start", |records| !records.is_empty());
        running
    }
}

struct Running {
    child: Child,
    file: PathBuf,
    stderr: PathBuf,
}

impl Running {
    fn records(&self) -> Vec<Record> {
        let Ok(file) = File::open(&self.file) else { return Vec::new() };
        Reader::new(BufReader::new(file)).map_while(Result::ok).collect()
    }

    fn wait_for(&self, what: &str, enough: impl Fn(&[Record]) -> bool) {
        let end = Instant::now() + host::patience(PATIENCE);
        while !enough(&self.records()) {
            let told = || fs::read_to_string(&self.stderr).unwrap_or_default();
            assert!(Instant::now() < end, "not in time: {what}\n{}", told());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn stop(mut self) -> Vec<Record> {
        kill_process(Pid::from_child(&self.child), Signal::INT).expect("it runs");
        let status = self.child.wait().expect("a child can be waited for");
        let told = fs::read_to_string(&self.stderr).unwrap_or_default();
        assert!(matches!(status.code(), Some(0 | 3)), "{status}: {told}");
        self.records()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Kills what has this token in its arguments when it goes away.
struct Sweep(String);

impl Drop for Sweep {
    fn drop(&mut self) {
        for entry in fs::read_dir("/proc").expect("/proc is mounted").flatten() {
            let cmdline = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let is_own = cmdline.split(|&b| b == 0).any(|token| token == self.0.as_bytes());
            let pid = entry.file_name().to_string_lossy().parse().ok().and_then(Pid::from_raw);
            if let Some(pid) = pid.filter(|_| is_own) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
}

fn sessions(records: &[Record]) -> BTreeSet<String> {
    workers(records).into_iter().filter_map(|worker| worker.session.clone()).collect()
}

fn output(command: &mut Command) -> Output {
    command.output().expect("slashtrace runs")
}

#[test]
fn session_keys_that_are_secrets_are_nowhere_and_stay_told_apart() {
    if !host::may_load_kernel_programs() {
        return;
    }
    let place = Place::new();
    let _sweep = Sweep(place.setup.token().to_owned());
    let long = "Longinus".repeat(16_000);
    let keys: Vec<&str> =
        SECRETS.iter().map(|(key, _)| *key).chain([ORDINARY, long.as_str()]).collect();
    let running = place.run("first.ndjson", &[]);
    // Each key has two workers under one gateway, which ends: they are duplicates, then orphans.
    let of = |key: &&str| place.setup.worker(key, vec![Step::Sleep(400_000)]);
    let (last, rest) = keys.split_last().expect("there are some");
    let steps = rest.iter().flat_map(|key| [of(key), of(key)]).map(Step::SpawnWithPipe);
    // These orders are too long for an environment.
    let _long = [of(last).start(), of(last).start()];
    let gateway = Program::new("gateway", steps.chain([Step::Sleep(6_000)]).collect());
    let mut gateway = gateway.command();
    let gateway = gateway.stdin(Stdio::null()).stdout(Stdio::null());
    let mut gateway = gateway.spawn().expect("subject runs");
    let all = 2 * keys.len();
    running.wait_for("the workers", |records| workers(records).len() == all);
    running.wait_for("the pairs", |records| {
        opened(records, Kind::DuplicateWorker).len() == keys.len()
    });

    let mut written: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut keep = |name: String, output: Output| {
        assert!(matches!(output.status.code(), Some(0 | 1 | 3)), "{name}: {output:?}");
        written.insert(format!("stdout of {name}"), output.stdout);
        written.insert(format!("stderr of {name}"), output.stderr);
    };
    keep("ps".to_owned(), output(&mut place.slashtrace(&["ps"])));
    let ps = output(&mut place.slashtrace(&["ps", "--json"]));
    let listed: serde_json::Value = serde_json::from_slice(&ps.stdout).expect("ps prints JSON");
    keep("ps --json".to_owned(), ps);
    let check = ["profile", "check", place.folder.path().join("profile.toml").to_str().unwrap()]
        .map(str::to_owned);
    let check: Vec<&str> = check.iter().map(String::as_str).collect();
    keep("profile check".to_owned(), output(&mut place.slashtrace(&check)));
    gateway.wait().expect("a child can be waited for");
    running.wait_for("the orphans", |records| {
        let orphans = opened(records, Kind::GatewayOrphan).into_iter();
        let orphans: BTreeSet<u32> = orphans.flat_map(pids).collect();
        orphans.len() == all - 2
    });
    // Asked for by the key, what stands for it is meant.
    let reap = ["reap", "--watch", "25s", "--older-than", "1s", "--json", "--session", JWT];
    let reap = output(&mut place.slashtrace(&reap));
    let reaped: serde_json::Value = serde_json::from_slice(&reap.stdout).expect("reap prints JSON");
    keep("reap".to_owned(), reap);
    let records = running.stop();

    let shown = sessions(&records);
    assert_eq!(shown.len(), keys.len(), "{shown:?}");
    assert!(shown.contains(ORDINARY), "{shown:?}");
    let pseudonyms = shown.iter().filter(|key| key.starts_with("session-")).count();
    assert_eq!(pseudonyms, keys.len() - 1, "{shown:?}");
    let of_list = |list: &serde_json::Value| -> BTreeSet<String> {
        let rows = list.as_array().expect("a list").iter();
        rows.filter_map(|row| Some(row["session"].as_str()?.to_owned())).collect()
    };
    assert_eq!(of_list(&listed), shown);
    let jwt = reaped.to_string();
    assert_eq!(shown.iter().filter(|key| jwt.contains(key.as_str())).count(), 1, "{jwt}");

    // A restart knows each by the same name, and a recording of its own does not.
    let again = place.run("second.ndjson", &[]);
    again.wait_for("who was there before", |records| workers(records).len() == all);
    assert_eq!(sessions(&again.stop()), shown);
    let hashed = place.run("third.ndjson", &["--sessions", "hash"]);
    hashed.wait_for("who was there before", |records| workers(records).len() == all);
    let hashed = sessions(&hashed.stop());
    assert_eq!(hashed.intersection(&shown).count(), keys.len() - 1, "all but the ordinary one");
    assert!(!hashed.contains(ORDINARY));
    let bundle = place.path("bundle");
    let args = ["record", "--duration", "4s", "--sessions", "hash", "-o", bundle.to_str().unwrap()];
    keep("record".to_owned(), output(&mut place.slashtrace(&args)));
    let own = Reader::open(&bundle).expect("evidence").map_while(Result::ok).collect::<Vec<_>>();
    assert!(sessions(&own).is_disjoint(&shown), "{:?}", sessions(&own));

    for format in ["text", "markdown", "html", "json", "junit"] {
        let mut report = place.slashtrace(&["report", "--format", format]);
        keep(format!("report --format {format}"), output(report.arg(place.path("first.ndjson"))));
    }
    let mut replay = place.slashtrace(&["replay"]);
    keep("replay".to_owned(), output(replay.arg(place.path("first.ndjson"))));
    for folder in [place.folder.path(), &bundle] {
        files(folder, &mut written);
    }
    assert!(written.len() > 25, "{:?}", written.keys());
    let parts = SECRETS.iter().flat_map(|(_, parts)| *parts).chain([&"Longinus", &"quentin"]);
    for part in parts {
        for (name, bytes) in &written {
            assert!(!contains(bytes, part), "{part} is in {name}");
        }
    }
    // Two workers with keys of 128 KB made 6.5 MB once.
    let evidence = written["first.ndjson"].len();
    eprintln!("{evidence} bytes of evidence of {all} workers");
    assert!(evidence < 300_000, "{evidence}");
}

fn contains(bytes: &[u8], part: &str) -> bool {
    bytes.windows(part.len()).any(|window| window == part.as_bytes())
}

/// The files of a folder, unpacked where they are packed.
fn files(folder: &Path, written: &mut BTreeMap<String, Vec<u8>>) {
    for entry in fs::read_dir(folder).expect("it is there").flatten() {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        if !path.is_file() {
            continue;
        }
        if path.extension().is_some_and(|it| it == "gz") {
            let unpacked = Command::new("gzip").arg("-dc").arg(&path).output().expect("gzip runs");
            written.insert(format!("{name}, unpacked"), unpacked.stdout);
        }
        written.insert(name, fs::read(&path).expect("it can be read"));
    }
}

/// What a flooder runs, until this goes away: a process group of its own.
struct Flood(Child);

impl Drop for Flood {
    fn drop(&mut self) {
        let _ = kill_process_group(Pid::from_child(&self.0), Signal::KILL);
        drop(self.0.wait());
    }
}

/// A worker of the flooder's that forks so many children.
fn flood(token: &str, children: usize) -> Flood {
    let steps = vec![Step::User(FLOODER), Step::ForkMany(children), Step::Sleep(600_000)];
    let worker = Program::new("python3", steps).arg("-m").arg(token);
    let worker = worker.arg("--session-key").arg("flood");
    let mut command = worker.command();
    command.stdin(Stdio::piped()).stdout(Stdio::null()).process_group(0);
    Flood(command.spawn().expect("subject runs"))
}

/// A gateway of the victim's that loses a worker: runs it until that was found and has ended.
fn run_victim(recording: &Recording, session: &str) {
    let child = recording.worker(&format!("{session}-child"), vec![Step::Sleep(200)]);
    let forks = Step::Fork(vec![Step::Sleep(300)]);
    let worker = recording.worker(session, vec![forks, Step::Sleep(12_000)]);
    let steps = vec![Step::User(VICTIM), Step::Spawn(child), Step::SpawnWithPipe(worker)];
    // Who ends in the moments after the spawn only passed through.
    let steps = steps.into_iter().chain([Step::Sleep(5_000)]).collect();
    Program::new("gateway", steps).run();
    recording.wait_for("the victim's orphan, and its end", PATIENCE, |records| {
        let worker = workers(records).into_iter().find(|it| it.session.as_deref() == Some(session));
        worker.is_some_and(|worker| {
            has_exited(records, worker.pid)
                && opened(records, Kind::GatewayOrphan)
                    .iter()
                    .any(|finding| finding.workers.iter().any(|it| it.pid == worker.pid))
        })
    });
}

/// Records that are about one user's processes, and how long their lines are.
fn of_user(recorded: &Recorded, uid: u32) -> (usize, usize) {
    let text = std::str::from_utf8(&recorded.bytes).expect("evidence is UTF-8");
    let mut pids = BTreeSet::new();
    let of = recorded.records.iter().zip(text.lines()).filter(|(record, _)| match &record.body {
        Body::Spawn(spawn) if spawn.uid == uid => {
            pids.insert(spawn.pid);
            true
        }
        Body::Exit(exit) => pids.contains(&exit.pid),
        Body::Sample(sample) => pids.contains(&sample.pid),
        Body::Finding(finding) => finding.workers.iter().any(|it| pids.contains(&it.pid)),
        _ => false,
    });
    of.fold((0, 0), |(records, bytes), (_, line)| (records + 1, bytes + line.len() + 1))
}

#[test]
fn who_floods_writes_a_share_and_another_s_records_are_whole() {
    if !host::may_load_kernel_programs() {
        return;
    }
    const CHILDREN: usize = 2_000;
    const SHARE: usize = 128 << 10;
    let began = Instant::now();
    let setup = Setup::ebpf().flag("--evidence-per-user=128K");
    let token = setup.token().to_owned();
    let recording = setup.start();
    run_victim(&recording, "before");
    let flood = flood(&token, CHILDREN);
    run_victim(&recording, "during");
    drop(flood);
    recording.wait_for("the flooder's end", PATIENCE, |records| {
        let worker = workers(records).into_iter().find(|it| it.session.as_deref() == Some("flood"));
        worker.is_some_and(|worker| has_exited(records, worker.pid))
    });
    std::thread::sleep(Duration::from_secs(2));
    let recorded = recording.stop_incomplete();

    let (records, bytes) = of_user(&recorded, FLOODER);
    let minutes = began.elapsed().as_secs_f64() / 60.0;
    let share = (SHARE as f64 * (1.0 + minutes)) as usize;
    // The ends of whose birth was written may come beyond it.
    let ends = recorded.exits().len() * 300;
    eprintln!(
        "{records} records, {bytes} bytes of the flooder; {share} may be, and {ends} of ends"
    );
    assert!(bytes < share + ends, "{bytes}");
    let gaps: Vec<_> = recorded
        .records
        .iter()
        .filter_map(|record| match &record.body {
            // Others run programs with long arguments.
            Body::Gap(gap) => Some(gap).filter(|gap| gap.reason.is_quota()),
            _ => None,
        })
        .collect();
    let full = gaps.iter().filter(|gap| gap.reason == GapReason::QuotaFull);
    let left_out: u64 = full.map(|gap| gap.lost).sum();
    let flooder = recorded.worker("flood").identity();
    let below = recorded.descendants_of(flooder);
    // Births that are not written, and the ends that these came to.
    assert!(left_out as usize >= CHILDREN - below.len(), "{left_out}, {}", below.len());
    assert!(gaps.iter().all(|gap| gap.uid == Some(FLOODER)), "{gaps:?}");
    assert!(gaps.len() < 12, "{gaps:?}");
    for child in below {
        recorded.exit_of(child.identity());
    }
    for session in ["before", "during"] {
        let worker = recorded.worker(session);
        assert_eq!(worker.uid, VICTIM);
        assert_eq!(recorded.exit_of(worker.identity()).code, Some(0));
        let below = recorded.descendants_of(worker.identity());
        assert_eq!(below.len(), 1);
        recorded.exit_of(below[0].identity());
    }
}
