//! The portcullis command.
mod config;
fn main() { let _ = config::load(std::path::Path::new("x")); }
