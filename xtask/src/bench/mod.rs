//! `cargo xtask bench`: what slashtrace costs, beside what others cost, in one table. One file a
//! subject; [`table`] and [`plot`] show what they found. Tests never ask for the time: only with
//! `--check` does a figure fail the command.

mod close;
mod daemon;
mod document;
mod evidence;
mod idle;
mod instructions;
mod kernel;
mod peers;
pub(crate) mod plot;
pub(crate) mod process;
mod replay;
mod start;
mod storm;
pub(crate) mod table;

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Instant,
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::{apt, build, checkout, run, setup, step};
use peers::Peer;
use plot::Series;
use table::Row;

/// What to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Fewer rounds, and no storm of 100,000: a few minutes instead of about half an hour.
    #[arg(long)]
    quick: bool,
    /// Measure only this; may be repeated.
    #[arg(long, value_name = "NAME")]
    only: Vec<Name>,
    /// Exit with 1 if a target is not met.
    #[arg(long)]
    check: bool,
    /// Show the medians of an earlier run, as its JSON, in a column of their own.
    #[arg(long, value_name = "FILE")]
    before: Option<PathBuf>,
    /// Put the table into docs/BENCHMARKS.md.
    #[arg(long, conflicts_with_all = ["only", "quick"])]
    document: bool,
    /// Measure this slashtrace instead of building one.
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// The counting bench, where it is built already.
    #[arg(long, value_name = "FILE", hide = true)]
    counting: Option<PathBuf>,
}

/// What can be measured.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
enum Name {
    /// Instructions per record, by callgrind: needs neither root nor BPF.
    Instructions,
    /// `slashtrace replay`, per record: needs neither root nor BPF.
    Replay,
    /// Short lives in one burst: loss, CPU, memory.
    Storm,
    /// Kernel side and CPU for processes that are no workers.
    Kernel,
    /// From exec to the first traced event.
    Start,
    /// Memory, CPU, wake-ups and evidence when nothing happens.
    Idle,
    /// From the close of a terminal to SIGTERM.
    Close,
}

const ALL: [Name; 7] = [
    Name::Instructions,
    Name::Replay,
    Name::Storm,
    Name::Kernel,
    Name::Start,
    Name::Idle,
    Name::Close,
];

impl Name {
    const fn needs_root(self) -> bool {
        !matches!(self, Self::Instructions | Self::Replay)
    }

    const fn needs_program(self) -> bool {
        !matches!(self, Self::Instructions)
    }

    const fn counts_instructions(self) -> bool {
        !self.needs_root()
    }

    const fn has_peers(self) -> bool {
        matches!(self, Self::Storm | Self::Kernel | Self::Idle)
    }
}

/// What is measured with.
struct Bench {
    program: PathBuf,
    counting: Option<PathBuf>,
    /// Where the C programs, profiles and evidence are.
    folder: PathBuf,
    /// The workers' token, which nobody else uses.
    token: String,
    quick: bool,
    peers: Vec<Peer>,
    has_valgrind: bool,
}

