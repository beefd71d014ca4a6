//! Short lives of workers in one burst, as fast as one core starts them: is anything lost, what does
//! a life cost, and is the memory given back?

use std::{thread, time::Duration};

use anyhow::Result;

use super::{
    Bench,
    daemon::{Daemon, Spawner, WINDOWS},
    plot::Series,
    process,
    table::{Figure, Row, Sort, Target, number},
};

/// A life may cost this much CPU time, user and system, µs.
const CPU_US: f64 = 60.0;
/// How much more a figure may be at the largest size than at the smallest.
const GROWTH: f64 = 1.2;

/// One storm.
struct Case {
    lives: u64,
    sessions: u64,
    rounds: usize,
    seen: Seen,
}

/// What was measured of it, one sample per round.
#[derive(Default)]
struct Seen {
    lost: Figure,
    incomplete: Figure,
    cpu_us: Figure,
    bytes: Figure,
    peak_mib: Figure,
    before_mib: Figure,
    after_mib: Figure,
    rate: Figure,
}

/// What a peer came to in storms of one size.
#[derive(Default)]
struct PeerSeen {
    missed: Figure,
    cpu_us: Figure,
    rss_mib: Figure,
}

/// Storms of each size, with few sessions and with a session each, and the peers in the same.
pub(crate) fn rows(bench: &Bench, times: &mut Vec<Series>) -> Result<Vec<Row>> {
    let sizes: &[(u64, usize)] = if bench.quick {
        &[(2_000, 3), (20_000, 1)]
    } else {
        &[(2_000, 5), (20_000, 3), (100_000, 1)]
    };
    let mut cases: Vec<Case> = sizes
        .iter()
        .flat_map(|&(lives, rounds)| {
            [50, lives].map(|sessions| Case { lives, sessions, rounds, seen: Seen::default() })
        })
        .collect();
    // The peers in storms of one size: what they do does not depend on it.
    let compared = if bench.quick { 2_000 } else { 20_000 };
    let mut peers: Vec<PeerSeen> = bench.peers.iter().map(|_| PeerSeen::default()).collect();
    let most = cases.iter().map(|case| case.rounds).max().unwrap_or(0);
    let most_lives = cases.iter().map(|case| case.lives).max().unwrap_or(0);
    for round in 0..most {
        for case in cases.iter_mut().filter(|case| case.rounds > round) {
            eprintln!(
                "    storm: {} lives in {} sessions, round {} of {}",
                number(case.lives as f64),
                number(case.sessions as f64),
                round + 1,
                case.rounds
            );
            let largest = case.lives == most_lives;
            storm(bench, case, largest)?;
        }
        if cases.iter().any(|case| case.lives == compared && case.rounds > round) {
            for (peer, seen) in bench.peers.iter().zip(&mut peers) {
                eprintln!("    storm: {} lives, {}", number(compared as f64), peer.name());
                let watching = peer.start(bench)?;
                let before = watching.cpu_ns()?;
                Spawner::burst(bench, true)?.lives(compared, 50)?;
                thread::sleep(Duration::from_secs(3));
                let cpu = (watching.cpu_ns()? - before) as f64 / 1e3;
                seen.cpu_us.0.push(cpu / compared as f64);
                seen.rss_mib.0.push(process::peak_rss_kib(watching.pid())? as f64 / 1024.0);
                let shown = watching.stop(&bench.token)?;
                seen.missed.0.push(compared.saturating_sub(shown) as f64);
            }
        }
    }
    let mut rows: Vec<Row> = cases.iter().flat_map(|case| case.rows(&cases)).collect();
    let title = |what: &str| title(compared, 50, what);
    for (peer, seen) in bench.peers.iter().zip(peers) {
        for row in &mut rows {
            let figure = match &row.what {
                what if *what == title(LOST) => &seen.missed,
                what if *what == title(CPU) => &seen.cpu_us,
                what if *what == title(PEAK) => &seen.rss_mib,
                _ => continue,
            };
            row.peers.insert(peer.name().to_owned(), figure.clone());
        }
    }
    for (few, name) in [(true, "50 sessions"), (false, "a session each")] {
        let cases = cases.iter().filter(|case| (case.sessions == 50) == few);
        let points = cases.map(|case| (case.lives as f64, case.seen.cpu_us.median())).collect();
        times.push(Series { name: format!("CPU per life, {name}"), points });
    }
    Ok(rows)
}

const LOST: &str = "lost events";
const CPU: &str = "CPU per life seen, µs";
const PEAK: &str = "peak RSS, MiB";

fn title(lives: u64, sessions: u64, what: &str) -> String {
    let (lives, sessions) = (number(lives as f64), number(sessions as f64));
    format!("storm, {lives} lives, {sessions} sessions: {what}")
}

