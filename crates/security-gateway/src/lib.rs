//! The authorised relay between the client's network and the desktop's.

pub mod core;
