//! Evidence that cannot be written: a disk that is full or fails, a file that goes away, readers that
//! do not read. Tracing, judging and ending on a signal go on; ending workers pauses.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    os::{fd::AsRawFd as _, unix::fs::OpenOptionsExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use slashtrace::{
    evidence::Reader,
    model::{Body, Outcome, Phase, Record, Step as ReaperStep},
};
use slashtrace_tests::{
    Program, Setup, Step, host,
    reaping::{LONG, is_there},
};
use tempfile::TempDir;

/// Within this an end by a signal is to be seen.
const AT_ONCE: Duration = Duration::from_millis(1_500);
const PATIENCE: Duration = Duration::from_secs(40);

/// A slashtrace that writes where the test says, and what it says on stderr.
struct Run {
    child: Child,
    folder: TempDir,
    setup: Setup,
}

impl Run {
    fn start(evidence: &Path, flags: &[&str]) -> Self {
        Self::with(evidence, flags, |folder| {
            Stdio::from(File::create(folder.join("stderr")).expect("a file"))
        })
    }

    fn with(evidence: &Path, flags: &[&str], stderr: impl FnOnce(&Path) -> Stdio) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let setup = Setup::ebpf();
        let profile = folder.path().join("profile.toml");
        fs::write(&profile, setup.own_profile()).expect("the profile can be written");
        let child = Command::new(host::slashtrace())
            .env("SLASHTRACE_RUNTIME_DIR", folder.path())
            .arg("--profile")
            .arg(&profile)
            .args(["run", "--sensor=ebpf", "--sample-interval=500ms", "--evidence"])
            .arg(evidence)
            .args(flags)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr(folder.path()))
            .spawn()
            .expect("slashtrace runs");
        Self { child, folder, setup }
    }

    fn said(&self) -> String {
        fs::read_to_string(self.folder.path().join("stderr")).unwrap_or_default()
    }

    fn wait_until(&self, what: &str, mut is: impl FnMut() -> bool) {
        let until = Instant::now() + host::patience(PATIENCE);
        while !is() {
            assert!(Instant::now() < until, "not in time: {what}\n{}", self.said());
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn wait_for_line(&self, text: &str) {
        self.wait_until(text, || self.said().contains(text));
    }

    /// Ends it by a signal; the exit code and how long that took.
    fn end(&mut self, signal: Signal) -> (Option<i32>, Duration) {
        let began = Instant::now();
        kill_process(Pid::from_child(&self.child), signal).expect("slashtrace is running");
        let until = began + host::patience(PATIENCE);
        loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                return (status.code(), began.elapsed());
            }
            assert!(Instant::now() < until, "it does not end\n{}", self.said());
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn ends_at_once(&mut self, code: i32) {
        let (ended, took) = self.end(Signal::TERM);
        assert_eq!(ended, Some(code), "{}", self.said());
        assert!(took < host::patience(AT_ONCE), "{took:?}");
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A file system of its own for a test.
struct Mount {
    at: PathBuf,
    _folder: TempDir,
}

impl Mount {
    fn tmpfs(size: &str) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a folder");
        let at = folder.path().join("disk");
        fs::create_dir(&at).expect("a folder");
        let options = format!("size={size},mode=0700");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(&at);
        Self::mounted(&mut mount, at, folder)
    }

    /// An ext4 in a file, which can be made to fail.
    fn ext4() -> Option<Self> {
        let folder = tempfile::tempdir().expect("a folder");
        let (at, image) = (folder.path().join("disk"), folder.path().join("image"));
        fs::create_dir(&at).expect("a folder");
        File::create(&image).and_then(|file| file.set_len(16 << 20)).expect("an image");
        let made = Command::new("mkfs.ext4").arg("-q").arg(&image).status();
        if !made.is_ok_and(|status| status.success()) {
            host::skip("no mkfs.ext4");
            return None;
        }
        let mut mount = Command::new("mount");
        mount.args(["-o", "loop"]).arg(&image).arg(&at);
        Self::mounted(&mut mount, at, folder)
    }

    fn mounted(mount: &mut Command, at: PathBuf, folder: TempDir) -> Option<Self> {
        let output = mount.output().expect("mount(8)");
        if !output.status.success() {
            host::skip(&format!("no mount: {}", String::from_utf8_lossy(&output.stderr).trim()));
            return None;
        }
        Some(Self { at, _folder: folder })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.at.join(name)
    }

    /// Takes all the room that is left.
    fn fill(&self) {
        let mut file = File::create(self.path("filler")).expect("a file");
        while file.write_all(&[0; 4096]).is_ok() {}
        while file.write_all(&[0]).is_ok() {}
    }

    fn free(&self) {
        fs::remove_file(self.path("filler")).expect("it is there");
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.at).status());
    }
}

fn read(path: &Path) -> Vec<Record> {
    let reader = Reader::open(path).expect("evidence");
    reader.map(|record| record.expect("each line is whole, and follows the one before")).collect()
}

