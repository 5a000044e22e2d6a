//! No more siblings than truly concurrent writers.

use super::Invariant;
use crate::history::{History, Shown};
use quorate_core::WRITE_IDS_MAX;

pub(crate) const THIS: Invariant = Invariant {
    name: "siblings are concurrent",
    promise: "values that stand beside each other in the end were written by clients that had not seen each other's, and a retried write shows once",
    source: "§4.4; \"sibling explosion\" of version vectors that name clients' coordinators without dots",
};

/// Checks the values that a read in the end shows, in order, with repetitions.
pub(crate) fn check(history: &History, key: usize, shown: &[Shown]) -> Result<(), String> {
    for (at, &a) in shown.iter().enumerate() {
        for &b in &shown[at + 1..] {
            let (name_a, name_b) = (a.0, b.0);
            if name_a == name_b {
                let named = history.op(name_a).write_id.is_some();
                if !named || history.key(key).write_ids <= WRITE_IDS_MAX {
                    return Err(format!("value {name_a} of key {key} shows twice"));
                }
                continue;
            }
            for (later, earlier) in [(a, b), (b, a)] {
                if history.descends(later.0, earlier) {
                    return Err(format!(
                        "value {} of key {key} stands beside value {}, whose writer had seen it",
                        earlier.0, later.0
                    ));
                }
            }
        }
    }
    Ok(())
}