/// One storm. `patient`: waits until all windows have passed, and sees what memory is given back.
fn storm(bench: &Bench, case: &mut Case, patient: bool) -> Result<()> {
    let patience = Duration::from_secs(if bench.quick { 60 } else { 300 });
    let daemon = Daemon::start(bench)?;
    let mut spawner = Spawner::burst(bench, true)?;
    daemon.catch_up(patience)?;
    let pid = daemon.pid();
    let (rss, cpu, bytes) = (process::rss_kib(pid)?, process::cpu_ns(pid)?, daemon.bytes());
    let took = spawner.lives(case.lives, case.sessions)?;
    if !daemon.catch_up(patience)? {
        eprintln!(
            "    not done with it after {} s: the figures are lower bounds",
            patience.as_secs()
        );
    }
    let (cpu, bytes) = (process::cpu_ns(pid)? - cpu, daemon.bytes() - bytes);
    let seen = &mut case.seen;
    seen.rate.0.push(case.lives as f64 / took.as_secs_f64());
    seen.peak_mib.0.push(process::peak_rss_kib(pid)? as f64 / 1024.0);
    let mut more = 0;
    if patient {
        thread::sleep(WINDOWS);
        // Few that are left wait for the next record.
        more = 2;
        spawner.lives(more, 1)?;
        daemon.catch_up(patience)?;
        seen.before_mib.0.push(rss as f64 / 1024.0);
        seen.after_mib.0.push(process::rss_kib(pid)? as f64 / 1024.0);
    }
    let counts = daemon.stop()?;
    let lost = counts.lost(case.lives + more) as f64;
    seen.lost.0.push(lost);
    // What was lost cost nothing: the rest is what was paid for.
    let whole = (case.lives as f64 - lost / 2.0).max(1.0);
    seen.cpu_us.0.push(cpu as f64 / 1e3 / whole);
    seen.bytes.0.push(bytes as f64 / whole);
    seen.incomplete.0.push(f64::from(u8::from(!counts.complete)));
    Ok(())
}

impl Case {
    fn rows(&self, all: &[Self]) -> Vec<Row> {
        let seen = &self.seen;
        let title = |what: &str| title(self.lives, self.sessions, what);
        let none = Target::AtMost(0.0);
        let cpu = &seen.cpu_us;
        let mut rows = vec![
            Row::new(Sort::Count, title(LOST), seen.lost.clone()).target(none),
            Row::new(Sort::Count, title("recordings not complete"), seen.incomplete.clone())
                .target(none),
            Row::new(Sort::Count, title("evidence per life seen, bytes"), seen.bytes.clone()),
            Row::new(Sort::Time, title(CPU), cpu.clone()).target(Target::AtMost(CPU_US)),
            Row::new(Sort::Time, title(PEAK), seen.peak_mib.clone()),
            Row::new(Sort::Time, title("lives per second"), seen.rate.clone()),
        ];
        if !seen.after_mib.0.is_empty() {
            let what = title("RSS once the windows have passed, MiB (ratio to before)");
            rows.extend([
                Row::new(Sort::Time, title("RSS before, MiB"), seen.before_mib.clone()),
                Row::new(Sort::Time, what, seen.after_mib.clone())
                    .ratio(seen.after_mib.median() / seen.before_mib.median())
                    .target(Target::RatioAtMost(GROWTH)),
            ]);
        }
        let few = self.sessions == 50;
        let smallest = all.iter().find(|case| (case.sessions == 50) == few);
        let largest = all.iter().rev().find(|case| (case.sessions == 50) == few);
        if let Some(smallest) = smallest.filter(|smallest| smallest.lives < self.lives)
            && largest.is_some_and(|largest| largest.lives == self.lives)
        {
            let small = number(smallest.lives as f64);
            let what = title(&format!("CPU per life seen, µs (ratio to {small} lives)"));
            let ratio = cpu.median() / smallest.seen.cpu_us.median();
            rows.push(
                Row::new(Sort::Time, what, cpu.clone())
                    .ratio(ratio)
                    .target(Target::RatioAtMost(GROWTH)),
            );
        }
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(lives: u64, cpu: f64) -> Case {
        let seen = Seen {
            lost: Figure::one(0.0),
            cpu_us: Figure::one(cpu),
            before_mib: Figure::one(8.0),
            after_mib: Figure::one(10.0),
            ..Seen::default()
        };
        Case { lives, sessions: 50, rounds: 1, seen }
    }

    #[test]
    fn the_largest_storm_is_held_against_the_smallest() {
        let cases = [case(2_000, 50.0), case(20_000, 55.0), case(100_000, 61.0)];
        let rows: Vec<Row> = cases.iter().flat_map(|case| case.rows(&cases)).collect();
        let grown: Vec<&Row> =
            rows.iter().filter(|row| row.what.contains("ratio to 2,000")).collect();
        assert_eq!(grown.len(), 1, "only the largest");
        assert!(grown[0].what.contains("100,000 lives"), "{}", grown[0].what);
        assert_eq!(grown[0].met(), Some(false), "61 is more than 1.2 times 50");
        let kept = rows.iter().find(|row| row.what.contains("windows")).expect("a row");
        assert_eq!(kept.met(), Some(false), "10 is more than 1.2 times 8");
    }
}