fn actions(records: &[Record], step: ReaperStep, phase: Phase) -> Vec<(u64, Option<Outcome>)> {
    let actions = records.iter().filter_map(|record| match &record.body {
        Body::Action(action) if action.step == step && action.phase == phase => {
            Some((record.seq, action.outcome))
        }
        _ => None,
    });
    actions.collect()
}

/// A worker that is left behind by its gateway; its pid.
fn orphan(run: &Run) -> u32 {
    let worker = run.setup.worker("orphan", vec![Step::Sleep(LONG)]);
    let steps = vec![Step::SpawnWithPipe(worker), Step::Sleep(3_000)];
    let mut gateway = Program::new("gateway", steps).start();
    let children = format!("/proc/{0}/task/{0}/children", gateway.pid());
    let mut pid = None;
    run.wait_until("the worker", || {
        let text = fs::read_to_string(&children).unwrap_or_default();
        pid = text.split_whitespace().next().and_then(|pid| pid.parse().ok());
        pid.is_some()
    });
    gateway.wait();
    pid.expect("it was just there")
}

fn enforce() -> [&'static str; 2] {
    ["--policy=enforce", "--min-age=1ms"]
}

#[test]
fn a_full_disk_pauses_the_reaper_until_there_is_room() {
    if !host::may_load_kernel_programs() {
        return;
    }
    let Some(disk) = Mount::tmpfs("256k") else { return };
    let path = disk.path("evidence.ndjson");
    let mut run = Run::start(&path, &enforce());
    run.wait_until("the start", || fs::read(&path).is_ok_and(|text| text.ends_with(b"\n")));
    disk.fill();
    let pid = orphan(&run);
    run.wait_for_line("cannot be written to: No space left");
    assert!(run.said().contains("ending workers pauses meanwhile"), "{}", run.said());
    // The orphan grace is 2 s.
    thread::sleep(Duration::from_secs(5));
    assert!(is_there(pid), "a worker was ended though that could not be written\n{}", run.said());
    let torn = fs::read(&path).expect("it is there");
    assert!(torn.ends_with(b"\n"), "half a line");
    let freed = Instant::now();
    disk.free();
    run.wait_until("the worker's end", || !is_there(pid));
    println!("the worker ended {:?} after there was room", freed.elapsed());
    run.wait_for_line("evidence is written again: nothing was lost; ending workers goes on");
    run.ends_at_once(0);
    let records = read(&path);
    let before = actions(&records, ReaperStep::Terminate, Phase::Before);
    let after = actions(&records, ReaperStep::Terminate, Phase::After);
    assert_eq!((before.len(), after.len()), (1, 1), "{records:#?}");
    assert!(before[0].0 < after[0].0 && after[0].1 == Some(Outcome::Sent));
    let replayed = Command::new(host::slashtrace()).arg("replay").arg(&path).output();
    assert_eq!(replayed.expect("it runs").status.code(), Some(0));
}

#[test]
fn a_full_disk_does_not_hold_a_signal_up() {
    if !host::may_load_kernel_programs() {
        return;
    }
    let Some(disk) = Mount::tmpfs("256k") else { return };
    let path = disk.path("evidence.ndjson");
    let mut run = Run::start(&path, &[]);
    run.wait_until("the start", || fs::read(&path).is_ok_and(|text| text.ends_with(b"\n")));
    disk.fill();
    // More than fits into the rest of a page.
    for _ in 0..10 {
        run.setup.worker("unseen", vec![]).run();
    }
    // The stop is missing, and that is said.
    run.ends_at_once(3);
    assert!(run.said().contains("what was written before is whole"), "{}", run.said());
    assert!(matches!(read(&path)[0].body, Body::Start(_)));
}

#[test]
fn a_disk_that_fails_does_not_end_it() {
    // _IOR('X', 125, __u32): EXT4_IOC_SHUTDOWN (fs/ext4/ext4.h); 2: without flushing the log.
    const SHUTDOWN: libc::c_ulong = 0x8004_587d;
    if !host::may_load_kernel_programs() {
        return;
    }
    let Some(disk) = Mount::ext4() else { return };
    let path = disk.path("evidence.ndjson");
    let mut run = Run::start(&path, &enforce());
    run.wait_until("the start", || fs::read(&path).is_ok_and(|text| text.ends_with(b"\n")));
    let root = File::open(&disk.at).expect("the disk");
    let how: u32 = 2;
    // SAFETY: the kernel reads one u32 from where one is.
    let failed = unsafe { libc::ioctl(root.as_raw_fd(), SHUTDOWN, &raw const how) };
    if failed != 0 {
        host::skip("this ext4 cannot be shut down");
        return;
    }
    let pid = orphan(&run);
    run.wait_for_line("cannot be written to");
    thread::sleep(Duration::from_secs(4));
    assert!(is_there(pid), "{}", run.said());
    let worker = Pid::from_raw(pid.cast_signed()).expect("a pid");
    run.ends_at_once(3);
    let _ = kill_process(worker, Signal::KILL);
}

