//! Lines as things happen, for a person who watches: births and deaths of workers, deaths of
//! gateways, gaps, and findings, which stand out. Samples, ticks and descendants are not shown.

use std::{
    collections::HashMap,
    fmt,
    io::{self, Write},
};

use anyhow::{Context as _, Result};
use jiff::{Timestamp, civil::Date, tz::TimeZone};

use super::{
    ending::{Sent, ending},
    style::{BOLD, BOLD_YELLOW, DIM, GREEN, YELLOW, paint, style_of},
    words::{age, count, is_gateway, lost, not_judged, plain},
};
use crate::{
    model::{
        Action, Body, Exec, Exit, Finding, FindingState, Gap, Identity, ParentSource, Phase,
        Process, Record, Role, SensorKind, Signal, Spawn, Start, Stop, TerminalEvent,
        TerminalState,
    },
    roster::Roster,
    sink::Sink,
};

#[cfg(test)]
mod tests;

/// Processes whose lines are remembered at most; each is forgotten when it ends.
const KNOWN_MAX: usize = 65_536;

/// Writes a line for a person when something happens.
pub struct Live {
    out: Box<dyn Write + Send>,
    zone: TimeZone,
    /// Whoever read has gone: nothing is written any more.
    closed: bool,
    date: Option<Date>,
    /// What a line about the end of a process needs of its life.
    known: HashMap<Identity, Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// Of gateways.
    comm: String,
    signal: Option<Sent>,
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live").field("closed", &self.closed).finish_non_exhaustive()
    }
}

impl Live {
    /// Writes to `out`, in colours that it may strip, with times of the system's time zone.
    pub fn new(out: Box<dyn Write + Send>) -> Self {
        Self::in_zone(out, TimeZone::system())
    }

    /// The same with times of another zone.
    pub fn in_zone(out: Box<dyn Write + Send>, zone: TimeZone) -> Self {
        Self { out, zone, closed: false, date: None, known: HashMap::new() }
    }

    fn line(&mut self, time: Timestamp, text: &str) -> Result<()> {
        let local = time.to_zoned_datetime(self.zone.clone());
        let mut day = String::new();
        if self.date != Some(local.date()) {
            self.date = Some(local.date());
            day = paint(&local.date().to_string(), DIM) + "\n";
        }
        let moment = local.strftime("%H:%M:%S %z").to_string();
        let lines = format!("{day}{} {text}\n", paint(&moment, DIM));
        self.write(|out| out.write_all(lines.as_bytes()))
    }

    /// A pipe whose reader has gone ends the lines, not the program.
    fn write(&mut self, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
        if self.closed {
            return Ok(());
        }
        match write(&mut self.out) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.closed = true;
                Ok(())
            }
            done => done.context("cannot write the live lines"),
        }
    }

    fn know(&mut self, id: Identity) -> Option<&mut Known> {
        if self.known.len() >= KNOWN_MAX && !self.known.contains_key(&id) {
            return None;
        }
        Some(self.known.entry(id).or_default())
    }

    /// The line for a record, if it gets one.
    fn text(&mut self, record: &Record, roster: &Roster) -> Option<String> {
        match &record.body {
            Body::Start(start) => Some(paint(&header(start), BOLD)),
            Body::Spawn(spawn) if spawn.role == Role::Worker => Some(self.spawned(spawn)),
            Body::Exec(exec) => executed(exec, roster),
            Body::Exit(exit) => self.exited(record, exit, roster),
            Body::Signal(signal) => {
                self.signalled(record, signal);
                None
            }
            Body::Gap(gap) => Some(paint(&missed(gap), BOLD_YELLOW)),
            Body::Finding(finding) => Some(found(finding)),
            Body::Stop(stop) => Some(paint(&stopped(stop, roster), BOLD)),
            Body::Terminal(terminal) => terminal_closed(terminal),
            Body::Action(action) => Some(paint(&acted(action), BOLD_YELLOW)),
            Body::Spawn(_)
            | Body::Sample(_)
            | Body::Program(_)
            | Body::Clients(_)
            | Body::Reply(_)
            | Body::Tick(_)
            | Body::Checkpoint(_) => None,
        }
    }

    fn spawned(&mut self, spawn: &Spawn) -> String {
        let verb = if spawn.inherited { "found " } else { "spawn " };
        let session = session(spawn.session.as_deref());
        let mut parts = vec![format!("{verb} worker {} {session}", spawn.pid)];
        if let Some(model) = &spawn.model {
            parts.push(format!("model {}", plain(model)));
        }
        match &spawn.parent {
            Some(parent) if is_gateway(parent) => {
                let process = &parent.process;
                if let Some(known) = self.know(process.identity()) {
                    known.comm.clone_from(&process.comm);
                }
                let how = match parent.how {
                    ParentSource::Fork | ParentSource::Exec => "",
                    ParentSource::Proc => " (its parent now)",
                };
                let gone = if parent.gone { " (gone already)" } else { "" };
                let comm = plain(&process.comm);
                parts.push(format!("gateway {comm}({}){how}{gone}", process.pid));
            }
            _ => parts.push("gateway unknown".to_owned()),
        }
        if let Some(terminal) = spawn.terminal {
            parts.push(format!("pts/{}", terminal.index));
        }
        if spawn.inherited {
            parts.push("was there before".to_owned());
        }
        parts.join(", ")
    }

    fn signalled(&mut self, record: &Record, signal: &Signal) {
        if matches!(signal.role, Role::Worker | Role::Gateway)
            && let Some(sent) = Sent::of(record, signal)
            && let Some(known) = self.know(signal.identity())
        {
            known.signal = Some(sent);
        }
    }

    fn exited(&mut self, record: &Record, exit: &Exit, roster: &Roster) -> Option<String> {
        let known = self.known.remove(&exit.identity()).unwrap_or_default();
        let who = match exit.role {
            Role::Worker => {
                format!("worker {} {}", exit.pid, session_of(exit.identity(), roster))
            }
            Role::Gateway if known.comm.is_empty() => format!("gateway {}", exit.pid),
            Role::Gateway => format!("gateway {}({})", plain(&known.comm), exit.pid),
            Role::Descendant | Role::Ancestor => return None,
        };
        let lived = age(record.boottime_ns.saturating_sub(exit.start_ns));
        let how = ending(exit, record.boottime_ns, known.signal.as_ref());
        let calls = exit.reads.map(|reads| format!(", {}", count(reads, "call")));
        Some(format!("exit   {who}: {how}, lived {lived}{}", calls.unwrap_or_default()))
    }
}

