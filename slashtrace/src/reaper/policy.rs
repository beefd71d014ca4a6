use std::{collections::BTreeSet, fmt, str::FromStr, time::Duration};

use crate::model::{Confidence, Identity, Kind, Mode};

/// What the reaper may do, to whom, and how much of it. Plain data.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Policy {
    /// Whether it only watches, says what it would do, or ends workers.
    pub mode: Mode,
    /// Findings that justify ending a worker.
    pub triggers: Vec<Trigger>,
    /// A worker younger than this is left alone, whatever is found.
    pub min_age: Duration,
    /// How many workers may be chosen within a minute. When more want to be ended, the circuit
    /// breaker opens.
    pub budget_per_minute: u32,
    /// Time between SIGTERM and SIGKILL. A worker's flush at its end was seen to take 5 s.
    pub term_grace: Duration,
    /// Who is never ended.
    pub protect: Protect,
    /// Whose workers it is about.
    pub scope: Scope,
}

impl Default for Policy {
    fn default() -> Self {
        let strong = |kind| Trigger { kind, least: Confidence::Strong };
        Self {
            mode: Mode::Observe,
            triggers: vec![
                strong(Kind::GatewayOrphan),
                strong(Kind::TerminalOrphan),
                strong(Kind::Unreachable),
            ],
            min_age: Duration::from_mins(1),
            budget_per_minute: 10,
            term_grace: Duration::from_secs(6),
            protect: Protect::default(),
            scope: Scope::default(),
        }
    }
}

impl Policy {
    /// Whether a finding of this kind, held this surely, justifies ending a worker.
    pub fn triggers_on(&self, kind: Kind, confidence: Confidence) -> bool {
        // A policy may be made of anything; the kinds that may be triggers are not a matter of it.
        Trigger::KINDS.contains(&kind)
            && self
                .triggers
                .iter()
                .any(|trigger| trigger.kind == kind && confidence >= trigger.least)
    }
}

/// A kind of finding that justifies ending the workers that it shows to be unused.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Trigger {
    /// The kind: one of [`Self::KINDS`].
    pub kind: Kind,
    /// It has to hold at least this surely.
    pub least: Confidence,
}

impl Trigger {
    /// The kinds that may be triggers: those that show which very worker nobody uses.
    pub const KINDS: [Kind; 8] = [
        Kind::GatewayOrphan,
        Kind::TerminalOrphan,
        Kind::Unreachable,
        Kind::LostWorker,
        Kind::DuplicateWorker,
        Kind::Abandoned,
        Kind::LauncherOrphan,
        Kind::LostAtClose,
    ];
}

/// Why a text names no trigger.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct TriggerError(String);

impl FromStr for Trigger {
    type Err = TriggerError;

    /// `KIND` (held at least strongly) or `KIND=CONFIDENCE`.
    fn from_str(text: &str) -> Result<Self, TriggerError> {
        let (name, confidence) = match text.split_once('=') {
            Some((name, confidence)) => (name, Some(confidence)),
            None => (text, None),
        };
        let Some(kind) = name.parse().ok().filter(|kind| Self::KINDS.contains(kind)) else {
            let what = if name.parse::<Kind>().is_ok() {
                "shows nobody to be unused"
            } else {
                "is no kind of finding"
            };
            return Err(TriggerError(format!(
                "`{name}` {what}; a trigger is one of {}",
                Self::KINDS.map(Kind::name).join(", ")
            )));
        };
        let least = match confidence {
            None => Confidence::Strong,
            Some(text) => text.parse().map_err(|_| {
                TriggerError(format!(
                    "`{text}` is no confidence; it is one of weak, strong, proven, as in \
                     `{name}=proven`"
                ))
            })?,
        };
        Ok(Self { kind, least })
    }
}

impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.kind, self.least)
    }
}

/// Whose workers may be ended at all. An empty set is no limit.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Scope {
    /// Pids of gateways.
    pub gateways: BTreeSet<u32>,
    /// Session keys, escaped as records have them.
    pub sessions: BTreeSet<String>,
}