#[test]
fn a_folder_that_is_gone_is_waited_for() {
    if !host::may_load_kernel_programs() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let below = folder.path().join("log");
    fs::create_dir(&below).expect("a folder");
    let path = below.join("evidence.ndjson");
    let mut run = Run::start(&path, &[]);
    run.wait_until("the start", || fs::read(&path).is_ok_and(|text| text.ends_with(b"\n")));
    let removed = Instant::now();
    fs::remove_dir_all(&below).expect("it is there");
    run.wait_for_line("was moved or removed");
    println!("noticed after {:?}", removed.elapsed());
    run.setup.worker("meanwhile", vec![]).run();
    run.wait_for_line("watching goes on");
    fs::create_dir(&below).expect("a folder");
    run.wait_for_line("evidence is written again: nothing was lost");
    run.ends_at_once(0);
    let records = read(&path);
    assert!(matches!(&records[0].body, Body::Start(start) if start.continued));
    let seen = |record: &Record| matches!(&record.body, Body::Spawn(spawn) if spawn.session.as_deref() == Some("meanwhile"));
    assert!(records.iter().any(seen), "{records:#?}");
}

fn fifo() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&path).status().expect("mkfifo(1)").success());
    (folder, path)
}

#[test]
fn a_fifo_that_nobody_reads_holds_nothing_up() {
    if !host::may_load_kernel_programs() {
        return;
    }
    let (_folder, path) = fifo();
    let mut run = Run::start(&path, &enforce());
    run.wait_for_line("cannot be written to: nobody reads it; watching goes on");
    run.ends_at_once(3);
    // Whoever comes later reads from the first line on.
    let mut run = Run::start(&path, &[]);
    run.wait_for_line("cannot be written to: nobody reads it");
    run.setup.worker("held", vec![]).run();
    thread::sleep(Duration::from_secs(1));
    let reader = {
        let path = path.clone();
        thread::spawn(move || fs::read_to_string(path).expect("the FIFO"))
    };
    run.wait_for_line("evidence is written again: nothing was lost");
    run.ends_at_once(0);
    let text = reader.join().expect("it reads");
    let records: Result<Vec<Record>, _> = Reader::new(text.as_bytes()).collect();
    let records = records.expect("each line is whole");
    assert!(matches!(records.last().expect("records").body, Body::Stop(_)));
    assert!(text.contains("\"session\":\"held\""), "{text}");
}

#[test]
fn a_fifo_whose_reader_stops_reading_pauses_the_reaper() {
    if !host::may_load_kernel_programs() {
        return;
    }
    let (_folder, path) = fifo();
    let mut options = fs::OpenOptions::new();
    let mut reader =
        options.read(true).custom_flags(libc::O_NONBLOCK).open(&path).expect("the FIFO");
    rustix::pipe::fcntl_setpipe_size(&reader, 4096).expect("a pipe");
    let mut other = fs::OpenOptions::new();
    let mut other = other.write(true).custom_flags(libc::O_NONBLOCK).open(&path).expect("the FIFO");
    while other.write(&[b'x'; 4096]).is_ok() {}
    let mut run = Run::start(&path, &enforce());
    run.wait_for_line("cannot be written to: nobody reads it");
    let pid = orphan(&run);
    thread::sleep(Duration::from_secs(4));
    assert!(is_there(pid), "{}", run.said());
    let mut text = Vec::new();
    run.wait_until("the worker's end", || {
        let mut page = [0; 4096];
        while let Ok(read @ 1..) = reader.read(&mut page) {
            text.extend_from_slice(&page[..read]);
        }
        !is_there(pid)
    });
    let announced = String::from_utf8_lossy(&text);
    assert!(announced.contains("\"phase\":\"before\""), "{announced}");
    // Whether the rest fits into the page is chance.
    let (code, took) = run.end(Signal::TERM);
    assert!(matches!(code, Some(0 | 3)), "{code:?}: {}", run.said());
    assert!(took < host::patience(AT_ONCE), "{took:?}");
}

#[test]
fn a_stderr_that_nobody_reads_holds_nothing_up() {
    if !host::may_load_kernel_programs() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("evidence.ndjson");
    let (read_end, write_end) = std::io::pipe().expect("a pipe");
    rustix::io::ioctl_fionbio(&write_end, true).expect("a pipe");
    while (&write_end).write(&[b'x'; 4096]).is_ok() {}
    rustix::io::ioctl_fionbio(&write_end, false).expect("a pipe");
    let mut run = Run::with(&path, &enforce(), |_| Stdio::from(write_end));
    run.wait_until("the start", || fs::read(&path).is_ok_and(|text| text.ends_with(b"\n")));
    let pid = orphan(&run);
    run.wait_until("the worker's end", || !is_there(pid));
    run.ends_at_once(0);
    assert!(matches!(read(&path).last().expect("records").body, Body::Stop(_)));
    drop(read_end);
}
