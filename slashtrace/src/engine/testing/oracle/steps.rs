//! What happens in the worlds of the oracle.

use proptest::{prelude::*, sample::select};

#[derive(Clone, Debug)]
pub(in crate::engine) enum Step {
    Wait(u64),
    /// A user opens or resumes a session; with a terminal, which names it or not.
    Open {
        gateway: u32,
        key: u8,
        terminal: Option<bool>,
    },
    /// The user has the session's worker do something.
    Call(usize),
    /// A second worker for the nth session, which goes on with it or stays with the first.
    Race {
        session: usize,
        moves: bool,
    },
    /// The session's worker ends and another takes its place.
    Restart(usize),
    /// The user goes, and the gateway keeps the session.
    Leave(usize),
    /// The session is closed, and its worker ends or is forgotten.
    Close {
        session: usize,
        leaks: bool,
    },
    Kill(u32),
    Daemonize(u32),
    /// A gateway that is not running is started in a terminal.
    Start {
        gateway: u32,
        below: Below,
    },
    /// The terminal that a gateway was started in is closed.
    HangUp(u32),
    /// The nth worker ends by itself.
    Exit(usize),
    /// The sampler looks at every worker's stdin.
    Look,
}

pub(in crate::engine) fn step() -> impl Strategy<Value = Step> {
    let gateway = || 0_u32..2;
    prop_oneof![
        6 => prop_oneof![0_u64..3_000, 4_000_u64..60_000, 1_000_000_u64..3_000_000]
            .prop_map(Step::Wait),
        5 => (gateway(), 0_u8..3, proptest::option::of(any::<bool>()))
            .prop_map(|(gateway, key, terminal)| Step::Open { gateway, key, terminal }),
        5 => any::<usize>().prop_map(Step::Call),
        3 => (any::<usize>(), any::<bool>())
            .prop_map(|(session, moves)| Step::Race { session, moves }),
        1 => any::<usize>().prop_map(Step::Restart),
        3 => any::<usize>().prop_map(Step::Leave),
        1 => (any::<usize>(), any::<bool>())
            .prop_map(|(session, leaks)| Step::Close { session, leaks }),
        1 => gateway().prop_map(Step::Kill),
        1 => gateway().prop_map(Step::Daemonize),
        2 => (gateway(), select(vec![Below::Tab, Below::Shell, Below::OthersTab]))
            .prop_map(|(gateway, below)| Step::Start { gateway, below }),
        2 => gateway().prop_map(Step::HangUp),
        1 => any::<usize>().prop_map(Step::Exit),
        2 => Just(Step::Look),
    ]
}

/// In whose terminal a gateway is started.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::engine) enum Below {
    /// A dashboard's, which opened it for the gateway's users.
    Tab,
    /// A shell's, from which it was started to outlive it.
    Shell,
    /// A dashboard's, which opened it for others: its user started another dashboard there.
    OthersTab,
}
