//! What a client is ready to take (RFC 9110, 12.5.1).

use axum::http::HeaderMap;
use axum::http::header::ACCEPT;

/// Thousandths of preference; zero is a refusal.
type Quality = u16;

/// The media ranges of an `Accept` header with their preference.
#[derive(Debug)]
pub(super) struct Accept<'a>(Vec<(&'a str, Quality)>);

impl<'a> Accept<'a> {
    /// Without the header, everything is taken.
    pub(super) fn of(headers: &'a HeaderMap) -> Self {
        let lines = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        Self(lines.flat_map(|line| line.split(',')).filter_map(range).collect())
    }

    /// How much a media type (its parameters are left aside) is wanted: the most specific range that
    /// matches decides.
    fn quality(&self, content_type: &str) -> Quality {
        if self.0.is_empty() {
            return 1000;
        }
        let wanted = essence(content_type);
        let group = wanted.split_once('/').map_or(wanted, |(group, _)| group);
        let named = |range: &str| {
            self.0
                .iter()
                .filter(|(given, _)| given.eq_ignore_ascii_case(range))
                .map(|&(_, q)| q)
                .max()
        };
        let any_of_group = || {
            self.0
                .iter()
                .filter(|(given, _)| {
                    given.strip_suffix("/*").is_some_and(|g| g.eq_ignore_ascii_case(group))
                })
                .map(|&(_, q)| q)
                .max()
        };
        named(wanted).or_else(any_of_group).or_else(|| named("*/*")).unwrap_or(0)
    }

    /// Does the client take this media type?
    pub(super) fn takes(&self, content_type: &str) -> bool {
        self.quality(content_type) > 0
    }

    /// The form in which siblings are shown: a list as text, or all of them as multipart/mixed if
    /// that was asked for by name and is wanted as much.
    pub(super) fn siblings(&self) -> SiblingsForm {
        let (list, parts) = (self.quality("text/plain"), self.quality("multipart/mixed"));
        let asked = self.0.iter().any(|(range, _)| {
            range.split_once('/').is_some_and(|(group, _)| group.eq_ignore_ascii_case("multipart"))
        });
        match (list, parts) {
            (0, 0) => SiblingsForm::Neither,
            (list, parts) if parts > list || (parts == list && asked) => SiblingsForm::Multipart,
            _ => SiblingsForm::List,
        }
    }
}

/// See [`Accept::siblings`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SiblingsForm {
    List,
    Multipart,
    Neither,
}

fn essence(content_type: &str) -> &str {
    content_type.split_once(';').map_or(content_type, |(essence, _)| essence).trim()
}

/// One media range with its `q`; an unreadable `q` counts as 1.
fn range(text: &str) -> Option<(&str, Quality)> {
    let mut parts = text.split(';').map(str::trim);
    let range = parts.next().filter(|range| !range.is_empty())?;
    let q = parts.find_map(|part| {
        let (name, value) = part.split_once('=')?;
        name.trim().eq_ignore_ascii_case("q").then(|| value.trim().parse::<f32>().ok())?
    });
    #[expect(clippy::cast_sign_loss, reason = "clamped to 0..=1 just before")]
    let quality = q.map_or(1000, |q| (q.clamp(0.0, 1.0) * 1000.0).round() as Quality);
    // Some clients (Java's) send a lone star.
    Some((if range == "*" { "*/*" } else { range }, quality))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn headers(accept: Option<&'static str>) -> HeaderMap {
        accept.map(|text| (ACCEPT, HeaderValue::from_static(text))).into_iter().collect()
    }

    #[test]
    fn siblings_are_multipart_only_when_asked_for() {
        use SiblingsForm::{List, Multipart, Neither};
        for (accept, want) in [
            (None, List),
            (Some("*/*"), List),
            (Some("*"), List),
            (Some("text/plain"), List),
            (Some("multipart/mixed"), Multipart),
            (Some("Multipart/Mixed, */*;q=0.5"), Multipart),
            (Some("multipart/mixed, */*"), Multipart),
            (Some("multipart/*"), Multipart),
            (Some("multipart/mixed;q=0.3, text/plain"), List),
            (Some("multipart/mixed;q=0"), Neither),
            (Some("text/plain;q=0, */*"), Multipart),
            (Some("application/json"), Neither),
        ] {
            assert_eq!(Accept::of(&headers(accept)).siblings(), want, "{accept:?}");
        }
    }

    #[test]
    fn a_type_is_taken_if_the_most_specific_range_wants_it() {
        for (accept, want) in [
            (None, true),
            (Some("*/*"), true),
            (Some("text/*"), true),
            (Some("TEXT/HTML"), true),
            (Some("application/json, text/html;q=0.1"), true),
            (Some("text/html;q=0, */*"), false),
            (Some("text/plain"), false),
            (Some("multipart/mixed"), false),
        ] {
            let headers = headers(accept);
            assert_eq!(Accept::of(&headers).takes("text/html; charset=utf-8"), want, "{accept:?}");
        }
    }
}
