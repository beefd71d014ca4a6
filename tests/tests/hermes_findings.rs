//! The real hermes-agent: the leaks that it has are named for the workers that really stay, and
//! what is no leak is met with silence.

use slashtrace::model::Kind;
use slashtrace_tests::hermes_scenarios::{
    Scenario, lost_at_close, outlives_its_gateway, play_and_check, silent,
};

#[test]
fn hermes_agent_0_13_0() {
    play_and_check(
        "0.13.0",
        &[
            silent("healthy", 1),
            Scenario {
                name: "resume3",
                spawned: 3..=3,
                left: 3,
                named_by: &[Kind::DuplicateWorker],
                beside: &[Kind::LostWorker, Kind::Accumulation],
                races: false,
            },
            silent("race", 1),
            silent("model-switch", 4),
            silent("kill-idle", 1),
            outlives_its_gateway("kill-busy"),
        ],
    );
}

#[test]
fn hermes_agent_0_19_0() {
    play_and_check(
        "0.19.0",
        &[
            silent("healthy", 1),
            // Where the first resume's command overtakes the worker that the resume spawns, that one
            // comes later and the other resumes find the live session; else a third one is spawned
            // and ended again. Two are left either way.
            Scenario {
                name: "resume3",
                spawned: 2..=3,
                left: 2,
                named_by: &[Kind::DuplicateWorker],
                beside: &[Kind::LostWorker, Kind::Accumulation],
                races: true,
            },
            Scenario {
                name: "race",
                spawned: 2..=2,
                left: 1,
                named_by: &[Kind::LostWorker],
                beside: &[Kind::DuplicateWorker],
                races: true,
            },
            lost_at_close("race-closed", 2),
            lost_at_close("three-at-once", 3),
            silent("model-switch", 4),
            silent("kill-idle", 1),
            silent("kill-busy", 1),
        ],
    );
}
