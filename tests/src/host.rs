//! Where things are, what this machine allows, and skipping aloud.

use std::{
    env,
    fs::OpenOptions,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    time::Duration,
};

/// The checkout.
pub fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package is in the checkout")
}

/// A file below `tests/fixtures`.
pub fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(path)
}

/// Folder of the binaries of the profile that this test was built with: `target/debug`.
pub fn binaries() -> PathBuf {
    let test = env::current_exe().expect("a test knows its own path");
    let folder = test.parent().and_then(Path::parent);
    folder.expect("a test is in target/<profile>/deps").to_owned()
}

/// `target`, whatever the profile.
pub fn target() -> PathBuf {
    binaries().parent().expect("target/<profile> is in target").to_owned()
}

/// The `slashtrace` to test: the one that `SLASHTRACE_BINARY` names (another version's, or in a
/// guest without a toolchain), or else this checkout's, brought up to date once in a test process.
pub fn slashtrace() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(binary) = env::var_os("SLASHTRACE_BINARY") {
            return binary.into();
        }
        let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(["build", "--quiet", "--package", "slashtrace"]).current_dir(checkout());
        if binaries().ends_with("release") {
            cargo.arg("--release");
        }
        let status = cargo.status().expect("cargo runs");
        assert!(status.success(), "cargo build --package slashtrace failed");
        binaries().join("slashtrace")
    })
}

/// The program that does what a test orders. Cargo builds it with the tests.
pub fn subject() -> PathBuf {
    binaries().join("subject")
}

/// Whether this is a guest of `cargo xtask vm`, of which a test may change what is the machine's.
pub fn is_guest() -> bool {
    env::var_os("SLASHTRACE_GUEST").is_some()
}

/// How long to wait here for what takes no longer than `usually` on a machine of its own:
/// `SLASHTRACE_PATIENCE` times as long, which is set where a machine is emulated.
pub fn patience(usually: Duration) -> Duration {
    let factor = env::var("SLASHTRACE_PATIENCE").ok().and_then(|factor| factor.parse().ok());
    usually * factor.unwrap_or(1)
}

/// Whether kernel programs can be loaded here; if not, says that the test is skipped.
pub fn may_load_kernel_programs() -> bool {
    if !rustix::process::geteuid().is_root() {
        skip("not root: kernel programs cannot be loaded");
        return false;
    }
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        skip("no /sys/kernel/btf/vmlinux: kernel programs cannot be loaded");
        return false;
    }
    true
}

/// A browser that speaks the DevTools protocol; if there is none, says that the test is skipped.
pub fn chromium() -> Option<PathBuf> {
    let paths = env::var_os("PATH")?;
    let names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
    let mut folders = env::split_paths(&paths);
    let found = folders
        .find_map(|folder| names.map(|name| folder.join(name)).into_iter().find(|it| it.is_file()));
    if found.is_none() {
        skip("no Chromium (`apt-get install chromium`)");
    }
    found
}

/// Says that a test was not carried out, on stderr and in the log that `cargo xtask test` sums up.
pub fn skip(reason: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    eprintln!("SKIPPED: {test}: {reason}");
    let Some(log) = env::var_os("SLASHTRACE_SKIP_LOG") else { return };
    let mut log = OpenOptions::new().append(true).create(true).open(log).expect("the skip log");
    writeln!(log, "{test}: {reason}").expect("the skip log can be written");
}
