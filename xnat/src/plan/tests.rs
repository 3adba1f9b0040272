use super::*;
use crate::config::tests::settings;
use crate::net::snapshot::Address;

const UPLINK: u32 = 2;
const BRIDGE: u32 = 3;

fn link(index: u32, name: &str) -> Link {
    Link {
        index,
        name: name.to_owned(),
        mtu: 1500,
        mac: Some([2; 6]),
        master: None,
        bridge: false,
        vlan_filtering: false,
        forwards: false,
        up: true,
    }
}

fn address(link: u32, ip: [u8; 4]) -> Address {
    Address { link, ip: ip.into(), len: 24 }
}

fn host() -> Snapshot {
    let lo = Link { mac: None, ..link(1, "lo") };
    let links = [lo, link(UPLINK, "eth0"), link(BRIDGE, "br0"), link(4, "eth1")];
    Snapshot {
        links: links.into_iter().map(|link| (link.index, link)).collect(),
        addresses: vec![
            address(1, [127, 0, 0, 1]),
            address(UPLINK, [172, 29, 0, 4]),
            address(BRIDGE, [192, 168, 110, 1]),
        ],
        ..Snapshot::default()
    }
}

fn way(link: u32) -> Way {
    Way { link, gateway: None, local: false }
}

fn ways(settings: &Settings) -> Ways {
    Ways {
        peers: settings.peer_addresses().map(|peer| (peer, Some(way(UPLINK)))).collect(),
        default: Some(way(UPLINK)),
    }
}

fn find(words: &str, there: &Snapshot) -> Result<Plan, PlanError> {
    let settings = settings(words).unwrap();
    Plan::find(&settings, there, &ways(&settings))
}

fn mistake(words: &str, there: &Snapshot) -> String {
    find(words, there).unwrap_err().to_string()
}

const USUAL: &str = "--peer 172.29.0.17 --subnet 192.168.110.0/24";

#[test]
fn the_usual_host_is_found() {
    for words in [USUAL, "--subnet 192.168.110.0/24", "--subnet 192.168.110.0/24 --uplink eth0 --bridge br0"] {
        let plan = find(words, &host()).unwrap();
        assert_eq!((plan.uplink.index, plan.address), (UPLINK, Ipv4Addr::new(172, 29, 0, 4)), "{words}");
        assert_eq!(plan.insides, BTreeMap::from([(BRIDGE, vec!["192.168.110.0/24".parse().unwrap()])]));
    }
}

#[test]
fn missing_things_are_named_with_the_way_to_get_them() {
    let there = host();
    assert!(mistake("--subnet 192.168.110.0/24 --uplink eth9", &there).contains("there are lo, eth0, br0, eth1"));
    assert!(mistake("--subnet 192.168.110.0/24 --bridge br9", &there).contains("--bridge br9: there is no such"));
    let message = mistake("--subnet 192.168.111.0/24", &there);
    assert!(message.contains("docker network create --subnet 192.168.111.0/24"), "{message}");
    assert!(message.contains("ip addr add 192.168.111.1/24 dev br0"), "{message}");
    assert!(mistake("--subnet 192.168.110.0/24 --uplink eth1", &there).contains("eth1 has no IPv4 address"));
    assert!(mistake("--subnet 192.168.110.0/24 --uplink lo", &there).contains("not an Ethernet interface"));
    assert!(mistake("--subnet 192.168.110.0/24 --address 172.29.0.5", &there).contains("which has 172.29.0.4"));
    assert!(mistake("--subnet 192.168.110.0/24 --bridge eth1", &there).contains("holds no address"));
    assert!(mistake("--subnet 172.29.0.0/24", &there).contains("held by the uplink"));
    assert!(mistake("--peer 10.0.0.1=172.29.0.0/24 --subnet 192.168.110.0/24", &there).contains("own address"));
}

