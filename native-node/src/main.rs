//! `quorate`, the command.
fn main() {}
