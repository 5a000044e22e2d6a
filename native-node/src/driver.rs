//! The task that owns the `Node`.
