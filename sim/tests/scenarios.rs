//! Directed scenarios of the paper, each on a healthy world with one thing gone wrong.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use bytes::Bytes;
use quorate_core::{Get, Key, Need, Object, Put, Receipt, Reply, Request, RequestError, WriteId};
use quorate_sim::{HostIndex, SECOND, World, WorldPlan};

const N: u8 = 3;

/// A cluster of so many hosts, ready for work.
fn cluster(hosts: usize) -> World {
    let mut world = World::new(WorldPlan::healthy(7, hosts));
    world.set_up(&Bytes::from_static(b"carts"), N).unwrap();
    // An owner answers for its keys once it has heard from another owner.
    world.run_until(10 * SECOND, |world| world.views().iter().all(|view| view.ready)).unwrap();
    // The first write opens the cluster; let everybody hear of it.
    put(&mut world, 0, blind("opening", "x")).unwrap();
    world.run_for(3 * SECOND);
    world
}

fn key(name: &str) -> Key {
    Key::new("carts", name.to_owned()).unwrap()
}

fn blind(name: &str, value: &str) -> Put {
    Put::new(key(name), value.to_owned().into())
}

fn put(world: &mut World, host: HostIndex, put: Put) -> Result<(Reply, Receipt), RequestError> {
    let reply = world.ask(host, Request::Put(put)).unwrap()?;
    match &reply {
        Reply::Written { receipt, .. } => Ok((reply.clone(), receipt.clone())),
        other => panic!("a put was answered with {other:?}"),
    }
}

fn get_all(world: &mut World, host: HostIndex, name: &str) -> Reply {
    let mut get = Get::new(key(name));
    (get.r, get.pr) = (Some(Need::All), Some(Need::All));
    world.ask(host, Request::Get(get)).unwrap().unwrap()
}

fn found(reply: Reply) -> (Vec<String>, Bytes) {
    let Reply::Found { object: Object { values, context }, .. } = reply else {
        panic!("not found: {reply:?}")
    };
    let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    (values.iter().map(|(_, value)| text(&value.bytes)).collect(), context)
}

fn settle(world: &mut World) {
    world.run_until(60 * SECOND, |world| world.hints() == 0).unwrap();
    assert_eq!(world.violation(), None);
}

#[test]
fn a_write_with_all_owners_down_is_kept_as_hints_and_handed_to_them() {
    let mut world = cluster(6);
    let owners = world.owners(&key("cart"), N);
    let other = (0..6).find(|host| !owners.contains(host)).unwrap();
    for &owner in &owners {
        world.crash(owner);
    }
    world.run_for(15 * SECOND);

    let mut strict = blind("cart", "book");
    strict.pw = Some(Need::Count(1));
    let refused = put(&mut world, other, strict).unwrap_err();
    assert!(!refused.is_unknown(), "nothing was sent: {refused}");
    assert!(refused.to_string().starts_with("pw=1"), "{refused}");

    let (_, receipt) = put(&mut world, other, blind("cart", "book")).unwrap();
    assert!(receipt.answers.iter().all(|answer| !answer.primary), "{receipt:?}");
    assert!(receipt.answers.len() >= 2 && world.hints() >= 2, "{receipt:?}");

    for &owner in &owners {
        world.start(owner);
    }
    settle(&mut world);
    world.run_for(3 * SECOND);
    let (values, _) = found(get_all(&mut world, other, "cart"));
    assert_eq!(values, ["book"]);
}

