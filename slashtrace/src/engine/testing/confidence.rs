//! docs/CONFIDENCE.md: what each finding requires, as its rule says it, and what withdraws the claim
//! that a worker is unused. The second part is tried here on every kind that makes that claim.

use super::scenario::{History, K, S};
use crate::model::{
    Body, Capability, Confidence, EndKind, Kind, OutputPeer, OutputState, Sockets, StdinPeer,
    StdinState, Terminal, USE_CAPABILITY, testing::start,
};

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/CONFIDENCE.md");

/// A rule's own words.
macro_rules! rules {
    ($($kind:ident $file:literal),+ $(,)?) => {
        &[$((Kind::$kind, include_str!(concat!("../detect/", $file, ".rs")))),+]
    };
}

const RULES: &[(Kind, &str)] = rules![
    SpawnPerCall "spawn_per_call",
    DuplicateWorker "duplicate_worker",
    LostWorker "lost_worker",
    LostAtClose "lost_at_close",
    RespawnChurn "respawn_churn",
    GatewayOrphan "gateway_orphan",
    LauncherOrphan "launcher_orphan",
    TerminalOrphan "terminal_orphan",
    Abandoned "abandoned",
    Unreachable "unreachable",
    LeftoverChildren "leftover_children",
    Zombie "zombie",
    Accumulation "accumulation",
    ReaperStopped "reaper_stopped",
];

/// What contradicts that worker 101 is unused, and how it is observed.
struct Veto {
    says: &'static str,
    /// Of these kinds.
    of: &'static [Kind],
    seen: fn(&mut History),
}

/// Kinds that claim that nobody *can* use the worker.
const CANNOT: &[Kind] = &[Kind::GatewayOrphan, Kind::LauncherOrphan, Kind::Unreachable];
/// Kinds that claim that nobody *does*.
const DOES_NOT: &[Kind] =
    &[Kind::TerminalOrphan, Kind::LostWorker, Kind::LostAtClose, Kind::Abandoned];

const VETOES: &[Veto] = &[
    Veto {
        says: "A process outside its own tree holds its stdin.",
        of: CANNOT,
        seen: |history| {
            history.stdin(101, StdinState::Held);
        },
    },
    Veto {
        says: "A process outside its own tree reads its output.",
        of: CANNOT,
        seen: |history| {
            history.output(101, OutputState::Read);
        },
    },
    Veto {
        says: "It has a connection of its own (unless its channel is `stdin`).",
        of: &[
            Kind::GatewayOrphan,
            Kind::LauncherOrphan,
            Kind::Unreachable,
            Kind::TerminalOrphan,
            Kind::LostWorker,
            Kind::LostAtClose,
            Kind::Abandoned,
        ],
        seen: |history| {
            history.sockets(101, 0, 1);
        },
    },
    Veto {
        says: "It listens (unless its channel is `stdin`).",
        of: CANNOT,
        seen: |history| {
            history.sockets(101, 1, 0);
        },
    },
    Veto {
        says: "It was asked something since.",
        of: DOES_NOT,
        seen: |history| {
            history.reads(101, 9);
        },
    },
    Veto {
        says: "A client is connected to its gateway.",
        of: &[Kind::Abandoned],
        seen: |history| {
            history.clients(100, 1, 1, true);
        },
    },
    Veto {
        says: "An open terminal shows its session.",
        of: &[Kind::TerminalOrphan, Kind::Abandoned],
        seen: |history| {
            history.open_terminal(9, 100, Some(K));
        },
    },
    Veto {
        says: "It, or anything that descends from it, has worked since: it has to be quiet for the \
               grace again (unless its channel is `stdin`, for 5 min at least).",
        of: &[
            Kind::GatewayOrphan,
            Kind::LauncherOrphan,
            Kind::Unreachable,
            Kind::TerminalOrphan,
            Kind::LostWorker,
            Kind::LostAtClose,
            Kind::Abandoned,
        ],
        seen: |history| {
            history.sample(101, |sample| sample.cpu_ms = Some(90_000));
        },
    },
];

