//! `cargo xtask vm`: slashtrace on other kernels. Boots Debian's own in qemu (TCG: no KVM is needed)
//! with an initramfs that runs the static program, and holds what it said against what happened.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::{
    apt, checkout, setup,
    step::{self, Outcome, Step},
};

/// A guest that takes longer hangs. It boots in about 15 s under TCG.
const GUEST_LIMIT: Duration = Duration::from_mins(5);
/// Programs of Debian packages that are needed.
const NEEDED: [(&str, &str); 3] =
    [("qemu-system-x86_64", "qemu-system-x86"), ("busybox", "busybox-static"), ("cpio", "cpio")];
/// Workers that the guest starts in a burst.
const BURST: usize = 50;

/// A kernel of Debian, by the pattern of its package's name.
struct Kernel {
    name: &'static str,
    package: &'static str,
    /// The function of fs/pipe.c that ends a read from a pipe there.
    pipe_function: &'static str,
}

const KERNELS: [Kernel; 2] = [
    Kernel {
        name: "6.1",
        package: r"^linux-image-6\.1\.[0-9.]+-[0-9]+-cloud-amd64-unsigned$",
        pipe_function: "pipe_read",
    },
    Kernel {
        name: "6.12",
        package: r"^linux-image-6\.12\.[0-9]+[+]deb12-cloud-amd64-unsigned$",
        pipe_function: "pipe_read",
    },
];

/// Runs every kernel, and sums up.
pub(crate) fn vm() -> Result<Vec<Step>> {
    setup::everything()?;
    Ok(KERNELS.iter().map(|kernel| step::run(&title(kernel), || on(kernel))).collect())
}

fn title(kernel: &Kernel) -> String {
    format!("kernel {} in qemu", kernel.name)
}

fn on(kernel: &Kernel) -> Result<Outcome> {
    if let Some(why) = missing()? {
        return Ok(Outcome::Skipped(why));
    }
    let image = match image(kernel) {
        Ok(image) => image,
        Err(error) => return Ok(Outcome::Skipped(format!("no kernel to be had: {error:#}"))),
    };
    let initramfs = initramfs(&checkout::target().join("vm"))?;
    let said = boot(&image, &initramfs, kernel.name)?;
    check(&said, kernel)
        .with_context(|| format!("what the guest said is in {}", log(kernel.name).display()))?;
    Ok(Outcome::Done)
}

/// Why it cannot be done here; packages that are missing are installed where that is possible.
fn missing() -> Result<Option<String>> {
    if std::env::consts::ARCH != "x86_64" {
        return Ok(Some("the guests are x86_64".to_owned()));
    }
    apt::provide(&NEEDED)
}

/// The kernel image below `target/vm`, downloaded if it is not there.
fn image(kernel: &Kernel) -> Result<PathBuf> {
    let folder = checkout::target().join("vm").join(kernel.name);
    if let Some(image) = find_image(&folder) {
        return Ok(image);
    }
    fs::create_dir_all(&folder)?;
    let package = if let Some(package) = package(kernel)? {
        package
    } else {
        apt::refresh_lists()?;
        package(kernel)?.context("no such package; are Debian's packages reached?")?
    };
    eprintln!("    downloading {package}");
    step::output(Command::new("apt-get").args(["download", &package]).current_dir(&folder))?;
    let archive = fs::read_dir(&folder)?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .context("apt-get download left no package")?;
    step::output(Command::new("dpkg").arg("-x").arg(&archive).arg(&folder))?;
    fs::remove_file(archive)?;
    // Hundreds of MB of modules, of which none is needed.
    let _ = fs::remove_dir_all(folder.join("lib"));
    find_image(&folder).context("the package has no boot/vmlinuz-…")
}

fn find_image(folder: &Path) -> Option<PathBuf> {
    let files = fs::read_dir(folder.join("boot")).ok()?;
    let mut paths = files.flatten().map(|entry| entry.path());
    paths.find(|path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("vmlinuz-")))
}

/// The newest package of a kernel.
fn package(kernel: &Kernel) -> Result<Option<String>> {
    let found = step::output(
        Command::new("apt-cache").args(["search", "--names-only"]).arg(kernel.package),
    )?;
    let mut names: Vec<&str> = found.lines().filter_map(|line| line.split(' ').next()).collect();
    names.sort_by_key(|name| numbers(name));
    Ok(names.last().map(|&name| name.to_owned()))
}

/// The numbers in a name, by which versions are in order.
fn numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}

