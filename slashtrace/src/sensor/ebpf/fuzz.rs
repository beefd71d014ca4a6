use bytes::Bytes;
use slashtrace_ebpf::{ARGV_MAX, CHAIN_MAX, Header, WIRE_VERSION};

use super::{
    btf::Btf,
    wire::{What, decode, is_signal},
};

/// Decodes a record as it is, and as one of this version and of its length: nearly none would come
/// further than that.
pub(crate) fn record(bytes: &[u8]) {
    let mut fitting = bytes.to_vec();
    if let Some(version) = fitting.first_mut() {
        *version = WIRE_VERSION;
    }
    let at = core::mem::offset_of!(Header, size);
    if let Some(size) = fitting.get_mut(at..at + 4) {
        size.copy_from_slice(&(bytes.len() as u32).to_ne_bytes());
    }
    for record in [Bytes::copy_from_slice(bytes), fitting.into()] {
        let _ = is_signal(&record);
        if let Ok(event) = decode(&record)
            && let What::Exec(exec) = event.what
        {
            assert!(exec.argv.len() <= ARGV_MAX && exec.chain.len() <= CHAIN_MAX);
        }
    }
}

/// Looks for members and enumerators in what may be BTF.
pub(crate) fn btf(bytes: &[u8]) {
    let Ok(btf) = Btf::parse(bytes) else { return };
    for name in btf.struct_names().take(64) {
        let _ = btf.member_offset(&name, "none");
        let _ = btf.member_offset(&name, "x");
    }
    let _ = btf.enumerator("none");
}

/// Inputs that are whole.
#[cfg(test)]
pub(crate) fn made() -> (Vec<Vec<u8>>, Vec<u8>) {
    (super::wire::tests::records(), super::btf::tests::tiny())
}
