use std::{
    fs,
    hash::{BuildHasher as _, RandomState},
    io::Write as _,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    path::PathBuf,
};

use anyhow::{Context as _, Result, anyhow, bail};
use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Array, HashMap, MapData, PerCpuArray, RingBuf},
    programs::{BtfTracePoint, ProgramError},
};
use aya_log::EbpfLogger;
use slashtrace_ebpf::{
    Counter, FIELD_COUNT, FLAT_PORTS, Field, FlatGateway, SIGNALLED_MAX, SignalBurst, SignalKey,
    TerminalKey, UNKNOWN_OFFSET, gateway_bit,
};

use super::{
    btf::{Btf, VMLINUX_BTF},
    optional::{
        COUNT_CALLS, CallHook, TERMINAL, TerminalHook, attach_call_hook, attach_terminal_hook,
    },
    replies::{REPLIES, ReplyHook},
    rule::Rule,
    tables::Tables,
};
use crate::{model::Capability, sensor::TerminalChoice};

static PROBES: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/probes"));

/// The hooks without which nothing can be seen, in the order in which they are attached: the end
/// of a process is watched before its birth.
const HOOKS: [&str; 4] =
    ["sched_process_exit", "sched_process_fork", "signal_generate", "sched_process_exec"];

/// Names of the hooks that are always in use.
pub fn hooks() -> impl Iterator<Item = &'static str> {
    HOOKS.into_iter()
}

/// A map key that may be written as bytes.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct SignalSort(SignalKey);

// SAFETY: `SignalKey` is `repr(C)`, of integers, and without padding.
unsafe impl Pod for SignalSort {}

/// A map value that may be written as bytes.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct BurstValue(SignalBurst);

// SAFETY: `SignalBurst` is `repr(C)`, of integers and bytes, and without padding.
unsafe impl Pod for BurstValue {}

/// A map key that may be written as bytes.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct TerminalPlace(TerminalKey);

// SAFETY: `TerminalKey` is `repr(C)`, of integers, and without padding.
unsafe impl Pod for TerminalPlace {}

/// A map value that may be written as bytes.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct GatewayValue(FlatGateway);

// SAFETY: `FlatGateway` is `repr(C)`, of integers, and without padding.
unsafe impl Pod for GatewayValue {}

/// The loaded and attached programs. Dropping it detaches them.
pub struct Object {
    /// Keeps programs and links alive.
    ebpf: Ebpf,
    events: Option<RingBuf<MapData>>,
    /// Log lines from the programs, if asked for.
    pub log: Option<EbpfLogger<StderrLog>>,
    /// Who is tracked.
    pub tables: Tables,
    signalled: HashMap<MapData, SignalSort, BurstValue>,
    terminals: HashMap<MapData, TerminalPlace, u32>,
    gateway_bits: Array<MapData, u64>,
    gateways: HashMap<MapData, u32, GatewayValue>,
    /// What the replies of gateways are seen by.
    pub reply_hook: ReplyHook,
    reply_program: Option<OwnedFd>,
    counters: PerCpuArray<MapData, [u64; Counter::ALL.len()]>,
    /// What the end of a terminal is told by.
    pub terminal_hook: TerminalHook,
    /// What calls are counted by, if they are.
    pub call_hook: Option<CallHook>,
    /// Descriptors of the programs, for the kernel's own count of skipped runs.
    programs: Vec<OwnedFd>,
}

impl std::fmt::Debug for Object {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Object").field("programs", &self.programs.len()).finish_non_exhaustive()
    }
}

