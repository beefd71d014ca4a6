use std::{
    env, fs,
    path::PathBuf,
    process::{Command, ExitStatus, Stdio},
    sync::OnceLock,
};

use crate::checkout;

/// What a run of slashtrace came to.
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// What it printed.
    pub stdout: String,
    /// What it said.
    pub stderr: String,
}

/// The slashtrace that is tested: `SLASHTRACE` if that is set, else the one of the profile that
/// the tests were built with, which is built first where it is missing. Building an end-to-end
/// test builds the library, not the program; `cargo xtask test` builds both.
pub fn slashtrace_path() -> PathBuf {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        if let Some(path) = env::var_os("SLASHTRACE") {
            return PathBuf::from(path);
        }
        let program = checkout::profile_folder().join("slashtrace");
        if !program.is_file() {
            build();
        }
        fs::canonicalize(&program).unwrap_or_else(|error| panic!("{}: {error}", program.display()))
    })
    .clone()
}

fn build() {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--package", "slashtrace", "--target-dir"]).arg(checkout::target());
    if checkout::profile_folder().ends_with("release") {
        cargo.arg("--release");
    }
    let status = cargo
        .current_dir(checkout::root())
        .stdin(Stdio::null())
        .status()
        .expect("cargo, to build slashtrace");
    assert!(status.success(), "slashtrace was not built: {status}");
}

/// Runs slashtrace to its end, without a terminal.
pub fn slashtrace<S: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = S>) -> Output {
    let output = Command::new(slashtrace_path())
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("slashtrace can be started");
    Output {
        status: output.status,
        stdout: String::from_utf8(output.stdout).expect("stdout is UTF-8"),
        stderr: String::from_utf8(output.stderr).expect("stderr is UTF-8"),
    }
}
