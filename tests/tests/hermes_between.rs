//! The versions of hermes-agent between the two that `hermes_findings` knows: what each of them leaks
//! is named, and nothing else. 0.16.0 and 0.18.2 take three minutes each, and run where
//! `SLASHTRACE_EVERY_HERMES` is set.
//!
//! Runs when nothing is built: on a machine that is short of CPU hermes-agent takes minutes to start.

use std::env;

use slashtrace::model::Kind;
use slashtrace_tests::{
    hermes_scenarios::{Scenario, lost_at_close, outlives_its_gateway, play_and_check, silent},
    host,
};

/// Whether every version is to be tested; if not, says that this one is skipped.
fn every_version() -> bool {
    let every = env::var_os("SLASHTRACE_EVERY_HERMES").is_some();
    if !every {
        host::skip("SLASHTRACE_EVERY_HERMES is not set");
    }
    every
}

/// A session that stays open: its one worker is in use.
const fn reused(name: &'static str) -> Scenario {
    Scenario { left: 1, ..silent(name, 1) }
}

#[test]
fn hermes_agent_0_15_2() {
    play_and_check(
        "0.15.2",
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
            silent("race-closed", 1),
            lost_at_close("three-at-once", 3),
            silent("model-switch", 4),
            silent("kill-idle", 1),
            outlives_its_gateway("kill-busy"),
        ],
    );
}

#[test]
fn hermes_agent_0_16_0() {
    if !every_version() {
        return;
    }
    play_and_check(
        "0.16.0",
        &[
            silent("healthy", 1),
            reused("resume3"),
            silent("race-closed", 1),
            lost_at_close("three-at-once", 3),
            silent("model-switch", 4),
            silent("kill-idle", 1),
            outlives_its_gateway("kill-busy"),
        ],
    );
}

#[test]
fn hermes_agent_0_18_2() {
    if !every_version() {
        return;
    }
    play_and_check(
        "0.18.2",
        &[
            silent("healthy", 1),
            reused("resume3"),
            silent("race-closed", 1),
            lost_at_close("three-at-once", 3),
            silent("model-switch", 4),
            silent("kill-idle", 1),
            silent("kill-busy", 1),
        ],
    );
}
