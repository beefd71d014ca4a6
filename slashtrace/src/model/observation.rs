use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;

use super::{ForkingThread, Identity, Mode};
use crate::profile::Profile;

/// Which sensor set is in use for a recording.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SensorKind {
    /// Kernel programs, /proc snapshot and periodic samples.
    Ebpf,
    /// /proc alone, read every interval: needs no privilege and sees less.
    Poll,
}

/// How one observation was made.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// A kernel program saw it happen.
    Kernel,
    /// Read from /proc: at the start, in a sample, or in a resync after loss.
    Proc,
    /// The kernel's inotify told it at that moment (inotify(7)).
    Inotify,
    /// Inferred by the poll sensor from two readings of /proc; the moment is that of the reading.
    Poll,
}

/// What a tracked process is to us.
#[derive(
    Clone, Copy, Debug, Deserialize, Eq, Hash, IntoStaticStr, JsonSchema, PartialEq, Serialize,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Role {
    /// Matched by the profile's worker rule.
    Worker,
    /// Descends from a worker (an MCP server it started, for instance).
    Descendant,
    /// Forked a worker.
    Gateway,
    /// Above a gateway, up to its session leader.
    Ancestor,
}

/// How a worker's parent is known; decides whether it may be called its gateway.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ParentSource {
    /// The kernel saw this thread group call fork/vfork/clone.
    Fork,
    /// `task_struct.real_parent` at the moment of the worker's exec.
    Exec,
    /// Read from /proc later: the *current* parent, which may have adopted the worker.
    Proc,
}

impl Role {
    /// The name in the format.
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// A process as far as it may be shown: default-deny, secrets never get here.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Process {
    /// Thread group id.
    pub pid: u32,
    /// Start time, ns of the boot clock.
    pub start_ns: u64,
    /// `task_struct.comm`, escaped where it is not printable UTF-8.
    pub comm: String,
    /// First token of its argv with the home folder masked; absent where it could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub argv0: Option<String>,
    /// What it is known as if it only starts another program and waits for it: `sh -c`, `npm exec`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launcher: Option<String>,
}

impl Process {
    /// The identity of this process.
    pub fn identity(&self) -> Identity {
        Identity { pid: self.pid, start_ns: self.start_ns }
    }
}

/// The thread group that forked a worker, and how that is known.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Parent {
    /// The parent itself.
    #[serde(flatten)]
    pub process: Process,
    /// How it is known.
    pub how: ParentSource,
    /// Whether it had already ended when this was observed (it died between fork and exec).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub gone: bool,
    /// Whether it is a reaper that adopts orphans (pid 1 of its pid namespace, or a child
    /// subreaper): with `how: proc`, such a parent proves nothing about who forked the worker.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reaper: bool,
    /// Who forked this parent in turn, where the kernel saw that: the gateway, if the parent only
    /// passed through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forker: Option<Process>,
    /// Whether it had executed no program of its own since it was forked (`PF_FORKNOEXEC`,
    /// include/linux/sched.h).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub forked_only: bool,
}

/// A controlling terminal.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
pub struct Terminal {
    /// The devpts instance that the index belongs to: `st_dev` of its mount; absent where it could
    /// not be read. Containers have instances of their own, with the same indices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<u64>,
    /// Index on its devpts instance: 3 for /dev/pts/3.
    pub index: u32,
}

