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
const BPF_LINKER: Tool = Tool { name: "bpf-linker", version: "0.10.3", build: Build::Optimised };

/// A program of crates.io that is compiled into `.tools`.
pub(crate) struct Tool {
    /// Crate and program.
    pub(crate) name: &'static str,
    /// Exactly this one.
    pub(crate) version: &'static str,
    /// How it is compiled.
    pub(crate) build: Build,
}

/// How a tool is compiled.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Build {
    /// It works for long.
    Optimised,
    /// To compile it takes longer than its work.
    Quick,
}

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
    step::must(&format!("bpf-linker {} in .tools", BPF_LINKER.version), || BPF_LINKER.install())
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

impl Tool {
    /// Compiles it unless it is there.
    pub(crate) fn install(&self) -> Result<Outcome> {
        self.installed_by(step::call)
    }

    /// The same beside other steps: its output goes to `log`, and it takes what they leave of the
    /// processor.
    pub(crate) fn install_beside(&self, log: &Path) -> Result<Outcome> {
        self.installed_by(|install| {
            step::logged_within(step::STEP_LIMIT, &mut step::nice(install), log)
        })
    }

    fn installed_by(&self, call: impl FnOnce(&mut Command) -> Result<Outcome>) -> Result<Outcome> {
        let Self { name, version, build } = self;
        if self.installed().is_ok_and(|installed| installed == *version) {
            return Ok(Outcome::AlreadyThere);
        }
        eprintln!("    compiling {name}, which takes a few minutes");
        let exact = format!("{name}@{version}");
        let install = ["install", "--quiet", "--locked", "--force", &exact, "--root"];
        let mut command = checkout::cargo(&install);
        command.arg(checkout::file(".tools"));
        if *build == Build::Quick {
            command.arg("--debug");
        }
        call(&mut command)
            .context("cargo downloads and compiles it: is there a network, and a C compiler?")?;
        let installed = self.installed()?;
        if installed != *version {
            bail!("{} is {installed} although {exact} was installed", self.path().display());
        }
        Ok(Outcome::Done)
    }

    /// Where it is when it is installed.
    pub(crate) fn path(&self) -> PathBuf {
        checkout::file(".tools/bin").join(self.name)
    }

    /// The version that is there.
    fn installed(&self) -> Result<String> {
        let text = step::output(Command::new(self.path()).arg("--version"))?;
        text.split_whitespace().nth(1).map(str::to_owned).context("it prints no version")
    }
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