impl Scope {
    /// Whether a worker of this gateway and session is within it; one that is not known is not.
    pub fn has(&self, gateway: Option<Identity>, session: Option<&str>) -> bool {
        let gateway = gateway.is_some_and(|gateway| self.gateways.contains(&gateway.pid));
        let session = session.is_some_and(|session| self.sessions.contains(session));
        (self.gateways.is_empty() || gateway) && (self.sessions.is_empty() || session)
    }
}

/// Who is never ended, whatever is found.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Protect {
    /// Pids of workers, or of gateways whose workers are meant.
    pub pids: BTreeSet<u32>,
    /// Exact argv tokens of a worker or of its gateway.
    pub tokens: BTreeSet<String>,
    /// Real user ids.
    pub uids: BTreeSet<u32>,
    /// Paths in a cgroup hierarchy (cgroups(7)); what is below one is covered, too.
    pub cgroups: BTreeSet<String>,
    /// systemd units. Covered is who is anywhere below one: `user@1000.service` covers the units
    /// of that user's own manager.
    pub units: BTreeSet<String>,
}

/// What [`Protect`] is compared with.
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts<'a> {
    /// Its pid.
    pub pid: u32,
    /// Its real user id.
    pub uid: u32,
    /// Its argv.
    pub argv: &'a [&'a [u8]],
    /// Its paths in the cgroup hierarchies.
    pub cgroups: &'a [String],
}

impl Protect {
    /// Why the process is covered; `None` if it is not.
    pub fn covers(&self, facts: &Facts<'_>) -> Option<String> {
        if self.pids.contains(&facts.pid) {
            return Some(format!("pid {} is protected", facts.pid));
        }
        if self.uids.contains(&facts.uid) {
            return Some(format!("user id {} is protected", facts.uid));
        }
        if let Some(token) = self.token_of(facts.argv) {
            return Some(format!("its argument `{token}` is protected"));
        }
        facts.cgroups.iter().find_map(|path| self.covers_cgroup(path))
    }

    /// The protected token that an argv has.
    pub fn token_of(&self, argv: &[&[u8]]) -> Option<&str> {
        self.tokens.iter().map(String::as_str).find(|token| argv.contains(&token.as_bytes()))
    }

    /// Whether a process's cgroups matter at all.
    pub fn asks_cgroups(&self) -> bool {
        !self.cgroups.is_empty() || !self.units.is_empty()
    }

    fn covers_cgroup(&self, path: &str) -> Option<String> {
        // What the kernel adds to the path of a cgroup that was removed.
        let path = path.strip_suffix(" (deleted)").unwrap_or(path);
        let covered = self.cgroups.iter().find(|&protected| is_below(path, protected));
        if let Some(covered) = covered {
            return Some(format!("cgroup {covered} is protected"));
        }
        // systemd calls the cgroup of a service, scope or slice like the unit (systemd.unit(5)).
        let unit = path.split('/').find(|part| self.units.contains(*part));
        unit.map(|unit| format!("unit {unit} is protected"))
    }
}

