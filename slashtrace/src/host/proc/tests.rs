use std::{fs, os::unix::fs::PermissionsExt};

use super::{
    fake::{Fake, FakeProc, WORKER},
    *,
};
use crate::{
    model::{Role, Source, Spawn, Terminal},
    profile::Profile,
};

const TICK: u64 = 10_000_000;

fn take(fake: &FakeProc) -> Vec<Spawn> {
    let proc = fake.proc();
    snapshot(&proc, &Profile::hermes(), &mut IdentityBook::new(proc.tick_ns())).unwrap()
}

#[test]
fn lists_processes_only() {
    let fake = FakeProc::new();
    fake.put(&Fake { pid: 4_000_000, ..Fake::default() });
    fs::create_dir(fake.proc().root().join("self")).unwrap();
    fs::create_dir(fake.proc().root().join("12a")).unwrap();
    assert_eq!(fake.proc().pids().unwrap(), [1, 4_000_000]);
    let missing = ProcFs::new("/nowhere/at/all");
    assert!(missing.pids().is_err());
}

#[test]
fn a_process_that_is_gone_is_none() {
    let proc = FakeProc::new().proc();
    assert_eq!(proc.stat(99).unwrap(), None);
    assert_eq!(proc.cmdline(99, 10).unwrap(), None);
    assert_eq!(proc.cmdline_bytes(99).unwrap(), None);
    assert_eq!(proc.ids(99).unwrap(), None);
    assert_eq!(proc.io_syscr(99).unwrap(), None);
    assert_eq!(proc.pss_kib(99).unwrap(), None);
    assert_eq!(proc.fd_pipe(99, 0).unwrap(), None);
    assert_eq!(proc.exe_same(99, 1), None);
}

#[test]
fn cmdline_is_bounded_and_says_so() {
    let fake = FakeProc::new();
    let long: Vec<u8> = b"python\0".iter().copied().chain([b'x'; 10_000]).chain([0]).collect();
    fake.put(&Fake { cmdline: &long, ..Fake::default() });
    let proc = fake.proc();
    let cut = proc.cmdline(10, 5000).unwrap().unwrap();
    assert_eq!((cut.bytes.len(), cut.truncated), (5000, true));
    assert_eq!(cut.tokens(), [b"python"], "half a token is none");
    let whole = proc.cmdline(10, long.len()).unwrap().unwrap();
    assert_eq!((whole.bytes.as_slice(), whole.truncated), (long.as_slice(), false));
    assert_eq!(proc.cmdline_bytes(10).unwrap(), Some(long.len() as u64));
    let at_a_border = Cmdline { bytes: b"a\0b\0".to_vec(), truncated: true };
    assert_eq!(at_a_border.tokens(), [b"a", b"b"]);
}

#[test]
fn the_uid_is_the_real_one() {
    let fake = FakeProc::new();
    fake.put(&Fake::default());
    let ids = fake.proc().ids(10).unwrap().unwrap();
    assert_eq!(ids, Ids { uid: 1000, namespace_init: false });
    let status = "Name:\tx\nUid:\t7\t0\t0\t0\nNSpid:\t10\t1\n";
    fs::write(fake.dir(10).join("status"), status).unwrap();
    assert_eq!(fake.proc().ids(10).unwrap().unwrap(), Ids { uid: 7, namespace_init: true });
}

#[test]
fn reads_memory() {
    let memory = FakeProc::new().proc().meminfo().unwrap();
    assert_eq!((memory.total_kib, memory.available_kib), (8_000_000, 4_000_000));
    assert_eq!((memory.swap_total_kib, memory.swap_free_kib), (1000, 400));
}

