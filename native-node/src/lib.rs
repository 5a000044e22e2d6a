//! The native host of a Quorate node: WebSocket peers, file storage, the HTTP API and the command
//! line. Decisions are made in `quorate-core`; this crate moves bytes, keeps time and stores bytes.

pub mod cli;
pub mod config;
pub mod driver;
pub mod handle;
pub mod http;
pub mod listen;
pub mod object;
pub mod peers;
pub mod serve;
pub mod store;
