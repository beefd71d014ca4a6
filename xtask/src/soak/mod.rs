//! `cargo xtask soak`: slashtrace for an hour beside a gateway that leaks in every way and something
//! like the build of a kernel, and whether anything of it grows. [`load`] is what it is exposed to,
//! [`sample`] what is read of it, [`trend`] and [`figures`] say what grows, [`found`] what
//! is wrong, [`plot`] shows it.

mod figures;
mod found;
mod load;
mod plot;
mod sample;
mod trend;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde_json::json;

use crate::{
    bench::{self, process},
    build, checkout, demo, run, setup, step,
};
use figures::Judged;
use found::{Ending, Found, ending};
use load::Load;
use sample::{Sample, Sampler};

/// How long to watch.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How long, minutes. Below some twenty it cannot be said what grows.
    #[arg(long, value_name = "N", default_value = "60", value_parser = minutes)]
    minutes: f64,
    /// Time between two samples, seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=60))]
    every: u64,
    /// Have evidence written into a folder instead of into one file.
    #[arg(long)]
    store: bool,
    /// Watch this slashtrace instead of building one.
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
}

/// A third of the time is for warming up, and no more than this, s.
const WARM_UP_MAX: f64 = 600.0;
/// Compilers that run at a time.
const JOBS: usize = 2;
/// How long the daemon may take to begin, and to end.
const PATIENCE: Duration = Duration::from_mins(1);
/// What is known is written so often: a run that is cut off is not lost.
const WRITTEN: Duration = Duration::from_mins(1);
/// The daemon ends by itself so long after the last sample, in case this program was killed.
const SURPLUS: f64 = 5.0;

fn minutes(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(minutes) if (0.1..=10_000.0).contains(&minutes) => Ok(minutes),
        _ => Err("give minutes from 0.1 to 10000".to_owned()),
    }
}

/// Sets up, builds, watches, and shows what grew.
pub(crate) fn soak(args: &Args) -> Result<ExitCode> {
    setup::for_building()?;
    let program = match &args.program {
        Some(program) => fs::canonicalize(program).context(program.display().to_string())?,
        None => build::build(build::Args { release: true })?,
    };
    if !run::is_root()? {
        return as_root(&program);
    }
    let results = checkout::target().join("soak");
    let folder = results.join(format!("work-{}", std::process::id()));
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let soak = Soak::prepare(args, &program, folder)?;
    let found = soak.run(&results.join("soak"))?;
    print!("{}", figures::table(&found.figures));
    for line in found.lines() {
        println!("{line}");
    }
    eprintln!("    {0}.json, {0}.svg", results.join("soak").display());
    let faults = found.faults();
    if faults.is_empty() {
        fs::remove_dir_all(&soak.folder)?;
        return Ok(ExitCode::SUCCESS);
    }
    for fault in faults {
        eprintln!("FAILED: {fault}");
    }
    eprintln!("    the evidence stays: {}", soak.evidence.display());
    Ok(ExitCode::FAILURE)
}

/// The same once more as root, with what is built already.
fn as_root(program: &Path) -> Result<ExitCode> {
    let mut command = run::as_root(&env::current_exe()?)?;
    let arguments = env::args_os().skip(1);
    let given = env::args().any(|argument| argument.starts_with("--program"));
    command.args(arguments);
    if !given {
        command.arg("--program").arg(program);
    }
    match run::become_command(&mut command) {
        Err(error) => bail!(error),
        Ok(never) => match never {},
    }
}

/// What is needed for a run.
struct Soak {
    program: PathBuf,
    /// For everything that is written meanwhile.
    folder: PathBuf,
    evidence: PathBuf,
    /// The name under which the gateway's workers run: nobody else's do, so that nobody else's are
    /// ended.
    module: String,
    profile: PathBuf,
    sources: Vec<PathBuf>,
    /// tests/benches/soak/maps.c.
    counter: PathBuf,
    lasts: Duration,
    every: Duration,
}

