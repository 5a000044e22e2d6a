//! `quorate serve`.
