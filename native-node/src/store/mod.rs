//! Record stores behind one small trait.