impl Soak {
    fn prepare(args: &Args, program: &Path, folder: PathBuf) -> Result<Self> {
        let (module, profile) = demo::own_profile(&folder)?;
        let counter = folder.join("maps");
        let compiler = env::var("CC").unwrap_or_else(|_| "cc".to_owned());
        let mut command = Command::new(compiler);
        command.args(["-O2", "-o"]).arg(&counter);
        command.arg(checkout::file("tests/benches/soak/maps.c"));
        step::output(&mut command)
            .context("the soak needs a C compiler (`apt-get install gcc libc6-dev`)")?;
        Ok(Self {
            program: bench::installed(program, &folder)?,
            evidence: folder.join(if args.store { "evidence" } else { "evidence.ndjson" }),
            sources: load::sources(&folder)?,
            lasts: Duration::from_secs_f64(args.minutes * 60.0),
            every: Duration::from_secs(args.every),
            folder,
            module,
            profile,
            counter,
        })
    }

    /// Runs daemon and load, and writes `files` with several endings.
    fn run(&self, files: &Path) -> Result<Found> {
        let mut daemon = self.start()?;
        let load = Load::default();
        eprintln!("==> soak: {}", step::seconds(self.lasts));
        let watched = thread::scope(|scope| {
            scope.spawn(|| load.play(&self.module, &self.folder));
            for job in 0..JOBS {
                let load = &load;
                scope.spawn(move || load.compile(&self.sources, job * self.sources.len() / JOBS));
            }
            let watched = self.watch(&mut daemon, &load, files);
            load.end();
            watched
        });
        let samples = match watched {
            Ok(samples) => samples,
            Err(error) => {
                let _ = daemon.kill();
                let _ = daemon.wait();
                return Err(error);
            }
        };
        let ending = self.stop(daemon)?;
        let (figures, warm_up) = judged(&samples);
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let found = Found {
            figures,
            samples: samples.len(),
            lives: of(&load.lives),
            cycles: of(&load.cycles),
            ended: of(&load.ended),
            compiled: of(&load.compiled),
            silence: figures::silence(&samples),
            failures: step::locked(&load.failures).clone(),
            ending,
        };
        write(files, &samples, &found, warm_up)?;
        Ok(found)
    }

