//! What is observed so that a worker without a terminal can be joined to one: where a single gateway
//! serves many terminals (a "flat tree"), its workers have none of their own.
//!
//! `named` reads what a terminal's process says of its session, `files` watches the file that it says
//! it in, `ports` finds its connections to the gateway, `gateways` the gateways that serve terminals,
//! `replies` makes observations of what the kernel programs saw a gateway send after a fork. The rule
//! that joins them is the roster's.
//! May touch: /proc through `host::proc`, sock_diag(7), inotify(7), and of an environment the variables
//! that the profile names.

pub(super) mod files;
pub(super) mod gateways;
pub(super) mod named;
pub(super) mod ports;
pub(super) mod replies;

pub(super) use self::{
    files::SessionFiles,
    gateways::{FlatGateway, FlatGateways},
    named::Named,
    ports::Ports,
    replies::Replies,
};