#[test]
fn a_worker_with_its_gateway_session_and_terminal() {
    let fake = FakeProc::new();
    fake.put(&Fake { pid: 5, ppid: 1, sid: 5, comm: b"dashboard", ..Fake::default() });
    // node is the session leader on pts/3, the gateway is in its session.
    let tty = 136 << 8 | 3;
    fake.put(&Fake { pid: 6, ppid: 5, sid: 6, tty_nr: tty, comm: b"node", ..Fake::default() });
    fake.put(&Fake {
        pid: 7,
        ppid: 6,
        sid: 6,
        comm: b"a) R 1 (b",
        cmdline: b"/home/me/v/bin/python\0--token=secret\0",
        ..Fake::default()
    });
    fake.put(&Fake { pid: 8, ppid: 7, sid: 8, cmdline: WORKER, ..Fake::default() });

    let spawns = take(&fake);
    let [worker] = spawns.as_slice() else { panic!("{spawns:?}") };
    assert_eq!((worker.role, worker.pid, worker.start_ns), (Role::Worker, 8, 1000 * TICK));
    assert_eq!((worker.source, worker.inherited, worker.uid), (Source::Proc, true, 1000));
    assert_eq!(worker.session.as_deref(), Some("k1"));
    assert_eq!(worker.model.as_deref(), Some("m1"));
    assert_eq!(worker.argv_bytes, WORKER.len() as u64);
    assert_eq!(
        worker.terminal,
        Some(Terminal { instance: None, index: 3 }),
        "its parent's session leader's"
    );
    let parent = worker.parent.as_ref().unwrap();
    assert_eq!((parent.process.pid, parent.process.comm.as_str()), (7, "a) R 1 (b"));
    assert_eq!(parent.process.argv0.as_deref(), Some("~/v/bin/python"));
    assert!(!parent.reaper && !parent.gone);
    let above: Vec<u32> = worker.ancestors.iter().map(|process| process.pid).collect();
    assert_eq!(above, [6], "up to the session leader, and not beyond");
}

#[test]
fn only_exact_tokens_behind_argv0_make_a_worker() {
    let fake = FakeProc::new();
    let near: [&[u8]; 6] = [
        b"vim\0-m tui_gateway.slash_worker\0",
        b"python\0-m\0tui_gateway.slash_worker_old\0",
        b"-m\0tui_gateway.slash_worker\0",
        b"python\0-m\0x\0tui_gateway.slash_worker\0",
        b"grep\0tui_gateway.slash_worker\0",
        b"",
    ];
    for (at, cmdline) in (20..).zip(near) {
        fake.put(&Fake { pid: at, cmdline, ..Fake::default() });
    }
    assert_eq!(take(&fake), []);
}

#[test]
fn hostile_bytes_are_escaped() {
    let fake = FakeProc::new();
    fake.put(&Fake {
        comm: b"\x1b[31m\xff\n",
        cmdline: b"py\0-m\0tui_gateway.slash_worker\0--session-key\0k\xff\n\x1b[0m\0",
        ..Fake::default()
    });
    let [worker] = take(&fake).try_into().unwrap();
    assert_eq!(worker.comm, "\\x1b[31m\\xff\\n");
    assert_eq!(worker.session.as_deref(), Some("k\\xff\\n\\x1b[0m"));
    let shown = serde_json::to_string(&worker).unwrap();
    assert!(!shown.contains('\x1b') && shown.is_ascii(), "{shown}");
}

#[test]
fn adopted_workers_have_a_reaper_for_a_parent() {
    let fake = FakeProc::new();
    fake.put(&Fake { pid: 8, ppid: 1, cmdline: WORKER, ..Fake::default() });
    fake.put(&Fake { pid: 9, ppid: 1, comm: b"systemd", ..Fake::default() });
    fake.put(&Fake { pid: 12, ppid: 9, cmdline: WORKER, ..Fake::default() });
    // The first process of a container: pid 13 here, 1 in there.
    fake.put(&Fake { pid: 13, ppid: 1, comm: b"hermes", ..Fake::default() });
    fs::write(fake.dir(13).join("status"), "Uid:\t0\t0\t0\t0\nNSpid:\t13\t1\n").unwrap();
    fake.put(&Fake { pid: 14, ppid: 13, cmdline: WORKER, ..Fake::default() });
    // Its parent is outside of this pid namespace.
    fake.put(&Fake { pid: 15, ppid: 0, cmdline: WORKER, ..Fake::default() });
    let mut spawns = take(&fake);
    spawns.sort_by_key(|spawn| spawn.pid);
    let parents: Vec<_> = spawns
        .iter()
        .map(|spawn| spawn.parent.as_ref().map(|parent| (parent.process.pid, parent.reaper)))
        .collect();
    assert_eq!(parents, [Some((1, true)), Some((9, true)), Some((13, true)), None]);
}

