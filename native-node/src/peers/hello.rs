//! The first words on a link: who each side is and whether they may talk. One JSON text frame each
//! way, so that versions that share nothing else still understand why they refuse each other.
//!
//! Invariant: a link is used only after both sides applied [`Identity::check`] to the other's
//! [`Hello`]; so a message always comes from a known node of the same cluster (or a newcomer).

use quorate_core::{ClusterId, NodeId, Run};
use serde::{Deserialize, Serialize};
use std::ops::RangeInclusive;

/// The versions of the peer protocol that this build speaks.
pub const PROTOCOLS: RangeInclusive<u16> = 1..=1;
/// The longest first frame that is read.
pub const HELLO_BYTES_MAX: usize = 4 << 10;
/// The smallest frame limit that a peer may ask for.
pub const FRAME_BYTES_MIN: u32 = 1 << 10;

/// What one side says of itself. Unknown fields are ignored: later versions may add some.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The first and the last protocol version it speaks.
    pub protocol: (u16, u16),
    /// Who it is.
    pub node: NodeId,
    /// Which start of it.
    pub run: Run,
    /// Its cluster; `None` for a node that was not admitted yet.
    pub cluster: Option<ClusterId>,
    /// The longest frame that it reads.
    pub frame_bytes_max: u32,
    /// Name and version of the program, for logs.
    #[serde(default)]
    pub software: String,
}

/// The first frame of each side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Greeting {
    /// Who I am.
    Hello(Hello),
    /// The answer to a hello that is not accepted; the link is closed after it.
    Refused {
        /// What is wrong and what to do.
        reason: String,
        /// What the other side makes of it.
        #[serde(default)]
        kind: RefusalKind,
    },
}

/// Refusals that a node tells apart; unknown kinds are read as [`RefusalKind::Wrong`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RefusalKind {
    /// Nothing is wrong: another link between the two nodes is used, or the node is going down.
    Spare,
    /// The node reached itself.
    Myself,
    /// Something for people to look at.
    #[default]
    #[serde(other)]
    Wrong,
}

/// Why two nodes don't talk.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// No protocol version in common.
    #[error(
        "no common peer protocol: node {node} speaks versions {theirs}, node {me} speaks versions {ours}; run the same release of quorate on both"
    )]
    Protocol {
        /// The other node.
        node: NodeId,
        /// Its versions.
        theirs: String,
        /// This node.
        me: NodeId,
        /// This node's versions.
        ours: String,
    },
    /// They belong to different clusters.
    #[error(
        "different clusters: node {node} belongs to cluster {theirs}, node {me} to cluster {ours}; a node keeps its cluster for ever, start it with an empty --data directory to join another"
    )]
    Cluster {
        /// The other node.
        node: NodeId,
        /// Its cluster.
        theirs: ClusterId,
        /// This node.
        me: NodeId,
        /// This node's cluster.
        ours: ClusterId,
    },
    /// The node reached itself.
    #[error("node {0} reached itself at this address; it needs no --join to itself")]
    Myself(NodeId),
    /// Another process uses the same identity.
    #[error(
        "two processes are node {0}: a data directory was copied; stop one of them and start it with an empty --data directory"
    )]
    SameNode(NodeId),
    /// Another node than the expected one answered.
    #[error("node {expected} was expected at this address and node {found} answered")]
    OtherNode {
        /// Who should have been there.
        expected: NodeId,
        /// Who was.
        found: NodeId,
    },
    /// The other side's frame limit is too small to work with.
    #[error("frame_bytes_max={0} is too small: at least {FRAME_BYTES_MIN} is needed")]
    FrameLimit(u32),
}

impl Refusal {
    /// How the refusal is told to the other side.
    pub fn kind(&self) -> RefusalKind {
        match self {
            Self::Myself(_) => RefusalKind::Myself,
            _ => RefusalKind::Wrong,
        }
    }
}

/// Who this node is, as links need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// This node.
    pub node: NodeId,
    /// This start of it.
    pub run: Run,
    /// The protocol versions it speaks.
    pub protocols: RangeInclusive<u16>,
}

impl Identity {
    /// This node in this build's versions.
    pub fn new(node: NodeId, run: Run) -> Self {
        Self { node, run, protocols: PROTOCOLS }
    }