/// Whether a path is `above` or below it, by whole components.
fn is_below(path: &str, above: &str) -> bool {
    let above = above.trim_end_matches('/');
    path.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn triggers_are_read_and_shown() {
        for (text, kind, least) in [
            ("gateway-orphan", Kind::GatewayOrphan, Confidence::Strong),
            ("lost-worker=proven", Kind::LostWorker, Confidence::Proven),
            ("abandoned=weak", Kind::Abandoned, Confidence::Weak),
            ("unreachable=strong", Kind::Unreachable, Confidence::Strong),
        ] {
            let trigger: Trigger = text.parse().unwrap();
            assert_eq!(trigger, Trigger { kind, least });
            assert_eq!(trigger.to_string().parse(), Ok(trigger));
        }
    }

    #[test]
    fn what_is_no_trigger_is_told_what_would_be() {
        let error = |text: &str| text.parse::<Trigger>().unwrap_err().to_string();
        assert_eq!(
            error("zombie"),
            "`zombie` shows nobody to be unused; a trigger is one of gateway-orphan, \
             terminal-orphan, unreachable, lost-worker, duplicate-worker, abandoned, \
                 launcher-orphan, lost-at-close"
        );
        assert!(error("orphan").starts_with("`orphan` is no kind of finding; "));
        assert!(error("").starts_with("`` is no kind of finding"));
        assert_eq!(
            error("unreachable=certain"),
            "`certain` is no confidence; it is one of weak, strong, proven, as in \
             `unreachable=proven`"
        );
        for &kind in Kind::ALL {
            assert_eq!(kind.name().parse::<Trigger>().is_ok(), Trigger::KINDS.contains(&kind));
        }
    }

    #[test]
    fn the_default_policy_touches_nobody_and_trusts_nothing_weak() {
        let policy = Policy::default();
        assert_eq!(policy.mode, Mode::Observe);
        assert!(policy.triggers_on(Kind::GatewayOrphan, Confidence::Proven));
        assert!(policy.triggers_on(Kind::TerminalOrphan, Confidence::Strong));
        assert!(!policy.triggers_on(Kind::TerminalOrphan, Confidence::Weak));
        for kind in [Kind::LostWorker, Kind::DuplicateWorker, Kind::Abandoned] {
            assert!(!policy.triggers_on(kind, Confidence::Proven), "opt-in");
        }
    }

    #[test]
    fn a_kind_that_may_not_be_a_trigger_is_none_however_the_policy_was_made() {
        let triggers = vec![Trigger { kind: Kind::Zombie, least: Confidence::Weak }];
        let policy = Policy { triggers, ..Policy::default() };
        assert!(!policy.triggers_on(Kind::Zombie, Confidence::Proven));
    }

    #[test]
    fn a_scope_has_only_who_is_known_to_be_in_it() {
        let gateway = Identity { pid: 7, start_ns: 1 };
        assert!(Scope::default().has(None, None));
        let scope = Scope { gateways: BTreeSet::from([7]), sessions: set(&["K"]) };
        assert!(scope.has(Some(gateway), Some("K")));
        assert!(!scope.has(Some(gateway), Some("L")) && !scope.has(Some(gateway), None));
        assert!(!scope.has(None, Some("K")));
    }

    fn set(words: &[&str]) -> BTreeSet<String> {
        words.iter().map(|&word| word.to_owned()).collect()
    }

    #[test]
    fn who_is_protected() {
        let protect = Protect {
            pids: BTreeSet::from([7]),
            tokens: set(&["keep"]),
            uids: BTreeSet::from([33]),
            cgroups: set(&["/system.slice/web", "/exact/"]),
            units: set(&["user@1000.service", "hermes.service"]),
        };
        let covers = |pid, uid, argv: &[&[u8]], cgroup: &str| {
            protect.covers(&Facts { pid, uid, argv, cgroups: &[cgroup.to_owned()] }).is_some()
        };
        assert!(covers(7, 0, &[], "/"));
        assert!(covers(8, 33, &[], "/"));
        assert!(covers(8, 0, &[b"python", b"keep"], "/"));
        assert!(!covers(8, 0, &[b"python", b"keeper", b"--a=keep"], "/"), "exact tokens");
        for (cgroup, covered) in [
            ("/", false),
            ("/system.slice", false),
            ("/system.slice/web", true),
            ("/system.slice/web/below", true),
            ("/system.slice/website", false),
            ("/exact", true),
            ("/exact (deleted)", true),
            ("/system.slice/hermes.service", true),
            ("/system.slice/hermes.service/sub", true),
            ("/system.slice/other-hermes.service", false),
            ("/user.slice/user@1000.service/app.slice/x.scope", true),
            ("/hermes.service.d", false),
        ] {
            assert_eq!(covers(8, 0, &[], cgroup), covered, "{cgroup}");
        }
        assert!(protect.covers(&Facts::default()).is_none());
    }
}
