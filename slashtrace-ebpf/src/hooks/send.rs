//! `sock_send_length` (net/socket.c, `sock_sendmsg_nosec`; since 6.3): a message was sent on a socket,
//! in whoever sent it. Attached only while there is a gateway that serves many terminals.

use aya_ebpf::{
    cty::c_void,
    helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_boot_ns},
    programs::BtfTracePointContext,
};
use slashtrace_ebpf::{FLAT_PORTS, Field, FlatGateway, RecordKind, ThreadAct, ThreadActRecord};

use super::flat;
use crate::{
    emit::{header, submit},
    maps::offset,
    task::Address,
};

/// Address families (include/linux/socket.h).
const AF_UNIX: u16 = 1;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

#[inline(always)]
pub fn handle(ctx: &BtfTracePointContext) {
    let id = bpf_get_current_pid_tgid();
    let tgid = (id >> 32) as u32;
    let Some(gateway) = flat::gateway(tgid) else { return };
    let sent: i32 = ctx.arg(1);
    if sent <= 0 {
        return;
    }
    let sock = ctx.arg::<*const c_void>(0) as u64;
    let common = Address(sock.wrapping_add(offset(Field::SockCommon) as u64));
    let family: u16 = common.read(Field::SockFamily);
    // SAFETY: a helper without arguments.
    let now_ns = unsafe { bpf_ktime_get_boot_ns() };
    if family == AF_UNIX {
        if sent == 1 {
            flat::woke(tgid, id as u32, now_ns, gateway);
        }
        return;
    }
    // SAFETY: a map value that the verifier knows the size of.
    if unsafe { (*gateway).open_until_ns } < now_ns || (family != AF_INET && family != AF_INET6) {
        return;
    }
    let local: u16 = common.read(Field::SockLocalPort);
    if !listens_on(gateway, local) {
        return;
    }
    // In network byte order.
    let peer = u16::from_be(common.read(Field::SockPeerPort));
    // SAFETY: as above. Messages of two threads at once may be counted as one.
    let budget = unsafe { (*gateway).budget };
    let act = match budget {
        0 => return,
        1 => ThreadAct::Cut,
        _ => ThreadAct::Sent,
    };
    // SAFETY: as above.
    unsafe { (*gateway).budget = budget - 1 };
    submit(ThreadActRecord {
        header: header(RecordKind::ThreadAct, size_of::<ThreadActRecord>()),
        tgid,
        tid: id as u32,
        act: act as u32,
        port: u32::from(peer),
    });
}

#[inline(always)]
fn listens_on(gateway: *mut FlatGateway, port: u16) -> bool {
    let mut at = 0;
    while at < FLAT_PORTS {
        // SAFETY: a map value that the verifier knows the size of.
        if unsafe { (*gateway).ports[at] } == port {
            return port != 0;
        }
        at += 1;
    }
    false
}