impl Sink for Live {
    fn record(&mut self, record: &Record, roster: &Roster) -> Result<()> {
        match self.text(record, roster) {
            Some(text) => self.line(record.time, &text),
            None => Ok(()),
        }
    }

    fn flush(&mut self) -> Result<()> {
        self.write(|out| out.flush())
    }
}

fn executed(exec: &Exec, roster: &Roster) -> Option<String> {
    if exec.role != Role::Worker || exec.is_worker {
        return None;
    }
    let session = session_of(exec.identity(), roster);
    let comm = plain(&exec.comm);
    Some(format!("exec   worker {} {session} became {comm}, no worker any more", exec.pid))
}

fn session_of(id: Identity, roster: &Roster) -> String {
    session(roster.worker(id).and_then(|worker| worker.session.as_deref()))
}

fn header(start: &Start) -> String {
    let sensor = match start.sensor {
        SensorKind::Ebpf => "kernel programs",
        SensorKind::Poll => "/proc only (poll)",
    };
    let calls = if start.calls_counted { "counted" } else { "sampled" };
    format!(
        "slashtrace {} on Linux {} {}: sensor {sensor}, profile {}, calls {calls}",
        plain(&start.version),
        plain(&start.host.kernel),
        plain(&start.host.arch),
        plain(&start.profile.name),
    )
}

fn found(finding: &Finding) -> String {
    let (state, colour) = match finding.state {
        FindingState::Opened => ("OPENED", style_of(finding.confidence)),
        FindingState::Updated => ("updated", YELLOW),
        FindingState::Closed => ("closed", GREEN),
    };
    let head = format!("{state} {} ({})", finding.kind, finding.confidence);
    let place = place(finding).map(|place| format!(" {place}")).unwrap_or_default();
    format!("{}{place}: {}", paint(&head, colour), plain(&finding.text))
}

/// The end of a terminal; that one was opened is no news.
fn terminal_closed(terminal: &TerminalEvent) -> Option<String> {
    let closed = terminal.state == TerminalState::Closed;
    let by = |by: &Process| format!(" by {}({})", plain(&by.comm), by.pid);
    let by = terminal.closer.as_ref().map(by).unwrap_or_default();
    closed.then(|| format!("closed terminal pts/{}{by}", terminal.index))
}

fn acted(action: &Action) -> String {
    let before = if action.phase == Phase::Before { "about to: " } else { "" };
    format!("reaper {before}{}", plain(&action.detail))
}

fn missed(gap: &Gap) -> String {
    let healed = if gap.resynced { "; what is there now was read from /proc" } else { "" };
    let whose = gap.uid.map(|uid| format!(" of user {uid}")).unwrap_or_default();
    let what = if gap.reason.is_quota() { "left out" } else { "not seen" };
    format!("GAP {}: {}{whose} {what}{healed}", gap.reason.name(), lost(gap.lost))
}

fn stopped(stop: &Stop, roster: &Roster) -> String {
    let missed = if stop.complete { "nothing is known to be missing" } else { "INCOMPLETE" };
    let workers = count(roster.totals().spawned, "worker");
    let not_judged = not_judged(&roster.all_unjudged());
    let not_judged = not_judged.map(|clauses| format!("; of {workers}, {clauses}"));
    format!("stopped ({}), {missed}{}", plain(&stop.reason), not_judged.unwrap_or_default())
}

fn session(key: Option<&str>) -> String {
    key.map_or_else(|| "session unknown".to_owned(), |key| format!("session {}", plain(key)))
}

/// `session K under gateway python(123)`, as far as the sentence does not say it itself.
fn place(finding: &Finding) -> Option<String> {
    let session = finding.session.as_ref().map(|key| format!("session {key}"));
    let gateway = finding.gateway.as_ref().map(|at| format!("gateway {}({})", at.comm, at.pid));
    let said = |part: &String| finding.text.contains(part.as_str());
    match (session.filter(|part| !said(part)), gateway.filter(|part| !said(part))) {
        (Some(session), Some(gateway)) => Some(format!("{session} under {gateway}")),
        (Some(part), None) | (None, Some(part)) => Some(part),
        (None, None) => None,
    }
    .map(|place| plain(&place).into_owned())
}