impl History {
    fn output(&mut self, pid: u32, state: OutputState) -> &mut Self {
        let peer = OutputPeer { kind: EndKind::Pipe, state, reader: None };
        self.sample(pid, |sample| sample.output = Some(peer))
    }

    fn sockets(&mut self, pid: u32, listening: u32, connected: u32) -> &mut Self {
        let sockets = Sockets { listening, connected, complete: true };
        self.sample(pid, |sample| sample.sockets = Some(sockets))
    }

    /// A worker that is seen whole: its stdin is held, its output read, it has no socket.
    fn seen(&mut self, pid: u32) -> &mut Self {
        let peer = StdinPeer { kind: Some(EndKind::Pipe), state: StdinState::Held, holder: None };
        self.sample(pid, |sample| sample.stdin = Some(peer));
        self.output(pid, OutputState::Read).sockets(pid, 0, 0).reads(pid, 0)
    }

    /// Nobody holds its stdin or reads its output any more.
    fn let_go(&mut self, pid: u32) -> &mut Self {
        self.stdin(pid, StdinState::Unheld).output(pid, OutputState::Unread)
    }
}

/// A history in which worker 101 is unused by this kind alone, up to the moment before its grace is
/// over, and that grace.
fn about(kind: Kind) -> (History, u64) {
    const PLACE: Terminal = Terminal { instance: Some(7), index: 3 };
    let mut history = History::with_profile(
        "name = \"c\"\n[worker]\ntokens = [\"-m\", \"w\"]\nsession_flag = \"--session\"\n",
    );
    let mut start = start();
    start.calls_counted = true;
    start.capabilities =
        vec![Capability { name: USE_CAPABILITY.to_owned(), ok: true, detail: String::new() }];
    history.tell(Body::Start(Box::new(start)));
    match kind {
        Kind::GatewayOrphan => {
            history.spawn(101, 100, K).seen(101).after(60 * S);
            history.let_go(101).killed_gateway(100);
            (history, 10 * S)
        }
        Kind::LauncherOrphan => {
            let above = history.process(100);
            history.spawn_with(101, 90, |spawn| {
                spawn.session = Some(K.to_owned());
                spawn.parent.as_mut().expect("it has one").process.launcher =
                    Some("npm exec".to_owned());
                spawn.ancestors = vec![above];
            });
            history.seen(101).after(60 * S).let_go(101).exit_gateway(90);
            (history, 10 * S)
        }
        Kind::Unreachable => {
            history.spawn(101, 100, K).seen(101).after(60 * S).let_go(101);
            (history, 10 * S)
        }
        Kind::TerminalOrphan => {
            history.open_terminal(3, 100, None).after(S).spawn_with(101, 100, |spawn| {
                spawn.session = Some(K.to_owned());
                spawn.terminal = Some(PLACE);
            });
            history.seen(101).after(S).close_terminal(3);
            (history, 30 * S)
        }
        Kind::LostWorker => {
            history.spawn(101, 100, K).spawn(102, 100, K).seen(101).seen(102).after(10 * S);
            history.reads(102, 1);
            (history, 10 * S)
        }
        Kind::LostAtClose => {
            history.spawn(101, 100, K).after(S / 10).spawn(102, 100, K).seen(101).seen(102);
            history.reads(102, 1).after(3 * S).terminated(102, 100);
            (history, 10 * S)
        }
        Kind::Abandoned => {
            history.spawn(101, 100, K).seen(101).clients(100, 1, 0, true);
            (history, 1_800 * S)
        }
        other => panic!("{other} claims of nobody that it is unused"),
    }
}

fn is_called_unused(history: &History, kind: Kind) -> bool {
    history.open(kind).is_some_and(|found| {
        found.confidence >= Confidence::Strong && found.workers.iter().any(|it| it.unused)
    })
}