#[test]
fn writes_on_both_sides_of_a_partition_become_siblings_and_are_merged_by_a_client() {
    let mut world = cluster(6);
    let owners = world.owners(&key("cart"), N);
    let (left, right): (Vec<_>, Vec<_>) = (0..6).partition(|host| *host == owners[0]);
    let directions: Vec<_> =
        left.iter().flat_map(|&a| right.iter().flat_map(move |&b| [(a, b), (b, a)])).collect();
    world.cut(&directions);
    world.run_for(15 * SECOND);

    let mut alone = blind("cart", "left");
    alone.w = Some(Need::Count(1));
    put(&mut world, owners[0], alone).unwrap();
    put(&mut world, owners[1], blind("cart", "right")).unwrap();

    world.mend(&directions);
    world.run_for(5 * SECOND);
    settle(&mut world);
    let (mut values, context) = found(get_all(&mut world, 0, "cart"));
    values.sort();
    assert_eq!(values, ["left", "right"]);

    let mut merged = blind("cart", "both");
    merged.context = Some(context);
    put(&mut world, 1, merged).unwrap();
    assert_eq!(found(get_all(&mut world, 2, "cart")).0, ["both"]);
}

#[test]
fn an_acknowledged_write_survives_the_crash_of_its_coordinator() {
    let mut world = cluster(5);
    let owners = world.owners(&key("cart"), N);
    let (_, receipt) = put(&mut world, owners[0], blind("cart", "book")).unwrap();
    assert!(receipt.answers.len() >= 2, "{receipt:?}");
    world.crash(owners[0]);
    world.run_for(5 * SECOND);
    let get = Request::Get(Get::new(key("cart")));
    let reply = world.ask(owners[1], get).unwrap().unwrap();
    assert_eq!(found(reply).0, ["book"]);
    world.start(owners[0]);
    world.run_for(5 * SECOND);
    settle(&mut world);
    assert_eq!(found(get_all(&mut world, owners[0], "cart")).0, ["book"]);
}

#[test]
fn all_hosts_crash_at_once_and_keep_what_they_acknowledged() {
    let mut world = cluster(5);
    for number in 0..20 {
        put(&mut world, number % 5, blind(&format!("cart {number}"), "book")).unwrap();
    }
    (0..5).for_each(|host| world.crash(host));
    (0..5).for_each(|host| world.start(host));
    world.run_for(5 * SECOND);
    for number in 0..20 {
        let reply = get_all(&mut world, number % 5, &format!("cart {number}"));
        assert_eq!(found(reply).0, ["book"]);
    }
    assert_eq!(world.violation(), None);
}

#[test]
fn two_writers_with_one_old_context_leave_two_siblings_and_a_delete_leaves_none() {
    let mut world = cluster(5);
    put(&mut world, 0, blind("cart", "old")).unwrap();
    let (_, old) = found(get_all(&mut world, 0, "cart"));
    for (host, value) in [(1, "one"), (2, "two")] {
        let mut write = blind("cart", value);
        write.context = Some(old.clone());
        put(&mut world, host, write).unwrap();
    }
    let (mut values, both) = found(get_all(&mut world, 3, "cart"));
    values.sort();
    assert_eq!(values, ["one", "two"]);
    put(&mut world, 4, Put::delete(key("cart"), both)).unwrap();
    assert!(matches!(get_all(&mut world, 0, "cart"), Reply::Deleted { .. }));
}

#[test]
fn a_retry_with_the_same_write_id_adds_nothing() {
    let mut world = cluster(5);
    let mut write = blind("cart", "book");
    write.write_id = Some(WriteId::of(b"order 17"));
    put(&mut world, 0, write.clone()).unwrap();
    world.run_for(SECOND);
    let (reply, _) = put(&mut world, 3, write).unwrap();
    assert!(matches!(reply, Reply::Written { repeated: true, .. }), "{reply:?}");
    assert_eq!(found(get_all(&mut world, 1, "cart")).0, ["book"]);
}

#[test]
fn a_clone_of_the_world_goes_the_same_way() {
    let mut world = cluster(4);
    let mut checkpoint = world.clone();
    for world in [&mut world, &mut checkpoint] {
        put(world, 1, blind("cart", "book")).unwrap();
        world.crash(2);
        world.run_for(10 * SECOND);
    }
    assert_eq!(world.hash(), checkpoint.hash());
}