#[test]
fn several_addresses_or_holders_need_a_choice() {
    let mut there = host();
    there.addresses.push(address(UPLINK, [172, 29, 0, 5]));
    assert!(mistake(USUAL, &there).contains("(172.29.0.4, 172.29.0.5); choose one: --address IP"));
    assert!(find(&format!("{USUAL} --address 172.29.0.5"), &there).is_ok());
    let mut there = host();
    there.addresses.push(address(4, [192, 168, 110, 2]));
    assert!(mistake(USUAL, &there).contains("br0, eth1"));
    assert!(find(&format!("{USUAL} --bridge br0"), &there).is_ok());
}

#[test]
fn peers_share_one_uplink() {
    let there = host();
    let settings = settings("--peer 172.29.0.17 --peer 172.29.0.18 --subnet 192.168.110.0/24").unwrap();
    let mut ways = ways(&settings);
    let mut with = |second: Option<Way>| {
        ways.peers[1].1 = second;
        Plan::find(&settings, &there, &ways).unwrap_err()
    };
    assert!(with(Some(way(4))).to_string().contains("through eth1, not through eth0"));
    assert_eq!(with(None), PlanError::NoRoute(Ipv4Addr::new(172, 29, 0, 18)));
    let own = Way { link: 1, gateway: None, local: true };
    assert_eq!(with(Some(own)), PlanError::PeerIsOwn(Ipv4Addr::new(172, 29, 0, 18)));
    ways.peers.clear();
    ways.default = None;
    assert_eq!(Plan::find(&settings, &there, &ways), Err(PlanError::NoDefaultRoute));
}

#[test]
fn an_uplink_inside_the_bridge_is_refused() {
    let mut there = host();
    there.links.get_mut(&UPLINK).unwrap().master = Some(BRIDGE);
    assert!(mistake(USUAL, &there).contains("eth0 is a port of br0"));
}

#[test]
fn what_goes_and_comes_back_is_found_again() {
    let settings = settings(USUAL).unwrap();
    let mut there = host();
    let plan = Plan::find(&settings, &there, &ways(&settings)).unwrap();
    there.links.remove(&BRIDGE);
    there.addresses.pop();
    let plan = plan.again(&settings, &there).unwrap();
    assert!(plan.insides.is_empty());
    there.links.insert(9, link(9, "br0"));
    there.addresses.push(address(9, [192, 168, 110, 1]));
    assert_eq!(plan.again(&settings, &there).unwrap().insides.keys().collect::<Vec<_>>(), [&9]);
    there.addresses.retain(|it| it.link != UPLINK);
    assert_eq!(plan.again(&settings, &there), None);
    there.addresses.push(address(UPLINK, [172, 29, 0, 9]));
    assert_eq!(plan.again(&settings, &there).unwrap().address, Ipv4Addr::new(172, 29, 0, 9));
}

/// What becomes of the usual plan as addresses come (+) and go (-) at interfaces: the holder after each change.
fn holders_after(words: &str, mut there: Snapshot, changes: &[(char, u32, [u8; 4])]) -> Vec<Option<u32>> {
    let settings = settings(words).unwrap();
    let mut plan = Plan::find(&settings, &there, &ways(&settings)).unwrap();
    let change = |&(sign, link, ip): &(char, u32, [u8; 4])| {
        match sign {
            '+' => there.addresses.push(address(link, ip)),
            _ => there.addresses.retain(|it| *it != address(link, ip)),
        }
        plan = plan.again(&settings, &there).unwrap();
        plan.holder(settings.subnets[0])
    };
    changes.iter().map(change).collect()
}

const GATEWAY: [u8; 4] = [192, 168, 110, 1];
const SHIM: [u8; 4] = [192, 168, 110, 2];

#[test]
fn a_second_holder_takes_nothing_from_the_first() {
    for words in [USUAL, "--subnet 192.168.110.0/24 --bridge br0"] {
        let holders = holders_after(words, host(), &[('+', 4, SHIM), ('-', 4, SHIM)]);
        assert_eq!(holders, [Some(BRIDGE); 2], "{words}");
    }
}

