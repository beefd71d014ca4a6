//! With two capabilities, and no root, kernel programs are loaded and workers seen: what docs/CI.md
//! says of containers.

use std::{
    fs::{self, File},
    io::BufReader,
    os::unix::fs::{PermissionsExt as _, chown},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use slashtrace::{
    evidence::Reader,
    model::{Body, Record, SensorKind},
};
use slashtrace_tests::{Setup, Step, host};

const NOBODY: u32 = 65_534;

#[test]
fn a_user_with_the_capabilities_sees_workers_in_the_kernel() {
    if !host::may_load_kernel_programs() {
        return;
    }
    if Command::new("setpriv").arg("--version").output().is_err() {
        host::skip("no setpriv (util-linux): capabilities cannot be given");
        return;
    }
    let setup = Setup::ebpf();
    let folder = tempfile::tempdir().expect("a folder");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("it is ours");
    chown(folder.path(), Some(NOBODY), None).expect("root can give a folder away");
    let program = folder.path().join("slashtrace");
    fs::copy(host::slashtrace(), &program).expect("the binary can be copied");
    let profile = folder.path().join("profile.toml");
    fs::write(&profile, setup.own_profile()).expect("the profile can be written");
    let file = folder.path().join("evidence.ndjson");

    let capabilities = "-all,+bpf,+perfmon";
    let mut tracer = Command::new("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
        .args(["--inh-caps", capabilities, "--ambient-caps", capabilities])
        .args(["--bounding-set", capabilities])
        .arg(&program)
        .arg("--profile")
        .arg(&profile)
        .args(["run", "--sensor", "ebpf", "--quiet", "--duration", "10s", "--evidence"])
        .arg(&file)
        .stdin(Stdio::null())
        .spawn()
        .expect("setpriv runs");
    let end = Instant::now() + Duration::from_secs(20);
    while fs::metadata(&file).map_or(0, |file| file.len()) == 0 {
        assert!(tracer.try_wait().expect("a child").is_none(), "it ended before it watched");
        assert!(Instant::now() < end, "it does not watch");
        thread::sleep(Duration::from_millis(20));
    }
    let pid = setup.worker("seen", vec![Step::Exit(0)]).run();
    assert!(tracer.wait().expect("a child can be waited for").success());

    let reader = Reader::new(BufReader::new(File::open(&file).expect("evidence")));
    let records: Vec<Record> = reader.map(|record| record.expect("it is whole")).collect();
    let Body::Start(start) = &records[0].body else { panic!("{:?}", records[0]) };
    assert_eq!(start.sensor, SensorKind::Ebpf);
    let seen = |record: &Record| match &record.body {
        Body::Spawn(spawn) => spawn.pid == pid && spawn.session.as_deref() == Some("seen"),
        _ => false,
    };
    assert!(records.iter().any(seen), "{records:#?}");
}
