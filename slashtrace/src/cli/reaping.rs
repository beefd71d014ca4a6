use std::time::Duration;

use anyhow::{Result, anyhow};
use clap::{
    Args,
    builder::{PossibleValuesParser, TypedValueParser},
};
use strum::VariantNames as _;

use crate::{
    model::Mode,
    next_step::NextStep as _,
    profile::Span,
    reaper::{Policy, Protect, Scope, Trigger},
};

/// What may be done about findings.
#[derive(Args, Clone, Debug)]
pub(super) struct Reaping {
    /// What to do about workers that a finding shows to be unused: nothing, write what would be
    /// done, or end them (SIGTERM, and SIGKILL after --term-grace)
    #[arg(long, value_name = "MODE", default_value = "observe", value_parser = mode())]
    policy: Mode,
    /// A kind of finding that justifies it, held at least `strong` or at the given confidence; may
    /// be repeated, and replaces the default set
    /// [default: gateway-orphan terminal-orphan unreachable]
    #[arg(long = "trigger", value_name = "KIND[=CONFIDENCE]")]
    triggers: Vec<Trigger>,
    #[command(flatten)]
    limits: Limits,
    #[command(flatten)]
    whom: Whom,
}

/// How much.
#[derive(Args, Clone, Debug)]
struct Limits {
    /// Leave workers alone that are younger than this
    #[arg(long, value_name = "TIME", default_value = "1m")]
    min_age: Span,
    /// End at most so many workers a minute; when more are to be ended, end nobody any more
    #[arg(long, value_name = "N", default_value = "10")]
    budget: u32,
    /// Time between SIGTERM and SIGKILL
    #[arg(long, value_name = "TIME", default_value = "6s")]
    term_grace: Span,
}

/// Who, and who not.
#[derive(Args, Clone, Debug)]
pub(super) struct Whom {
    /// End only workers of this gateway; may be repeated
    #[arg(long = "gateway", value_name = "PID")]
    gateways: Vec<u32>,
    /// Never end this worker, or workers of this gateway; may be repeated, as may all that protects
    #[arg(long = "protect-pid", value_name = "PID")]
    pids: Vec<u32>,
    /// Never end workers that have this argument, or whose gateway has it (a whole one)
    #[arg(long = "protect-arg", value_name = "ARGUMENT")]
    tokens: Vec<String>,
    /// Never end workers of this user id
    #[arg(long = "protect-uid", value_name = "UID")]
    uids: Vec<u32>,
    /// Never end workers in this cgroup or below it, such as /system.slice/web
    #[arg(long = "protect-cgroup", value_name = "PATH")]
    cgroups: Vec<String>,
    /// Never end workers below this systemd unit, such as hermes.service
    #[arg(long = "protect-unit", value_name = "UNIT")]
    units: Vec<String>,
}

/// A mode by its name in the evidence.
fn mode() -> impl TypedValueParser<Value = Mode> {
    PossibleValuesParser::new(Mode::VARIANTS).try_map(|name| name.parse::<Mode>())
}

impl Reaping {
    /// The policy; none where it only observes.
    ///
    /// # Errors
    /// If flags contradict each other.
    pub(super) fn policy(&self) -> Result<Option<Policy>> {
        let mode = match self.policy {
            Mode::Observe if self.triggers.is_empty() => return Ok(None),
            Mode::Observe => {
                let what = "--trigger says what justifies ending a worker, and --policy observe \
                            ends none";
                let step = "add --policy dry-run to see what would be done";
                return Err(anyhow!(what)).next_step(step);
            }
            mode => mode,
        };
        let span = |span: Span| Duration::from_nanos(span.as_ns());
        let (protect, scope) = self.whom.protect()?;
        Ok(Some(Policy {
            mode,
            triggers: default_triggers(&self.triggers),
            min_age: span(self.limits.min_age),
            budget_per_minute: self.limits.budget,
            term_grace: span(self.limits.term_grace),
            protect,
            scope,
        }))
    }
}

/// The triggers that were given, or the default set.
pub(super) fn default_triggers(given: &[Trigger]) -> Vec<Trigger> {
    if given.is_empty() { Policy::default().triggers } else { given.to_vec() }
}

impl Whom {
    /// Who is protected, and whose workers it is about.
    ///
    /// # Errors
    /// If a path is none.
    pub(super) fn protect(&self) -> Result<(Protect, Scope)> {
        if let Some(path) = self.cgroups.iter().find(|path| !path.starts_with('/')) {
            let what = "a path in the cgroup hierarchy begins with `/`";
            return Err(anyhow!("--protect-cgroup {path}: {what}"))
                .next_step("see /proc/PID/cgroup, behind the second colon");
        }
        let protect = Protect {
            pids: self.pids.iter().copied().collect(),
            tokens: self.tokens.iter().cloned().collect(),
            uids: self.uids.iter().copied().collect(),
            cgroups: self.cgroups.iter().cloned().collect(),
            units: self.units.iter().cloned().collect(),
        };
        let scope = Scope { gateways: self.gateways.iter().copied().collect(), ..Scope::default() };
        Ok((protect, scope))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::{
        model::{Confidence, Kind},
        next_step::next_steps,
    };

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        reaping: Reaping,
    }

    fn policy(flags: &[&str]) -> Result<Option<Policy>> {
        Cli::try_parse_from([&["x"], flags].concat())?.reaping.policy()
    }

    #[test]
    fn without_flags_there_is_no_reaper() {
        assert_eq!(policy(&[]).unwrap(), None);
        assert_eq!(policy(&["--policy", "observe"]).unwrap(), None);
    }

    #[test]
    fn defaults_are_those_of_the_policy() {
        let found = policy(&["--policy", "enforce"]).unwrap().unwrap();
        assert_eq!(found, Policy { mode: Mode::Enforce, ..Policy::default() });
    }

    #[test]
    fn flags_are_taken_over() {
        let flags = "--policy dry-run --trigger lost-worker=proven --min-age 5s --budget 3 \
                     --term-grace 1s --gateway 7 --protect-pid 8 --protect-arg keep \
                     --protect-uid 33 --protect-cgroup /a/b --protect-unit u.service";
        let flags: Vec<&str> = flags.split_whitespace().collect();
        let found = policy(&flags).unwrap().unwrap();
        assert_eq!(found.triggers, [Trigger { kind: Kind::LostWorker, least: Confidence::Proven }]);
        assert_eq!((found.budget_per_minute, found.term_grace.as_secs()), (3, 1));
        assert_eq!(found.min_age.as_secs(), 5);
        assert!(found.scope.gateways.contains(&7) && found.protect.pids.contains(&8));
        assert!(found.protect.tokens.contains("keep") && found.protect.uids.contains(&33));
        assert!(found.protect.cgroups.contains("/a/b"));
        assert!(found.protect.units.contains("u.service"));
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_a_next_step() {
        for flags in [
            &["--trigger", "unreachable"][..],
            &["--policy", "enforce", "--protect-cgroup", "web.slice"],
        ] {
            let error = policy(flags).unwrap_err();
            assert_eq!(next_steps(&error).len(), 1, "{error}");
        }
        let error = policy(&["--policy", "enforce", "--trigger", "zombie"]).unwrap_err();
        assert!(error.to_string().contains("shows nobody to be unused"), "{error}");
    }
}
