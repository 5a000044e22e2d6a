//! The contract between the core and its hosts, each point a test (see ARCHITECTURE.md).

mod common;

use bytes::Bytes;
use common::{Host, Net, boot, execute, found, key, now, value};
use quorate_core::*;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Takes everything a node has put out.
fn outputs(node: &mut Node) -> Vec<Output> {
    std::iter::from_fn(|| node.poll_output()).collect()
}

fn commands(outputs: &[Output]) -> Vec<(OpId, StoreCommand)> {
    let command = |output: &Output| match output {
        Output::Store { op, command } => Some((*op, command.clone())),
        _ => None,
    };
    outputs.iter().filter_map(command).collect()
}

/// Point 1: bad peer input becomes `Event::Rejected` or nothing, never a panic, and changes nothing.
#[test]
fn no_input_can_make_a_node_fail() {
    let mut net = Net::cluster(3);
    net.put(1, Put::new(key("k"), value("v"))).unwrap();
    let other = Found::new(ClusterId(6, 6), 1, common::SECRET).unwrap();
    let state = ClusterState::found(other, NodeId(9), MemberConfig::default());
    let me = NodeId(1);
    let layout = net.hosts[&me].node.view().layout;
    let re = Re(Run(5), 5);
    let siblings = net.stored(me, &key("k")).unwrap_or_default();
    let partition = Partition(u32::MAX);
    let bodies = [
        Body::Ping { seq: 0 },
        Body::Pong { re },
        Body::Gossip { digest: Digest(0, 0) },
        Body::State { state: state.clone(), answer: true },
        Body::Join {
            node: NodeId(3),
            config: MemberConfig { weight: 0, ..MemberConfig::default() },
        },
        Body::JoinRefused { node: me, reason: String::new() },
        Body::Open { seq: 1, write: true },
        Body::Opened { re, state },
        Body::Read { seq: 1, key: key("x") },
        Body::ReadReply { re, answer: ReadAnswer::Uninformative },
        Body::Replicate { seq: 1, key: key("x"), siblings: siblings.clone() },
        Body::StoreHint { seq: 1, owner: NodeId(77), key: key("x"), siblings: siblings.clone() },
        Body::DeliverHint { seq: 1, key: key("x"), siblings },
        Body::Ack { re },
        Body::Nack { re, reason: Nack::Busy },
        Body::Forward {
            seq: 2,
            to: Run(0),
            request: Request::GetBucket { bucket: Bytes::new() },
            timeout: Duration(0),
        },
        Body::ForwardReply { re, result: Err(RequestError::NotMember) },
        Body::ListRead { seq: 1, partition, bucket: Bytes::new(), after: None, limit: 0 },
        Body::ListPage { re, keys: vec![], through: None },
    ];
    let members = net.hosts[&me].node.view().members;
    for body in bodies {
        for from in [NodeId(1), NodeId(2), NodeId(99)] {
            for layout in [None, layout, Some(LayoutId(1))] {
                let message = Message { run: Run(5), layout, body: body.clone() };
                net.input(me, Input::Message { from, message });
            }
        }
    }
    for op in [OpId(0), OpId(u64::MAX)] {
        net.input(me, Input::Stored { op, result: Ok(StoreReply::Committed) });
    }
    let ids = |members: &[MemberView]| members.iter().map(|m| m.node).collect::<Vec<_>>();
    assert_eq!(ids(&net.hosts[&me].node.view().members), ids(&members));
    assert!(net.hosts[&me].events.iter().any(|event| matches!(event, Event::Rejected { .. })));
    net.run(Duration::from_secs(3));
    net.put(1, Put::new(key("k2"), value("v"))).unwrap();
}

/// Point 1: `handle` may be called again before its outputs are taken.
#[test]
fn any_interleaving_of_handle_and_poll_is_legal() {
    let mut replies = Vec::new();
    for eager in [true, false] {
        let mut node = Node::new(Config::default(), boot(NodeId(1), 1, Some(found())), 1, now(0));
        let (mut disk, mut last) = (common::Disk::new(), OpId::default());
        let mut taken = Vec::new();
        for n in 1..=20 {
            let put = Put::new(key(&format!("k{}", n % 3)), value(&format!("v{n}")));
            let request = Request::Put(put);
            node.handle(now(n), Input::Request { id: RequestId(n), request });
            if eager {
                taken.extend(outputs(&mut node));
            }
        }
        let mut answered = BTreeMap::new();
        for round in 0..200 {
            taken.extend(outputs(&mut node));
            for output in std::mem::take(&mut taken) {
                match output {
                    Output::Store { op, command } => {
                        let result = execute(&mut disk, &mut last, op, command);
                        node.handle(now(100 + round), Input::Stored { op, result });
                    }
                    Output::Reply { id, result } => {
                        assert!(answered.insert(id, result.is_ok()).is_none(), "answered once");
                    }
                    _ => {}
                }
            }
        }
        replies.push(answered);
    }
    assert_eq!(replies[0].len(), 20);
    assert!(replies[0].values().all(|ok| *ok));
    assert_eq!(replies[0], replies[1]);
}

