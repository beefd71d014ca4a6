use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Identity, Process, Source, Terminal};

/// Whether the master of a PTY is open.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TerminalState {
    /// Somebody holds the master.
    Opened,
    /// The last descriptor of the master was closed (`pty_close`, drivers/tty/pty.c). A slave that
    /// an orphan still holds does not keep it open.
    Closed,
}

/// A PTY that a tracked worker may belong to was seen open, changed, or was closed. The indices of
/// a devpts instance are reused: a terminal is the triple of instance, index and `opened_ns`.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct TerminalEvent {
    /// The devpts instance: `st_dev` of its mount, as stat(2) gives it.
    pub instance: u64,
    /// Index on that instance: 3 for /dev/pts/3.
    pub index: u32,
    /// When this opening of the index was first seen, ns of the boot clock. Not later than the
    /// first record that names the terminal; earlier ones of the same index are other terminals.
    pub opened_ns: u64,
    /// Whether it is open now.
    pub state: TerminalState,
    /// How this was observed; `inotify` and `kernel` tell the moment.
    pub source: Source,
    /// The user whose terminal it is: the owner of its node (devpts(5)). What its processes say of a
    /// session counts for that user's workers; root's counts for everybody's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// A process that holds the master (`tty-index` in its fdinfo, proc_pid_fdinfo(5)).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub master: Option<Process>,
    /// The session leader that has it as controlling terminal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<Process>,
    /// Processes that have, or at its close had, it as controlling terminal.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub processes: Vec<Identity>,
    /// The session that the terminal's process names in the file that the profile says
    /// (`HERMES_TUI_ACTIVE_SESSION_FILE`), escaped. A fresh session's file names an internal id
    /// that is no session key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// When that file was written last (its mtime), ns of the boot clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_ns: Option<u64>,
    /// The session that its process was started to show, by the environment variable that the
    /// profile names (`HERMES_TUI_RESUME`), escaped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resumes: Option<String>,
    /// Local TCP ports of its processes' connections to the process that holds the master.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<u16>,
    /// Who closed it, where the kernel told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closer: Option<Process>,
}

impl TerminalEvent {
    /// Its place, which later terminals will have too.
    pub fn place(&self) -> Terminal {
        Terminal { instance: Some(self.instance), index: self.index }
    }
}

/// Which clients are connected to a gateway. Written when they changed, and at a worker's spawn.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Clients {
    /// Thread group id of the gateway.
    pub pid: u32,
    /// Its start time, ns of the boot clock.
    pub start_ns: u64,
    /// Sockets on which it listens (TCP and Unix). A gateway without any is spoken to in another
    /// way (pipes), and says nothing by having no client.
    pub listening: u32,
    /// Established connections that were accepted on them.
    pub connected: u32,
    /// These connections, as far as they are told apart: at most 256, by socket.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub connections: Vec<Connection>,
    /// Established connections that it opened itself, to processes outside its own tree: what it
    /// is asked may come in by these.
    #[serde(default, skip_serializing_if = "super::observation::is_zero")]
    pub outbound: u32,
    /// Whether every socket could be looked at.
    pub complete: bool,
    /// How this was observed.
    pub source: Source,
}

/// A connection to a gateway.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Connection {
    /// Inode of the gateway's socket: the same as long as it is connected.
    pub id: u64,
    /// When it was first seen, ns of the boot clock: up to a round of samples after it was opened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_ns: Option<u64>,
    /// When the gateway last received something on it, or else when it was opened, ns of the boot clock, to the millisecond
    /// (`tcpi_last_data_recv`); absent where that is not known. Not told anew when it moved alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heard_ns: Option<u64>,
    /// TCP port of the other end, as in `reply` records; absent for Unix sockets and in recordings of
    /// earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

impl Clients {
    /// The gateway.
    pub fn identity(&self) -> Identity {
        Identity { pid: self.pid, start_ns: self.start_ns }
    }
}
