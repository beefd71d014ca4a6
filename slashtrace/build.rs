//! Compiles the kernel programs (`slashtrace-ebpf`, bin `probes`) to `OUT_DIR/probes`, so that
//! plain `cargo build`, `cargo clippy` and `cargo test` work once `cargo xtask setup` has run.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, bail, ensure};
use aya_build::{Package, Toolchain};

const LINKER: &str = "bpf-linker";
const SETUP: &str = "run `cargo xtask setup` in the checkout, then build again";

fn main() -> ExitCode {
    commit();
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        // Not through `Termination`, which would add a backtrace where RUST_BACKTRACE is set.
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<()> {
    let package = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").context("CARGO_MANIFEST_DIR")?);
    let checkout = package.parent().context("this package is in a workspace")?;
    let toolchain = pinned_toolchain(checkout)?;
    let path = path_with_linker(checkout)?;
    check_rust_src(&toolchain)?;

    // SAFETY: no other thread exists in this process yet, so nothing reads the environment while
    // it is changed. It must be the environment of this process: aya-build takes no other, reads
    // RUSTC_BOOTSTRAP from it and starts the inner cargo with it. Nothing of it reaches the
    // compilation of this package, which cargo starts with its own environment.
    unsafe {
        env::set_var("PATH", path);
        // `-Z build-std=core` on the pinned stable toolchain; for the inner cargo alone.
        env::set_var("RUSTC_BOOTSTRAP", "1");
        // aya-build turns each line of the inner cargo into a warning of this one.
        env::set_var("CARGO_TERM_QUIET", "true");
        // Settings of the outer build that would otherwise reach the inner one.
        for name in ["RUSTFLAGS", "CARGO_BUILD_TARGET", "CARGO_BUILD_RUSTFLAGS", "CARGO_MAKEFLAGS"]
        {
            env::remove_var(name);
        }
    }
    aya_build::build_ebpf(
        [Package {
            name: "slashtrace-ebpf",
            root_dir: "../slashtrace-ebpf",
            no_default_features: false,
            features: &[],
        }],
        Toolchain::Custom(&toolchain),
    )
    .context("the kernel programs were not built")?;
    let object = PathBuf::from(env::var_os("OUT_DIR").context("OUT_DIR")?).join("probes");
    ensure!(object.is_file(), "the build of the kernel programs left no {}", object.display());
    Ok(())
}

/// Which commit a release is built of, for evidence: rules change between two of one version. Other
/// profiles leave it out, or each commit would compile everything anew.
fn commit() {
    if env::var_os("PROFILE").is_none_or(|profile| profile != "release") {
        return;
    }
    let git = |args: &[&str]| {
        let output = Command::new("git").args(args).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_owned())
    };
    // What is unpacked from an archive has none.
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else { return };
    let branch = git(&["symbolic-ref", "--quiet", "HEAD"]);
    let files = ["HEAD", "index", "packed-refs"].into_iter().map(str::to_owned).chain(branch);
    for file in files.filter_map(|file| git(&["rev-parse", "--git-path", &file])) {
        if Path::new(&file).exists() {
            println!("cargo:rerun-if-changed={file}");
        }
    }
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]);
    let mark = if changed.is_some_and(|changed| !changed.is_empty()) { "-modified" } else { "" };
    println!("cargo:rustc-env=SLASHTRACE_COMMIT={commit}{mark}");
}

/// The channel that `rust-toolchain.toml` pins: the one place where it is written.
fn pinned_toolchain(checkout: &Path) -> Result<String> {
    let file = checkout.join("rust-toolchain.toml");
    println!("cargo:rerun-if-changed={}", file.display());
    let text =
        fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    text.lines()
        .find_map(|line| line.strip_prefix("channel = \"")?.strip_suffix('"'))
        .map(str::to_owned)
        .with_context(|| format!("{} has no line `channel = \"…\"`", file.display()))
}

/// PATH with the checkout's own tools first; fails if there is no linker on it.
fn path_with_linker(checkout: &Path) -> Result<OsString> {
    let tools = checkout.join(".tools/bin");
    let rest = env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = [tools].into_iter().chain(env::split_paths(&rest)).collect();
    let Some(linker) = folders.iter().map(|dir| dir.join(LINKER)).find(|file| file.is_file())
    else {
        bail!("{LINKER} is neither in {} nor on PATH: {SETUP}", folders[0].display());
    };
    // Another linker makes another object.
    println!("cargo:rerun-if-changed={}", linker.display());
    env::join_paths(folders).context("a folder on PATH has a colon in its name")
}

/// `core` is compiled from source for the BPF target.
fn check_rust_src(toolchain: &str) -> Result<()> {
    let output = Command::new("rustup")
        .args(["run", toolchain, "rustc", "--print", "sysroot"])
        .output()
        .context("cannot run rustup, which picks the pinned toolchain")?;
    ensure!(
        output.status.success(),
        "toolchain {toolchain} is missing: `rustup toolchain install {toolchain}`\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let sysroot = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    let source = sysroot.join("lib/rustlib/src/rust/library/core/Cargo.toml");
    ensure!(source.is_file(), "component rust-src of {toolchain} is missing: {SETUP}");
    Ok(())
}
