//! Client and agent against each other over real sockets, behind a front door of the tests' own.
//!
//! House rule: no test asserts how long something takes, and none sleeps to wait for something; agents tell of everything
//! by events.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on should say so at once"
)]

mod ends;
mod faults;
mod front_door;
mod licenses;
mod seven_steps;
mod site;
mod strangers;
