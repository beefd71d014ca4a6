use std::collections::HashSet;

use super::tables::{tcp, tcp_lines, unix, unix_inodes, unix_lines};

/// Reads what may be a table of sockets, as a process that has all of them.
pub(crate) fn tables(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes).into_owned();
    let texts = [text.clone(), text];
    let [text, _] = &texts;
    let own: HashSet<u64> =
        tcp_lines(&texts).map(|socket| socket.inode).chain(unix_inodes(text)).collect();
    let _ = unix_lines(text).count();
    for found in [tcp(&texts, &own), unix(text, &own)] {
        assert!(found.connections.len() <= 2 * text.lines().count());
    }
}
