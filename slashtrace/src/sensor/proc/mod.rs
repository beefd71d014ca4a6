//! Reads /proc: what the kernel programs cannot tell, and what was there before them.
