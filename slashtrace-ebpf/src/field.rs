/// Offset of a field that this kernel does not have.
pub const UNKNOWN_OFFSET: u32 = u32::MAX;

macro_rules! fields {
    ($($(#[$doc:meta])* $name:ident = $strukt:literal . $path:literal),+ $(,)?) => {
        /// A kernel field that the programs read. Userspace looks its offset up in the running
        /// kernel's BTF and passes all of them as the global `OFFSETS`; no offset is a constant.
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        #[repr(usize)]
        pub enum Field { $($(#[$doc])* $name),+ }

        impl Field {
            /// Every field, by index in `OFFSETS`.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// The struct it is in, and the path from there.
            pub const fn location(self) -> (&'static str, &'static str) {
                match self { $(Self::$name => ($strukt, $path)),+ }
            }
        }
    };
}

fields! {
    /// Thread id.
    TaskPid = "task_struct"."pid",
    /// Thread group id: what userspace calls the pid.
    TaskTgid = "task_struct"."tgid",
    /// Start time in the boot clock, ns.
    TaskStartBoottime = "task_struct"."start_boottime",
    /// Thread group leader.
    TaskGroupLeader = "task_struct"."group_leader",
    /// Biological or adoptive parent; a ptracer does not change it.
    TaskRealParent = "task_struct"."real_parent",
    /// Address space.
    TaskMm = "task_struct"."mm",
    /// State shared by the thread group.
    TaskSignal = "task_struct"."signal",
    /// Credentials.
    TaskRealCred = "task_struct"."real_cred",
    /// Name of the thread.
    TaskComm = "task_struct"."comm",
    /// Flags: `PF_FORKNOEXEC`.
    TaskFlags = "task_struct"."flags",
    /// Wait status, as wait(2) gives it.
    TaskExitCode = "task_struct"."exit_code",
    /// Start of the argument area.
    MmArgStart = "mm_struct"."arg_start",
    /// End of the argument area.
    MmArgEnd = "mm_struct"."arg_end",
    /// Threads that have not entered do_exit.
    SignalLive = "signal_struct"."live",
    /// Flags: `SIGNAL_GROUP_EXIT`.
    SignalFlags = "signal_struct"."flags",
    /// Wait status of a group exit.
    SignalGroupExitCode = "signal_struct"."group_exit_code",
    /// Controlling terminal.
    SignalTty = "signal_struct"."tty",
    /// Whether the group leader leads its session.
    SignalLeader = "signal_struct"."leader",
    /// `struct pid` by type (pid, tgid, process group, session).
    SignalPids = "signal_struct"."pids",
    /// Real user id.
    CredUid = "cred"."uid",
    /// Index of the line on its driver.
    TtyIndex = "tty_struct"."index",
    /// Its driver.
    TtyDriver = "tty_struct"."driver",
    /// What the driver keeps: of a PTY's slave its `struct dentry` (`ptmx_open`, drivers/tty/pty.c).
    TtyDriverData = "tty_struct"."driver_data",
    /// Major device number.
    TtyDriverMajor = "tty_driver"."major",
    /// Numbers of a pid by namespace level; the first is the initial namespace's.
    PidNumbers = "pid"."numbers",
    /// The number itself.
    UpidNr = "upid"."nr",
    /// `si_code` of a signal.
    SiginfoCode = "kernel_siginfo"."si_code",
    /// Name of a directory entry.
    DentryName = "dentry"."d_name",
    /// The file system it is on.
    DentrySb = "dentry"."d_sb",
    /// The text of a name.
    QstrName = "qstr"."name",
    /// Device number of a file system.
    SuperBlockDev = "super_block"."s_dev",
    /// What sockets of every family have in common.
    SockCommon = "sock"."__sk_common",
    /// Address family of a socket.
    SockFamily = "sock_common"."skc_family",
    /// Its port, in host byte order (`inet_num`, include/net/inet_sock.h).
    SockLocalPort = "sock_common"."skc_num",
    /// The port of its other end, in network byte order.
    SockPeerPort = "sock_common"."skc_dport",
    /// Open files, shared by the threads (to count calls).
    TaskFiles = "task_struct"."files",
    /// The table of descriptors in use.
    FilesFdt = "files_struct"."fdt",
    /// Its files by descriptor.
    FdtableFd = "fdtable"."fd",
    /// The file that is read.
    KiocbFilp = "kiocb"."ki_filp",
    /// System call number (x86-64).
    RegsOrigAx = "pt_regs"."orig_ax",
    /// What a system call returned (x86-64).
    RegsAx = "pt_regs"."ax",
    /// First argument (x86-64).
    RegsDi = "pt_regs"."di",
}

/// Number of fields.
pub const FIELD_COUNT: usize = Field::ALL.len();
