//! Histories of any length, the same each time, as lines of evidence: the format is more lasting
//! than the types. In each about 50 workers live at a time, so only what has ended grows.

use anyhow::{Result, bail};
use serde_json::{Value, json};
use slashtrace::profile::Profile;

const S: u64 = 1_000_000_000;
/// From one record to the next.
const STEP_NS: u64 = 20_000_000;
/// Workers that live at a time.
const LIVE: u64 = 50;

/// What happens again and again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum History {
    /// One gateway, 50 sessions: the oldest worker of a session ends, and the next one comes.
    Ended,
    /// One gateway, one session of which a worker is ended by SIGTERM and replaced; 49 others idle.
    Restarts,
    /// One gateway: each worker has a session of its own.
    Sessions,
    /// Every ten workers have a gateway of their own, which ends after them.
    Gateways,
    /// Samples, children, signals, clients, time that passes, and workers that come and go.
    Mixed,
}

/// A process: pid and start time.
type Process = (u64, u64);

impl History {
    /// The history of that name.
    pub fn named(name: &str) -> Result<Self> {
        Ok(match name {
            "ended" => Self::Ended,
            "restarts" => Self::Restarts,
            "sessions" => Self::Sessions,
            "gateways" => Self::Gateways,
            "mixed" => Self::Mixed,
            _ => bail!("no history `{name}`: ended, restarts, sessions, gateways, mixed"),
        })
    }

    /// Its lines, without end.
    pub fn lines(self) -> Lines {
        let mut lines = Lines {
            history: self,
            seq: 0,
            at: 100 * S,
            pid: 1_000,
            gateway: (900, 50 * S),
            live: Vec::new(),
            turn: 0,
            pending: Vec::new(),
        };
        lines.pending.push(start());
        lines
    }
}

/// Lines of a history.
pub struct Lines {
    history: History,
    seq: u64,
    at: u64,
    pid: u64,
    gateway: Process,
    live: Vec<(Process, u64)>,
    turn: u64,
    /// What comes next, the last first.
    pending: Vec<Value>,
}

impl Iterator for Lines {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        if self.pending.is_empty() {
            let mut happens = self.happens();
            happens.reverse();
            self.pending = happens;
        }
        let mut record = self.pending.pop()?;
        self.seq += 1;
        self.at += STEP_NS;
        record["v"] = 1.into();
        record["seq"] = self.seq.into();
        // Days and hours do not matter: every judgement is by the boot clock.
        let (second, ns) = (self.at / S, self.at % S);
        record["time"] = format!(
            "2026-11-22T{:02}:{:02}:{:02}.{ns:09}Z",
            second / 3600 % 24,
            second / 60 % 60,
            second % 60
        )
        .into();
        record["boottime_ns"] = self.at.into();
        Some(record.to_string())
    }
}

impl Lines {
    fn happens(&mut self) -> Vec<Value> {
        self.turn += 1;
        let turn = self.turn;
        if (self.live.len() as u64) < LIVE {
            let session = self.session(turn);
            return vec![self.spawn(session)];
        }
        match self.history {
            History::Ended | History::Sessions => {
                let session = self.session(turn);
                vec![self.exit(0), self.spawn(session)]
            }
            History::Restarts => {
                let last = self.live.len() - 1;
                vec![self.signal(last), self.exit(last), self.spawn(0)]
            }
            History::Gateways => {
                let mut happens = vec![self.exit(0)];
                if turn.is_multiple_of(10) {
                    // Nobody of its own lives any more, but for those that still do.
                    happens.push(end(self.gateway, "gateway"));
                    self.gateway = self.process();
                }
                let session = self.session(turn);
                happens.push(self.spawn(session));
                happens
            }
            History::Mixed => self.mixed(turn),
        }
    }