#[test]
fn a_parent_that_is_younger_than_its_child_is_not_believed() {
    let fake = FakeProc::new();
    fake.put(&Fake { pid: 7, start_ticks: 2000, ..Fake::default() });
    fake.put(&Fake { pid: 8, ppid: 7, cmdline: WORKER, ..Fake::default() });
    assert_eq!(take(&fake)[0].parent, None);
}

#[test]
fn what_descends_from_a_worker() {
    let fake = FakeProc::new();
    let worker = Fake { pid: 20, cmdline: WORKER, arg_start: 77, ..Fake::default() };
    fake.put(&worker);
    // Forked and not executed: the same arguments at the same address.
    fake.put(&Fake { pid: 15, ppid: 20, ..worker.clone() });
    // Executed the same command again: a part of the worker.
    fake.put(&Fake { pid: 16, ppid: 20, arg_start: 78, ..worker.clone() });
    fake.put(&Fake {
        pid: 17,
        ppid: 15,
        start_ticks: 1001,
        cmdline: b"python\0/x/mcp_stdio_watchdog.py\0--ppid\x007\0--\0secret\0",
        ..Fake::default()
    });
    fake.put(&Fake { pid: 18, ppid: 20, state: 'Z', cmdline: b"", ..Fake::default() });
    let spawns = take(&fake);
    let seen: Vec<_> =
        spawns.iter().map(|s| (s.pid, s.role, s.worker.map(|worker| worker.pid))).collect();
    assert_eq!(
        seen,
        [
            (20, Role::Worker, None),
            (15, Role::Descendant, Some(20)),
            (16, Role::Descendant, Some(20)),
            (17, Role::Descendant, Some(20)),
        ],
        "parents first, no zombies"
    );
    assert_eq!(spawns[3].helper.as_deref(), Some("mcp-watchdog"));
    assert_eq!(
        (spawns[3].argv.as_slice(), spawns[3].argv_truncated),
        (&["python".into()][..], true)
    );
    assert_eq!(spawns[3].parent.as_ref().unwrap().process.pid, 15);
    assert_eq!((spawns[1].argv.len(), spawns[1].argv_bytes), (0, 0), "not executed yet");
}

#[test]
fn without_addresses_the_executable_tells_a_fork_from_a_launched_worker() {
    let fake = FakeProc::new();
    let launcher = Fake { pid: 20, cmdline: WORKER, exe: "uv", ..Fake::default() };
    fake.put(&launcher);
    fake.put(&Fake { pid: 21, ppid: 20, exe: "python", ..launcher.clone() });
    fake.put(&Fake { pid: 22, ppid: 20, ..launcher.clone() });
    let other = b"python\0-m\0tui_gateway.slash_worker\0";
    fake.put(&Fake { pid: 23, ppid: 20, cmdline: other, ..launcher.clone() });
    let roles: Vec<_> = take(&fake).iter().map(|spawn| (spawn.pid, spawn.role)).collect();
    assert_eq!(
        roles,
        [(20, Role::Worker), (21, Role::Worker), (22, Role::Descendant), (23, Role::Worker)]
    );
}

#[test]
fn resync_says_what_came_and_what_went() {
    let fake = FakeProc::new();
    let proc = fake.proc();
    let profile = Profile::hermes();
    let mut book = IdentityBook::new(proc.tick_ns());
    for pid in [20, 21, 22, 23] {
        fake.put(&Fake { pid, cmdline: WORKER, ..Fake::default() });
    }
    fake.put(&Fake { pid: 7, ..Fake::default() });
    // The kernel named 20 precisely before.
    let precise = book.kernel(20, 1000 * TICK + 5);
    let mut known: Vec<_> = snapshot(&proc, &profile, &mut book)
        .unwrap()
        .iter()
        .map(|spawn| (spawn.identity(), spawn.role))
        .collect();
    assert!(known.contains(&(precise, Role::Worker)));
    known.push((book.proc(7, 1000 * TICK), Role::Gateway));
    // 23 was known as a child of a worker and has executed since.
    known.iter_mut().filter(|(id, _)| id.pid == 23).for_each(|(_, role)| *role = Role::Descendant);

    fake.remove(21);
    fake.put(&Fake { pid: 22, cmdline: WORKER, start_ticks: 5000, ..Fake::default() });
    fake.put(&Fake { pid: 7, state: 'Z', cmdline: b"", ..Fake::default() });
    let resync = resync(&proc, &profile, &mut book, &known).unwrap();
    let came: Vec<_> = resync.spawns.iter().map(|spawn| (spawn.pid, spawn.start_ns)).collect();
    assert_eq!(came, [(23, 1000 * TICK), (22, 5000 * TICK)]);
    let went: Vec<_> = resync.exits.iter().map(|exit| (exit.pid, exit.role)).collect();
    assert_eq!(went, [(21, Role::Worker), (22, Role::Worker), (7, Role::Gateway)]);
    assert!(resync.exits.iter().all(|exit| exit.code.is_none() && exit.source == Source::Proc));
}

