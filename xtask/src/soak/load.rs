//! What the daemon is exposed to: the bundled gateway, pattern after pattern, and beside it something
//! like the build of a kernel: compilers that come and go.

use std::{
    env,
    fmt::Write as _,
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use crate::{bench::process, checkout, step};

/// Files that are compiled in turn.
const SOURCES: usize = 24;
/// How long the gateway may take to end what it started.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the load has done so far. Threads count in it, and look whether they are to end.
#[derive(Default)]
pub(crate) struct Load {
    over: AtomicBool,
    /// Workers that the gateway spawned.
    pub(crate) lives: AtomicU64,
    /// Times that the gateway played every pattern.
    pub(crate) cycles: AtomicU64,
    /// Workers that slashtrace ended in the pattern that waits for that.
    pub(crate) ended: AtomicU64,
    /// Files that were compiled; each takes some four processes.
    pub(crate) compiled: AtomicU64,
    /// What went wrong.
    pub(crate) failures: Mutex<Vec<String>>,
    /// The gateway that runs now.
    running: Mutex<Option<u32>>,
}

impl Load {
    /// Has all of it end: the gateway at once, compilers with the file at hand.
    pub(crate) fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(pid) = *step::locked(&self.running) {
            // It may have ended by itself just now.
            let _ = process::signal("-TERM", pid);
        }
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    fn failed(&self, what: String) {
        eprintln!("    {what}");
        step::locked(&self.failures).push(what);
    }

    /// Plays the patterns again and again until it is over. `module` is what its workers run under,
    /// `folder` is for what it writes.
    pub(crate) fn play(&self, module: &str, folder: &Path) {
        while !self.is_over() {
            match self.cycle(module, folder) {
                Ok(()) => {
                    self.cycles.fetch_add(1, Ordering::Relaxed);
                }
                Err(_) if self.is_over() => {}
                Err(error) => {
                    self.failed(format!("the gateway: {error:#}"));
                    // Not at full speed if it cannot be started at all.
                    thread::sleep(Duration::from_secs(1));
                }
            }
        }
    }

    /// Every pattern once: those of its own, and the one in which slashtrace ends a worker.
    fn cycle(&self, module: &str, folder: &Path) -> Result<()> {
        self.gateway(module, folder, &[])?;
        self.gateway(module, folder, &["--scenario", "reaped"])
    }

    fn gateway(&self, module: &str, folder: &Path, more: &[&str]) -> Result<()> {
        let mut command = Command::new("python3");
        command.arg(checkout::file("tests/fixtures/leaky_gateway/gateway.py"));
        command.args(["--tag", "soak", "--module", module]).args(more);
        let mut child = command
            .env("TMPDIR", folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("python3")?;
        *step::locked(&self.running) = Some(child.id());
        if self.is_over() {
            // `end` may have come before the pid was there to be found.
            process::signal("-TERM", child.id())?;
        }
        let said = child.stdout.take().context("no stdout")?;
        for line in BufReader::new(said).lines() {
            let line = line?;
            self.lives.fetch_add(u64::from(is(&line, "spawn")), Ordering::Relaxed);
            self.ended.fetch_add(u64::from(is(&line, "ended-by-tracer")), Ordering::Relaxed);
            if is(&line, "not-ended") {
                self.failed(format!("a worker whose terminal closed was not ended: {line}"));
            }
        }
        // Its stdout is closed by all that it started, so it is about to end.
        let ended = wait(&mut child);
        *step::locked(&self.running) = None;
        ended
    }

    /// Compiles one file after the other until it is over.
    pub(crate) fn compile(&self, sources: &[PathBuf], first: usize) {
        let compiler = env::var("CC").unwrap_or_else(|_| "cc".to_owned());
        for source in sources.iter().cycle().skip(first) {
            if self.is_over() {
                return;
            }
            let mut command = Command::new(&compiler);
            let object = source.with_extension(format!("{first}.o"));
            command.args(["-O1", "-c", "-o"]).arg(object).arg(source);
            match step::output(&mut step::nice(&command)) {
                Ok(_) => self.compiled.fetch_add(1, Ordering::Relaxed),
                // Ctrl-C reaches the compiler as well.
                Err(_) if self.is_over() => return,
                Err(error) => return self.failed(format!("the build: {error:#}")),
            };
        }
    }
}

fn wait(child: &mut Child) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait()? {
            ensure!(status.success(), "it ended with {status}");
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "it does not end");
        thread::sleep(Duration::from_millis(50));
    }
}

/// Whether a line of the gateway's is about this.
fn is(line: &str, did: &str) -> bool {
    line.contains(&format!("\"did\": \"{did}\""))
}

/// Small C files, each of its own kind of work for the compiler.
pub(crate) fn sources(folder: &Path) -> Result<Vec<PathBuf>> {
    let folder = folder.join("build");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let write = |n: usize| {
        let path = folder.join(format!("file{n}.c"));
        fs::write(&path, source(n)).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    };
    (0..SOURCES).map(write).collect()
}

fn source(n: usize) -> String {
    let mut text = String::from("#include <stdio.h>\n#include <string.h>\n");
    for function in 0..8 + n % 8 {
        let _ = write!(
            text,
            "int f{n}_{function}(const char *text, int times) {{\n    int sum = {function};\n    \
             for (int i = 0; i < times; i++) sum += (int)strlen(text) * i ^ {n};\n    \
             return printf(\"%d\\n\", sum);\n}}\n"
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spawns_are_counted_and_nothing_else() {
        let line = |did: &str| format!(r#"{{"at": "x", "scenario": "lost", "did": "{did}"}}"#);
        assert!(is(&line("spawn"), "spawn"));
        assert!(!is(&line("spawn-child"), "spawn") && !is(&line("not-ended"), "ended"));
    }

    #[test]
    fn the_build_ends_when_it_is_told_to_and_fails_loudly() {
        let load = Load::default();
        load.end();
        load.compile(&["/nonexistent.c".into()], 0);
        assert!(step::locked(&load.failures).is_empty(), "nothing was compiled");
        let load = Load::default();
        load.compile(&["/nonexistent.c".into()], 0);
        assert_eq!(step::locked(&load.failures).len(), 1);
        assert_ne!(source(1), source(2));
    }
}
