//! The hook that sees what gateways reply: there since Linux 6.3, attached only while a gateway that
//! serves several terminals is known, so that nobody else's messages cost anything.

use std::os::fd::{AsFd as _, OwnedFd};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    programs::{ProgramError, tp_btf::BtfTracePointLinkId},
};

use super::object::{explain, hook_mut};

/// Name of the capability to join workers to terminals.
pub const REPLIES: &str = "replies";

const HOOK: &str = "sock_send_length";

/// What replies are seen by.
#[derive(Debug)]
pub enum ReplyHook {
    /// The BTF tracepoint, and its link while it is attached.
    Loaded(Option<BtfTracePointLinkId>),
    /// Nothing.
    Absent {
        /// Why not.
        why: String,
    },
}

impl ReplyHook {
    /// Loads the program; where the kernel has no such tracepoint, or refuses it, there is none. Also
    /// the program's descriptor.
    ///
    /// # Errors
    /// If the object has no such program, or the system has no descriptor left.
    pub fn load(ebpf: &mut Ebpf, btf: &aya::Btf) -> Result<(Self, Option<OwnedFd>)> {
        let program = hook_mut(ebpf, HOOK)?;
        match program.load(HOOK, btf) {
            Ok(()) => {
                let fd = program.fd()?.as_fd().try_clone_to_owned()?;
                Ok((Self::Loaded(None), Some(fd)))
            }
            Err(ProgramError::Btf(_)) => {
                let why = format!("this kernel has no tracepoint {HOOK}: Linux 6.3 has");
                Ok((Self::Absent { why }, None))
            }
            Err(error) => Ok((Self::Absent { why: format!("{:#}", explain(HOOK, error)) }, None)),
        }
    }

    /// In words.
    pub fn describe(&self) -> String {
        match self {
            Self::Loaded(_) => format!(
                "BTF tracepoint {HOOK}, attached while a gateway that serves several terminals is known"
            ),
            Self::Absent { why } => why.clone(),
        }
    }

    /// Whether there is one.
    pub fn is_there(&self) -> bool {
        matches!(self, Self::Loaded(_))
    }

    /// Attaches it, if there is one and it is not attached.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn attach(&mut self, ebpf: &mut Ebpf) -> Result<()> {
        if let Self::Loaded(link @ None) = self {
            let attached = hook_mut(ebpf, HOOK)?.attach();
            *link = Some(attached.with_context(|| format!("the kernel refused to attach {HOOK}"))?);
        }
        Ok(())
    }

    /// Detaches it, if it is attached.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn detach(&mut self, ebpf: &mut Ebpf) -> Result<()> {
        if let Self::Loaded(link) = self
            && let Some(link) = link.take()
        {
            hook_mut(ebpf, HOOK)?.detach(link)?;
        }
        Ok(())
    }
}