impl Object {
    /// Loads the programs with this rule and attaches them; with `count_calls` also the cheapest
    /// hook that counts calls. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// If BTF is missing, a field is unknown, or the kernel refuses something. What the verifier
    /// says goes to a file that the error names.
    pub fn load(
        rule: &Rule,
        count_calls: bool,
        terminal: TerminalChoice,
        log: bool,
    ) -> Result<Self> {
        let spread = draw_spread();
        let mut ebpf = create(rule, log, &kernel_layout()?, spread)?;
        let btf = aya::Btf::from_sys_fs().context("cannot parse the kernel's BTF")?;
        for hook in HOOKS {
            load_hook(&mut ebpf, hook, &btf)?;
        }
        let log = log.then(|| EbpfLogger::init_with_logger(&mut ebpf, StderrLog)).transpose()?;
        let mut programs = Vec::new();
        for hook in HOOKS {
            let program = hook_mut(&mut ebpf, hook)?;
            program.attach().with_context(|| format!("the kernel refused to attach {hook}"))?;
            programs.push(program.fd()?.as_fd().try_clone_to_owned()?);
        }
        let mut call_hook = None;
        if count_calls {
            let (hook, program) = attach_call_hook(&mut ebpf, &btf)?;
            call_hook = Some(hook);
            programs.push(program);
        }
        let (terminal_hook, program) = attach_terminal_hook(&mut ebpf, &btf, terminal)?;
        programs.extend(program);
        let (reply_hook, reply_program) = ReplyHook::load(&mut ebpf, &btf)?;
        drop(btf);
        let events = Some(RingBuf::try_from(take(&mut ebpf, "EVENTS")?)?);
        Ok(Self {
            events,
            log,
            tables: Tables::take(&mut ebpf, spread)?,
            signalled: HashMap::try_from(take(&mut ebpf, "SIGNALLED")?)?,
            terminals: HashMap::try_from(take(&mut ebpf, "TERMINALS")?)?,
            gateway_bits: Array::try_from(take(&mut ebpf, "GATEWAY_BITS")?)?,
            gateways: HashMap::try_from(take(&mut ebpf, "GATEWAYS")?)?,
            reply_hook,
            reply_program,
            counters: PerCpuArray::try_from(take(&mut ebpf, "COUNTERS")?)?,
            terminal_hook,
            call_hook,
            programs,
            ebpf,
        })
    }

    /// The ring buffer with the records of the programs; none the second time.
    pub fn take_events(&mut self) -> Option<RingBuf<MapData>> {
        self.events.take()
    }

    /// Takes out the signals that the kernel has only counted.
    pub fn held_signals(&mut self) -> Vec<(SignalKey, SignalBurst)> {
        // Where keys come and go all the time the kernel begins anew: an end is put to that.
        let most = 2 * SIGNALLED_MAX as usize;
        let keys: Vec<SignalSort> =
            self.signalled.keys().filter_map(Result::ok).take(most).collect();
        let mut held = Vec::new();
        for key in keys {
            let Ok(BurstValue(burst)) = self.signalled.get(&key, 0) else { continue };
            // What is sent between the two calls is in the counter of all such signals alone.
            if burst.held > 0 && self.signalled.remove(&key).is_ok() {
                held.push((key.0, burst));
            }
        }
        held
    }

    /// Has the kernel tell of the end of a terminal. Where its map is full, inotify does all the
    /// same.
    pub fn watch_terminal(&mut self, terminal: TerminalKey) {
        if !matches!(self.terminal_hook, TerminalHook::Inotify { .. }) {
            drop(self.terminals.insert(TerminalPlace(terminal), 0, 0));
        }
    }

    /// Has the kernel forget a terminal.
    pub fn forget_terminal(&mut self, terminal: TerminalKey) {
        // It may have been forgotten at its end.
        if !matches!(self.terminal_hook, TerminalHook::Inotify { .. }) {
            drop(self.terminals.remove(&TerminalPlace(terminal)));
        }
    }

    /// Has the kernel look at the threads and messages of a gateway that serves several terminals. The
    /// hook for messages is attached while there is one.
    ///
    /// # Errors
    /// If the map is full, or the hook cannot be attached.
    pub fn watch_gateway(&mut self, pid: u32, ports: &[u16]) -> Result<()> {
        let mut value =
            FlatGateway { open_until_ns: 0, ports: [0; FLAT_PORTS], budget: 0, reserved: 0 };
        value.ports.iter_mut().zip(ports).for_each(|(slot, port)| *slot = *port);
        self.gateways
            .insert(pid, GatewayValue(value), 0)
            .context("the map of gateways that serve several terminals is full")?;
        self.renew_gateway_bits()?;
        self.reply_hook.attach(&mut self.ebpf)
    }

    /// Has the kernel forget such a gateway.
    ///
    /// # Errors
    /// If the hook cannot be detached.
    pub fn forget_gateway(&mut self, pid: u32) -> Result<()> {
        // It may never have been known.
        drop(self.gateways.remove(&pid));
        if self.renew_gateway_bits()? == 0 {
            self.reply_hook.detach(&mut self.ebpf)?;
        }
        Ok(())
    }

    fn renew_gateway_bits(&mut self) -> Result<u64> {
        let bits = self.gateways.keys().flatten().fold(0, |bits, pid| bits | gateway_bit(pid));
        self.gateway_bits.set(0, bits, 0)?;
        Ok(bits)
    }

    /// The counters, summed over the CPUs.
    pub fn counters(&self) -> Result<[u64; Counter::ALL.len()]> {
        let mut sums = [0u64; Counter::ALL.len()];
        for of_cpu in self.counters.get(&0, 0)?.iter() {
            for (sum, count) in sums.iter_mut().zip(of_cpu) {
                *sum += count;
            }
        }
        Ok(sums)
    }