/// A tracked process came to be: a worker executed, or a process forked below one.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Spawn {
    /// `worker` or `descendant`.
    pub role: Role,
    /// Thread group id.
    pub pid: u32,
    /// Start time, ns of the boot clock.
    pub start_ns: u64,
    /// How this was observed.
    pub source: Source,
    /// True for a process that was there before the sensor watched (or that a resync found):
    /// who forked it is unknown, `parent` is only who has it now.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub inherited: bool,
    /// The thread group that forked it; for a descendant, the process above it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Parent>,
    /// Processes above `parent`, nearest first, up to and including the session leader.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ancestors: Vec<Process>,
    /// The nearest process above that opens terminals for sessions (workers with a terminal only):
    /// it runs the program of `parent`, and its argv has the tokens that the profile names. Often
    /// it is the one that forked the session leader; in hermes-agent it is the dashboard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opener: Option<Process>,
    /// The worker this descends from (descendants only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<Identity>,
    /// `task_struct.comm`, escaped.
    pub comm: String,
    /// Real user id.
    pub uid: u32,
    /// Session id (`setsid(2)`) in the initial pid namespace; 0 if unknown.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub sid: u32,
    /// argv tokens, escaped and masked; empty for a descendant that has not executed yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub argv: Vec<String>,
    /// True length of the argument area in bytes (`mm->arg_end - mm->arg_start`).
    #[serde(default, skip_serializing_if = "is_zero_u64")]
    pub argv_bytes: u64,
    /// Whether `argv` is only the beginning.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub argv_truncated: bool,
    /// The session key in argv (workers only), escaped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// The model in argv (workers only), escaped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Its controlling terminal, or else its parent's or its parent's session leader's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminal: Option<Terminal>,
    /// The profile's name for it if it is a known helper (descendants only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub helper: Option<String>,
    /// The thread that forked it (workers of gateways that serve several terminals only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thread: Option<ForkingThread>,
    /// Name of the worker rule that it matched, where the profile has several (workers only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
}

impl Spawn {
    /// The identity of the spawned process.
    pub fn identity(&self) -> Identity {
        Identity { pid: self.pid, start_ns: self.start_ns }
    }
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde's skip_serializing_if passes a reference"
)]
pub(crate) fn is_zero(n: &u32) -> bool {
    *n == 0
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde's skip_serializing_if passes a reference"
)]
fn is_zero_u64(n: &u64) -> bool {
    *n == 0
}

/// A tracked process executed another program: it keeps its identity.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Exec {
    /// Thread group id.
    pub pid: u32,
    /// Start time, ns of the boot clock.
    pub start_ns: u64,
    /// What it was to us before this exec.
    pub role: Role,
    /// Whether its new argv matches the worker rule.
    pub is_worker: bool,
    /// New `comm`, escaped.
    pub comm: String,
    /// First token of the new argv, home masked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub argv0: Option<String>,
    /// The profile's name for it if it is a known helper.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub helper: Option<String>,
    /// How this was observed.
    pub source: Source,
}

impl Exec {
    /// The identity of the process.
    pub fn identity(&self) -> Identity {
        Identity { pid: self.pid, start_ns: self.start_ns }
    }
}

/// A tracked thread group ended (its last thread, not just one of them).
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Exit {
    /// Thread group id.
    pub pid: u32,
    /// Start time, ns of the boot clock.
    pub start_ns: u64,
    /// What it was to us.
    pub role: Role,
    /// Exit code, 0–255; absent if a signal ended it or if it is unknown (`source` not kernel).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<u8>,
    /// The signal that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<u8>,
    /// Reads of its stdin that returned data, over its whole life; only with counted calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reads: Option<u64>,
    /// How this was observed; unless `kernel`, the time is when it was missed.
    pub source: Source,
}

impl Exit {
    /// The identity of the process.
    pub fn identity(&self) -> Identity {
        Identity { pid: self.pid, start_ns: self.start_ns }
    }
}

/// Who sent a signal.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Sender {
    /// Thread group id of the sender.
    pub pid: u32,
    /// Start time, ns of the boot clock.
    pub start_ns: u64,
    /// Its `comm`, escaped.
    pub comm: String,
    /// Its real user id.
    pub uid: u32,
}

