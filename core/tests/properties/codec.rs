//! Messages keep their bytes, and no bytes make the decoder panic.

use crate::util;
use bytes::Bytes;
use proptest::prelude::*;
use proptest::sample::Index;
use quorate_core::codec::{DecodeError, WIRE_VERSION, decode_message, encode_message};
use quorate_core::{
    Actor, Answer, Body, BucketPatch, BucketProps, BucketRecord, Change, ClusterId, ClusterState,
    Digest, Dot, Duration, Found, Get, Key, LayoutId, List, ListCursor, MemberConfig, MemberRecord,
    Message, Nack, Need, NodeId, Object, Partition, Put, Re, ReadAnswer, Receipt, Reply, Request,
    RequestError, Run, Secret, Siblings, Value, VersionVector, WallTime, WriteId,
};
use std::collections::BTreeSet;
use std::fmt::Write as _;

/// A variant that is missing here does not compile; one that is here and has no example among
/// [`bodies`] fails a test.
macro_rules! variants {
    ($($name:ident)*) => {
        const VARIANTS: &[&str] = &[$(stringify!($name)),*];
        fn variant(body: &Body) -> &'static str {
            match body {
                $(Body::$name { .. } => stringify!($name)),*
            }
        }
    };
}
variants! {
    Ping Pong Gossip State Join JoinRefused Open Opened Read ReadReply Replicate StoreHint
    DeliverHint Ack Nack Forward ForwardReply ListRead ListPage
}

const RE: Re = Re(Run(0x1111_2222_3333_4444), 300);
const SEQ: u64 = 7;

fn key() -> Key {
    Key::new("bucket", &b"\xff key"[..]).unwrap()
}

fn value(text: &'static str) -> Value {
    Value { bytes: Bytes::from_static(text.as_bytes()), modified: WallTime(1_700_000_000_000_000) }
}

/// Two siblings, one of them written under an id, over a replaced value.
fn siblings() -> Siblings {
    let dot = |run, n| Dot(Actor(Run(run), 2), n);
    let mut siblings = Siblings::default();
    siblings.write_value(&VersionVector::default(), dot(5, 1), value("old"), None);
    let context = siblings.context().clone();
    siblings.write_value(&context, dot(5, 70_000), value("new"), Some(WriteId::of(b"retry me")));
    siblings.write_value(&context, dot(6, 1), value(""), None);
    siblings
}

fn tombstone() -> Siblings {
    let mut siblings = siblings();
    let context = siblings.context().clone();
    siblings.delete(&context);
    siblings
}

fn config() -> MemberConfig {
    MemberConfig {
        name: "ada".into(),
        zone: "räck 1".into(),
        weight: 3,
        addresses: vec!["ws://127.0.0.1:8098".into()],
    }
}

fn patch() -> BucketPatch {
    BucketPatch {
        n_val: Some(5),
        r: Some(Need::Count(2)),
        w: Some(Need::All),
        allow_mult: Some(false),
        ..BucketPatch::default()
    }
}

fn state() -> ClusterState {
    let secret = Secret([1, 2, 3, u64::MAX]);
    let found = Found::new(ClusterId(8, 9), 256, secret).unwrap();
    let mut state = ClusterState::found(found, NodeId(1), config());
    let change = Change { time: 2, issuer: NodeId(1) };
    state
        .members
        .insert(NodeId(u64::MAX), MemberRecord { config: MemberConfig::default(), change });
    state.buckets.insert(Bytes::from_static(b"b"), BucketRecord { patch: patch(), change });
    state.open = Some(LayoutId(0xabcd));
    state
}

fn requests() -> Vec<Request> {
    let mut get = Get::new(key());
    get.r = Some(Need::Quorum);
    get.basic_quorum = true;
    let mut put = Put::new(key(), Bytes::from_static(b"body"));
    put.context = Some(Bytes::from_static(b"sealed"));
    put.pw = Some(Need::Count(1));
    put.write_id = Some(WriteId::of(b"id"));
    put.timeout = Some(Duration::from_millis(250));
    let bucket = Bytes::from_static(b"bucket");
    let after = Some(ListCursor { partition: Partition(3), after: Some(Bytes::from_static(b"k")) });
    vec![
        Request::Get(get),
        Request::Put(put),
        Request::Put(Put::delete(key(), Bytes::from_static(b"sealed"))),
        Request::List(List { bucket: bucket.clone(), after, limit: 100, timeout: None }),
        Request::GetBucket { bucket: bucket.clone() },
        Request::SetBucket { bucket: bucket.clone(), patch: Some(patch()) },
        Request::SetBucket { bucket, patch: None },
    ]
}

