use serde::Serialize;

use crate::{
    model::{Capability, Host, Program, SensorKind},
    report::digest::Report,
};

/// environment.json: what a recording was made on, with what.
#[derive(Debug, Serialize)]
pub(super) struct Environment<'a> {
    slashtrace: &'a str,
    profile: &'a str,
    host: Option<&'a Host>,
    sensor: Option<SensorKind>,
    calls_counted: bool,
    capabilities: &'a [Capability],
    programs: &'a [Program],
    complete: bool,
    lost: u64,
}

pub(super) fn of(report: &Report) -> Environment<'_> {
    let recording = &report.recording;
    Environment {
        slashtrace: &recording.recorded_by,
        profile: &recording.profile,
        host: recording.host.as_ref(),
        sensor: recording.sensor,
        calls_counted: recording.calls_counted,
        capabilities: &recording.capabilities,
        programs: &report.programs,
        complete: recording.complete,
        lost: recording.lost,
    }
}
