//! From the exec of slashtrace to the first worker that it traced.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use super::{
    Bench,
    daemon::{Daemon, Spawner, arguments},
    evidence, process,
    table::{Figure, Row, Sort, Target},
};

/// It may take this long, ms.
const START_MS: f64 = 150.0;

/// Starts while a gateway has a worker come and go every fraction of a millisecond.
pub(crate) fn rows(bench: &Bench) -> Result<Vec<Row>> {
    let rounds = if bench.quick { 7 } else { 15 };
    let (mut figure, mut cpu) = (Figure::default(), Figure::default());
    for round in 1..=rounds {
        if round % 5 == 1 {
            eprintln!("    start: round {round} of {rounds}");
        }
        let (arguments, file) = arguments(bench)?;
        let mut command = vec![bench.program.display().to_string()];
        command.extend(arguments);
        // The spawner ends slashtrace when it is dropped.
        let (spawner, _, began) = Spawner::drip(bench, &command)?;
        let deadline = Instant::now() + Duration::from_secs(20);
        let first = loop {
            if let Some(first) = evidence::first_traced(&file) {
                break first;
            }
            ensure!(Instant::now() < deadline, "slashtrace traces nothing");
            thread::sleep(Duration::from_millis(50));
        };
        drop(spawner);
        std::fs::remove_file(file)?;
        figure.0.push(first.saturating_sub(began) as f64 / 1e6);
        // What it computes depends less on who else uses the machine.
        let daemon = Daemon::start(bench)?;
        cpu.0.push(process::cpu_ns(daemon.pid())? as f64 / 1e6);
        daemon.stop()?;
    }
    let what = "start: from exec to the first traced event, ms";
    Ok(vec![
        Row::new(Sort::Time, what, figure).target(Target::AtMost(START_MS)),
        // It computes on one thread: what takes longer than this cannot be there in time.
        Row::new(Sort::Time, "start: CPU until its hooks are attached, ms", cpu)
            .target(Target::AtMost(START_MS)),
    ])
}
