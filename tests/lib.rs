//! Whole-system tests: real processes, real files, real sockets. See `tests/tests/`.