/// Builds the static program and packs it with a shell and the guest's script.
fn initramfs(folder: &Path) -> Result<PathBuf> {
    let target = checkout::musl();
    for package in
        [&["--package", "slashtrace"][..], &["--package", "slashtrace-tests", "--bin", "subject"]]
    {
        let mut cargo = checkout::cargo(&["build", "--quiet", "--release", "--target", &target]);
        step::call(cargo.args(package))?;
    }
    let binaries = checkout::target().join(&target).join("release");
    let root = folder.join("root");
    fs::create_dir_all(root.join("bin"))?;
    let busybox = apt::find("busybox").context("no busybox")?;
    for (from, to) in [
        (busybox, "bin/busybox"),
        (binaries.join("slashtrace"), "slashtrace"),
        (binaries.join("subject"), "subject"),
        (checkout::file("tests/fixtures/vm-init.sh"), "init"),
        (checkout::file("tests/fixtures/vm-profile.toml"), "profile.toml"),
    ] {
        let to = root.join(to);
        fs::copy(&from, &to).with_context(|| format!("cannot copy {}", from.display()))?;
        fs::set_permissions(&to, fs::Permissions::from_mode(0o755))?;
    }
    let packed = folder.join("initramfs.cpio");
    let pack = format!("find . | cpio --quiet --create --format=newc > '{}'", packed.display());
    step::output(Command::new("sh").args(["-c", &pack]).current_dir(&root))?;
    Ok(packed)
}

fn log(name: &str) -> PathBuf {
    checkout::target().join("vm").join(format!("{name}.log"))
}

/// Boots the guest and waits until it powered itself off; what it said on its serial console.
fn boot(image: &Path, initramfs: &Path, name: &str) -> Result<String> {
    let log = log(name);
    let console =
        fs::File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-m", "1G", "-smp", "2", "-nographic", "-no-reboot", "-nic", "none"])
        .args(["-append", "console=ttyS0 quiet loglevel=3 panic=-1"])
        .arg("-kernel")
        .arg(image)
        .arg("-initrd")
        .arg(initramfs)
        .stdin(Stdio::null())
        .stdout(console)
        .stderr(Stdio::inherit());
    let mut guest = qemu.spawn().context("cannot start qemu")?;
    let deadline = Instant::now() + GUEST_LIMIT;
    let status = loop {
        if let Some(status) = guest.try_wait()? {
            break status;
        }
        if Instant::now() > deadline {
            guest.kill()?;
            guest.wait()?;
            bail!(
                "the guest took longer than {}; see {}",
                step::seconds(GUEST_LIMIT),
                log.display()
            );
        }
        thread::sleep(Duration::from_millis(200));
    };
    ensure!(status.success(), "qemu ended with {status}; see {}", log.display());
    let said = fs::read(&log)?;
    Ok(String::from_utf8_lossy(&said).replace('\r', ""))
}

/// Lines behind the mark `@@ NAME`, up to the next mark.
fn part<'a>(said: &'a str, name: &str) -> Result<Vec<&'a str>> {
    let mark = format!("@@ {name}");
    let mut lines = said.lines().skip_while(|line| !line.starts_with(&mark));
    lines.next().with_context(|| format!("the guest did not get to `{mark}`"))?;
    Ok(lines.take_while(|line| !line.starts_with("@@ ")).collect())
}