    /// What this node says of itself.
    pub fn hello(&self, cluster: Option<ClusterId>, frame_bytes_max: u32) -> Hello {
        Hello {
            protocol: (*self.protocols.start(), *self.protocols.end()),
            node: self.node,
            run: self.run,
            cluster,
            frame_bytes_max,
            software: concat!("quorate ", env!("CARGO_PKG_VERSION")).into(),
        }
    }

    /// May this node, of `cluster`, talk to the one that sent `hello`? In which version?
    pub fn check(&self, cluster: Option<ClusterId>, hello: &Hello) -> Result<u16, Refusal> {
        if hello.node == self.node {
            let same = hello.run == self.run;
            return Err(if same { Refusal::Myself } else { Refusal::SameNode }(self.node));
        }
        let (first, last) = hello.protocol;
        let common = last.min(*self.protocols.end());
        if first > last || common < first || common < *self.protocols.start() {
            return Err(Refusal::Protocol {
                node: hello.node,
                theirs: range(first, last),
                me: self.node,
                ours: range(*self.protocols.start(), *self.protocols.end()),
            });
        }
        if let (Some(ours), Some(theirs)) = (cluster, hello.cluster)
            && ours != theirs
        {
            return Err(Refusal::Cluster { node: hello.node, theirs, me: self.node, ours });
        }
        if hello.frame_bytes_max < FRAME_BYTES_MIN {
            return Err(Refusal::FrameLimit(hello.frame_bytes_max));
        }
        Ok(common)
    }
}

fn range(first: u16, last: u16) -> String {
    format!("{first} to {last}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(node: u64, protocols: RangeInclusive<u16>) -> Identity {
        Identity { protocols, ..Identity::new(NodeId(node), Run(node)) }
    }

    #[test]
    fn the_highest_common_version_is_chosen() {
        for (ours, theirs, want) in [
            (1..=1, 1..=1, Some(1)),
            (1..=3, 2..=5, Some(3)),
            (2..=5, 1..=3, Some(3)),
            (1..=2, 3..=4, None),
            (3..=4, 1..=2, None),
        ] {
            let hello = identity(2, theirs.clone()).hello(None, FRAME_BYTES_MIN);
            let found = identity(1, ours.clone()).check(None, &hello);
            assert_eq!(found.clone().ok(), want, "{ours:?} with {theirs:?}");
            if let Err(refusal) = found {
                let text = refusal.to_string();
                for end in [ours.start(), ours.end(), theirs.start(), theirs.end()] {
                    assert!(text.contains(&end.to_string()), "{text}");
                }
            }
        }
    }

    #[test]
    fn clusters_refuse_each_other_and_newcomers_are_heard() {
        let (a, b) = (Some(ClusterId(1, 1)), Some(ClusterId(2, 2)));
        for (ours, theirs, fine) in
            [(a, a, true), (a, b, false), (a, None, true), (None, b, true), (None, None, true)]
        {
            let hello = identity(2, PROTOCOLS).hello(theirs, FRAME_BYTES_MIN);
            assert_eq!(identity(1, PROTOCOLS).check(ours, &hello).is_ok(), fine);
        }
    }

    #[test]
    fn a_node_knows_itself_from_a_copy_of_its_directory() {
        let me = identity(1, PROTOCOLS);
        let mut hello = me.hello(None, FRAME_BYTES_MIN);
        assert_eq!(me.check(None, &hello), Err(Refusal::Myself(NodeId(1))));
        hello.run = Run(9);
        assert_eq!(me.check(None, &hello), Err(Refusal::SameNode(NodeId(1))));
    }

    #[test]
    fn a_greeting_of_a_later_version_is_still_understood() {
        let text = r#"{"hello":{"protocol":[7,9],"node":"00000000000000ff","run":"0000000000000001",
            "cluster":null,"frame_bytes_max":4096,"new":{"field":true}}}"#;
        let Greeting::Hello(hello) = serde_json::from_str(text).unwrap() else { panic!("a hello") };
        assert_eq!((hello.protocol, hello.node), ((7, 9), NodeId(255)));
        let text = r#"{"refused":{"reason":"so it is","kind":"of a later version"}}"#;
        let refused = Greeting::Refused { reason: "so it is".into(), kind: RefusalKind::Wrong };
        assert_eq!(serde_json::from_str::<Greeting>(text).unwrap(), refused);
    }
}