/// A signal was generated for a tracked process (tracepoint `signal:signal_generate`).
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Signal {
    /// Thread group id of the target.
    pub pid: u32,
    /// Start time of the target, ns of the boot clock.
    pub start_ns: u64,
    /// What the target was to us.
    pub role: Role,
    /// Signal number.
    pub signal: u8,
    /// Its name: `SIGTERM`.
    pub name: String,
    /// `si_code`: 0 `SI_USER`, -6 `SI_TKILL`, 128 `SI_KERNEL`, … (sigaction(2)).
    pub si_code: i32,
    /// Whether it was delivered rather than ignored or already pending.
    pub delivered: bool,
    /// Who sent it; absent if the kernel itself did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sender: Option<Sender>,
    /// The kernel sent it because the sender, its parent, ended: the target had asked for it
    /// (`PR_SET_PDEATHSIG`, prctl(2)).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub parent_ended: bool,
    /// Where it stands for several signals of this number from one user, which were only counted
    /// because there were so many: how many. The sender and `si_code` are the first one's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u32>,
    /// When the first of them was sent, ns of the boot clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_ns: Option<u64>,
    /// When the last of them was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_ns: Option<u64>,
}

impl Signal {
    /// The identity of the target.
    pub fn identity(&self) -> Identity {
        Identity { pid: self.pid, start_ns: self.start_ns }
    }
}

/// Whether anybody can still write to a worker's stdin.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum StdinState {
    /// Another process holds the write end.
    Held,
    /// Every process was looked at and none other holds the write end.
    Unheld,
    /// Only other workers hold the write end: they inherited it when they were forked, and nobody
    /// means to use it.
    Inherited,
    /// Not a pipe or socket, or not every process could be looked at.
    Unknown,
}

/// Whether anybody reads what a worker writes.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OutputState {
    /// A process outside its own tree holds the other end.
    Read,
    /// Every process was looked at and none outside its own tree holds the other end.
    Unread,
    /// It is its gateway's own output (a log), or has no other end (a file, `/dev/null`), or not
    /// every process could be looked at.
    Unknown,
}

/// The other end of a worker's stdout.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct OutputPeer {
    /// What it is.
    pub kind: EndKind,
    /// What is known of the other end.
    pub state: OutputState,
    /// A process that holds the other end, if one was found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reader: Option<Identity>,
}

/// Sockets by which a worker itself may be spoken to. Its stdin and stdout are not among them, nor
/// are connections within its own tree.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Sockets {
    /// Sockets on which it listens (TCP and Unix).
    pub listening: u32,
    /// Established connections, whoever opened them.
    pub connected: u32,
    /// Whether every socket could be looked at.
    pub complete: bool,
}

/// What a descriptor of a worker is open on.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndKind {
    /// One end of an anonymous pipe.
    Pipe,
    /// A Unix socket with a peer, as socketpair(2) makes them: what Node.js calls a pipe.
    Socket,
    /// `/dev/null`.
    Null,
    /// A terminal.
    Terminal,
    /// A file, a named pipe, or anything else that has a path.
    File,
    /// The descriptor is closed.
    Closed,
    /// Another kind of descriptor.
    Other,
}

/// The other end of a worker's stdin.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct StdinPeer {
    /// What it is; absent in evidence of 0.1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<EndKind>,
    /// What is known of it.
    pub state: StdinState,
    /// A process that holds the write end, if one was found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<Identity>,
}

