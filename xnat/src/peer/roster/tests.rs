use super::*;

const PEER: Ipv4Addr = Ipv4Addr::new(172, 29, 0, 17);
const OTHER: Ipv4Addr = Ipv4Addr::new(172, 29, 0, 18);
const OWN: Ipv4Addr = Ipv4Addr::new(172, 29, 0, 4);
const BOOT: u64 = 7;

fn cidr(text: &str) -> Cidr {
    text.parse().unwrap()
}

fn roster(specs: &[&str]) -> Roster {
    let specs: Vec<PeerSpec> = specs.iter().map(|spec| spec.parse().unwrap()).collect();
    let mut roster = Roster::new(&specs, &[cidr("192.168.110.0/24")], OWN, BOOT);
    roster.settle();
    roster
}

fn says(boot: u64, subnets: &[&str]) -> Message {
    Message { boot, heard: Some(BOOT), goodbye: false, subnets: subnets.iter().map(|it| cidr(it)).collect() }
}

fn link_of(address: Ipv4Addr) -> SocketAddrV4 {
    SocketAddrV4::new(address, 9628)
}

fn hear(roster: &mut Roster, from: Ipv4Addr, message: &Message, now: Instant) -> (Vec<Event>, bool) {
    let Heard { mut events, answer, .. } = roster.hear(link_of(from), &message.encode(), now);
    events.extend(roster.settle().into_iter().map(|(_, event)| event));
    (events, answer)
}

#[test]
fn a_peer_comes_changes_restarts_and_leaves() {
    let mut roster = roster(&["172.29.0.17"]);
    let now = Instant::now();
    let n2 = cidr("192.168.220.0/24");
    let first = Message { heard: None, ..says(1, &["192.168.220.0/24"]) };
    assert_eq!(hear(&mut roster, PEER, &first, now), (vec![Event::Came, Event::Owns(vec![n2])], true));
    assert_eq!(hear(&mut roster, PEER, &says(1, &["192.168.220.0/24"]), now), (vec![], false));
    assert_eq!(roster.message_to(PEER, false).heard, Some(1));

    let more = says(2, &["192.168.220.0/24", "10.1.0.0/16"]);
    let owns = Event::Owns(vec![cidr("10.1.0.0/16"), n2]);
    assert_eq!(hear(&mut roster, PEER, &more, now), (vec![Event::Restarted, owns], false));

    assert!(roster.peers()[&PEER].is_alive(now));
    assert!(!roster.peers()[&PEER].is_alive(now + ALIVE));
    assert!(roster.peers()[&PEER].speaks, "a silent peer's dataplane may live on");

    let goodbye = Message { goodbye: true, ..more };
    assert_eq!(hear(&mut roster, PEER, &goodbye, now), (vec![Event::Left, Event::Owns(vec![])], false));
    assert!(!roster.peers()[&PEER].speaks && !roster.peers()[&PEER].is_alive(now));
    assert_eq!(hear(&mut roster, PEER, &says(3, &[]), now).0, [Event::Came]);
}

#[test]
fn another_boot_id_means_another_flow_table() {
    let mut roster = roster(&["172.29.0.17"]);
    let mut forgot = |message: &Message| roster.hear(link_of(PEER), &message.encode(), Instant::now()).forgot;
    assert!(forgot(&says(1, &[])), "what it had before is not known");
    assert!(!forgot(&says(1, &["192.168.220.0/24"])));
    assert!(forgot(&says(2, &[])));
    assert!(!forgot(&Message { goodbye: true, ..says(2, &[]) }));
    assert!(!forgot(&says(2, &[])), "a daemon that came back to its table");
}