fn replies() -> Vec<Reply> {
    let receipt = Receipt {
        coordinator: NodeId(1),
        layout: LayoutId(0xabcd),
        n: 3,
        needed: 2,
        answers: vec![
            Answer { node: NodeId(1), primary: true, counts: true },
            Answer { node: NodeId(2), primary: false, counts: false },
        ],
        siblings: 2,
        elapsed: Duration::from_micros(1_234),
    };
    let dot = Dot(Actor(Run(5), 2), 70_000);
    let context = Bytes::from_static(b"sealed");
    let object = Object { values: vec![(dot, value("new"))], context: context.clone() };
    let written = |dot, repeated| Reply::Written {
        dot,
        repeated,
        object: object.clone(),
        receipt: receipt.clone(),
    };
    vec![
        Reply::Found { object: object.clone(), receipt: receipt.clone() },
        Reply::Deleted { context, receipt: receipt.clone() },
        Reply::Absent { receipt: receipt.clone() },
        written(Some(dot), true),
        written(None, false),
        Reply::Keys { keys: vec![Bytes::from_static(b"k")], next: None },
        Reply::Bucket(BucketProps::default()),
    ]
}

fn errors() -> Vec<RequestError> {
    vec![
        RequestError::QuorumExceedsN { param: "pw".into(), value: 4, n: 3 },
        RequestError::BadContext,
        RequestError::WriteIdReused,
        RequestError::TooManySiblings { would_be: 101, max: 100 },
        RequestError::Unavailable { param: "w".into(), need: 2, have: 1, may_have_happened: true },
        RequestError::Timeout { after: Duration::from_secs(10), may_have_happened: false },
        RequestError::NotReady("why".into()),
        RequestError::NotMember,
        RequestError::NotOpen(NodeId(1)),
        RequestError::ReadOnly,
        RequestError::Stopped("why".into()),
        RequestError::Overloaded(10_000),
        RequestError::Refused("why".into()),
    ]
}

/// At least one example of every variant, and of every variant within.
fn bodies() -> Vec<Body> {
    let (bucket, owner) = (Bytes::from_static(b"bucket"), NodeId(u64::MAX));
    let after = Some(Bytes::from_static(b"k"));
    let mut bodies = vec![
        Body::Ping { seq: SEQ },
        Body::Pong { re: RE },
        Body::Gossip { digest: Digest(1, u64::MAX) },
        Body::State { state: state(), answer: true },
        Body::Join { node: owner, config: config() },
        Body::JoinRefused { node: owner, reason: "why".into() },
        Body::Open { seq: SEQ, write: true },
        Body::Opened { re: RE, state: state() },
        Body::Read { seq: SEQ, key: key() },
        Body::Replicate { seq: SEQ, key: key(), siblings: siblings() },
        Body::Replicate { seq: SEQ, key: key(), siblings: tombstone() },
        Body::StoreHint { seq: SEQ, owner, key: key(), siblings: siblings() },
        Body::DeliverHint { seq: SEQ, key: key(), siblings: siblings() },
        Body::Ack { re: RE },
        Body::ListRead { seq: SEQ, partition: Partition(255), bucket, after, limit: 100 },
        Body::ListPage { re: RE, keys: vec![], through: None },
        Body::ListPage { re: RE, keys: vec!["k".into()], through: Some("k".into()) },
    ];
    let answers = [
        ReadAnswer::Owner(siblings()),
        ReadAnswer::Owner(Siblings::default()),
        ReadAnswer::Hint(siblings()),
        ReadAnswer::Uninformative,
    ];
    bodies.extend(answers.map(|answer| Body::ReadReply { re: RE, answer }));
    let reasons =
        [Nack::Layout, Nack::NotOwner, Nack::NotReady, Nack::Full, Nack::Busy, Nack::OtherRun];
    bodies.extend(reasons.map(|reason| Body::Nack { re: RE, reason }));
    let timeout = Duration::from_secs(10);
    let forward = |request| Body::Forward { seq: SEQ, to: Run(9), request, timeout };
    bodies.extend(requests().into_iter().map(forward));
    let results = replies().into_iter().map(Ok).chain(errors().into_iter().map(Err));
    bodies.extend(results.map(|result| Body::ForwardReply { re: RE, result }));
    bodies
}

