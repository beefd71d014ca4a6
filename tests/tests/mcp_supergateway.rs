//! The real MCP gateway supergateway from npm, stateful, with servers that npx starts: each client's
//! server is one worker with its launchers, nothing is said of it while clients are connected, and
//! once the last one is gone all of them are named.

use std::{collections::BTreeSet, process::Command};

use slashtrace::model::{Confidence, Finding, FindingState, Kind, Role};
use slashtrace_tests::{
    Recorded, Setup,
    fixtures::{Did, play_with},
    host,
    recorded::{finding, pids},
};

/// Servers are processes of that name, wherever npm put it; several under one gateway are as they
/// should be.
const PROFILE: &str = r#"
name = "mcp"
[worker]
program = "mcp-server-everything"
session = "none"
one_per = "none"
channel = "stdin"
[graces]
client = "8s"
"#;
/// Longer than the client grace and some rounds of looks, seconds.
const WAIT: &str = "30";
/// What the fixture exits with where the packages are not to be had.
const MISSING: i32 = 77;

fn clients() -> Command {
    let mut command = Command::new("python3");
    command.arg(host::fixture("mcp/clients.py")).arg(host::target().join("mcp/supergateway"));
    command
}

/// Whether the packages are there; if not, says that the test is skipped.
fn installed() -> bool {
    let made = clients().arg("--install").output().expect("there is a python3");
    let told = String::from_utf8_lossy(&made.stderr);
    if made.status.code() == Some(MISSING) {
        host::skip(&format!("supergateway is not to be had: {}", told.trim_end()));
        return false;
    }
    assert!(made.status.success(), "{told}");
    true
}

fn recorded() -> Option<(Recorded, Vec<Did>)> {
    if !host::may_load_kernel_programs() || !installed() {
        return None;
    }
    let mut recording = None;
    let did = play_with(clients().args(["--wait", WAIT]), |_| {
        recording = Some(Setup::ebpf().profile(PROFILE).start());
    });
    Some((recording.expect("it began").stop(), did))
}

fn set(pids: &[u32]) -> BTreeSet<u32> {
    pids.iter().copied().collect()
}

#[test]
fn servers_of_clients_that_are_gone_are_named_and_no_others() {
    let Some((recorded, did)) = recorded() else { return };
    let only = |what: &str| -> &Did {
        did.iter().find(|did| did.did == what).unwrap_or_else(|| panic!("no {what}: {did:?}"))
    };
    let gateway = only("begin").gateway.expect("it names its pid");
    let (tabs, left) = (only("tabs"), only("left"));
    let servers = set(&[&tabs.first[..], &tabs.second].concat());
    assert_eq!((servers.len(), set(&left.pids)), (3, servers.clone()), "nobody ends them: {did:?}");

    // npx, npm and two shells stand above each: one worker with its launchers, of this gateway.
    let mine: Vec<_> = recorded
        .workers()
        .into_iter()
        .filter(|worker| worker.ancestors.iter().any(|above| above.pid == gateway))
        .collect();
    assert_eq!(mine.iter().map(|worker| worker.pid).collect::<BTreeSet<_>>(), servers);
    for worker in &mine {
        let parent = worker.parent.as_ref().expect("it has one");
        assert_eq!((worker.role, parent.process.launcher.is_some()), (Role::Worker, true));
    }
    let findings: Vec<(u64, &Finding)> = recorded
        .records
        .iter()
        .filter_map(|record| Some((record.boottime_ns, finding(record)?)))
        .filter(|(_, finding)| finding.workers.iter().any(|it| servers.contains(&it.pid)))
        .collect();
    let (gone_at, left_at) = (only("drop").boottime_ns, left.boottime_ns);
    for (at, finding) in findings.iter().filter(|(at, _)| *at <= left_at) {
        assert_eq!(finding.kind, Kind::Abandoned, "{finding:?}\n{recorded}");
        // Its stdin is held all the time. Who is connected may ask each of them, for all that is
        // known, but not the server whose client still calls it.
        let sure = finding.confidence > Confidence::Weak;
        assert!(*at > gone_at || !sure, "strong while a client is there: {finding:?}");
        let used = pids(finding).iter().any(|pid| tabs.second.contains(pid));
        assert!(*at > gone_at || !used, "in use: {finding:?}");
    }
    // Each of them; not in one finding, because node tidies up its memory now and then, which is work.
    let strong = findings.iter().filter(|(at, finding)| {
        let open = finding.state != FindingState::Closed;
        *at > gone_at && *at <= left_at && open && finding.confidence == Confidence::Strong
    });
    let strong: Vec<(u64, &Finding)> = strong.copied().collect();
    let unused = strong.iter().flat_map(|(_, finding)| &finding.workers).filter(|it| it.unused);
    let unused: BTreeSet<u32> = unused.map(|worker| worker.pid).collect();
    assert_eq!(unused, servers, "named\n{recorded}");
    let (at, last) = strong[0];
    println!("named {} ms after the last client was gone", (at - gone_at) / 1_000_000);

    // /proc told of the gateway before the kernel did: it is one process all the same.
    let named = last.gateway.as_ref().expect("it names its gateway");
    assert_eq!(named.pid, gateway);
    let ended = recorded.exits().into_iter().find(|exit| exit.pid == gateway);
    let ended = ended.unwrap_or_else(|| panic!("no exit of {gateway}\n{recorded}"));
    assert_eq!(ended.start_ns, named.start_ns, "the kernel's start and /proc's are one process's");
}
