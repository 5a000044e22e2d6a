//! Counting towards a quorum: pure.

/// What an operation needs and what it has, on distinct nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Answers needed (R, or the greater of W and DW).
    pub(crate) need: u8,
    /// Of them from primaries (PR, PW).
    pub(crate) need_primaries: u8,
    /// Answers that count.
    pub(crate) have: u8,
    /// Of them from primaries.
    pub(crate) have_primaries: u8,
    /// Nodes that may still answer.
    pub(crate) pending: u8,
    /// Of them primaries.
    pub(crate) pending_primaries: u8,
}

/// What a tally says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The quorum is reached.
    Enough,
    /// Answers are outstanding that can reach it.
    Wait,
    /// Too few nodes: not even all outstanding answers would do.
    TooFew,
    /// Too few primaries.
    TooFewPrimaries,
}

impl Tally {
    pub(crate) fn count(&mut self, primary: bool) {
        self.have += 1;
        self.have_primaries += u8::from(primary);
    }
    pub(crate) fn expect(&mut self, primary: bool) {
        self.pending += 1;
        self.pending_primaries += u8::from(primary);
    }
    pub(crate) fn verdict(&self) -> Verdict {
        if self.have >= self.need && self.have_primaries >= self.need_primaries {
            Verdict::Enough
        } else if self.have_primaries + self.pending_primaries < self.need_primaries {
            Verdict::TooFewPrimaries
        } else if self.have + self.pending < self.need {
            Verdict::TooFew
        } else {
            Verdict::Wait
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quorum_is_enough_nodes_and_enough_primaries() {
        use Verdict::{Enough, TooFew, TooFewPrimaries, Wait};
        for (need, need_p, have, have_p, pending, pending_p, want) in [
            (2, 0, 2, 0, 0, 0, Enough),
            (2, 0, 1, 1, 1, 0, Wait),
            (2, 0, 1, 1, 0, 0, TooFew),
            (2, 1, 2, 0, 1, 1, Wait),
            (2, 1, 2, 0, 1, 0, TooFewPrimaries),
            (2, 2, 2, 1, 0, 0, TooFewPrimaries),
            (1, 1, 1, 1, 0, 0, Enough),
            (0, 0, 0, 0, 0, 0, Enough),
        ] {
            let tally = Tally {
                need,
                need_primaries: need_p,
                have,
                have_primaries: have_p,
                pending,
                pending_primaries: pending_p,
            };
            assert_eq!(tally.verdict(), want, "{tally:?}");
        }
    }
}