impl Bench {
    /// One of the C programs.
    fn tool(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The counting bench.
    fn counting(&self) -> Result<&Path> {
        self.counting.as_deref().context("the counting bench was not built")
    }
}

/// Sets up, builds, measures, and shows the table.
pub(crate) fn bench(args: &Args) -> Result<ExitCode> {
    let names = if args.only.is_empty() { &ALL[..] } else { &args.only };
    let any = |what: fn(Name) -> bool| names.iter().any(|&name| what(name));
    // Read first: a mistake in it is not to be noticed after half an hour.
    let before = match &args.before {
        Some(file) => {
            table::medians(&fs::read_to_string(file).context(file.display().to_string())?)
                .with_context(|| file.display().to_string())?
        }
        None => BTreeMap::new(),
    };
    setup::for_building()?;
    let program = match &args.program {
        Some(program) => fs::canonicalize(program).context(program.display().to_string())?,
        None if any(Name::needs_program) => build::build(build::Args { release: true })?,
        None => PathBuf::new(),
    };
    let counting = match &args.counting {
        Some(counting) => Some(counting.clone()),
        None if any(Name::counts_instructions) => Some(instructions::build()?),
        None => None,
    };
    if any(Name::needs_root) && !run::is_root()? {
        return as_root(&program, counting.as_deref());
    }

    let results = checkout::target().join("bench");
    let folder = results.join("work");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    if any(Name::counts_instructions)
        && let Some(why) = apt::provide(&[("valgrind", "valgrind")])?
    {
        eprintln!("    SKIPPED instructions: {why}");
    }
    let program = if any(Name::needs_program) { installed(&program, &folder)? } else { program };
    let bench = Bench {
        program,
        counting,
        folder,
        token: format!("slashtrace_bench.worker_{}", std::process::id()),
        quick: args.quick,
        peers: if any(Name::has_peers) { Peer::provide()? } else { Vec::new() },
        has_valgrind: apt::find("valgrind").is_some(),
    };
    if any(Name::needs_root) {
        compile(&bench)?;
    }
    let name = match &args.only[..] {
        [] => "bench".to_owned(),
        only => only.iter().fold("bench".to_owned(), |name, only| {
            format!("{name}-{}", format!("{only:?}").to_lowercase())
        }),
    };
    let machine = machine(&bench)?;
    let rows = measure(&bench, &machine, names, &results.join(&name), &before)?;
    if args.document {
        document::update(&machine, &table::markdown(&rows, &before))?;
    }
    let unmet = rows.iter().filter(|row| row.met() == Some(false)).count();
    eprintln!("    targets not met: {unmet}");
    Ok(if args.check && unmet > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Measures, prints the table, and writes `files` with several endings. After each subject what is
/// known is written, so that a run that is cut off is not lost.
fn measure(
    bench: &Bench,
    machine: &Value,
    names: &[Name],
    files: &Path,
    before: &BTreeMap<String, f64>,
) -> Result<Vec<Row>> {
    let (mut times, mut counts) = (Vec::<Series>::new(), Vec::<Series>::new());
    let mut rows = Vec::new();
    for name in names {
        if *name == Name::Instructions && !bench.has_valgrind && names.len() > 1 {
            continue;
        }
        eprintln!("==> measuring: {name:?}");
        let begun = Instant::now();
        let found = match name {
            Name::Instructions => instructions::rows(bench, &mut counts),
            Name::Replay => replay::rows(bench, &mut times, &mut counts),
            Name::Storm => storm::rows(bench, &mut times),
            Name::Kernel => kernel::rows(bench),
            Name::Start => start::rows(bench),
            Name::Idle => idle::rows(bench),
            Name::Close => close::rows(bench),
        };
        rows.extend(found.with_context(|| format!("{name:?}"))?);
        eprintln!("    {name:?} ({})", step::seconds(begun.elapsed()));
        // Counts first, each in the order in which it was measured.
        let mut sorted = rows.clone();
        sorted.sort_by_key(|row: &Row| row.sort);
        let write = |ending: &str, text: String| {
            let file = files.with_extension(ending);
            fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
        };
        write("json", format!("{:#}\n", table::json(machine, &sorted)))?;
        write("md", table::markdown(&sorted, before))?;
        write(
            "instructions.svg",
            plot::svg("Instructions per record", "records", "instructions", &counts),
        )?;
        write("times.svg", plot::svg("CPU time, µs", "lives or records", "µs", &times))?;
    }
    rows.sort_by_key(|row| row.sort);
    println!("{}", table::text(&rows, before));
    eprintln!("    {0}.json, {0}.md, {0}.instructions.svg, {0}.times.svg", files.display());
    Ok(rows)
}

/// The machine, as far as figures depend on it.
fn machine(bench: &Bench) -> Result<Value> {
    let cpus = std::thread::available_parallelism()?.get();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let model = fs::read_to_string("/proc/cpuinfo")?;
    let model = model.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let load = fs::read_to_string("/proc/loadavg")?;
    let version = Command::new(&bench.program).arg("--version").output();
    let version = version.map(|out| String::from_utf8_lossy(&out.stdout).trim().to_owned());
    Ok(json!({
        "kernel": kernel.trim(),
        "arch": env::consts::ARCH,
        "cpu": model.map(|(_, model)| model),
        "cpus": cpus,
        "load": load.split(' ').next(),
        "slashtrace": version.unwrap_or_default(),
        "quick": bench.quick,
    }))
}

/// A copy of the program, as an installation makes one. Of a file that the linker wrote (it maps what
/// it writes) more pages are mapped around each one that is touched, and RSS is 0.6 MiB larger.
pub(crate) fn installed(program: &Path, folder: &Path) -> Result<PathBuf> {
    let copy = folder.join("slashtrace");
    if program != copy {
        // What still runs keeps its own file.
        let _ = fs::remove_file(&copy);
        fs::copy(program, &copy).with_context(|| format!("cannot write {}", copy.display()))?;
    }
    Ok(copy)
}

/// Compiles the programs of tests/benches.
fn compile(bench: &Bench) -> Result<()> {
    let compiler = env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let bare = ["-static", "-nostdlib", "-ffreestanding", "-fno-stack-protector"];
    for (source, name, more) in [
        ("storm/worker.c", "worker", &bare[..]),
        ("storm/spawner.c", "spawner", &[]),
        ("kernel/stats.c", "stats", &[]),
    ] {
        let mut command = Command::new(&compiler);
        command.arg("-O2").args(more).arg("-o").arg(bench.tool(name));
        command.arg(checkout::file("tests/benches").join(source));
        step::output(&mut command)
            .context("the bench needs a C compiler (`apt-get install gcc libc6-dev`)")?;
    }
    Ok(())
}

/// The same once more as root, with what is built already.
fn as_root(program: &Path, counting: Option<&Path>) -> Result<ExitCode> {
    let mut command = run::as_root(&env::current_exe()?)?;
    // Those of this very call, `bench` first; the built programs win over a `--program` in them.
    let mut arguments = env::args_os().skip(1).collect::<Vec<_>>();
    if !arguments.iter().any(|argument| argument.to_string_lossy().starts_with("--program")) {
        arguments.extend(["--program".into(), program.into()]);
    }
    if let Some(counting) = counting {
        arguments.extend(["--counting".into(), counting.into()]);
    }
    match run::become_command(command.args(arguments)) {
        Err(error) => bail!(error),
        Ok(never) => match never {},
    }
}