    fn mixed(&mut self, turn: u64) -> Vec<Value> {
        let nth = (turn * 7 % LIVE) as usize;
        let (worker, _) = self.live[nth];
        match turn % 20 {
            0 | 10 => {
                let session = self.live[0].1;
                vec![self.signal(0), self.exit(0), self.spawn(session)]
            }
            1 => {
                let child = self.process();
                let id = json!({"pid": worker.0, "start_ns": worker.1});
                let spawn = json!({
                    "type": "spawn", "role": "descendant", "pid": child.0, "start_ns": child.1,
                    "source": "kernel", "worker": id, "comm": "python", "uid": 1000,
                    "parent": {"pid": worker.0, "start_ns": worker.1, "comm": "python",
                               "how": "fork"},
                });
                let exec = json!({
                    "type": "exec", "pid": child.0, "start_ns": child.1, "role": "descendant",
                    "is_worker": false, "comm": "sh", "argv0": "sh", "source": "kernel",
                });
                vec![spawn, exec, end(child, "descendant")]
            }
            2 => vec![json!({
                "type": "clients", "pid": self.gateway.0, "start_ns": self.gateway.1,
                "listening": 1, "connected": 1, "complete": true, "source": "proc",
                "connections": [{"id": 4711, "since_ns": 60 * S, "heard_ns": self.at}],
            })],
            3 => vec![json!({"type": "tick", "memory": memory()})],
            4 => vec![json!({"type": "tick"})],
            _ => vec![json!({
                "type": "sample", "pid": worker.0, "start_ns": worker.1, "state": "S",
                "rss_kib": 96_000 + turn % 512, "threads": 4, "syscr": turn, "reads": turn / 100,
                "stdin": {"state": "held",
                          "holder": {"pid": self.gateway.0, "start_ns": self.gateway.1}},
            })],
        }
    }

    fn session(&self, turn: u64) -> u64 {
        match self.history {
            History::Sessions | History::Gateways => turn,
            _ => turn % LIVE,
        }
    }

    fn process(&mut self) -> Process {
        // As pids are reused once the highest is reached, so here.
        self.pid = 1_000 + (self.pid + 1 - 1_000) % 30_000;
        (self.pid, self.at + 123)
    }

    fn spawn(&mut self, session: u64) -> Value {
        let worker = self.process();
        self.live.push((worker, session));
        let key = format!("20261122_{session:06}_abcdef");
        json!({
            "type": "spawn", "role": "worker", "pid": worker.0, "start_ns": worker.1,
            "source": "kernel", "comm": "python", "uid": 1000, "sid": 900,
            "parent": {"pid": self.gateway.0, "start_ns": self.gateway.1, "comm": "python",
                       "argv0": "~/v/bin/python", "how": "fork"},
            "argv": ["~/v/bin/python", "-m", "tui_gateway.slash_worker", "--session-key", key,
                     "--model", "dummy"],
            "argv_bytes": 110, "session": key, "model": "dummy",
        })
    }

    fn exit(&mut self, nth: usize) -> Value {
        end(self.live.remove(nth).0, "worker")
    }

    fn signal(&self, nth: usize) -> Value {
        let (worker, _) = self.live[nth];
        json!({
            "type": "signal", "pid": worker.0, "start_ns": worker.1, "role": "worker", "signal": 15,
            "name": "SIGTERM", "si_code": 0, "delivered": true,
            "sender": {"pid": self.gateway.0, "start_ns": self.gateway.1, "comm": "python",
                       "uid": 1000},
        })
    }
}

fn end(process: Process, role: &str) -> Value {
    json!({
        "type": "exit", "pid": process.0, "start_ns": process.1, "role": role, "code": 0,
        "source": "kernel",
    })
}

fn memory() -> Value {
    json!({
        "total_kib": 8_179_212, "available_kib": 4_000_000, "swap_total_kib": 2_097_148,
        "swap_free_kib": 2_000_000,
    })
}

fn start() -> Value {
    json!({
        "type": "start", "version": "0.1.0", "sensor": "ebpf", "capabilities": [],
        "host": {"kernel": "6.18.0", "arch": "x86_64", "cpus": 2, "memory": memory()},
        "calls_counted": false, "profile": Profile::hermes(),
        "limits": {"argv_searched_bytes": 1024, "ring_bytes": 1_048_576, "tracked_max": 16_384,
                   "sample_interval_ms": 2_000},
    })
}