/// What a tracked process looked like at one moment. Written when something in it changed; a
/// field that was not read this time is absent and keeps its last value.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Sample {
    /// Thread group id.
    pub pid: u32,
    /// Start time, ns of the boot clock.
    pub start_ns: u64,
    /// State letter of /proc/PID/stat: `S`, `R`, `D`, `T`, `Z`; `X` once a zombie was reaped.
    pub state: char,
    /// Resident set, KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rss_kib: Option<u64>,
    /// Resident sets of what only launched it and waits for it (`npm exec`, `sh -c`), KiB in all: they
    /// and it are one worker. Read seldom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launchers_rss_kib: Option<u64>,
    /// Proportional set, KiB (/proc/PID/smaps_rollup; read seldom because it is costly).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pss_kib: Option<u64>,
    /// Number of threads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads: Option<u32>,
    /// Read system calls of the whole process so far (/proc/PID/io `syscr`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub syscr: Option<u64>,
    /// Reads of its stdin that returned data so far, counted in the kernel (`--count-calls`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reads: Option<u64>,
    /// The other end of its stdin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin: Option<StdinPeer>,
    /// The other end of its stdout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<OutputPeer>,
    /// Its own sockets; absent where the profile says that it is spoken to by its stdin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sockets: Option<Sockets>,
    /// That it was seen waiting for its stdin (/proc/PID/syscall shows a read of descriptor 0): it
    /// has started. Written once.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub waits: bool,
    /// That `stdin` or `output` is `unknown` because processes that may have the other end were not
    /// read: their user's take longer to read than one user's may.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub over_budget: bool,
    /// CPU time of it and of all that descends from it so far, ms. Written when it rose by more
    /// than 1/200 of the time that passed: less than that is upkeep.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_ms: Option<u64>,
    /// Read system calls of what descends from it so far; processes that have ended included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub syscr_below: Option<u64>,
}

impl Sample {
    /// The identity of the sampled process.
    pub fn identity(&self) -> Identity {
        Identity { pid: self.pid, start_ns: self.start_ns }
    }
}

/// The machine's memory (/proc/meminfo).
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Memory {
    /// `MemTotal`, KiB.
    pub total_kib: u64,
    /// `MemAvailable`, KiB.
    pub available_kib: u64,
    /// `SwapTotal`, KiB.
    pub swap_total_kib: u64,
    /// `SwapFree`, KiB.
    pub swap_free_kib: u64,
}

/// The sensor's clock: time passed. The engine has no clock of its own, so the ticks that it was
/// given are evidence like everything else it used.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Tick {
    /// The machine's memory at that moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Memory>,
}

/// Why something was missed.
#[derive(
    Clone, Copy, Debug, Deserialize, Eq, Hash, IntoStaticStr, JsonSchema, PartialEq, Serialize,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum GapReason {
    /// The ring buffer was full when a record was to be written.
    RingFull,
    /// The map of tracked processes was full.
    MapFull,
    /// A user's processes, or a worker's, have their share of the map of tracked processes: more of
    /// them are not tracked. Nobody else's are concerned.
    ShareFull,
    /// A kernel program could not read an argument area or a task field.
    ReadFailed,
    /// A kernel program was skipped because it already ran on that CPU
    /// (`recursion_misses` of bpf(2)'s program info).
    ProgramMissed,
    /// The kernel says it submitted more records than were read.
    Unread,
    /// A record could not be decoded.
    Undecodable,
    /// The queue of an inotify watch overflowed (inotify(7), `IN_Q_OVERFLOW`).
    QueueFull,
    /// As many instances of devpts are watched as may be, for all or for one user: of terminals on
    /// another one nothing is known.
    TerminalsUnwatched,
    /// The argument area was longer than what is searched, so a worker may have been overlooked.
    ArgvNotSearched,
    /// Nobody watched: slashtrace had ended, and was started again. Who came and went meanwhile is
    /// not known, and not counted in `lost`.
    NotWatched,
    /// Records could not be written for longer than they could be held: `lost` of them are missing
    /// right before this one, and `seq` goes on after them.
    NotWritten,
    /// A user's processes made more evidence than they may within a minute: births of workers or of
    /// what descends from them, or what was seen of terminals and clients, are not recorded.
    QuotaFull,
    /// The same of news alone, on which no finding rests: samples that became one with a later one of
    /// the same process, signals, and programs that descendants executed.
    QuotaNews,
}

impl GapReason {
    /// The name in the format.
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// Whether it was seen, and is not recorded because there was too much of one user's.
    pub const fn is_quota(self) -> bool {
        matches!(self, Self::QuotaFull | Self::QuotaNews)
    }
}

