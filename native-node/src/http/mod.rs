//! The HTTP API in the shapes of Riak KV.
