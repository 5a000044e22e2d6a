//! The HTTP API over real sockets against a small model of a node: every shape that Riak's clients
//! rely on, and every refusal.

mod fake;
mod inspect;
mod limits;
mod listing;
mod objects;
mod siblings;
mod writes;
