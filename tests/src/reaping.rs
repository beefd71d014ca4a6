//! What the tests of the reaper share.

use std::{fs, time::Duration};

use slashtrace::model::{
    Action, Body, Identity, Outcome, Phase, Record, Spawn, Step as ReaperStep,
};

use crate::{Program, Recording, Setup, Step, recorded::workers};

/// How long to wait for the reaper.
pub const PATIENCE: Duration = Duration::from_secs(40);
/// What a worker does that nobody ends, ms.
pub const LONG: u64 = 120_000;

/// `slashtrace run` with a reaper in this mode and short graces.
pub fn reaper(mode: &str) -> Setup {
    reaper_at_age(mode, "1ms")
}

/// The same for workers that are older than this.
pub fn reaper_at_age(mode: &str, age: &str) -> Setup {
    Setup::ebpf()
        .flag("--sample-interval=500ms")
        .flag(&format!("--policy={mode}"))
        .flag(&format!("--min-age={age}"))
}

/// With every kind as a trigger that may be one, however unsure.
#[must_use]
pub fn every_trigger(setup: Setup) -> Setup {
    let kinds = slashtrace::reaper::Trigger::KINDS.into_iter();
    kinds.fold(setup, |setup, kind| setup.flag(&format!("--trigger={kind}=weak")))
}

/// What the reaper said it did, in order.
pub fn actions(records: &[Record]) -> Vec<&Action> {
    let actions = records.iter().filter_map(|record| match &record.body {
        Body::Action(action) => Some(&**action),
        _ => None,
    });
    actions.collect()
}

/// What it did to one worker.
pub fn of(records: &[Record], worker: Identity) -> Vec<(ReaperStep, Phase, Option<Outcome>)> {
    let actions = actions(records).into_iter().filter(|action| action.worker == Some(worker));
    actions.map(|action| (action.step, action.phase, action.outcome)).collect()
}

/// Whether it runs; one that waits to be reaped does not.
pub fn is_there(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// A gateway that spawns these workers with pipes to their stdin, and is gone once it was seen to
/// hold these: who ends in the moments after the spawn only passed through.
pub fn gone_gateway(workers: impl IntoIterator<Item = Program>) {
    let steps = workers.into_iter().map(Step::SpawnWithPipe).chain([Step::Sleep(3_000)]).collect();
    Program::new("gateway", steps).run();
}

/// The first worker of a session, once it was recorded.
///
/// # Panics
/// If it is not.
pub fn worker_of(recording: &Recording, session: &str) -> Spawn {
    let is = |worker: &&Spawn| worker.session.as_deref() == Some(session);
    recording.wait_for(session, PATIENCE, |records| workers(records).iter().any(is));
    let records = recording.so_far();
    workers(&records).into_iter().find(is).cloned().expect("it was just there")
}
