//! `cargo xtask fuzz`: the readers of slashtrace on bytes that libFuzzer makes, led by what they cover.
//! The same targets run with the other tests, for a moment (slashtrace/src/fuzz).

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    sync::Mutex,
    thread,
};

use anyhow::{Context as _, Result, ensure};

use crate::{apt, bench::table::number, checkout, setup, step};

/// What to fuzz.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only this reader; may be repeated. Default: all.
    #[arg(value_name = "TARGET", value_parser = clap::builder::PossibleValuesParser::new(NAMES))]
    targets: Vec<String>,
    /// How long each of them, minutes.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    minutes: u64,
    /// How many at a time. Default: one for each processor.
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// Add the smallest inputs that reach something new to tests/fixtures/corpora.
    #[arg(long)]
    keep: bool,
}

/// The targets of slashtrace/src/fuzz, and how long their inputs may become, bytes.
const TARGETS: [(&str, u32); 9] = [
    ("record", 2_048),
    ("evidence", 32_768),
    ("bundle", 32_768),
    ("profile", 8_192),
    ("proc", 8_192),
    ("net", 8_192),
    ("btf", 8_192),
    ("argv", 4_096),
    ("session", 4_096),
];
const NAMES: [&str; TARGETS.len()] = {
    let mut names = [""; TARGETS.len()];
    let mut at = 0;
    while at < names.len() {
        names[at] = TARGETS[at].0;
        at += 1;
    }
    names
};

/// Coverage without a nightly compiler: LLVM's pass is there, and its options are no rustc's.
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares";

/// An input that takes longer hangs, s of wall time: on a busy machine some pass without any work.
const TIMEOUT: u32 = 60;
/// A reader that takes more fills the memory, MiB.
const MEMORY: u32 = 1_024;
/// Kept inputs are no larger, bytes, and no more for each target.
const KEPT_BYTES: u64 = 2_048;
const KEPT: usize = 60;

/// What became of one target.
#[derive(Debug, Default)]
struct Fuzzed {
    target: &'static str,
    executions: u64,
    /// Edges of code that were reached.
    coverage: u64,
    inputs: u64,
    /// Inputs with which it failed.
    faults: Vec<PathBuf>,
}

