//! Facts of a report that every format words the same.

use std::fmt::Write as _;

use jiff::{Timestamp, tz::TimeZone};

use super::{
    digest::{MemoryChange, Report, Session},
    words::{age, count, list, mib, reasons},
};
use crate::model::{Install, Program, SensorKind};

/// A time for people, with its zone.
pub(super) fn time(time: Timestamp, zone: &TimeZone) -> String {
    time.to_zoned_datetime(zone.clone()).strftime("%Y-%m-%d %H:%M:%S %z").to_string()
}

/// `python(2800)`, and what else is known of a session's gateway.
pub(super) fn gateway(session: &Session) -> String {
    let Some(gateway) = &session.gateway else { return "unknown".to_owned() };
    let presumed = if gateway.presumed { "?" } else { "" };
    let gone = if gateway.gone { ", gone" } else { "" };
    format!("{}({}){presumed}{gone}", gateway.comm, gateway.id.pid)
}

/// What of a session's workers could not be judged: `not judged: no session key (2)`, or `judged in
/// part: there before the recording (1)` if that is asked for. None if all were.
pub(super) fn unjudged(session: &Session, in_part: bool) -> Option<String> {
    let words = |in_part: bool, how: &str| {
        let why = reasons(&session.unjudged, in_part);
        (!why.is_empty()).then(|| format!("{how}: {why}"))
    };
    let not_judged = words(false, "not judged");
    not_judged.or_else(|| words(true, "judged in part").filter(|_| in_part))
}

/// How fast workers pile up, as a sentence.
pub(super) fn growth(memory: &MemoryChange) -> Option<String> {
    let growth = memory.growth?;
    let mut text = format!(
        "Growing by {} ({}) an hour",
        count(growth.workers_per_hour, "worker"),
        mib(growth.kib_per_hour)
    );
    if let Some(s) = growth.exhausted_in_s {
        let left = age(s.saturating_mul(1_000_000_000));
        let _ = write!(text, "; what is available now is used up in {left}");
    }
    text.push_str(match memory.growth_from {
        Some("accumulation") => ", by the finding `accumulation`.",
        _ => ", by what was spawned and did not end in this recording.",
    });
    Some(text)
}

/// Name and value, for a table.
pub(super) fn of(report: &Report, zone: &TimeZone) -> Vec<(&'static str, String)> {
    let recording = &report.recording;
    let mut facts = Vec::new();
    let programs: Vec<String> = report.programs.iter().map(program).collect();
    if !programs.is_empty() {
        facts.push(("program", list(&programs)));
    }
    if let Some(host) = &recording.host {
        let distribution = host.distribution.as_ref().map(|it| format!(", {it}"));
        facts.push((
            "machine",
            format!(
                "Linux {} {}{}, {}, {} of memory",
                host.kernel,
                host.arch,
                distribution.unwrap_or_default(),
                count(u64::from(host.cpus), "CPU"),
                mib(host.memory.total_kib)
            ),
        ));
    }
    if let (Some(began), Some(ended)) = (recording.began, recording.ended) {
        let reason = recording.reason.as_deref().unwrap_or("cut off");
        facts.push((
            "recorded",
            format!(
                "{} to {} ({}), ended: {reason}",
                time(began, zone),
                time(ended, zone),
                age(recording.lasted_ms.saturating_mul(1_000_000))
            ),
        ));
    }
    let sensor = match recording.sensor {
        Some(SensorKind::Ebpf) => "kernel programs (eBPF)",
        Some(SensorKind::Poll) => "/proc alone (poll)",
        None => "none",
    };
    let calls = if recording.calls_counted { "counted in the kernel" } else { "sampled" };
    facts.push(("sensors", format!("{sensor}; calls {calls}; profile {}", recording.profile)));
    let whole = match (recording.complete, recording.lost) {
        (true, _) => "nothing is known to be missing".to_owned(),
        (false, 0) => "not complete".to_owned(),
        (false, lost) => format!("not complete: {} lost", count(lost, "event")),
    };
    facts.push(("evidence", whole));
    facts.push((
        "slashtrace",
        if recording.recorded_by == report.reported_by {
            report.reported_by.clone()
        } else {
            format!("{} (report by {})", recording.recorded_by, report.reported_by)
        },
    ));
    facts
}

/// `hermes-agent 0.19.0 (pip), Python 3.11, in docker, unit hermes.service`.
pub(super) fn program(program: &Program) -> String {
    let mut parts = Vec::new();
    if let Some(name) = &program.package {
        let version = program.version.as_deref().unwrap_or("of unknown version");
        parts.push(format!("{name} {version}"));
    }
    let how = match program.install {
        Some(Install::Package) => Some("package"),
        Some(Install::Vcs) => Some("version control"),
        Some(Install::Editable) => Some("editable"),
        Some(Install::Folder) => Some("folder"),
        None => None,
    };
    match (how, program.installer.as_deref()) {
        (Some("package"), Some(by)) => parts.push(format!("by {by}")),
        (Some(how), by) => {
            parts.push(format!(
                "from {how}{}",
                by.map(|by| format!(" by {by}")).unwrap_or_default()
            ));
        }
        _ => {}
    }
    if let Some(python) = &program.python {
        parts.push(format!("Python {python}"));
    }
    if let Some(container) = &program.container {
        parts.push(format!("in a container ({container})"));
    }
    if let Some(unit) = &program.unit {
        parts.push(format!("unit {unit}"));
    }
    if parts.is_empty() { "not known".to_owned() } else { parts.join(", ") }
}