/// Something was not seen. A resync from /proc follows it.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Gap {
    /// Why.
    pub reason: GapReason,
    /// How many events, as far as is known.
    pub lost: u64,
    /// Whether the state was read again from /proc (false for reasons that cannot hide a worker).
    pub resynced: bool,
    /// The user whose records they were (`quota-full` and `quota-news`), a real user id; absent where
    /// that is nobody in particular.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
}

/// The machine that was observed. Names of people and hosts are left out.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Host {
    /// Distribution and its version, `debian 12`, where os-release(5) says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distribution: Option<String>,
    /// Kernel release (`uname -r`).
    pub kernel: String,
    /// Architecture (`uname -m`).
    pub arch: String,
    /// CPUs online.
    pub cpus: u32,
    /// Memory at the start.
    pub memory: Memory,
}

/// Name of the capability of a sensor set that looks at every way in which a worker is used, not
/// only at its stdin. Recordings without it are judged as they were when they were made.
pub const USE_CAPABILITY: &str = "use-of-workers";

/// One thing a sensor set can or cannot do here.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Capability {
    /// Its name: `sched_process_exec`, `count-calls`, `stdin-peer`.
    pub name: String,
    /// Whether it works.
    pub ok: bool,
    /// How it is done, or why not.
    pub detail: String,
}

/// Bounds within which the recording is complete.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Limits {
    /// Bytes of argv that are searched for a worker's tokens.
    pub argv_searched_bytes: u32,
    /// Size of the ring buffer, bytes; 0 without kernel programs.
    pub ring_bytes: u32,
    /// Processes that can be tracked at once.
    pub tracked_max: u32,
    /// Interval between samples, ms.
    pub sample_interval_ms: u64,
}

/// First record of every evidence file: what was observed, with what, and by which rules.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Start {
    /// Version of slashtrace that wrote the file.
    pub version: String,
    /// The commit that it was built of, `-modified` after it where its tree was not that commit's;
    /// absent in builds for development.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// The machine.
    pub host: Host,
    /// The sensor set in use.
    pub sensor: SensorKind,
    /// What each part of it can do here.
    pub capabilities: Vec<Capability>,
    /// Whether calls are counted exactly.
    pub calls_counted: bool,
    /// The profile, whole: replay needs no other file.
    pub profile: Profile,
    /// Bounds.
    pub limits: Limits,
    /// What the reaper may do; absent where there is none (`observe`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reaping: Option<Reaping>,
    /// The file was begun anew in the middle of a recording (SIGHUP, log rotation): what came before
    /// is in an earlier file. `seq` is then that of the last record before it, and findings are not
    /// judged again but taken as they are, for they rest on records that are not here.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub continued: bool,
    /// The recording goes on where an earlier one of the same folder ended: `seq` goes on, and a
    /// `checkpoint` says what is known from then. Findings are judged again from here.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub resumed: bool,
    /// Which session keys have pseudonyms (`hidden` that look like a secret, or `every`), and by what:
    /// where this is the same, a session has the same name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pseudonyms: Option<String>,
    /// The machine's boot, as /proc/sys/kernel/random/boot_id names it: times in ns of the boot clock,
    /// and processes, are those of this boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
}

/// What the reaper may do in a recording.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Reaping {
    /// Whether it says what it would do, or does it.
    pub mode: Mode,
    /// Findings that justify ending a worker: `KIND=CONFIDENCE`, at least.
    pub triggers: Vec<String>,
    /// Workers younger than this are left alone, ms.
    pub min_age_ms: u64,
    /// Workers ended within a minute at most.
    pub budget_per_minute: u32,
    /// Time between SIGTERM and SIGKILL, ms.
    pub term_grace_ms: u64,
}

/// Last record of a recording that ended in order.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Stop {
    /// Why it ended: `interrupted`, `duration`, `command-exited`, …
    pub reason: String,
    /// Counters of the sensors, by name (`seen`, `matched`, `submitted`, `ring-full`, …).
    #[serde(default)]
    pub counters: BTreeMap<String, u64>,
    /// Whether nothing is known to be missing.
    pub complete: bool,
}
