//! `cargo xtask vm`: the end-to-end tests on other kernels. Boots Debian's own in qemu (TCG: no KVM is
//! needed) with an initramfs of the static program and those test programs that need nothing else,
//! and says of each kernel which tests passed on it.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    apt, checkout,
    e2e::{self, File},
    guest::{self, Results},
    setup,
    step::{self, Outcome, Step},
};

/// A guest that takes longer hangs. Alone on the machine it takes a quarter of that.
const GUEST_LIMIT: Duration = Duration::from_mins(12);
/// Programs of Debian packages that are needed.
const NEEDED: [(&str, &str); 3] =
    [("qemu-system-x86_64", "qemu-system-x86"), ("busybox", "busybox-static"), ("cpio", "cpio")];
/// The cargo profile of what runs in guests.
const PROFILE: &str = "guest";

/// A kernel of Debian, by the pattern of its package's name.
struct Kernel {
    name: &'static str,
    package: &'static str,
}

const KERNELS: [Kernel; 2] = [
    Kernel { name: "6.1", package: r"^linux-image-6\.1\.[0-9.]+-[0-9]+-cloud-amd64-unsigned$" },
    Kernel { name: "6.12", package: r"^linux-image-6\.12\.[0-9]+[+]deb12-cloud-amd64-unsigned$" },
];

/// Runs every kernel with nothing beside it.
pub(crate) fn vm() -> Result<(Vec<Step>, Vec<String>)> {
    setup::everything()?;
    let skips = checkout::target().join("skipped-tests.log");
    fs::write(&skips, "").with_context(|| format!("cannot write {}", skips.display()))?;
    let mut steps = fetch();
    steps.extend(beside(&e2e::files()?, &skips));
    let skipped = fs::read_to_string(&skips)?.lines().map(str::to_owned).collect();
    Ok((steps, skipped))
}

/// Gets qemu and the kernels.
pub(crate) fn fetch() -> Vec<Step> {
    vec![step::quietly("qemu and kernels of Debian", |_| {
        if let Some(why) = missing()? {
            return Ok(Outcome::Skipped(why));
        }
        for kernel in &KERNELS {
            if let Err(error) = image(kernel) {
                return Ok(Outcome::Skipped(format!("no kernel to be had: {error:#}")));
            }
        }
        Ok(Outcome::Done)
    })]
}

/// Runs every kernel beside other steps, with what these leave of the processor, and prints kernel ×
/// test. What was skipped there is added to the log at `skips`.
pub(crate) fn beside(files: &[File], skips: &Path) -> Vec<Step> {
    let files: Vec<&File> = files.iter().filter(|file| file.in_guests).collect();
    let mut initramfs = None;
    let mut steps = vec![step::quietly("build for the guests", |_| {
        if let Some(why) = missing()? {
            return Ok(Outcome::Skipped(why));
        }
        initramfs = Some(build(&checkout::target().join("vm"), &files)?);
        Ok(Outcome::Done)
    })];
    let Some(initramfs) = initramfs else { return steps };
    // One after the other: tests within are about what happens within seconds.
    let booted = KERNELS.iter().map(|kernel| {
        let mut results = None;
        let step = step::quietly(&format!("kernel {} in qemu", kernel.name), |log| {
            let image = match image(kernel) {
                Ok(image) => image,
                Err(error) => {
                    return Ok(Outcome::Skipped(format!("no kernel to be had: {error:#}")));
                }
            };
            let said = boot(&image, &initramfs, kernel.name)?;
            let programs: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
            let read = Results::read(&said, &programs);
            let failed = read.as_ref().map_or(1, |results| results.failed().len());
            if failed > 0 {
                fs::write(log, &said)?;
            }
            let read = results.insert(read?);
            ensure!(failed == 0, "{failed} of {} tests failed", read.verdicts.len());
            Ok(Outcome::Done)
        });
        (step, results.map(|results| (kernel.name, results)))
    });
    let mut guests = Vec::new();
    for (mut step, results) in booted {
        if let Some((name, results)) = results {
            if let Err(error) = note_skips(name, &results, skips) {
                step.outcome = Outcome::Failed(format!("{error:#}"));
            }
            guests.push((name, results));
        }
        steps.push(step);
    }
    if !guests.is_empty() {
        let releases = guests.iter().map(|(_, results)| results.release.as_str());
        let releases: Vec<&str> = releases.collect();
        eprintln!("==> kernel × test ({})\n{}", releases.join(", "), guest::matrix(&guests));
    }
    steps
}

fn note_skips(kernel: &str, results: &Results, skips: &Path) -> Result<()> {
    let file = fs::File::options().append(true).create(true).open(skips);
    let mut file = file.with_context(|| format!("cannot write {}", skips.display()))?;
    for skip in &results.skips {
        writeln!(file, "kernel {kernel}: {skip}")?;
    }
    Ok(())
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

/// Builds the static program and the test programs, and packs them with a shell and the guest's
/// script.
fn build(folder: &Path, files: &[&File]) -> Result<PathBuf> {
    let target = checkout::musl();
    let profile = ["--profile", PROFILE, "--target", &target];
    // In one call, or slashtrace and what it is built of would be compiled twice, with other features:
    // its own test `cli` has cargo build the program.
    let mut tests = checkout::cargo(&["test", "--quiet", "--no-run", "--message-format=json"]);
    tests.args(["--package", "slashtrace", "--package", "slashtrace-tests", "--test", "cli"]);
    tests.args(profile);
    for file in files {
        tests.args(["--test", &file.name]);
    }
    let mut programs = e2e::programs(&step::output_of(&mut step::nice(&tests))?)?;
    programs.retain(|(name, _)| files.iter().any(|file| file.name == *name));
    ensure!(programs.len() == files.len(), "cargo built {programs:?} for the guests");

    let root = folder.join("root");
    // Test programs of an earlier run may have other names.
    let _ = fs::remove_dir_all(&root);
    let binaries = checkout::target().join(&target).join(PROFILE);
    let busybox = apt::find("busybox").context("no busybox")?;
    let mut parts = vec![
        (busybox, "bin/busybox".to_owned()),
        (binaries.join("slashtrace"), "tests/slashtrace".to_owned()),
        (binaries.join("subject"), "tests/subject".to_owned()),
        (checkout::file("tests/fixtures/vm-init.sh"), "init".to_owned()),
    ];
    parts.extend(programs.into_iter().map(|(name, path)| (path, format!("tests/deps/{name}"))));
    for (from, to) in parts {
        let to = root.join(to);
        fs::create_dir_all(to.parent().unwrap_or(&root))?;
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
    // Below the tests that run beside it: those measure time.
    let mut qemu = Command::new("nice");
    qemu.args(["-n", "5", "qemu-system-x86_64"]);
    qemu.args(["-m", "2G", "-smp", "2", "-nographic", "-no-reboot", "-nic", "none"])
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_package_is_the_one_with_the_highest_numbers() {
        assert!(numbers("linux-image-6.1.0-9-cloud") < numbers("linux-image-6.1.0-56-cloud"));
    }
}