    /// The same of the hook for replies: it runs for every message of the machine, and one that is
    /// skipped hides no process.
    pub fn missed_messages(&self) -> u64 {
        self.reply_program.as_ref().and_then(|fd| recursion_misses(fd.as_fd())).unwrap_or(0)
    }

    /// Runs of the programs that the kernel skipped because the same program was already running
    /// on that CPU (`recursion_misses` in fdinfo, kernel/bpf/syscall.c, since 5.12).
    pub fn missed_runs(&self) -> u64 {
        self.programs.iter().filter_map(|fd| recursion_misses(fd.as_fd())).sum()
    }
}

/// An odd number that nobody outside knows.
fn draw_spread() -> u32 {
    // Keyed at random (`RandomState`).
    RandomState::new().hash_one(0) as u32 | 1
}

fn recursion_misses(program: BorrowedFd<'_>) -> Option<u64> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", program.as_raw_fd())).ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("recursion_misses:"))?;
    line.trim().parse().ok()
}

/// Creates the maps and fills what the programs only read.
fn create(rule: &Rule, log: bool, layout: &Layout, spread: u32) -> Result<Ebpf> {
    let log_flag = u32::from(log);
    let syscall_read = libc::SYS_read as u64;
    let (by_tokens, by_program) = (u32::from(rule.by_tokens), u32::from(rule.by_program));
    let mut ebpf = EbpfLoader::new()
        .override_global("OFFSETS", &layout.offsets, true)
        .override_global("PIDTYPE_SID", &layout.pidtype_sid, true)
        .override_global("WORD_FILTER", &rule.word_filter, true)
        .override_global("TAIL_FILTER", &rule.tail_filter, true)
        .override_global("BY_TOKENS", &by_tokens, true)
        .override_global("BY_PROGRAM", &by_program, true)
        .override_global("RULE_STARTS", &rule.starts, true)
        .override_global("RULE_ENDS", &rule.ends, true)
        .override_global("ARGV_MIN", &rule.argv_min, true)
        .override_global("SYSCALL_READ", &syscall_read, true)
        .override_global("SHARE_SPREAD", &spread, true)
        .override_global("LOG", &log_flag, true)
        .load(PROBES)
        .context("the kernel refused the maps of the kernel programs")?;
    let mut tokens: HashMap<_, u64, u64> =
        HashMap::try_from(ebpf.map_mut("RULE_TOKENS").context("the object has no RULE_TOKENS")?)?;
    for (hash, places) in &rule.tokens {
        tokens.insert(hash, places, 0)?;
    }
    Ok(ebpf)
}

/// What the programs must know of the running kernel's structures.
struct Layout {
    /// Offsets of the fields that they read, by [`Field`].
    offsets: [u32; FIELD_COUNT],
    /// `PIDTYPE_SID` of `enum pid_type`.
    pidtype_sid: u32,
}

/// Looks the layout up in the kernel's BTF.
fn kernel_layout() -> Result<Layout> {
    let data = fs::read(VMLINUX_BTF).with_context(|| {
        format!("cannot read {VMLINUX_BTF}: this kernel was built without CONFIG_DEBUG_INFO_BTF")
    })?;
    let btf = Btf::parse(&data).with_context(|| format!("cannot parse {VMLINUX_BTF}"))?;
    let mut offsets = [UNKNOWN_OFFSET; FIELD_COUNT];
    for &field in Field::ALL {
        let (strukt, member) = field.location();
        match btf.member_offset(strukt, member)? {
            Some(offset) => offsets[field as usize] = offset,
            // Only for counting calls, and only on x86-64; it is not loaded elsewhere.
            None if strukt == "pt_regs" => offsets[field as usize] = 0,
            None => bail!("this kernel's {strukt} has no member {member}"),
        }
    }
    let pidtype_sid = btf.enumerator("PIDTYPE_SID")?.context("this kernel has no PIDTYPE_SID")?;
    Ok(Layout { offsets, pidtype_sid })
}

pub fn hook_mut<'a>(ebpf: &'a mut Ebpf, hook: &str) -> Result<&'a mut BtfTracePoint> {
    let program = ebpf.program_mut(hook).with_context(|| format!("the object has no {hook}"))?;
    Ok(program.try_into()?)
}

pub fn load_hook(ebpf: &mut Ebpf, hook: &str, btf: &aya::Btf) -> Result<()> {
    hook_mut(ebpf, hook)?.load(hook, btf).map_err(|error| explain(hook, error))
}

