use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Identity;

/// Which thread of its gateway forked a worker, and where that thread came from. Kernel programs
/// only, and only for gateways that serve many terminals from one process.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct ForkingThread {
    /// Thread id of the forker.
    pub tid: u32,
    /// How it came to be, nearest first: who cloned it, who cloned that one, and so on, at most
    /// four. Empty or short where a thread is older than the tracing of its gateway.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub clones: Vec<ThreadClone>,
}

/// A thread that was cloned (`CLONE_THREAD`).
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct ThreadClone {
    /// Thread id of the one that cloned it.
    pub by: u32,
    /// When, ns of the boot clock.
    pub at_ns: u64,
    /// When its creator woke the event loop next (its first one-byte message on a socket without a
    /// port), ns of the boot clock: the reply to whatever it was asked. Absent where that was not
    /// seen, as on kernels without `sock_send_length`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replied_ns: Option<u64>,
}

/// What ended the time in which a gateway's messages are taken for the reply of a thread.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReplyEnd {
    /// The thread exited.
    Exit,
    /// It woke the event loop again.
    Wake,
    /// As much time passed as is waited for.
    Time,
}

/// What a gateway sent right after a thread that had forked a worker woke its event loop: among it
/// is that thread's reply to the client that the worker is for.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Reply {
    /// Thread group id of the gateway.
    pub pid: u32,
    /// Its start time, ns of the boot clock.
    pub start_ns: u64,
    /// The worker that the thread had forked last.
    pub worker: Identity,
    /// Thread id of the thread.
    pub tid: u32,
    /// When it woke the event loop, ns of the boot clock.
    pub from_ns: u64,
    /// When that ended, ns of the boot clock.
    pub until_ns: u64,
    /// What ended it.
    pub ended: ReplyEnd,
    /// Connections to the gateway's listening port on which it sent something meanwhile, in order
    /// of the first message on each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sent: Vec<Sent>,
    /// Whether these are all.
    pub complete: bool,
}

impl Reply {
    /// The gateway.
    pub fn identity(&self) -> Identity {
        Identity { pid: self.pid, start_ns: self.start_ns }
    }
}

/// A message on a connection.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Sent {
    /// TCP port of the other end.
    pub port: u16,
    /// When the first message was sent on it, ns of the boot clock.
    pub at_ns: u64,
}
