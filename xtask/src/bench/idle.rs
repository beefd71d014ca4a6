//! What it costs when nothing happens: memory, CPU time, wake-ups, evidence.

use std::{thread, time::Duration};

use anyhow::Result;

use super::{
    Bench,
    daemon::{Daemon, Spawner},
    evidence,
    peers::Peer,
    process,
    table::{Figure, Row, Sort, Target, number},
};

/// Workers that live and do nothing.
const LIVE: u64 = 2_000;
/// Workers before these: the first ones bring code into memory, whatever their number.
const FIRST: u64 = 20;
/// Workers whose evidence is measured.
const RECORDED: u64 = 100;
const DAY_S: f64 = 86_400.0;
/// Within this long the proportional set of each was read for the first time.
const FIRST_READS: Duration = Duration::from_secs(150);
/// Each worker is written that often a day although nothing changed.
const HEARTBEATS: f64 = 8.0;

/// Without workers, with [`LIVE`] of them, and the evidence of [`RECORDED`].
pub(crate) fn rows(bench: &Bench) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    nothing(bench, &mut rows)?;
    many(bench, &mut rows)?;
    recorded(bench, &mut rows)?;
    Ok(rows)
}

fn nothing(bench: &Bench, rows: &mut Vec<Row>) -> Result<()> {
    let seconds = if bench.quick { 20 } else { 120 };
    eprintln!("    idle: no worker, {seconds} s");
    let daemon = Daemon::start(bench)?;
    let pid = daemon.pid();
    thread::sleep(Duration::from_secs(5));
    let before = process::switches(pid)?;
    thread::sleep(Duration::from_secs(seconds));
    let wakeups = (process::switches(pid)? - before) as f64 * 60.0 / seconds as f64;
    let rss = process::rss_kib(pid)? as f64 / 1024.0;
    daemon.stop()?;
    let what = "idle, no worker: wake-ups per minute (context switches)";
    rows.push(Row::new(Sort::Count, what, Figure::one(wakeups)));
    let mut row = Row::new(Sort::Time, "idle, no worker: RSS, MiB", Figure::one(rss));
    // That of `ps | awk` would be a shell's.
    for peer in bench.peers.iter().filter(|&&peer| peer != Peer::Ps) {
        let watching = peer.start(bench)?;
        let rss = process::rss_kib(watching.pid())? as f64 / 1024.0;
        row = row.peer(peer.name(), Figure::one(rss));
        watching.stop(&bench.token)?;
    }
    rows.push(row.target(Target::AtMost(9.0)));
    Ok(())
}

fn many(bench: &Bench, rows: &mut Vec<Row>) -> Result<()> {
    let (rounds, seconds) = if bench.quick { (2, 10) } else { (3, 40) };
    let live = number(LIVE as f64);
    eprintln!("    idle: {live} workers, {rounds} times {seconds} s");
    let daemon = Daemon::start(bench)?;
    let pid = daemon.pid();
    let few = Spawner::hold(bench, FIRST)?;
    thread::sleep(Duration::from_secs(20));
    daemon.catch_up(Duration::from_mins(1))?;
    let before = process::rss_kib(pid)?;
    let workers = Spawner::hold(bench, LIVE)?;
    // The first samples of each are news.
    thread::sleep(Duration::from_secs(20));
    let (mut cpu, mut peers) = (Figure::default(), Figure::default());
    for _ in 0..rounds {
        let begun = process::cpu_ns(pid)?;
        thread::sleep(Duration::from_secs(seconds));
        cpu.0.push((process::cpu_ns(pid)? - begun) as f64 / 1e6 / seconds as f64);
        // Slashtrace goes on beside it, and pays nothing for it: none of it is a worker.
        if bench.peers.contains(&Peer::Ps) {
            let watching = Peer::Ps.start(bench)?;
            let begun = watching.cpu_ns()?;
            thread::sleep(Duration::from_secs(seconds));
            peers.0.push((watching.cpu_ns()? - begun) as f64 / 1e6 / seconds as f64);
            watching.stop(&bench.token)?;
        }
    }
    // Memory that the start left free hides what the first workers need.
    let first = process::rss_kib(pid)?;
    let further = Spawner::hold(bench, LIVE)?;
    thread::sleep(Duration::from_secs(20));
    let second = process::rss_kib(pid)?;
    let grown = first.saturating_sub(before).max(second.saturating_sub(first));
    drop((few, workers, further));
    daemon.stop()?;
    let what = format!("idle, {live} workers: CPU, ms per s");
    let mut row = Row::new(Sort::Time, what, cpu).target(Target::AtMost(5.0));
    if !peers.0.is_empty() {
        row = row.peer(Peer::Ps.name(), peers);
    }
    rows.push(row);
    let what = format!("idle: RSS per live worker, KiB (of the first {live} or of as many more)");
    let each = Figure::one(grown as f64 / LIVE as f64);
    rows.push(Row::new(Sort::Time, what, each).target(Target::AtMost(1.5)));
    Ok(())
}

fn recorded(bench: &Bench, rows: &mut Vec<Row>) -> Result<()> {
    let seconds = if bench.quick { 60 } else { 300 };
    eprintln!("    idle: evidence of {RECORDED} workers, {seconds} s");
    let daemon = Daemon::start(bench)?;
    let workers = Spawner::hold(bench, RECORDED)?;
    thread::sleep(FIRST_READS);
    let before = daemon.bytes();
    thread::sleep(Duration::from_secs(seconds));
    let bytes = (daemon.bytes() - before) as f64;
    // Too rare to be met in these minutes, and written with all that the first samples had.
    let sample = evidence::bytes_of_samples(&daemon.evidence)?;
    drop(workers);
    daemon.stop()?;
    let what = format!("idle, {RECORDED} workers: evidence, MB a day");
    let heartbeats = HEARTBEATS * RECORDED as f64 * sample;
    let day = Figure::one((bytes * DAY_S / seconds as f64 + heartbeats) / 1e6);
    rows.push(Row::new(Sort::Count, what, day).target(Target::AtMost(1.0)));
    Ok(())
}