fn check(said: &str, kernel: &Kernel) -> Result<()> {
    part(said, "end")?;
    let doctor = part(said, "doctor")?.concat();
    let checks: Vec<Value> =
        serde_json::from_str(&doctor).with_context(|| format!("doctor said: {doctor}"))?;
    let hooks: Vec<&Value> = checks
        .iter()
        .filter(|check| check["name"].as_str().is_some_and(|name| name.starts_with("hook ")))
        .collect();
    ensure!(hooks.len() >= 5, "doctor names {} hooks", hooks.len());
    for hook in &hooks {
        ensure!(hook["ok"] == true, "{hook}");
    }
    let calls =
        hooks.iter().find(|hook| hook["name"] == "hook count-calls").context("no count-calls")?;
    let fexit = format!("fexit of {}", kernel.pipe_function);
    ensure!(calls["detail"] == fexit.as_str(), "calls are not counted by {fexit}: {calls}");

    let terminal =
        hooks.iter().find(|hook| hook["name"] == "hook terminal").context("no terminal")?;
    let fentry = "fentry of devpts_pty_kill";
    ensure!(terminal["detail"] == fentry, "terminals are not told by {fentry}: {terminal}");

    part(said, "exit 0").context("the recording did not end with exit code 0")?;
    let records = evidence(said, "evidence")?;
    terminal_closed(said, "fentry", &records)?;
    let backwards = records.windows(2).any(|pair| {
        pair[0]["time"].as_str().zip(pair[1]["time"].as_str()).is_some_and(|(a, b)| a > b)
    });
    ensure!(backwards, "the clock was not set back");
    part(said, "replay 0").context("with the clock set back, a replay found something else")?;
    part(said, "exit-kprobe 0").context("the second recording did not end with exit code 0")?;
    let by_kprobe = evidence(said, "kprobe-evidence")?;
    let capabilities = by_kprobe[0]["capabilities"].to_string();
    ensure!(capabilities.contains("kprobe on devpts_pty_kill"), "no kprobe: {capabilities}");
    terminal_closed(said, "kprobe", &by_kprobe)?;
    for line in part(said, "calls")? {
        let (session, calls) = line.split_once(' ').with_context(|| format!("no count: {line}"))?;
        let worker = one(&records, session)?;
        let exit = records
            .iter()
            .find(|record| record["type"] == "exit" && same(record, worker))
            .with_context(|| format!("no exit of {session}"))?;
        let calls: u64 = calls.parse().with_context(|| format!("no number of calls: {line}"))?;
        ensure!(exit["reads"] == calls, "{session} served {calls} calls: {exit}");
    }
    let burst = spawns(&records, "burst").count();
    ensure!(burst == BURST, "{burst} of {BURST} workers of the burst were seen");
    Ok(())
}

/// The records of a recording that is complete.
fn evidence(said: &str, name: &str) -> Result<Vec<Value>> {
    let records: Vec<Value> = part(said, name)?
        .into_iter()
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_str(line).with_context(|| format!("no record: {line}")))
        .collect::<Result<_>>()?;
    let stop = records.last().context("no evidence")?;
    ensure!(stop["type"] == "stop" && stop["complete"] == true, "incomplete: {stop}");
    Ok(records)
}

/// The subject says on which terminal its worker was, and that it closed it: that is what the kernel
/// program told, once.
fn terminal_closed(said: &str, by: &str, records: &[Value]) -> Result<()> {
    let lines = part(said, &format!("terminal {by}"))?;
    let told = lines.iter().find_map(|line| line.strip_prefix("/dev/pts/")?.split_once(' '));
    let (index, closer) = told.with_context(|| format!("no terminal: {lines:?}"))?;
    let (index, closer): (u32, u32) = (index.parse()?, closer.trim().parse()?);
    let closed: Vec<&Value> = records
        .iter()
        .filter(|record| record["type"] == "terminal" && record["state"] == "closed")
        .collect();
    let [closed] = closed[..] else { bail!("{by}: {} terminals were closed", closed.len()) };
    ensure!(closed["source"] == "kernel", "{by}: not told by the kernel program: {closed}");
    ensure!(closed["index"] == index, "{by}: not pts/{index}: {closed}");
    ensure!(closed["closer"]["pid"] == closer, "{by}: not by {closer}: {closed}");
    one(records, "terminal").map(drop)
}

fn spawns<'a>(records: &'a [Value], session: &'a str) -> impl Iterator<Item = &'a Value> {
    records.iter().filter(move |record| {
        record["type"] == "spawn" && record["role"] == "worker" && record["session"] == session
    })
}

fn one<'a>(records: &'a [Value], session: &'a str) -> Result<&'a Value> {
    let mut found = spawns(records, session);
    let worker = found.next().with_context(|| format!("no worker of {session}"))?;
    ensure!(found.next().is_none(), "more than one worker of {session}");
    Ok(worker)
}

fn same(a: &Value, b: &Value) -> bool {
    a["pid"] == b["pid"] && a["start_ns"] == b["start_ns"]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_end_at_the_next_mark() {
        let said = "noise\n@@ a\n1\n2\n@@ exit 0\n@@ end\n";
        assert_eq!(part(said, "a").expect("there"), ["1", "2"]);
        assert!(part(said, "exit 0").expect("there").is_empty());
        assert!(part(said, "b").is_err());
    }

    #[test]
    fn the_newest_package_is_the_one_with_the_highest_numbers() {
        assert!(numbers("linux-image-6.1.0-9-cloud") < numbers("linux-image-6.1.0-56-cloud"));
    }

    #[test]
    fn a_guest_that_says_too_little_is_no_success() {
        assert!(check("@@ doctor\n[]\n@@ exit 0\n@@ evidence\n@@ end\n", &KERNELS[0]).is_err());
        assert!(check("", &KERNELS[0]).is_err());
    }
}
