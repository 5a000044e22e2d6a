//! What nodes want done: sends, storage commands, replies; and when they want to be woken.

use super::{ClientReply, Happening, World};
use crate::counts::Group;
use crate::invariants::answered;
use crate::network::{Fate, HostIndex};
use crate::trace::command_bytes;
use quorate_core::{
    Event, Instant, Message, Node, NodeId, Output, Reply, RequestError, RequestId, codec,
};

impl World {
    pub(super) fn drain(&mut self, at: HostIndex) {
        while let Some(output) = self.hosts[at].node.as_mut().and_then(Node::poll_output) {
            match output {
                Output::Send { to, message } => self.send(at, to, &message),
                Output::Peer { .. } => {} // All pairs of live hosts keep links.
                Output::Store { op, command } => {
                    let content = command_bytes(&command);
                    let number = op.0.to_be_bytes();
                    self.trace.event(self.now, "store", at, &[&number, &content], || {
                        format!("{} {command:?}", op.0)
                    });
                    let host = &mut self.hosts[at];
                    let incarnation = host.incarnation;
                    let (done, ending) = host.disk.issue(self.now, op, command);
                    self.push(done, Happening::Stored { host: at, incarnation, op, ending });
                }
                Output::Reply { id, result } => self.answer(at, id, result),
                Output::Event(event) => self.observe(at, &event),
            }
        }
        let wanted = self.hosts[at].node.as_ref().and_then(Node::poll_timeout);
        let wanted = wanted.map(|Instant(deadline)| deadline.max(self.now + 1));
        if let Some(deadline) = wanted
            && self.hosts[at].tick_at != wanted
        {
            self.push(deadline, Happening::Tick { host: at, at: deadline });
        }
        self.hosts[at].tick_at = wanted;
    }

    fn answer(&mut self, at: HostIndex, id: RequestId, result: Result<Reply, RequestError>) {
        let said = format!("{result:?}");
        self.trace.event(self.now, "reply", at, &[&id.0.to_be_bytes(), said.as_bytes()], || {
            format!("{id:?} {said}")
        });
        if self.hosts[at].open.remove(&id).is_none() {
            self.break_rule(
                &answered::THIS,
                format!("n{at} answered {id:?} a second time: {said}"),
            );
        }
        self.replies.push(ClientReply { id, host: at, result: Some(result) });
    }

    fn observe(&mut self, at: HostIndex, event: &Event) {
        let said = format!("{event:?}");
        self.trace.event(self.now, "event", at, &[said.as_bytes()], || said.clone());
        let what = match event {
            Event::Rejected { .. } => "peer messages rejected",
            Event::ReadRepaired { .. } => "read repairs",
            Event::HintStored { .. } => "hints stored",
            Event::HintDelivered { .. } => "hints delivered",
            Event::Corrupt { .. } => "damage noticed",
            Event::Repaired { .. } => "damage repaired",
            Event::ActorRotated => "actors rotated",
            Event::Suspected { suspected: true, .. } => "suspicions",
            Event::Stopped { .. } => {
                self.break_rule(&answered::THIS, format!("n{at} stopped without a cause: {said}"));
                "stops"
            }
            _ => return,
        };
        self.counts.add(Group::World, what, 1);
    }

    fn send(&mut self, from: HostIndex, to: NodeId, message: &Message) {
        let Some(&to_host) = self.by_id.get(&to) else {
            return self.break_rule(&answered::THIS, format!("n{from} sent to unknown node {to}"));
        };
        let bytes = codec::encode_message(message);
        let receiver = [to_host as u8];
        self.trace.event(self.now, "send", from, &[&receiver, &bytes], || {
            format!("to n{to_host}: {:?}", message.body)
        });
        let fate = self.network.fate(from, to_host);
        let mut deliver = |delay, bytes| {
            self.push(self.now + delay, Happening::Deliver { from, to: to_host, bytes });
        };
        match fate {
            Fate::Once(delay) => deliver(delay, bytes),
            Fate::Twice(first, second) => {
                deliver(first, bytes.clone());
                deliver(second, bytes);
                self.counts.add(Group::Faults, "messages repeated", 1);
            }
            Fate::Lost => self.counts.add(Group::Faults, "messages lost", 1),
            Fate::Cut => self.counts.add(Group::Faults, "messages cut off", 1),
        }
    }
}