#[test]
fn finds_write_ends_and_says_where_it_could_not_look() {
    let fake = FakeProc::new();
    for pid in [20, 21, 22, 23] {
        fake.put(&Fake { pid, ..Fake::default() });
    }
    fake.fd(20, 0, "pipe:[500]", "00");
    fake.fd(21, 4, "pipe:[500]", "0100001");
    fake.fd(22, 4, "pipe:[500]", "0100000");
    fake.fd(22, 5, "pipe:[501]", "02");
    fake.fd(22, 6, "/tmp/pipe:[500]", "02");
    fake.fd(22, 7, "socket:[500]", "02");
    let proc = fake.proc();
    assert_eq!(proc.fd_pipe(20, 0).unwrap(), Some(500));
    assert_eq!(proc.fd_pipe(22, 7).unwrap(), None);
    let search = [500].into();
    let found = proc.write_ends(&proc.pids().unwrap(), &search);
    assert_eq!(found.holders, [(500, vec![(21, 4)])].into());
    assert!(!found.blind);
    fake.hide_fds(23);
    assert!(proc.write_ends(&[23], &search).blind);
    assert!(!proc.write_ends(&[99], &search).blind, "a process that is gone holds nothing");
}

#[test]
fn descriptors_of_a_process_whose_main_thread_ended() {
    let fake = FakeProc::new();
    fake.put(&Fake::default());
    let thread = fake.dir(10).join("task/11");
    fs::create_dir_all(thread.join("fd")).unwrap();
    fs::create_dir_all(thread.join("fdinfo")).unwrap();
    std::os::unix::fs::symlink("pipe:[500]", thread.join("fd/9")).unwrap();
    fs::write(thread.join("fdinfo/9"), "flags:\t01\n").unwrap();
    let found = fake.proc().write_ends(&[10], &[500].into());
    assert_eq!(found.holders, [(500, vec![(10, 9)])].into());
}

#[test]
fn an_unreadable_file_is_an_error_not_a_gone_process() {
    let fake = FakeProc::new();
    fake.put(&Fake::default());
    let stat = fake.dir(10).join("stat");
    fs::set_permissions(&stat, fs::Permissions::from_mode(0o000)).unwrap();
    match fake.proc().stat(10) {
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::PermissionDenied),
        // root may read it all the same.
        Ok(stat) => assert!(stat.is_some() && rustix::process::geteuid().is_root()),
    }
    fs::set_permissions(&stat, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&stat, "no stat").unwrap();
    assert_eq!(fake.proc().stat(10).unwrap_err().kind(), io::ErrorKind::InvalidData);
}

#[test]
fn children_are_those_of_every_thread() {
    let proc = ProcFs::new("/proc");
    let me = std::process::id();
    let sleeper = || {
        let mut command = std::process::Command::new("sleep");
        command.arg("60").spawn().expect("sleep runs")
    };
    let mut own = sleeper();
    // A child of a thread that has ended is its process's all the same.
    let mut of_thread = std::thread::spawn(sleeper).join().expect("it only spawns");
    let (listed, by_parent) = (proc.children(me), proc.children_by_parent(me));
    for child in [&mut own, &mut of_thread] {
        child.kill().expect("it sleeps");
        child.wait().expect("a child can be waited for");
        for found in [&listed, &by_parent] {
            assert!(found.as_ref().expect("it can be read").contains(&child.id()));
        }
    }
    assert!(proc.children(u32::MAX).expect("nobody has none").is_empty());
}