fn messages() -> Vec<Message> {
    let message =
        |body| Message { run: Run(0xfedc_ba98_7654_3210), layout: Some(LayoutId(2)), body };
    let mut messages: Vec<Message> = bodies().into_iter().map(message).collect();
    messages.push(Message { layout: None, ..message(Body::Ping { seq: 0 }) });
    messages
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    })
}

#[test]
fn every_variant_has_an_example() {
    let shown: BTreeSet<&str> = bodies().iter().map(variant).collect();
    assert_eq!(shown, VARIANTS.iter().copied().collect());
}

#[test]
fn messages_keep_their_bytes_and_come_back() {
    let mut lines = String::new();
    for message in messages() {
        let bytes = encode_message(&message);
        assert_eq!(decode_message(&bytes).as_ref(), Ok(&message));
        writeln!(lines, "{} {}", variant(&message.body), hex(&bytes)).unwrap();
    }
    util::check_golden("messages.txt", &lines);
}

#[test]
fn a_cut_message_is_refused_wherever_it_is_cut() {
    for message in messages() {
        let bytes = encode_message(&message);
        assert_eq!(decode_message(&[]), Err(DecodeError::Empty));
        for end in 1..bytes.len() {
            let cut = decode_message(&bytes[..end]);
            assert!(matches!(cut, Err(DecodeError::Malformed(_))), "{end} bytes: {cut:?}");
        }
    }
}

#[test]
fn what_follows_a_message_is_refused() {
    for message in messages() {
        let bytes = [&encode_message(&message)[..], &[0, 0]].concat();
        assert_eq!(decode_message(&bytes), Err(DecodeError::Trailing(2)));
    }
}

#[test]
fn another_version_is_named_before_anything_is_read() {
    let mut bytes = encode_message(&messages()[0]).to_vec();
    for found in (0..=u8::MAX).filter(|&version| version != WIRE_VERSION) {
        bytes[0] = found;
        let error = DecodeError::Version { found, expected: WIRE_VERSION };
        assert_eq!(decode_message(&bytes), Err(error.clone()));
        assert_eq!(decode_message(&[found]), Err(error));
    }
}

#[test]
fn lengths_and_depths_without_bound_are_refused_without_taking_memory() {
    let with_body = |body: &[u8]| {
        let ping = Message { run: Run(0), layout: None, body: Body::Ping { seq: 0 } };
        let ping = encode_message(&ping);
        let at = ping.windows(4).position(|window| window == b"Ping").unwrap() - 2;
        [&ping[..at], body].concat()
    };
    // A page of 2^64-1 keys, a key of 2^63 bytes, a text, an array and a map as long.
    let page = |keys: &[u8]| {
        let text = |text: &str| [&[0x60 + text.len() as u8], text.as_bytes()].concat();
        let re = [&text("re")[..], &[0x82, 0, 0]].concat();
        let fields = [&[0xa3][..], &text("through"), &[0xf6], &re, &text("keys"), keys].concat();
        with_body(&[&[0xa1][..], &text("ListPage"), &fields].concat())
    };
    let long = |kind: u8, size: u64| [&[kind | 0x1b][..], &size.to_be_bytes()].concat();
    assert!(decode_message(&page(&[0x81, 0x41, b'k'])).is_ok(), "the frame itself is sound");
    let bound_to_fail = [
        page(&long(0x80, u64::MAX)),
        page(&[&[0x81][..], &long(0x40, 1 << 63)].concat()),
        with_body(&long(0x60, u64::MAX)),
        with_body(&long(0x80, u64::MAX)),
        with_body(&long(0xa0, u64::MAX)),
        page(&[0x81; 10_000]),
        with_body(&[0xa1; 10_000]),
        with_body(&[0xd8; 10_000]),
    ];
    for (which, bytes) in bound_to_fail.iter().enumerate() {
        let result = decode_message(bytes);
        assert!(matches!(result, Err(DecodeError::Malformed(_))), "{which}: {result:?}");
    }
}

proptest! {
    #![proptest_config(util::cases(2048))]

    #[test]
    fn no_bytes_make_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode_message(&bytes);
        let _ = decode_message(&[&[WIRE_VERSION], &bytes[..]].concat());
    }

    #[test]
    fn what_a_damaged_message_decodes_to_can_be_sent(
        which in any::<Index>(),
        damage in proptest::collection::vec((any::<Index>(), any::<u8>()), 1..4),
    ) {
        let messages = messages();
        let mut bytes = encode_message(&messages[which.index(messages.len())]).to_vec();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(message) = decode_message(&bytes) {
            prop_assert_eq!(decode_message(&encode_message(&message)), Ok(message));
        }
    }
}