#[test]
fn each_kind_holds_and_each_veto_withdraws_it() {
    for &kind in CANNOT.iter().chain(DOES_NOT) {
        let (mut history, grace) = about(kind);
        history.after(grace);
        assert!(is_called_unused(&history, kind), "{kind}: {:?}", history.findings());
        for veto in VETOES.iter().filter(|veto| veto.of.contains(&kind)) {
            // Before it is said, so that it is not; and after, so that it is withdrawn.
            for said in [false, true] {
                let (mut history, grace) = about(kind);
                history.after(if said { grace } else { grace / 2 });
                history.after(1_000_000);
                (veto.seen)(&mut history);
                history.after(grace / 2 + 1);
                assert!(
                    !is_called_unused(&history, kind),
                    "{kind} although: {} ({said}): {:?}",
                    veto.says,
                    history.findings()
                );
            }
        }
    }
}

/// A rule's words: its documentation, without the first line's name.
fn words(source: &str) -> String {
    let lines = source.lines().map_while(|line| line.strip_prefix("//!"));
    lines.map(|line| line.strip_prefix(' ').unwrap_or(line)).collect::<Vec<_>>().join("\n")
}

fn document() -> String {
    use std::fmt::Write as _;
    let mut text = "# What each finding requires, and what withdraws it\n\n\
        This page is made from the rules themselves (`UPDATE_CONFIDENCE=1 cargo test -p slashtrace \
        confidence`); a test compares it with them, and tries each line of the table below on each \
        kind that it is about.\n\n\
        `proven`: each step was seen in the kernel, who uses the worker is known, and nothing \
        contradicts. `strong`: a step was sampled or read from /proc. `weak`: another reading fits \
        too.\n\n\
        ## When a worker is not called unused\n\n\
        Only a worker that a finding of confidence `strong` or better shows to be *unused* may be \
        ended. Each of these observations contradicts that. At the moment of acting the machine is \
        asked again who holds its stdin and who reads its output, where the finding says that \
        nobody can use it; who is connected to its gateway, where the finding says that clients \
        are gone; and always whether anybody is connected to it (unless its channel is `stdin`), \
        and whether it has read something since it was last sampled:\n\n"
        .to_owned();
    let _ = writeln!(text, "| observed | withdraws it for |\n| --- | --- |");
    for veto in VETOES {
        let of: Vec<String> = veto.of.iter().map(|kind| format!("`{kind}`")).collect();
        let _ = writeln!(text, "| {} | {} |", veto.says, of.join(", "));
    }
    text.push_str(
        "\nA stdin that was never seen held, is `/dev/null`, a file or closed shows nothing: then \
         a worker is not called unused by these kinds at all, or weakly. What a worker may be \
         spoken to by follows from its profile's `channel`; without one, every way has to be \
         closed.\n\n## The rules\n",
    );
    for (kind, source) in RULES {
        let words = words(source);
        let rule = words.split_once('\n').map_or("", |(_, rest)| rest).trim();
        let what = words.lines().next().unwrap_or_default();
        let what = what.split_once(": ").map_or(what, |(_, what)| what);
        let _ = writeln!(text, "\n### `{kind}`: {}\n\n{rule}", what.trim_end_matches('.'));
    }
    text
}

#[test]
fn the_document_is_what_the_rules_say() {
    assert_eq!(RULES.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), Kind::ALL);
    let current = document();
    if std::env::var_os("UPDATE_CONFIDENCE").is_some() {
        std::fs::write(DOCUMENT, &current).unwrap();
        return;
    }
    assert!(
        std::fs::read_to_string(DOCUMENT).unwrap_or_default() == current,
        "docs/CONFIDENCE.md is not what the rules say: \
         UPDATE_CONFIDENCE=1 cargo test -p slashtrace confidence"
    );
}