/// Puts what the verifier said into a file; it is too long for a terminal.
pub fn explain(hook: &str, error: ProgramError) -> anyhow::Error {
    let ProgramError::LoadError { io_error, verifier_log } = error else {
        return anyhow::Error::new(error).context(format!("cannot load {hook}"));
    };
    let reason = match io_error.raw_os_error() {
        Some(libc::EPERM) => "the kernel refused it (needs root, or CAP_BPF and CAP_PERFMON)",
        _ => "the kernel's verifier refused it",
    };
    let error = anyhow!("cannot load {hook}: {reason}: {io_error}");
    match save_verifier_log(hook, &verifier_log.to_string()) {
        Ok(path) => error.context(format!("what the verifier said is in {}", path.display())),
        Err(failed) => error.context(format!("what the verifier said could not be kept: {failed}")),
    }
}

fn save_verifier_log(hook: &str, text: &str) -> Result<PathBuf> {
    if text.trim().is_empty() {
        bail!("it said nothing");
    }
    let mut file = tempfile::Builder::new()
        .prefix(&format!("slashtrace-verifier-{hook}-"))
        .suffix(".log")
        .tempfile()?;
    file.write_all(text.as_bytes())?;
    let (_, path) = file.keep()?;
    Ok(path)
}

pub fn take(ebpf: &mut Ebpf, name: &str) -> Result<aya::maps::Map> {
    ebpf.take_map(name).with_context(|| format!("the object has no map {name}"))
}

/// Tries each hook by itself: loads and attaches it, and takes it away again.
pub fn probe_hooks(rule: &Rule) -> Vec<Capability> {
    let prepare = || -> Result<(Ebpf, aya::Btf)> {
        let btf = aya::Btf::from_sys_fs().context("cannot parse the kernel's BTF")?;
        Ok((create(rule, false, &kernel_layout()?, 1)?, btf))
    };
    let probe = |hook: &'static str| -> Result<String> {
        let (mut ebpf, btf) = prepare()?;
        load_hook(&mut ebpf, hook, &btf)?;
        hook_mut(&mut ebpf, hook)?.attach()?;
        Ok("BTF tracepoint loads and attaches".to_owned())
    };
    let count_calls = || -> Result<String> {
        let (mut ebpf, btf) = prepare()?;
        attach_call_hook(&mut ebpf, &btf).map(|(hook, _)| hook.describe())
    };
    let terminal = || -> Result<String> {
        let (mut ebpf, btf) = prepare()?;
        attach_terminal_hook(&mut ebpf, &btf, TerminalChoice::Auto).map(|(hook, _)| hook.describe())
    };
    let capability = |name: &str, probed: Result<String>| Capability {
        name: name.to_owned(),
        ok: probed.is_ok(),
        detail: probed.unwrap_or_else(|error| format!("{error:#}")),
    };
    let hooks = HOOKS.into_iter().map(|hook| capability(hook, probe(hook)));
    let replies = || -> Result<String> {
        let (mut ebpf, btf) = prepare()?;
        let (mut hook, _) = ReplyHook::load(&mut ebpf, &btf)?;
        if let ReplyHook::Absent { why } = &hook {
            bail!("{why}");
        }
        hook.attach(&mut ebpf)?;
        Ok(hook.describe())
    };
    let optional = [
        capability(COUNT_CALLS, count_calls()),
        capability(TERMINAL, terminal()),
        capability(REPLIES, replies()),
    ];
    hooks.chain(optional).collect()
}

/// Where log lines of the kernel programs go.
#[derive(Debug)]
pub struct StderrLog;

impl log::Log for StderrLog {
    fn enabled(&self, _metadata: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let _ = writeln!(crate::unhurried::stderr(), "kernel: {}", record.args());
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Profile;

    #[test]
    fn what_the_verifier_says_goes_to_a_file_that_the_error_names() {
        let rule = Rule::new(&Profile::hermes());
        let loaded = kernel_layout().and_then(|layout| create(&rule, false, &layout, 1));
        if let Err(error) = loaded {
            eprintln!("SKIPPED: kernel programs cannot be had here: {error:#}");
            return;
        }
        let mut layout = kernel_layout().unwrap();
        // Nothing is there: as if the kernel had changed behind its BTF's back.
        layout.offsets[Field::TaskTgid as usize] = 1 << 20;
        let mut ebpf = create(&rule, false, &layout, 1).unwrap();
        let btf = aya::Btf::from_sys_fs().unwrap();
        let error = load_hook(&mut ebpf, "sched_process_fork", &btf).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("cannot load sched_process_fork: the kernel's verifier"), "{text}");
        let (_, rest) = text.split_once("what the verifier said is in ").expect("a path");
        let path = rest.split_once(':').map_or(rest, |(path, _)| path);
        let said = fs::read_to_string(path).unwrap();
        fs::remove_file(path).unwrap();
        assert!(said.contains("task_struct"), "{said}");
    }
}
