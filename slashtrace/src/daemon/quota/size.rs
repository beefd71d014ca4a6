//! About how long a record is as a line of evidence, without making that line.

use crate::model::{Body, Exec, Finding, Process, Sample, Spawn, TerminalEvent};

/// What every line has: version, number, two times, type.
const LINE: usize = 110;
/// `"pid":12345,"start_ns":123456789012345,`
const IDENTITY: usize = 39;
/// A short field with its name.
const FIELD: usize = 17;

/// About how many bytes a record of this takes: within a third.
pub(super) fn of(body: &Body) -> u64 {
    let body = match body {
        Body::Spawn(spawn) => of_spawn(spawn),
        Body::Exec(exec) => of_exec(exec),
        Body::Exit(exit) => IDENTITY + 3 * FIELD + text(exit.reads.map(|_| "")),
        Body::Signal(signal) => {
            let sender = signal.sender.as_ref().map_or(0, |it| 85 + it.comm.len());
            let counted = if signal.count.is_some() { 75 } else { 0 };
            IDENTITY + 5 * FIELD + sender + counted
        }
        Body::Sample(sample) => of_sample(sample),
        Body::Terminal(event) => of_terminal(event),
        Body::Program(program) => {
            let texts = [&program.package, &program.version, &program.installer, &program.python];
            let texts = texts.into_iter().chain([&program.container, &program.unit]);
            let texts: usize = texts.map(|it| text(it.as_deref())).sum();
            let names: usize = program.environment.iter().map(|name| name.len() + 3).sum();
            IDENTITY + 2 * FIELD + texts + names
        }
        Body::Clients(clients) => IDENTITY + 5 * FIELD + clients.connections.len() * 85,
        Body::Reply(reply) => IDENTITY + 12 * FIELD + reply.sent.len() * 42,
        Body::Finding(finding) => of_finding(finding),
        Body::Start(_)
        | Body::Checkpoint(_)
        | Body::Action(_)
        | Body::Tick(_)
        | Body::Gap(_)
        | Body::Stop(_) => 0,
    };
    (LINE + body) as u64
}

/// A field with text, where it is there.
fn text(value: Option<&str>) -> usize {
    value.map_or(0, |value| value.len() + FIELD - 4)
}

fn process(process: &Process) -> usize {
    let texts = text(process.argv0.as_deref()) + text(process.launcher.as_deref());
    IDENTITY + process.comm.len() + 12 + texts
}

fn of_spawn(spawn: &Spawn) -> usize {
    let parent = spawn.parent.as_ref().map_or(0, |parent| {
        25 + process(&parent.process) + parent.forker.as_ref().map_or(0, process)
    });
    let above: usize = spawn.ancestors.iter().chain(&spawn.opener).map(process).sum();
    let argv: usize = spawn.argv.iter().map(|token| token.len() + 3).sum();
    let thread = spawn.thread.as_ref().map_or(0, |thread| 35 + thread.clones.len() * 75);
    let named = [&spawn.session, &spawn.model, &spawn.helper, &spawn.rule];
    let named: usize = named.into_iter().map(|it| text(it.as_deref())).sum();
    let worker = spawn.worker.map_or(0, |_| IDENTITY + 12);
    let terminal = spawn.terminal.map_or(0, |_| 40);
    IDENTITY
        + 5 * FIELD
        + spawn.comm.len()
        + parent
        + above
        + argv
        + thread
        + named
        + worker
        + terminal
}

fn of_exec(exec: &Exec) -> usize {
    let texts = text(exec.argv0.as_deref()) + text(exec.helper.as_deref());
    IDENTITY + 3 * FIELD + 10 + exec.comm.len() + texts
}

fn of_sample(sample: &Sample) -> usize {
    let numbers = [
        sample.rss_kib.is_some(),
        sample.launchers_rss_kib.is_some(),
        sample.pss_kib.is_some(),
        sample.threads.is_some(),
        sample.syscr.is_some(),
        sample.reads.is_some(),
        sample.waits,
        sample.cpu_ms.is_some(),
        sample.syscr_below.is_some(),
    ];
    let numbers = numbers.into_iter().filter(|there| *there).count();
    let ends = usize::from(sample.stdin.is_some()) + usize::from(sample.output.is_some());
    let sockets = sample.sockets.map_or(0, |_| 55);
    IDENTITY + 12 + numbers * FIELD + ends * 80 + sockets
}

fn of_terminal(event: &TerminalEvent) -> usize {
    let processes: usize =
        [&event.master, &event.leader, &event.closer].into_iter().flatten().map(process).sum();
    let sessions = text(event.session.as_deref()) + text(event.resumes.as_deref());
    let ports = event.ports.len() * 6;
    8 * FIELD + processes + sessions + ports + event.processes.len() * (IDENTITY + 3)
}

fn of_finding(finding: &Finding) -> usize {
    let gateway = finding
        .gateway
        .as_ref()
        .map_or(0, |gateway| IDENTITY + 40 + gateway.comm.len() + text(gateway.argv0.as_deref()));
    let listed = finding.workers.len() * 140 + finding.processes.len() * (IDENTITY + 3);
    let texts = finding.id.len() + finding.text.len() + text(finding.session.as_deref());
    7 * FIELD + gateway + listed + texts + finding.because.len() * 8
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::{line, samples};

    #[test]
    fn it_is_about_the_length_of_the_line() {
        for record in samples::all() {
            let length = line(&record).unwrap().len() as u64;
            let about = of(&record.body);
            let exempt = matches!(
                record.body,
                Body::Start(_) | Body::Action(_) | Body::Tick(_) | Body::Gap(_) | Body::Stop(_)
            );
            let near = about * 3 >= length * 2 && about * 2 <= length * 3;
            assert!(exempt || near, "{about} for {length}: {:?}", record.body);
        }
    }

    #[test]
    fn long_texts_and_lists_count() {
        let mut spawn = samples::spawn();
        let before = of(&Body::Spawn(Box::new(spawn.clone())));
        spawn.argv.push("x".repeat(10_000));
        assert_eq!(of(&Body::Spawn(Box::new(spawn))), before + 10_003);
        let mut finding = samples::finding();
        let before = of(&Body::Finding(Box::new(finding.clone())));
        finding.workers = vec![finding.workers[0].clone(); 1_000];
        assert!(of(&Body::Finding(Box::new(finding))) > before + 100_000);
    }
}
