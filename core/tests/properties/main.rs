//! Properties of the pure parts of the core, over random inputs, and bytes that must not change.

#![expect(clippy::unwrap_used, reason = "tests may unwrap")]

mod claim;
mod codec;
mod siblings;
mod util;
