//! `devpts_pty_kill(struct dentry *dentry)` (fs/devpts/inode.c): runs in whoever closes the last
//! descriptor of a PTY's master (`pty_close`, drivers/tty/pty.c), before the slave's node is removed.

use aya_ebpf::cty::c_void;
use slashtrace_ebpf::{Field, RecordKind, TaskInfo, TerminalKey, TerminalRecord};

use crate::{
    emit::{header, submit},
    maps::{TERMINALS, offset},
    task::{self, Address},
};

/// Digits of a name that are read: more than an index has.
const DIGITS: usize = 10;

/// Every read goes through the helper, so that it serves a kprobe, too.
#[inline(always)]
pub fn closed(dentry: *const c_void) {
    let Some(terminal) = terminal(Address(dentry as u64)) else { return };
    // SAFETY: the value is not read.
    if unsafe { TERMINALS.get(terminal) }.is_none() {
        return;
    }
    // The next terminal of that index is another one.
    let _ = TERMINALS.remove(terminal);
    let mut closer = TaskInfo::NONE;
    task::describe(Address::current().follow(Field::TaskGroupLeader), &mut closer);
    submit(TerminalRecord {
        header: header(RecordKind::Terminal, size_of::<TerminalRecord>()),
        closer,
        terminal,
    });
}

/// Where a slave's node is, from its name and its file system.
#[inline(always)]
fn terminal(dentry: Address) -> Option<TerminalKey> {
    let device = task::device_of(dentry)?;
    let name: u64 = dentry.get_at(Field::DentryName, offset(Field::QstrName))?;
    let digits: [u8; DIGITS] = Address(name).bytes()?;
    let mut index: u32 = 0;
    let mut at = 0;
    while at < DIGITS {
        let digit = digits[at].wrapping_sub(b'0');
        if digit > 9 {
            break;
        }
        index = index.wrapping_mul(10).wrapping_add(u32::from(digit));
        at += 1;
    }
    (at > 0).then_some(TerminalKey { device, index })
}
