//! The receipt of an operation as one header: what durability or freshness the answer really got.
//!
//! It is a dictionary of structured fields (RFC 9651), so that no client needs a parser of its own.

use axum::http::{HeaderName, HeaderValue};
use quorate_core::Receipt;
use std::fmt::Write as _;

pub(super) const RECEIPT: HeaderName = HeaderName::from_static("x-quorate-receipt");

/// `coordinator="…", layout="…", n=3, needed=2, answers=("…";primary "…";fallback), siblings=1,
/// elapsed-us=412`, with `;uncounted` for an answer that did not count and `repeated` at the end if
/// the write id was known already.
pub(super) fn header(receipt: &Receipt, repeated: bool) -> HeaderValue {
    let mut text = String::with_capacity(128 + 32 * receipt.answers.len());
    write_receipt(&mut text, receipt, repeated).expect("memory takes all text");
    HeaderValue::try_from(text).expect("hexadecimal digits, numbers and words are header text")
}

fn write_receipt(out: &mut String, receipt: &Receipt, repeated: bool) -> std::fmt::Result {
    let Receipt { coordinator, layout, n, needed, answers, siblings, elapsed } = receipt;
    write!(out, r#"coordinator="{coordinator}", layout="{layout}", n={n}, needed={needed}, "#)?;
    out.push_str("answers=(");
    for (at, answer) in answers.iter().enumerate() {
        let gap = if at == 0 { "" } else { " " };
        let role = if answer.primary { "primary" } else { "fallback" };
        write!(out, r#"{gap}"{}";{role}"#, answer.node)?;
        if !answer.counts {
            out.push_str(";uncounted");
        }
    }
    write!(out, "), siblings={siblings}, elapsed-us={}", elapsed.as_micros())?;
    if repeated {
        out.push_str(", repeated");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_core::{Answer, Duration, LayoutId, NodeId};

    #[test]
    fn a_receipt_says_who_answered_as_what() {
        let answer = |node, primary, counts| Answer { node: NodeId(node), primary, counts };
        let receipt = Receipt {
            coordinator: NodeId(1),
            layout: LayoutId(2),
            n: 3,
            needed: 2,
            answers: vec![answer(1, true, true), answer(4, false, false)],
            siblings: 1,
            elapsed: Duration::from_micros(412),
        };
        assert_eq!(
            header(&receipt, true).to_str().unwrap(),
            "coordinator=\"0000000000000001\", layout=\"0000000000000002\", n=3, needed=2, \
             answers=(\"0000000000000001\";primary \"0000000000000004\";fallback;uncounted), \
             siblings=1, elapsed-us=412, repeated"
        );
        let nobody = Receipt { answers: Vec::new(), ..receipt };
        assert!(
            header(&nobody, false)
                .to_str()
                .unwrap()
                .ends_with("answers=(), siblings=1, elapsed-us=412")
        );
    }
}
