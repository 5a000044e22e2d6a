//! `/cluster` as the commands read it: lenient, so that a newer or older node is still understood.

use super::client::parse_node;
use super::exit::{CliError, one_line};
use reqwest::Url;
use serde::Deserialize;

/// A node's view of itself and its cluster; see `quorate_core::NodeView`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ClusterView {
    /// This node.
    pub node: Option<String>,
    /// Its cluster.
    pub cluster: Option<String>,
    /// The layout it knows.
    pub layout: Option<String>,
    /// Q.
    pub partitions: u32,
    /// Does the cluster hold data?
    pub open: bool,
    /// Can this node answer for what it owns?
    pub ready: bool,
    /// Why it cannot.
    pub not_ready: Vec<String>,
    /// Is its disk full?
    pub read_only: bool,
    /// Did its disk lose acknowledged commits?
    pub lost_commits: bool,
    /// Why it stopped.
    pub stopped: Option<String>,
    /// Every member.
    pub members: Vec<Member>,
    /// What it keeps for others, by owner.
    pub hints: Vec<Hints>,
    /// Bytes of all hints.
    pub hint_bytes: u64,
    /// Have the hints of earlier runs been counted yet?
    pub hints_counted: bool,
}

/// A member as the answering node believes it to be.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Member {
    /// Which.
    pub node: String,
    /// Its name for people.
    pub name: String,
    /// Its failure zone.
    pub zone: String,
    /// Its relative share.
    pub weight: u32,
    /// Where it is reached.
    pub addresses: Vec<String>,
    /// `myself`, `up`, `suspected` or `unknown`.
    pub state: String,
    /// Partitions that the claim gives it.
    pub claimed: u32,
    /// Did it found the cluster?
    pub founder: bool,
}

/// Hints kept for one owner.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Hints {
    /// For whom.
    pub owner: String,
    /// How many objects.
    pub count: u64,
    /// How many bytes.
    pub bytes: u64,
}

impl ClusterView {
    /// Reads a node's answer.
    pub fn parse(body: &[u8]) -> Result<Self, CliError> {
        let mut view: Self = serde_json::from_slice(body).map_err(|error| {
            let error = one_line(&error.to_string());
            CliError::failed(format!("/cluster is not what a Quorate node answers: {error}"))
        })?;
        // Ids are random; people look for names.
        view.members.sort_by(|a, b| (&a.name, &a.node).cmp(&(&b.name, &b.node)));
        Ok(view)
    }
    /// Where each member's HTTP API is: the first address of each that can be read.
    pub fn member_urls(&self) -> Vec<Url> {
        self.members.iter().filter_map(Member::url).collect()
    }
    /// Hints of all owners together.
    pub fn hint_count(&self) -> u64 {
        self.hints.iter().map(|hints| hints.count).sum()
    }
    /// A member's name for people: what it calls itself, or the beginning of its id.
    pub fn name_of(&self, node: &str) -> String {
        let named = self.members.iter().find(|member| member.node == node);
        named.map_or_else(|| short(node), Member::title)
    }
}

impl Member {
    /// Where its HTTP API is (one port serves peers and HTTP).
    pub fn url(&self) -> Option<Url> {
        self.addresses.iter().find_map(|address| parse_node(address).ok())
    }
    /// What to call it.
    pub fn title(&self) -> String {
        if self.name.is_empty() { short(&self.node) } else { self.name.clone() }
    }
}

fn short(id: &str) -> String {
    id.chars().take(8).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_core::{MemberView, NodeId, NodeView, PeerState};

    #[test]
    fn the_view_that_the_core_prints_is_understood() {
        let member = MemberView {
            node: NodeId(7),
            name: "n1".into(),
            zone: "z".into(),
            weight: 1,
            addresses: vec!["ws://127.0.0.1:9/peer".into()],
            state: PeerState::Suspected,
            claimed: 85,
            founder: true,
            heard: None,
        };
        let view = NodeView { members: vec![member], partitions: 256, ..NodeView::default() };
        let read = ClusterView::parse(&serde_json::to_vec(&view).unwrap()).unwrap();
        assert_eq!((read.partitions, read.members[0].claimed), (256, 85));
        assert_eq!(read.members[0].state, "suspected");
        assert_eq!(read.member_urls()[0].port(), Some(9));
        assert_eq!(read.name_of("0000000000000007"), "n1");
        assert_eq!(read.name_of("00000000000000ff"), "00000000");
    }

    #[test]
    fn another_servers_page_is_refused_with_a_reason() {
        let error = ClusterView::parse(b"<html>").unwrap_err();
        assert!(error.message.contains("not what a Quorate node answers"), "{error}");
    }
}
