//! standin's hands on the kernel: raw sockets, netlink, timers, processes, namespaces.
//!
//! Every `unsafe` block of the project is in this crate, each with the reason why it is sound.
//! Nothing here decides anything: what an error means is the caller's business.

pub mod advert;
pub mod child;
pub mod clock;
pub mod echo;
pub mod epoll;
pub mod files;
pub mod fork;
pub mod forward;
pub mod glob;
pub mod group;
pub mod inotify;
pub mod neighbour;
pub mod netlink;
pub mod output;
pub mod private;
pub mod process;
pub mod queue;
pub mod region;
pub mod sched;
pub mod service;
pub mod sockets;
pub mod spawn;
pub mod sysctl;
pub mod user;