/// Sets up, builds, fuzzes, and shows what was found: exit code 1 if there is a fault.
pub(crate) fn fuzz(args: &Args) -> Result<ExitCode> {
    setup::for_building()?;
    let missing = apt::provide(&[("g++", "g++")])?;
    ensure!(missing.is_none(), "libFuzzer is C++: {}", missing.unwrap_or_default());
    let program = build()?;
    let asked = |name: &&(&str, u32)| {
        args.targets.is_empty() || args.targets.iter().any(|target| target == name.0)
    };
    let mut queue: Vec<_> = TARGETS.iter().filter(asked).collect();
    queue.reverse();
    let queue = Mutex::new(queue);
    let done = Mutex::new(Vec::new());
    let jobs = args.jobs.unwrap_or(thread::available_parallelism()?.get()).max(1);
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let Some(&(target, most)) = step::locked(&queue).pop() else { return };
                    eprintln!("==> {target}: {} min", args.minutes);
                    let fuzzed = run(&program, target, most, args);
                    step::locked(&done).push(fuzzed.with_context(|| target));
                }
            });
        }
    });
    let done = done.into_inner().unwrap_or_default().into_iter().collect::<Result<Vec<_>>>()?;
    println!("{:<9} {:>14} {:>7} {:>7} {:>7}", "target", "executions", "edges", "inputs", "faults");
    for fuzzed in &done {
        println!(
            "{:<9} {:>14} {:>7} {:>7} {:>7}",
            fuzzed.target,
            number(fuzzed.executions as f64),
            fuzzed.coverage,
            fuzzed.inputs,
            fuzzed.faults.len()
        );
    }
    for fault in done.iter().flat_map(|fuzzed| &fuzzed.faults) {
        println!("FAULT: {}", fault.display());
    }
    let faultless = done.iter().all(|fuzzed| fuzzed.faults.is_empty());
    Ok(if faultless { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn build() -> Result<PathBuf> {
    let triple = format!("{}-unknown-linux-gnu", env::consts::ARCH);
    let name = "build (libFuzzer)";
    eprintln!("==> {name}");
    step::must(name, || {
        let mut cargo =
            checkout::cargo(&["build", "--package", "slashtrace", "--bin", "slashtrace-fuzz"]);
        cargo.args(["--features", "fuzzing", "--profile", "fuzz", "--target", &triple]);
        cargo.arg("--target-dir").arg(checkout::target());
        // Of the target alone: neither build scripts nor the kernel programs are to be measured.
        let flags = format!("CARGO_TARGET_{}_RUSTFLAGS", triple.to_uppercase().replace('-', "_"));
        step::call(cargo.env(flags, COVERAGE))
    })?;
    let program = checkout::target().join(triple).join("fuzz/slashtrace-fuzz");
    ensure!(program.is_file(), "the build left no {}", program.display());
    Ok(program)
}

/// Where inputs of a target are that are in the checkout.
fn committed(target: &str) -> PathBuf {
    checkout::file("tests/fixtures/corpora").join(target)
}

fn run(program: &Path, target: &'static str, most: u32, args: &Args) -> Result<Fuzzed> {
    let folder = checkout::target().join("fuzz-runs").join(target);
    let (found, faults) = (folder.join("corpus"), folder.join("faults"));
    for folder in [&found, &faults] {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    // Faults of an earlier run may be fixed.
    for old in files(&faults)? {
        fs::remove_file(old)?;
    }
    let log = folder.join("log");
    let said = fs::File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let mut command = fuzzer(program, target);
    command.arg(format!("-max_total_time={}", args.minutes * 60));
    command.arg(format!("-max_len={most}")).arg(format!("-timeout={TIMEOUT}"));
    // What is merely slow is no fault.
    command.arg(format!("-report_slow_units={}", TIMEOUT + 1));
    command.arg(format!("-rss_limit_mb={MEMORY}")).arg("-print_final_stats=1");
    command.arg(format!("-artifact_prefix={}/", faults.display()));
    command.arg(&found).arg(committed(target));
    let status = command.stdout(said.try_clone()?).stderr(said).status()?;
    let text = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
    let fuzzed = Fuzzed {
        target,
        executions: executions(&text),
        coverage: coverage(&text),
        inputs: files(&found)?.len() as u64,
        faults: files(&faults)?,
    };
    ensure!(
        fuzzed.executions > 0 && (status.success() || !fuzzed.faults.is_empty()),
        "it ended with {status}: {}",
        log.display()
    );
    if args.keep && fuzzed.faults.is_empty() {
        keep(program, target, &found)?;
    }
    Ok(fuzzed)
}

fn fuzzer(program: &Path, target: &str) -> Command {
    let mut command = Command::new(program);
    command.env("SLASHTRACE_FUZZ_TARGET", target).stdin(Stdio::null());
    command
}

/// Adds to the corpus in the checkout what reaches something that nothing in it does.
fn keep(program: &Path, target: &str, found: &Path) -> Result<()> {
    let corpus = committed(target);
    let before = files(&corpus)?;
    let mut command = fuzzer(program, target);
    step::output(command.arg("-merge=1").arg(&corpus).arg(found))?;
    let size = |path: &PathBuf| fs::metadata(path).map_or(u64::MAX, |file| file.len());
    let mut added = files(&corpus)?;
    added.retain(|path| !before.contains(path));
    added.sort_by_key(size);
    for (n, path) in added.iter().enumerate() {
        if n >= KEPT || size(path) > KEPT_BYTES {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("no {}", folder.display()))?;
    let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    files.sort();
    Ok(files)
}

/// `stat::number_of_executed_units: 12`, or, where it ended with a fault, the last `#12 …`.
fn executions(log: &str) -> u64 {
    let total = log.lines().find_map(|l| l.strip_prefix("stat::number_of_executed_units:"));
    let last =
        || log.lines().rev().find_map(|line| line.strip_prefix('#')?.split_whitespace().next());
    total.or_else(last).and_then(|number| number.trim().parse().ok()).unwrap_or_default()
}

/// `#12 NEW cov: 34 ft: …`.
fn coverage(log: &str) -> u64 {
    let of = |line: &str| line.split_once(" cov: ")?.1.split(' ').next()?.parse().ok();
    log.lines().rev().find_map(of).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "INFO: seed corpus: files: 3\n#4\tINITED cov: 56 ft: 57 corp: 1/1b\n\
        #128\tNEW    cov: 60 ft: 61 corp: 2/9b lim: 4 exec/s: 0\n#4096\tpulse  cov: 60 ft: 61\n";

    #[test]
    fn figures_are_read_from_what_libfuzzer_says() {
        assert_eq!((executions(LOG), coverage(LOG)), (4_096, 60));
        let whole = format!("{LOG}Done 5000\nstat::number_of_executed_units: 5000\n");
        assert_eq!((executions(&whole), coverage(&whole)), (5_000, 60));
        assert_eq!((executions(""), coverage("")), (0, 0));
    }

    #[test]
    fn each_target_is_one_of_slashtrace_and_has_a_corpus() {
        let source = fs::read_to_string(checkout::file("slashtrace/src/fuzz/mod.rs")).expect("it");
        let body = source.split_once("pub enum Target {").expect("it").1;
        let body = body.split_once('}').expect("its end").0;
        let variants = body.lines().filter_map(|line| line.trim().strip_suffix(','));
        let variants: Vec<String> = variants.map(str::to_lowercase).collect();
        assert_eq!(variants, NAMES);
        for target in NAMES {
            assert!(!files(&committed(target)).expect("a folder").is_empty(), "{target}");
        }
    }
}
