//! `cargo xtask setup`: from a bare machine with rustup and the pinned rustc to one that builds.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    checkout, run,
    step::{self, Outcome},
};

/// The bpf-linker whose LLVM is that of the pinned rustc; both change together.
const BPF_LINKER: &str = "0.10.3";

/// What the build, the demo and the tests need.
pub(crate) fn everything() -> Result<()> {
    for_building()?;
    step::must("python3 with venv (fixtures)", python)?;
    for (name, kind, at) in
        [("tracefs", "tracefs", "/sys/kernel/tracing"), ("bpffs", "bpf", "/sys/fs/bpf")]
    {
        step::must(&format!("{name} on {at}"), || mounted(kind, Path::new(at)))?;
    }
    Ok(())
}

/// What a build needs.
pub(crate) fn for_building() -> Result<()> {
    eprintln!("==> setup");
    let toolchain = checkout::toolchain()?;
    step::must(&format!("rust-src for {toolchain}"), || {
        rustup("component", "rust-src", &toolchain)
    })?;
    let musl = checkout::musl();
    step::must(&format!("target {musl}"), || rustup("target", &musl, &toolchain))?;
    step::must(&format!("bpf-linker {BPF_LINKER} in .tools"), bpf_linker)
}

fn rustup(what: &str, name: &str, toolchain: &str) -> Result<Outcome> {
    let listed = step::output(Command::new("rustup").args([
        what,
        "list",
        "--installed",
        "--toolchain",
        toolchain,
    ]))
    .context(
        "the pinned toolchain comes through rustup: install rustup, then \
         `rustup toolchain install` in this checkout",
    )?;
    if listed.lines().any(|line| line.trim() == name) {
        return Ok(Outcome::AlreadyThere);
    }
    step::call(Command::new("rustup").args([what, "add", "--toolchain", toolchain, name]))
        .context("rustup downloads it: is there a network?")
}

fn bpf_linker() -> Result<Outcome> {
    let tools = checkout::file(".tools");
    let program = tools.join("bin/bpf-linker");
    if linker_version(&program).is_ok_and(|version| version == BPF_LINKER) {
        return Ok(Outcome::AlreadyThere);
    }
    eprintln!("    compiling bpf-linker, which takes a minute or two");
    step::call(
        checkout::cargo(&[
            "install",
            "--quiet",
            "--locked",
            "--force",
            &format!("bpf-linker@{BPF_LINKER}"),
            "--root",
        ])
        .arg(&tools),
    )
    .context("cargo downloads and compiles it: is there a network, and a C compiler?")?;
    let version = linker_version(&program)?;
    if version != BPF_LINKER {
        bail!("{} is {version} although {BPF_LINKER} was installed", program.display());
    }
    Ok(Outcome::Done)
}

fn linker_version(program: &PathBuf) -> Result<String> {
    let text = step::output(Command::new(program).arg("--version"))?;
    text.split_whitespace().nth(1).map(str::to_owned).context("it prints no version")
}

fn python() -> Result<Outcome> {
    step::output(Command::new("python3").args([
        "-c",
        "import sys, venv, ensurepip; sys.exit(0 if sys.version_info >= (3, 9) else 'too old')",
    ]))
    .context(
        "Python 3.9 or later with venv is needed: `apt-get install python3 python3-venv` on \
         Debian and Ubuntu, `dnf install python3` on Fedora",
    )?;
    Ok(Outcome::AlreadyThere)
}

/// Mounts a kernel file system where it is missing. Its absence costs features, not the build, so
/// a machine that refuses is told so and goes on; `slashtrace doctor` says what it means there.
fn mounted(kind: &str, at: &Path) -> Result<Outcome> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("cannot read the mounts")?;
    if is_mounted(&mounts, kind, at) {
        return Ok(Outcome::AlreadyThere);
    }
    let by_hand = format!("mount -t {kind} {kind} {}", at.display());
    if !run::is_root()? {
        return Ok(Outcome::Skipped(format!("not mounted, and only root can: `sudo {by_hand}`")));
    }
    match step::output(Command::new("mount").args(["-t", kind, kind]).arg(at)) {
        Ok(_) => Ok(Outcome::Done),
        Err(error) => Ok(Outcome::Skipped(format!("this machine refuses to mount it: {error:#}"))),
    }
}

fn is_mounted(mounts: &str, kind: &str, at: &Path) -> bool {
    mounts.lines().any(|line| {
        let mut fields = line.split(' ').skip(1);
        fields.next().map(Path::new) == Some(at) && fields.next() == Some(kind)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_counts_only_with_its_type_and_place() {
        let mounts = "tracefs /sys/kernel/tracing tracefs rw,nosuid 0 0\n\
                      tmpfs /sys/fs/bpf tmpfs rw 0 0\n";
        assert!(is_mounted(mounts, "tracefs", Path::new("/sys/kernel/tracing")));
        assert!(!is_mounted(mounts, "bpf", Path::new("/sys/fs/bpf")));
        assert!(!is_mounted(mounts, "tracefs", Path::new("/sys/kernel")));
    }
}
