//! The wire format that the kernel programs and userspace share.
#![no_std]
