//! The words of the product as types: identities, observations, findings, and the record that
//! carries them in evidence. Everything here is plain data: serialisable, comparable, pure.
//! May touch: nothing that does I/O, no clock, no async.

mod action;
mod checkpoint;
mod compact;
mod finding;
mod identity;
mod observation;
mod program;
mod record;
mod reply;
mod signal;
mod terminal;
#[cfg(test)]
pub(crate) mod testing;

pub use action::{Action, Mode, Outcome, Phase, Step};
pub use checkpoint::Checkpoint;
pub(crate) use compact::{Maybe, MaybeId, MaybeSmall, MaybeTerminal};
pub use finding::{Confidence, Finding, FindingState, FindingWorker, Forecast, GatewayRef, Kind};
pub use identity::Identity;
pub use observation::{
    Capability, EndKind, Exec, Exit, Gap, GapReason, Host, Limits, Memory, OutputPeer, OutputState,
    Parent, ParentSource, Process, Reaping, Role, Sample, Sender, SensorKind, Signal, Sockets,
    Source, Spawn, Start, StdinPeer, StdinState, Stop, Terminal, Tick, USE_CAPABILITY,
};
pub use program::{Install, Program};
pub use record::{Body, FORMAT_VERSION, Observation, Record};
pub use reply::{ForkingThread, Reply, ReplyEnd, Sent, ThreadClone};
pub use signal::signal_name;
pub use terminal::{Clients, Connection, TerminalEvent, TerminalState};

#[cfg(test)]
mod tests {
    use strum::{VariantArray as _, VariantNames as _};

    use super::*;

    /// Names for people and flags come from strum, those in evidence from serde, both from the
    /// variants.
    #[test]
    fn a_name_is_the_one_in_evidence() {
        let in_evidence = |value: serde_json::Value| value.as_str().unwrap().to_owned();
        for &kind in Kind::ALL {
            assert_eq!(in_evidence(serde_json::json!(kind)), kind.name());
            assert_eq!(kind.name().parse(), Ok(kind));
        }
        for &confidence in Confidence::VARIANTS {
            assert_eq!(in_evidence(serde_json::json!(confidence)), confidence.to_string());
            assert_eq!(confidence.to_string().parse(), Ok(confidence));
        }
        for role in [Role::Worker, Role::Descendant, Role::Gateway, Role::Ancestor] {
            assert_eq!(in_evidence(serde_json::json!(role)), role.name());
        }
        for &name in Mode::VARIANTS {
            assert_eq!(in_evidence(serde_json::json!(name.parse::<Mode>().unwrap())), name);
        }
        let gap = GapReason::TerminalsUnwatched;
        assert_eq!(in_evidence(serde_json::json!(gap)), gap.name());
        for record in crate::evidence::samples::every_type() {
            let value = serde_json::to_value(&record).unwrap();
            let name = value["type"].as_str().unwrap();
            assert!(Body::VARIANTS.contains(&name), "{name}");
        }
        assert_eq!(Body::VARIANTS.len(), 16);
    }

    #[test]
    fn names_are_padded_in_tables() {
        assert_eq!(format!("{:<16}|", Kind::Zombie), "zombie          |");
        assert_eq!(format!("{:>8}", Confidence::Weak), "    weak");
    }
}