#[test]
fn what_is_stated_is_used_whatever_is_announced() {
    let mut roster = roster(&["172.29.0.17=192.168.220.0/24"]);
    assert_eq!(roster.owned().collect::<Vec<_>>(), [(PEER, cidr("192.168.220.0/24"))]);
    let now = Instant::now();
    let (events, _) = hear(&mut roster, PEER, &says(1, &["192.168.221.0/24"]), now);
    assert_eq!(events, [Event::Came, Event::Differs(vec![cidr("192.168.221.0/24")])]);
    assert_eq!(hear(&mut roster, PEER, &says(1, &["192.168.221.0/24"]), now).0, []);
    let goodbye = Message { goodbye: true, ..says(1, &[]) };
    hear(&mut roster, PEER, &goodbye, now);
    assert_eq!(roster.owned().count(), 1, "stated subnets stay");
}

#[test]
fn the_first_to_claim_keeps_and_the_next_gets_when_it_is_free() {
    let mut roster = roster(&["172.29.0.17", "172.29.0.18"]);
    let now = Instant::now();
    hear(&mut roster, OTHER, &says(2, &["192.168.220.0/24"]), now);
    let (events, _) = hear(&mut roster, PEER, &says(1, &["192.168.220.0/25"]), now);
    assert!(
        matches!(&events[..], [Event::Came, Event::Refused(it)] if it.reason.contains("172.29.0.18")),
        "{events:?}"
    );
    assert_eq!(hear(&mut roster, PEER, &says(1, &["192.168.220.0/25"]), now).0, [], "told once");
    hear(&mut roster, OTHER, &Message { goodbye: true, ..says(2, &[]) }, now);
    roster.settle();
    assert_eq!(roster.owned().collect::<Vec<_>>(), [(PEER, cidr("192.168.220.0/25"))]);
}

#[test]
fn strangers_and_other_versions_are_not_believed() {
    let mut roster = roster(&["172.29.0.17"]);
    let now = Instant::now();
    hear(&mut roster, OTHER, &says(1, &["10.0.0.0/8"]), now);
    assert_eq!((roster.strangers(), roster.owned().count()), (1, 0));
    let mut bytes = says(1, &["10.0.0.0/8"]).encode();
    bytes[4] = 9;
    assert_eq!(roster.hear(link_of(PEER), &bytes, now).events, [Event::OtherVersion(9)]);
    assert_eq!(roster.hear(link_of(PEER), &bytes, now).events, []);
    assert_eq!((roster.peers()[&PEER].version, roster.peers()[&PEER].speaks), (Some(9), false));
    assert!(matches!(roster.hear(link_of(PEER), b"x", now).events[..], [Event::Damaged(MessageError::Magic)]));
}

#[test]
fn a_peers_container_does_not_speak_for_the_peer() {
    let mut roster = roster(&["172.29.0.17"]);
    let now = Instant::now();
    let message = says(1, &["192.168.220.0/24"]);
    hear(&mut roster, PEER, &message, now);
    // On the wire a container has its host's address, but another port.
    for (count, port) in [(1, 9629), (2, 40000), (3, 0)] {
        let goodbye = Message { goodbye: true, ..message.clone() };
        let heard = roster.hear(SocketAddrV4::new(PEER, port), &goodbye.encode(), now + ALIVE);
        assert_eq!(heard, Heard { events: vec![], answer: false, forgot: false });
        assert_eq!(roster.strangers(), count);
    }
    assert!(roster.peers()[&PEER].speaks && !roster.peers()[&PEER].is_alive(now + ALIVE));
    assert_eq!(roster.settle(), []);
}

#[test]
fn an_earlier_runs_knowledge_is_kept() {
    let mut roster = roster(&["172.29.0.17"]);
    roster.remember(PEER, true, vec![cidr("192.168.220.0/24")]);
    roster.remember(OTHER, true, vec![cidr("10.0.0.0/8")]);
    roster.settle();
    assert_eq!(roster.owned().collect::<Vec<_>>(), [(PEER, cidr("192.168.220.0/24"))]);
    assert!(roster.peers()[&PEER].speaks && !roster.peers()[&PEER].is_alive(Instant::now()));
}
