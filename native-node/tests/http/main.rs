//! The HTTP API over real sockets against a small model of a node: every shape that Riak's clients
//! rely on, and every refusal.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests: a failure is to show")]

mod fake;
mod inspect;
mod limits;
mod listing;
mod objects;
mod siblings;
mod writes;
