//! Hands observations to the pipeline, has the reaper act on what they bring, and ends a recording.

use anyhow::{Context as _, Result};

use super::{Ended, Reason};
use crate::{
    daemon::{
        pipeline::Pipeline,
        resume::{NOT_WATCHED, Resumed},
    },
    host::clock::{boottime_ns, wall_time},
    model::{Body, Observation, Stop},
    sensor::Sensor,
    sink::Standing,
};

pub(super) fn observe(pipeline: &mut Pipeline<'_>, observations: Vec<Observation>) -> Result<()> {
    for observation in observations {
        let time = wall_time(observation.boottime_ns);
        pipeline.observe(observation, time)?;
    }
    pipeline.flush()
}

/// What a recording knows from the one before, and that nobody watched in between.
pub(super) fn resumed(resumed: &Resumed) -> Vec<Observation> {
    let checkpoints = resumed.checkpoints.iter().cloned();
    let checkpoints = checkpoints.map(|it| now(Body::Checkpoint(Box::new(it))));
    checkpoints.chain([now(Body::Gap(NOT_WATCHED))]).collect()
}

/// The same, and does at once what a finding of this batch calls for, where nothing that is left of
/// the batch bears on it (signals bear on nothing): between the close of a terminal and SIGTERM
/// there are only the checks, and one write. Every record is written before the step that it
/// announces.
pub(super) fn observe_and_act(
    pipeline: &mut Pipeline<'_>,
    observations: Vec<Observation>,
) -> Result<()> {
    let mut left = observations.into_iter();
    while let Some(observation) = left.next() {
        let time = wall_time(observation.boottime_ns);
        let found = pipeline.observe(observation, time)?;
        let is_signal = |left: &Observation| matches!(left.body, Body::Signal(_));
        if !found.is_empty() && left.as_slice().iter().all(is_signal) {
            act_at_once(pipeline)?;
        }
    }
    pipeline.flush()
}

/// Announces what the reaper is about to do, writes that, and has it done. What it waits for comes
/// from [`Pipeline::act`].
fn act_at_once(pipeline: &mut Pipeline<'_>) -> Result<()> {
    let announced = pipeline.step(boottime_ns());
    if announced.is_empty() {
        return Ok(());
    }
    observe_and_commit(pipeline, announced)?;
    let done = pipeline.step(boottime_ns());
    // It may announce the next step.
    observe_and_commit(pipeline, done)
}

/// The same as [`observe`], and has it written: what the reaper does next is told of in it.
pub(super) fn observe_and_commit(
    pipeline: &mut Pipeline<'_>,
    observations: Vec<Observation>,
) -> Result<()> {
    for observation in observations {
        let time = wall_time(observation.boottime_ns);
        pipeline.observe(observation, time)?;
    }
    pipeline.commit()
}

/// Tells of what was not written, if everything before it is by now. How the writing is going.
pub(super) fn look_after(pipeline: &mut Pipeline<'_>) -> Result<Standing> {
    let standing = pipeline.standing()?;
    if standing.missed > 0 {
        let now = boottime_ns();
        pipeline.tell_of_missed(standing.missed, now, wall_time(now))?;
    }
    Ok(standing)
}

/// Tells the engine that time has passed until `now`, ns of the boot clock.
pub(super) fn tick(pipeline: &mut Pipeline<'_>, now: u64) -> Result<()> {
    pipeline.tick(now, wall_time(now))?;
    pipeline.flush()
}

/// Writes what was still on its way, and the `stop` record.
pub(super) fn finish(
    sensor: Box<dyn Sensor>,
    mut pipeline: Pipeline<'_>,
    reason: Reason,
) -> Result<Ended> {
    let last = sensor.finish().context("the sensors did not stop in order")?;
    observe(&mut pipeline, last.observations)?;
    tick(&mut pipeline, boottime_ns())?;
    let missed = look_after(&mut pipeline)?.behind || pipeline.missed() > 0;
    let complete = last.complete && !missed && !pipeline.left_out();
    let counters = last.counters;
    let stop = Stop { reason: reason.name().to_owned(), counters: counters.clone(), complete };
    observe(&mut pipeline, vec![now(Body::Stop(stop))])?;
    Ok(Ended { reason, complete, counters, tally: pipeline.into_tally() })
}

pub(super) fn now(body: Body) -> Observation {
    Observation { boottime_ns: boottime_ns(), body }
}

/// Ends a recording whose sensor failed: what it saw is kept, and marked as not complete.
pub(super) fn abandon(
    sensor: Box<dyn Sensor>,
    mut pipeline: Pipeline<'_>,
    error: anyhow::Error,
) -> anyhow::Error {
    let last = sensor.finish().unwrap_or_default();
    let reason = "sensor-failed".to_owned();
    let stop = Stop { reason, counters: last.counters, complete: false };
    let stopped = observe(&mut pipeline, last.observations)
        .and_then(|()| observe(&mut pipeline, vec![now(Body::Stop(stop))]));
    match stopped {
        Ok(()) => error.context("a sensor failed; what it saw until then was kept"),
        Err(_) => error.context("a sensor failed"),
    }
}