#[test]
fn an_address_that_vanishes_for_a_moment_changes_nothing_for_long() {
    let blink = [('-', BRIDGE, GATEWAY), ('+', BRIDGE, GATEWAY)];
    assert_eq!(holders_after(USUAL, host(), &blink), [None, Some(BRIDGE)]);
    // With a second holder beside it, which serves as long as it is the only one.
    let changes = [[('+', 4, SHIM)].as_slice(), &blink, &blink].concat();
    let expected = [Some(BRIDGE), Some(4), Some(BRIDGE), Some(4), Some(BRIDGE)];
    assert_eq!(holders_after(USUAL, host(), &changes), expected);
    // Nobody knows which of two newcomers is meant; the one that was there before does not depend on it.
    let mut there = host();
    there.links.insert(5, link(5, "eth2"));
    let changes = [('-', BRIDGE, GATEWAY), ('+', 4, SHIM), ('+', 5, SHIM), ('-', 4, SHIM), ('+', 4, SHIM)];
    assert_eq!(holders_after(USUAL, there.clone(), &changes), [None, Some(4), Some(4), Some(5), Some(4)]);
    there.addresses.retain(|it| it.link != BRIDGE);
    there.addresses.push(address(BRIDGE, GATEWAY));
    let settings = settings(USUAL).unwrap();
    let plan = Plan::find(&settings, &there, &ways(&settings)).unwrap();
    there.addresses.retain(|it| it.link != BRIDGE);
    there.addresses.extend([address(4, SHIM), address(5, SHIM)]);
    assert_eq!(plan.again(&settings, &there).unwrap().holder(settings.subnets[0]), None);
}

#[test]
fn a_bridge_that_is_made_anew_is_known_by_its_name() {
    let settings = settings(USUAL).unwrap();
    let mut there = host();
    let plan = Plan::find(&settings, &there, &ways(&settings)).unwrap();
    there.links.remove(&BRIDGE);
    there.addresses.retain(|it| it.link != BRIDGE);
    let plan = plan.again(&settings, &there).unwrap();
    there.links.insert(9, link(9, "br0"));
    there.addresses.extend([address(4, SHIM), address(9, GATEWAY)]);
    assert_eq!(plan.again(&settings, &there).unwrap().holder(settings.subnets[0]), Some(9));
}

#[test]
fn the_uplink_never_becomes_an_inside() {
    let holders = holders_after(USUAL, host(), &[('+', UPLINK, SHIM), ('-', BRIDGE, GATEWAY)]);
    assert_eq!(holders, [Some(BRIDGE), None]);
    // Nor does the bridge whose port the uplink has become.
    let settings = settings(USUAL).unwrap();
    let mut there = host();
    let plan = Plan::find(&settings, &there, &ways(&settings)).unwrap();
    there.links.get_mut(&UPLINK).unwrap().master = Some(BRIDGE);
    assert_eq!(plan.again(&settings, &there).unwrap().holder(settings.subnets[0]), None);
}

#[test]
fn every_subnet_of_ours_is_told_to_the_dataplane_whoever_holds_it() {
    let settings = settings("--subnet 192.168.110.0/24 --subnet 192.168.111.0/24").unwrap();
    let mut there = host();
    there.addresses.push(address(4, [192, 168, 111, 1]));
    let plan = Plan::find(&settings, &there, &ways(&settings)).unwrap();
    let own = |plan: &Plan| settings.subnets.iter().map(|it| plan.own_subnets(&settings)[it]).collect::<Vec<_>>();
    let held_by = |inside| Subnet { inside, ..Subnet::default() };
    assert_eq!(own(&plan), [held_by(BRIDGE), held_by(4)]);
    there.addresses.retain(|it| it.link != BRIDGE);
    let plan = plan.again(&settings, &there).unwrap();
    assert_eq!(own(&plan), [held_by(0), held_by(4)]);
    assert!(own(&plan).iter().all(Subnet::is_own));
}
