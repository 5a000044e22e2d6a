//! The node: dispatch and wiring.

use crate::config::{Boot, Config};
use crate::io::{Input, Output};
use crate::time::{Instant, Now};
use crate::view::NodeView;

/// One node of the cluster as a state machine.
#[derive(Clone, Debug)]
pub struct Node {}

impl Node {
    /// Starts a run of a node.
    pub fn new(_config: Config, _boot: Boot, _seed: u64, _now: Now) -> Self {
        Self {}
    }
    /// Takes one input. Never fails: bad peer input becomes [`Event::Rejected`](crate::Event).
    pub fn handle(&mut self, _now: Now, _input: Input) {}
    /// The next output, if any. Never works, only pops a queue.
    pub fn poll_output(&mut self) -> Option<Output> {
        None
    }
    /// When `handle` wants an [`Input::Tick`] at the latest. Changes only inside `handle`.
    pub fn poll_timeout(&self) -> Option<Instant> {
        None
    }
    /// The node as an inspector sees it.
    pub fn view(&self) -> NodeView {
        NodeView::default()
    }
}
