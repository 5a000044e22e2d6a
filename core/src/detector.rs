//! What this node believes of its peers (§4.8.3). Purely local: fed by messages, links and
//! timeouts; a suspected peer is probed and believed again as soon as it is heard.

use crate::id::{NodeId, Run};
use crate::time::WallTime;
use crate::view::PeerState;
use std::collections::BTreeMap;

/// One peer.
#[derive(Clone, Copy, Debug, Default)]
struct Peer {
    run: Option<Run>,
    heard: Option<WallTime>,
    suspected: bool,
    linked: bool,
}

/// All peers ever linked or heard in this run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Detector(BTreeMap<NodeId, Peer>);

impl Detector {
    /// A message came. Returns whether the peer had been suspected or unknown.
    pub(crate) fn heard(&mut self, peer: NodeId, run: Run, at: WallTime) -> bool {
        let entry = self.0.entry(peer).or_default();
        let news = entry.suspected || entry.heard.is_none();
        entry.run = Some(run);
        entry.heard = Some(at);
        entry.suspected = false;
        news
    }
    /// A link came up or went down.
    pub(crate) fn link(&mut self, peer: NodeId, up: bool) {
        self.0.entry(peer).or_default().linked = up;
    }
    /// It did not answer, or its link went down. Returns whether that is news.
    pub(crate) fn suspect(&mut self, peer: NodeId) -> bool {
        let entry = self.0.entry(peer).or_default();
        !std::mem::replace(&mut entry.suspected, true)
    }
    /// Is it worth asking?
    pub(crate) fn healthy(&self, peer: NodeId) -> bool {
        self.state(peer) == PeerState::Up
    }
    /// What this node believes of it.
    pub(crate) fn state(&self, peer: NodeId) -> PeerState {
        match self.0.get(&peer) {
            Some(known) if known.suspected => PeerState::Suspected,
            Some(known) if known.heard.is_some() => PeerState::Up,
            _ => PeerState::Unknown,
        }
    }
    /// The run it last spoke from.
    pub(crate) fn run(&self, peer: NodeId) -> Option<Run> {
        self.0.get(&peer)?.run
    }
    /// When it was last heard.
    pub(crate) fn last_heard(&self, peer: NodeId) -> Option<WallTime> {
        self.0.get(&peer)?.heard
    }
    /// The peers with a link, members or not.
    pub(crate) fn linked(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.0.iter().filter(|(_, peer)| peer.linked).map(|(&node, _)| node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suspected_peer_is_believed_again_when_heard() {
        let mut detector = Detector::default();
        let (peer, run) = (NodeId(1), Run(1));
        assert_eq!(detector.state(peer), PeerState::Unknown);
        assert!(detector.heard(peer, run, WallTime(1)));
        assert!(!detector.heard(peer, run, WallTime(2)));
        assert!(detector.healthy(peer));
        assert!(detector.suspect(peer));
        assert!(!detector.suspect(peer));
        assert_eq!(detector.state(peer), PeerState::Suspected);
        assert!(detector.heard(peer, run, WallTime(3)));
        assert_eq!(detector.state(peer), PeerState::Up);
    }
}
