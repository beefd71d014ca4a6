//! What the kernel programs cost processes that are none of our business, by the kernel's own count.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use super::{
    Bench,
    daemon::{Daemon, Spawner},
    peers::Peer,
    process,
    table::{Figure, Row, Sort, Target, number},
};

/// A process life may cost this much in the kernel, without the measuring, ns.
const LIFE_NS: f64 = 500.0;

/// What a program is said to have taken: hook, ns, runs.
type Programs = BTreeMap<u32, (String, u64, u64)>;

/// tests/benches/kernel/stats.c: run times are counted as long as it runs.
struct Stats {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Stats {
    fn start(bench: &Bench) -> Result<Self> {
        let mut command = Command::new(bench.tool("stats"));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().context("no stdout")?);
        Ok(Self { child, input, output })
    }

    fn read(&mut self) -> Result<Programs> {
        let input = self.input.as_mut().context("closed")?;
        writeln!(input).context("the kernel does not count run times")?;
        let mut programs = Programs::new();
        loop {
            let mut line = String::new();
            ensure!(self.output.read_line(&mut line)? > 0, "the kernel does not count run times");
            if line == ".\n" {
                return Ok(programs);
            }
            let (id, program) = parse(&line).with_context(|| format!("not understood: {line}"))?;
            programs.insert(id, program);
        }
    }
}

impl Drop for Stats {
    fn drop(&mut self) {
        self.input.take();
        let _ = self.child.wait();
    }
}

fn parse(line: &str) -> Option<(u32, (String, u64, u64))> {
    let mut words = line.split_whitespace();
    let (id, hook) = (words.next()?.parse().ok()?, words.next()?.to_owned());
    Some((id, (hook, words.next()?.parse().ok()?, words.next()?.parse().ok()?)))
}

/// By hook: ns for a run, less what measuring takes, and runs for a life (no more than one: who else
/// lives on the machine is not counted). And what measuring takes.
fn costs(
    before: &Programs,
    after: &Programs,
    ours: &BTreeSet<u32>,
    lives: u64,
) -> (BTreeMap<String, (f64, f64)>, f64) {
    let run = |id: &u32| {
        let (hook, ns, runs) = after.get(id)?;
        let (_, ns_before, runs_before) = before.get(id)?;
        let runs = runs.checked_sub(*runs_before).filter(|&runs| runs > 0)? as f64;
        Some((hook.clone(), (ns - ns_before) as f64 / runs, runs))
    };
    let empty = after.iter().filter(|(_, (hook, ..))| hook == "empty").find_map(|(id, _)| run(id));
    let floor = empty.map_or(0.0, |(_, ns, _)| ns);
    let costs = ours.iter().filter_map(run).map(|(hook, ns, runs)| {
        // Below the precision of the clock an empty program may seem to take longer.
        (hook, ((ns - floor).max(0.0), (runs / lives as f64).min(1.0)))
    });
    (costs.collect(), floor)
}

#[derive(Default)]
struct Seen {
    hooks: BTreeMap<String, Figure>,
    life_ns: Figure,
    cpu_us: Figure,
}

/// Storms of processes that no profile matches.
pub(crate) fn rows(bench: &Bench) -> Result<Vec<Row>> {
    let (rounds, lives) = if bench.quick { (3, 4_000) } else { (7, 8_000) };
    let mut stats = Stats::start(bench)?;
    let mut ours = Seen::default();
    let mut peers: Vec<(Peer, Seen)> = bench.peers.iter().map(|&p| (p, Seen::default())).collect();
    let mut floors = Figure::default();
    for round in 1..=rounds {
        eprintln!("    strangers: {} lives, round {round} of {rounds}", number(lives as f64));
        let daemon = Daemon::start(bench)?;
        let cpu = || process::cpu_ns(daemon.pid());
        floors.0.push(measure(bench, &mut stats, lives, daemon.pid(), &cpu, &mut ours)?);
        daemon.stop()?;
        for (peer, seen) in &mut peers {
            let watching = peer.start(bench)?;
            let cpu = || watching.cpu_ns();
            measure(bench, &mut stats, lives, watching.pid(), &cpu, seen)?;
            watching.stop(&bench.token)?;
        }
    }
    let title = |what: &str| format!("strangers: {what}");
    let mut life = Row::new(
        Sort::Count,
        title("kernel side per life, ns net of measuring"),
        ours.life_ns.clone(),
    )
    .target(Target::AtMost(LIFE_NS));
    let mut cpu =
        Row::new(Sort::Time, title("CPU of the tracer per life, µs"), ours.cpu_us.clone());
    for (peer, seen) in peers {
        if !seen.life_ns.0.is_empty() {
            life = life.peer(peer.name(), seen.life_ns);
        }
        cpu = cpu.peer(peer.name(), seen.cpu_us);
    }
    let mut rows = vec![life];
    for (hook, figure) in ours.hooks {
        rows.push(Row::new(Sort::Count, title(&format!("{hook}, ns a run net")), figure));
    }
    rows.push(Row::new(Sort::Count, title("measuring itself, ns a run"), floors));
    rows.push(cpu);
    Ok(rows)
}

/// One storm; returns what measuring takes, ns a run.
fn measure(
    bench: &Bench,
    stats: &mut Stats,
    lives: u64,
    pid: u32,
    cpu: &dyn Fn() -> Result<u64>,
    seen: &mut Seen,
) -> Result<f64> {
    let mut spawner = Spawner::burst(bench, false)?;
    spawner.lives(200, 1)?;
    thread::sleep(Duration::from_millis(500));
    let (before, cpu_before) = (stats.read()?, cpu()?);
    spawner.lives(lives, 1)?;
    thread::sleep(Duration::from_secs(2));
    let (after, cpu_after) = (stats.read()?, cpu()?);
    let (costs, floor) = costs(&before, &after, &process::programs(pid), lives);
    if !costs.is_empty() {
        seen.life_ns.0.push(costs.values().map(|(ns, runs)| ns * runs).sum());
    }
    for (hook, (ns, _)) in costs {
        seen.hooks.entry(hook).or_default().0.push(ns);
    }
    seen.cpu_us.0.push((cpu_after - cpu_before) as f64 / 1e3 / lives as f64);
    Ok(floor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_costs_what_is_more_than_an_empty_program() {
        let lines = |text: &str| text.lines().filter_map(parse).collect::<Programs>();
        let before = lines("1 exec 1000 10\n2 exit 0 0\n3 empty 700 10\n4 other 5 5");
        let after = lines("1 exec 51000 110\n2 exit 0 0\n3 empty 7700 110\n4 other 99999 999");
        let (costs, floor) = costs(&before, &after, &BTreeSet::from([1, 2]), 50);
        assert!((floor - 70.0).abs() < 1e-9);
        assert_eq!(costs.keys().collect::<Vec<_>>(), ["exec"], "what did not run costs nothing");
        let (ns, runs) = costs["exec"];
        assert!((ns - 430.0).abs() < 1e-9 && (runs - 1.0).abs() < 1e-9, "{ns} {runs}");
        assert_eq!(parse("x y"), None);
    }
}