/// Point 3: nothing that depends on a commit leaves before that commit's `Stored`.
#[test]
fn no_acknowledgement_precedes_its_stored() {
    let mut net = Net::cluster(3);
    net.put(1, Put::new(key("open"), value("v"))).unwrap();
    net.run(Duration::from_secs(2));
    let layout = net.hosts[&NodeId(1)].node.view().layout;
    // To a peer: a replicate is acknowledged after its commit only.
    let siblings = net.stored(NodeId(2), &key("open")).unwrap();
    let now = net.now;
    let host = net.hosts.get_mut(&NodeId(2)).unwrap();
    let body = Body::Replicate { seq: 7, key: key("fresh"), siblings };
    let message = Message { run: Run(1), layout, body };
    host.node.handle(now, Input::Message { from: NodeId(1), message });
    let acks = |outputs: &[Output]| {
        outputs.iter().any(|output| {
            matches!(output, Output::Send { message: Message { body: Body::Ack { .. }, .. }, .. })
        })
    };
    let mut steps = 0;
    loop {
        let out = outputs(&mut host.node);
        let steps_wanted = commands(&out);
        if acks(&out) {
            break;
        }
        assert_eq!(steps_wanted.len(), 1, "one step at a time on one key: {out:?}");
        for (op, command) in steps_wanted {
            steps += usize::from(matches!(command, StoreCommand::Commit { .. }));
            let result = host.execute(op, command);
            host.node.handle(now, Input::Stored { op, result });
        }
    }
    assert_eq!(steps, 1, "acknowledged after exactly one commit");
    // To a client: a single node's write is answered after its commit only.
    let mut node = Node::new(Config::default(), boot(NodeId(1), 1, Some(found())), 1, now);
    let (mut disk, mut last) = (common::Disk::new(), OpId::default());
    let request = Request::Put(Put::new(key("k"), value("v")));
    node.handle(now, Input::Request { id: RequestId(1), request });
    let mut durable = false;
    loop {
        let out = outputs(&mut node);
        let replied = out.iter().any(|output| matches!(output, Output::Reply { .. }));
        assert!(!replied || durable, "answered before the object was durable");
        if replied {
            break;
        }
        for (op, command) in commands(&out) {
            if let StoreCommand::Commit { writes } = &command {
                durable |= writes.iter().any(|write| write.space == Space::Objects);
            }
            let result = execute(&mut disk, &mut last, op, command);
            node.handle(now, Input::Stored { op, result });
        }
    }
}

/// Point 4: `Io` latches: every client is told, and nothing is accepted any more.
#[test]
fn an_io_error_stops_the_node_for_ever() {
    let mut node = Node::new(Config::default(), boot(NodeId(1), 1, Some(found())), 1, now(0));
    let request = || Request::Put(Put::new(key("k"), value("v")));
    node.handle(now(1), Input::Request { id: RequestId(1), request: request() });
    let (op, _) = commands(&outputs(&mut node))[0];
    let result = Err(StoreError::Io("disk on fire".into()));
    node.handle(now(2), Input::Stored { op, result });
    node.handle(now(3), Input::Request { id: RequestId(2), request: request() });
    let out = outputs(&mut node);
    let stopped = out.iter().filter(|output| {
        matches!(output, Output::Reply { result: Err(RequestError::Stopped(why)), .. } if why.contains("disk on fire"))
    });
    assert_eq!(stopped.count(), 2);
    assert!(out.iter().any(|output| matches!(output, Output::Event(Event::Stopped { .. }))));
    assert_eq!(node.poll_timeout(), None);
    assert!(node.view().stopped.is_some());
}