/// A process of one user has more descriptors than may be read, one of another user comes after it.
#[test]
fn a_search_leaves_out_users_that_are_over_their_budgets() {
    let fake = FakeProc::new();
    for (pid, uid) in [(20, 1_001), (21, 1_001), (22, 1_002)] {
        fake.put(&Fake { pid, ..Fake::default() });
        fake.owned_by(pid, uid);
    }
    for fd in 3..600 {
        fake.fd(20, fd, "/dev/null", "02");
    }
    for pid in [21, 22] {
        fake.fd(pid, 3, "pipe:[500]", "01");
    }
    let search = |proc: &ProcFs| {
        let mut found = Vec::new();
        let mut wanted = [Target::Writer(500)].into();
        let unseen = proc.search_holders(&[20, 21, 22], &mut wanted, &mut |_, holder| {
            found.push(holder.pid);
            true
        });
        assert!(!unseen.blind);
        (found, [1_001, 1_002].map(|uid| unseen.unread.has(uid)))
    };
    assert_eq!(search(&fake.proc()), (vec![21, 22], [false, false]));
    let proc = fake.proc().with_counted(Allowance { burst_ns: 300_000, rate_ns: 0 });
    for _ in 0..3 {
        assert_eq!(search(&proc), (vec![22], [true, false]));
    }
    // A clone has no budget of its own.
    assert_eq!(search(&proc.clone()), (vec![22], [true, false]));
    assert!(proc.write_ends(&[21], &[500].into()).blind);
    assert!(proc.children(21).is_err() && proc.children(22).is_ok());
    assert_eq!(proc.pss_kib(21).unwrap(), None);
}

/// Comparing with who may not be looked into, or has ended, says nothing, and keeps nobody from being
/// compared with others.
#[test]
fn a_shared_table_is_recognised_beside_one_that_cannot_be_compared() {
    // The parent ends first, and with it whom others were compared with.
    let script = "import ctypes, os, time\n\
        pipes = [os.pipe() for _ in range(100)]\n\
        clone = lambda: ctypes.CDLL(None).syscall(ctypes.c_long({clone}), 0x400 | 17, 0, 0, 0, 0)\n\
        pids = []\n\
        for _ in range(2):\n    pid = clone()\n    if pid == 0: time.sleep(60) or os._exit(0)\n    pids.append(pid)\n\
        print(os.fstat(pipes[50][0]).st_ino, *pids, flush=True)\n\
        time.sleep(60)";
    let script = script.replace("{clone}", &libc::SYS_clone.to_string());
    let mut command = std::process::Command::new("python3");
    let command = command.args(["-c", &script]).stdout(std::process::Stdio::piped());
    let Ok(mut parent) = command.spawn() else {
        eprintln!("SKIPPED: no python3");
        return;
    };
    let mut line = String::new();
    let stdout = parent.stdout.take().expect("a pipe");
    io::BufRead::read_line(&mut io::BufReader::new(stdout), &mut line).expect("it writes");
    let mut numbers = line.split(' ').map(|number| number.trim().parse::<u64>().expect("numbers"));
    let inode = numbers.next().expect("of a pipe");
    let sharing: Vec<u32> = numbers.map(|pid| pid as u32).collect();
    let proc = ProcFs::new("/proc");
    let holders = |pids: &[u32]| {
        let mut found = Vec::new();
        let mut wanted = [Target::Writer(inode)].into();
        proc.search_holders(pids, &mut wanted, &mut |_, holder| {
            found.push(holder.pid);
            true
        });
        found
    };
    let beside_others = [1, parent.id(), sharing[0], sharing[1]];
    assert_eq!(holders(&beside_others), [parent.id()]);
    assert_eq!(holders(&sharing), [sharing[0]]);
    parent.kill().expect("it sleeps");
    parent.wait().expect("a child can be waited for");
    for pid in sharing {
        let pid = rustix::process::Pid::from_raw(pid.cast_signed()).expect("it is a pid");
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it sleeps");
    }
}