    fn start(&self) -> Result<Child> {
        let mut command = Command::new(&self.program);
        command.arg("--profile").arg(&self.profile).args(["run", "--quiet", "--sensor", "ebpf"]);
        command.args(["--count-calls", "--policy", "enforce", "--min-age", "0s"]);
        let minutes = self.lasts.as_secs_f64() / 60.0 + SURPLUS;
        command.args(["--duration", &format!("{}m", minutes.ceil())]);
        command.arg("--evidence").arg(&self.evidence).stdin(Stdio::null());
        let mut daemon = command.spawn().context("slashtrace")?;
        let begun = Instant::now();
        while sample::bytes(&self.evidence) == 0 {
            if let Some(status) = daemon.try_wait()? {
                bail!("slashtrace ended with {status} before it watched");
            }
            if begun.elapsed() > PATIENCE {
                daemon.kill()?;
                daemon.wait()?;
                bail!("slashtrace does not watch");
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(daemon)
    }

    fn watch(&self, daemon: &mut Child, load: &Load, files: &Path) -> Result<Vec<Sample>> {
        let mut sampler = Sampler::new(daemon.id(), self.evidence.clone(), &self.counter)?;
        let (begun, mut samples) = (Instant::now(), Vec::new());
        let mut written = begun;
        while begun.elapsed() < self.lasts {
            if let Some(status) = daemon.try_wait()? {
                let at = step::seconds(begun.elapsed());
                bail!("slashtrace ended with {status} after {at}: {}", self.evidence.display());
            }
            let (lives, cycles) =
                (load.lives.load(Ordering::Relaxed), load.cycles.load(Ordering::Relaxed));
            let sample = sampler.sample(begun.elapsed().as_secs_f64())?;
            samples.push(Sample { lives: lives as f64, cycles: cycles as f64, ..sample });
            if written.elapsed() >= WRITTEN {
                written = Instant::now();
                let (figures, warm_up) = judged(&samples);
                write(files, &samples, &Found { figures, ..Found::default() }, warm_up)?;
            }
            // Nothing is made up for where the machine was too busy to take a sample in time.
            let left = self.lasts.saturating_sub(begun.elapsed());
            thread::sleep(self.every.min(left));
        }
        Ok(samples)
    }

    /// Ends the daemon in order, and reads what it wrote.
    fn stop(&self, mut daemon: Child) -> Result<Ending> {
        process::signal("-TERM", daemon.id())?;
        let deadline = Instant::now() + PATIENCE;
        let code = loop {
            if let Some(status) = daemon.try_wait()? {
                break status.code();
            }
            if Instant::now() > deadline {
                daemon.kill()?;
                daemon.wait()?;
                bail!("slashtrace does not end on SIGTERM: {}", self.evidence.display());
            }
            thread::sleep(Duration::from_millis(20));
        };
        let mut command = Command::new(&self.program);
        command.arg("--profile").arg(&self.profile).arg("report").arg(&self.evidence);
        // Its exit code says what it found.
        let report = command.args(["--format", "json"]).stderr(Stdio::inherit()).output()?;
        let report = serde_json::from_slice(&report.stdout)
            .with_context(|| format!("no report on {}", self.evidence.display()))?;
        Ok(Ending { code, ..ending(&report) })
    }
}

/// The figures of the samples, and when the warm-up was over, s.
fn judged(samples: &[Sample]) -> (Vec<Judged>, f64) {
    let Some(last) = samples.last() else { return (Vec::new(), 0.0) };
    let warm_up = (last.at / 3.0).min(WARM_UP_MAX);
    let period = if last.cycles > 0.0 { last.at / last.cycles } else { 0.0 };
    (figures::judge(samples, warm_up, period), warm_up)
}

fn write(files: &Path, samples: &[Sample], found: &Found, warm_up: f64) -> Result<()> {
    let put = |ending: &str, text: String| {
        let file = files.with_extension(ending);
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
    };
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let minutes = samples.last().map_or(0.0, |sample| sample.at / 60.0);
    let Ending { code, reason, complete, lost } = &found.ending;
    let all = json!({
        "kernel": kernel.trim(),
        "cpus": thread::available_parallelism()?.get(),
        "minutes": minutes,
        "warm_up_s": warm_up,
        "load": {
            "rounds": found.cycles, "lives": found.lives, "ended": found.ended,
            "compiled": found.compiled, "failures": found.failures,
            "longest_silence_s": found.silence,
        },
        "stop": { "code": code, "reason": reason, "complete": complete, "lost": lost },
        "figures": figures::json(&found.figures),
        "samples": samples.iter().map(Sample::json).collect::<Vec<_>>(),
    });
    put("json", format!("{all:#}\n"))?;
    let title = format!("{minutes:.0} minutes beside a leaking gateway and a build");
    put("svg", plot::svg(&title, &found.figures, warm_up))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{found::tests::fine, *};

    #[test]
    fn a_short_run_of_samples_is_judged_and_written() {
        let folder = env::temp_dir().join(format!("slashtrace-soak-run-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let mut counter = Command::new("sh");
        counter.args(["-c", "printf '#!/bin/sh\\nwhile read ids; do echo TRACKED hash 4 64; echo .; done\\n' > \"$0\" && chmod 700 \"$0\""]);
        let script = folder.join("maps");
        assert!(counter.arg(&script).status().expect("sh").success());
        let pid = std::process::id();
        let mut sampler = Sampler::new(pid, folder.join("none"), &script).expect("a script");
        let begun = Instant::now();
        let mut samples = Vec::new();
        for _ in 0..40 {
            samples.push(sampler.sample(begun.elapsed().as_secs_f64()).expect("it lives"));
            thread::sleep(Duration::from_millis(5));
        }
        let (figures, warm_up) = judged(&samples);
        let found = Found { figures, samples: samples.len(), ..fine() };
        write(&folder.join("soak"), &samples, &found, warm_up).expect("room");
        let text = fs::read_to_string(folder.join("soak.json")).expect("written");
        let read: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(read["samples"].as_array().map(Vec::len), Some(40));
        assert_eq!(read["samples"][3]["maps"]["TRACKED"], 4);
        assert_eq!(read["figures"].as_array().map(Vec::len), Some(7));
        assert!(fs::read_to_string(folder.join("soak.svg")).expect("written").contains("TRACKED"));
        fs::remove_dir_all(folder).expect("it was there");
    }

    #[test]
    fn minutes_are_numbers_within_reason() {
        assert_eq!((minutes("60"), minutes("0.5")), (Ok(60.0), Ok(0.5)));
        assert!(minutes("0").is_err() && minutes("NaN").is_err() && minutes("x").is_err());
    }
}