/// Point 4: `Full` makes the node read-only until there is room, and `Corrupt` is about one key.
#[test]
fn a_full_disk_reads_and_does_not_write_until_there_is_room() {
    let mut net = Net::cluster(1);
    net.put(1, Put::new(key("k"), value("v"))).unwrap();
    let now = net.now;
    let host = net.hosts.get_mut(&NodeId(1)).unwrap();
    let request = Request::Put(Put::new(key("k2"), value("v")));
    host.node.handle(now, Input::Request { id: RequestId(900), request });
    let mut answer = None;
    while answer.is_none() {
        for output in outputs(&mut host.node) {
            match output {
                Output::Store { op, command: StoreCommand::Commit { .. } } => {
                    host.node.handle(now, Input::Stored { op, result: Err(StoreError::Full) });
                }
                Output::Store { op, command } => {
                    let result = host.execute(op, command);
                    host.node.handle(now, Input::Stored { op, result });
                }
                Output::Reply { result, .. } => answer = Some(result),
                _ => {}
            }
        }
    }
    assert!(answer.is_some_and(|answer| answer.is_err()));
    assert!(host.node.view().read_only);
    assert_eq!(common::texts(&net.get(1, &key("k"))), ["v"]);
    net.run(Duration::from_secs(3));
    assert!(!net.hosts[&NodeId(1)].node.view().read_only, "the probe's commit succeeded");
    net.put(1, Put::new(key("k2"), value("v"))).unwrap();
}

/// Point 4: `Corrupt` is about one key: it is restored from the others before it takes a change.
#[test]
fn a_damaged_record_is_repaired_in_one_commit_and_the_actor_left_behind() {
    let mut net = Net::cluster(3);
    net.put(1, Put::new(key("k"), value("v"))).unwrap();
    net.run(Duration::from_secs(2));
    let damaged = net.hosts.get_mut(&NodeId(1)).unwrap();
    for ((space, _), record) in &mut damaged.disk {
        if *space == Space::Objects {
            *record = Bytes::from_static(b"\x01damaged");
        }
    }
    let mut put = Put::new(key("k"), value("w"));
    put.return_body = true;
    assert_eq!(common::texts(&net.put(1, put)), ["v", "w"]);
    let counters = net.hosts[&NodeId(1)].node.view().counters;
    assert_eq!((counters.records_repaired, counters.actors_rotated), (1, 1));
    net.run(Duration::from_secs(6));
    for id in 1..=3 {
        assert_eq!(net.stored(NodeId(id), &key("k")).unwrap().len(), 2);
    }
}

/// Point 5: requests beyond the limit are refused at once.
#[test]
fn more_requests_than_the_limit_are_refused() {
    let mut config = Config::default();
    config.limits.requests_max = 2;
    let mut node = Node::new(config, boot(NodeId(1), 1, Some(found())), 1, now(0));
    for n in 1..=3 {
        let request = Request::Put(Put::new(key("k"), value("v")));
        node.handle(now(1), Input::Request { id: RequestId(n), request });
    }
    let overloaded = outputs(&mut node).into_iter().find_map(|output| match output {
        Output::Reply { id, result } => Some((id, result)),
        _ => None,
    });
    assert_eq!(overloaded, Some((RequestId(3), Err(RequestError::Overloaded(2)))));
}

/// Point 6: same configuration, seed and inputs, same outputs, byte for byte.
#[test]
fn the_same_inputs_give_the_same_outputs() {
    let trace = || {
        let mut text = String::new();
        let mut host = Host::new(Config::default(), boot(NodeId(1), 1, Some(found())), now(0));
        for n in 1..200u64 {
            let k = key(&format!("k{}", n % 7));
            let request = match n % 3 {
                0 => Request::Get(Get::new(k)),
                _ => Request::Put(Put::new(k, value(&format!("v{n}")))),
            };
            host.node.handle(now(n * 50_000), Input::Request { id: RequestId(n), request });
            loop {
                let out = outputs(&mut host.node);
                if out.is_empty() {
                    break;
                }
                for output in out {
                    writeln!(text, "{output:?}").unwrap();
                    if let Output::Store { op, command } = output {
                        let result = host.execute(op, command);
                        host.node.handle(now(n * 50_000), Input::Stored { op, result });
                    }
                }
            }
        }
        text
    };
    assert_eq!(trace(), trace());
}

/// A tick that comes early or twice has no effect.
#[test]
fn an_early_or_repeated_tick_does_nothing() {
    let mut node = Node::new(Config::default(), boot(NodeId(1), 1, Some(found())), 1, now(5));
    outputs(&mut node);
    let due = node.poll_timeout().unwrap();
    for _ in 0..3 {
        node.handle(now(due.0 - 1), Input::Tick);
        assert!(outputs(&mut node).is_empty());
        assert_eq!(node.poll_timeout(), Some(due));
    }
    node.handle(now(due.0), Input::Tick);
    assert!(node.poll_timeout() > Some(due));
}
