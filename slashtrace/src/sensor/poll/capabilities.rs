use std::time::Duration;

use crate::{host::proc::ProcFs, model::Capability};

/// What reading /proc every `interval` can and cannot do here, in plain words.
pub(super) fn of(proc: &ProcFs, interval: Duration, count_calls: bool) -> Vec<Capability> {
    let every = format!("{} ms", interval.as_millis());
    let root = rustix::process::geteuid().is_root();
    let mut all = vec![
        can("worker-spawn", format!("/proc is read every {every}")),
        can("worker-exit", format!("noticed when it is gone from /proc, up to {every} late")),
        can("samples", "state, memory, threads and read calls from /proc".to_owned()),
        cannot(
            "short-lived",
            format!("a worker that lives shorter than {every} may never be seen"),
        ),
        cannot(
            "fork-parent",
            "/proc shows who has a worker now, not who forked it: once it was adopted, its \
             gateway is unknown"
                .to_owned(),
        ),
        cannot("exit-code", "/proc does not show how a process ended".to_owned()),
        cannot("signals", "/proc does not show who sent a signal".to_owned()),
        other_users(proc, root),
        stdin_peer(root),
    ];
    if count_calls {
        all.push(cannot(
            "count-calls",
            "an exact count of calls needs kernel programs; activity is estimated from read \
             calls (`syscr`)"
                .to_owned(),
        ));
    }
    all
}

fn other_users(proc: &ProcFs, root: bool) -> Capability {
    let name = "other-users";
    // pid 1 belongs to somebody else unless we are root.
    match proc.stat(1) {
        Ok(Some(_)) if root => can(name, "processes of all users are read".to_owned()),
        Ok(Some(_)) => cannot(
            name,
            "processes of other users are seen, but not their read calls, proportional memory \
             and descriptors; run as root to see them"
                .to_owned(),
        ),
        Ok(None) | Err(_) => cannot(
            name,
            "processes of other users are invisible here (/proc is mounted with hidepid, or \
             without pid 1): only your own workers are seen; run as root, or remount with \
             `hidepid=0`"
                .to_owned(),
        ),
    }
}

fn stdin_peer(root: bool) -> Capability {
    let name = "stdin-peer";
    if root {
        can(name, "who holds the other end of a worker's stdin, from /proc/*/fd".to_owned())
    } else {
        cannot(
            name,
            "a holder of a worker's stdin is found among your own processes; that there is none \
             cannot be known without root"
                .to_owned(),
        )
    }
}

fn can(name: &str, detail: String) -> Capability {
    Capability { name: name.to_owned(), ok: true, detail }
}

fn cannot(name: &str, detail: String) -> Capability {
    Capability { name: name.to_owned(), ok: false, detail }
}
