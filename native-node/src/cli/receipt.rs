//! `X-Quorate-Receipt` as JSON. The header is a dictionary of structured fields (RFC 9651), of which
//! this reads what nodes write: strings, numbers, and one list of strings with parameters.

use serde_json::{Map, Value, json};

/// The receipt as JSON; text that is not understood stays text.
pub fn to_json(text: &str) -> Value {
    parse(text).map_or_else(|| json!(text), Value::Object)
}

fn parse(text: &str) -> Option<Map<String, Value>> {
    let mut out = Map::new();
    for part in text.split(", ") {
        let Some((name, value)) = part.split_once('=') else {
            out.insert(part.replace('-', "_"), json!(true));
            continue;
        };
        let value = if let Some(list) = value.strip_prefix('(') {
            let items = list.strip_suffix(')')?.split(' ').filter(|item| !item.is_empty());
            items.map(answer).collect::<Option<Vec<_>>>()?.into()
        } else if let Some(string) = value.strip_prefix('"') {
            json!(string.strip_suffix('"')?)
        } else {
            json!(value.parse::<u64>().ok()?)
        };
        out.insert(name.replace('-', "_"), value);
    }
    Some(out)
}

/// `"id";primary` or `"id";fallback;uncounted`.
fn answer(item: &str) -> Option<Value> {
    let mut words = item.split(';');
    let node = words.next()?.strip_prefix('"')?.strip_suffix('"')?;
    let words: Vec<_> = words.collect();
    Some(json!({
        "node": node,
        "role": *words.first()?,
        "counts": !words.contains(&"uncounted"),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receipt_becomes_json() {
        let text = "coordinator=\"0001\", layout=\"0002\", n=3, needed=2, answers=(\"0001\";primary \
                    \"0004\";fallback;uncounted), siblings=1, elapsed-us=412, repeated";
        let want = json!({
            "coordinator": "0001", "layout": "0002", "n": 3, "needed": 2, "siblings": 1,
            "elapsed_us": 412, "repeated": true,
            "answers": [
                {"node": "0001", "role": "primary", "counts": true},
                {"node": "0004", "role": "fallback", "counts": false},
            ],
        });
        assert_eq!(to_json(text), want);
        assert_eq!(to_json("answers=(), n=3"), json!({"answers": [], "n": 3}));
    }

    #[test]
    fn what_is_not_understood_stays_text() {
        for text in ["n=three", "answers=(x)", "s=\"open"] {
            assert_eq!(to_json(text), json!(text));
        }
    }
}
