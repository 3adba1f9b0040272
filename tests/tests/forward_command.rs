//! Forwards come and go while xnat runs: by the command, by curl, and across restarts.

use std::net::Ipv4Addr;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use xnat_tests::process::{self, Finished};
use xnat_tests::topology::{N1, NODE1, Reference, SUBNET1};
use xnat_tests::trace::Snapshot;
use xnat_tests::wait::SOON;
use xnat_tests::xnat::{Instance, Xnat};
use xnat_tests::{tcp, udp};

/// What `forward list -o json` says.
fn list(instance: &Instance) -> Value {
    let output = instance.run("forward list -o json");
    serde_json::from_str(&output).unwrap_or_else(|error| panic!("{error} in {output}"))
}

fn forward(protocol: &str, ports: &str, address: Ipv4Addr, target_ports: &str, runtime: bool) -> Value {
    let address = address.to_string();
    json!({"protocol": protocol, "ports": ports, "address": address, "target_ports": target_ports, "runtime": runtime})
}

fn start(reference: &Reference, words: &str) -> Xnat {
    Xnat::start(reference.node1.host.ns(), &format!("--subnet {SUBNET1} {words}"))
}

/// Asks the daemon by curl: the status code, and the document.
fn curl(instance: &Instance, words: &[&str], path: &str) -> (u16, Value) {
    let socket = format!("/run/xnat/{}/api.sock", instance.name());
    let url = format!("http://xnat{path}");
    let mut command = instance.ns().command("curl");
    command.args(["--silent", "--write-out", "\n%{http_code}", "--unix-socket", &socket, &url]).args(words);
    let output = process::run(&mut command, SOON).expect_success();
    let (body, code) = output.rsplit_once('\n').unwrap_or_else(|| panic!("no code: {output}"));
    let document = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error} in {body}"));
    (code.parse().expect("a status code"), document)
}

/// How many programs of ours are at the loopback interface: filters, or pinned links.
fn at_loopback(instance: &Instance) -> usize {
    let filters = instance.ns().run(&["tc", "filter", "show", "dev", "lo", "egress"]);
    let links = instance.files().into_iter().filter(|path| path.ends_with("/links/1-out"));
    filters.matches("name xnat_loopback_").count() + links.count()
}

fn refused(finished: Finished, word: &str) {
    let finished = finished.expect_code(2);
    assert!(finished.stderr.contains(word), "{word} is not in: {finished}");
}

#[test]
fn forwards_come_and_go_while_running() {
    let reference = Reference::new();
    let one = start(&reference, "--forward tcp:8080=192.168.110.11:80");
    let flag = forward("tcp", "8080", N1, "80", false);
    assert_eq!(list(&one), json!([flag]));
    assert!(one.run("forward add both:5000-5010=192.168.110.11:6000-6010").contains("added both:5000-5010"));
    let range = |protocol| forward(protocol, "5000-5010", N1, "6000-6010", true);
    assert_eq!(list(&one), json!([range("tcp"), flag, range("udp")]), "a range is shown as one");
    let table = one.run("forward list");
    assert_eq!(table.lines().count(), 4, "{table}");
    assert!(table.contains("192.168.110.11:6000-6010") && table.contains("while running"), "{table}");
    let status = one.run("status");
    assert!(status.contains("forwards  23 ports"), "{status}");
    assert!(one.run("forward remove tcp:5000-5009").contains("removed tcp:5000-5009=192.168.110.11:6000-6009"));
    one.run("forward remove udp:5000-5010=192.168.110.11:6000-6010");
    assert_eq!(list(&one), json!([forward("tcp", "5010", N1, "6010", true), flag]));
    one.run("forward remove both:1-65535");
    assert_eq!(list(&one), json!([]));
    assert!(!one.run("status").contains("forwards"), "none are left");
}

#[test]
fn adding_twice_is_no_mistake_and_another_target_is_one() {
    let reference = Reference::new();
    let one = start(&reference, "--forward tcp:80=192.168.110.11");
    one.run("forward add udp:53=192.168.110.11");
    let before = list(&one);
    for words in ["udp:53=192.168.110.11:53", "tcp:80=192.168.110.11"] {
        assert!(one.run(&format!("forward add {words}")).contains("there already"), "{words}");
    }
    refused(one.attempt("forward add both:50-60=192.168.110.12"), "udp port 53 leads to 192.168.110.11:53 already");
    refused(one.attempt("forward remove udp:53=192.168.110.12"), "leads to 192.168.110.11:53 instead");
    refused(one.attempt("forward remove tcp:53"), "tcp:53: there is no such forward");
    assert_eq!(list(&one), before);
}

#[test]
fn what_cannot_be_is_refused_while_running_too() {
    let reference = Reference::new();
    let one = start(&reference, "");
    let host = reference.node1.host.ns();
    let _tcp = tcp::Server::start(host, 2222, tcp::Service::Echo);
    let _udp = udp::Server::echo(host, 3333);
    for (words, word) in [
        ("add tcp:80=192.168.220.11", "192.168.220.11 is in no --subnet of this host (192.168.110.0/24)"),
        ("add tcp:80=192.168.110.1", "this host's own address"),
        ("add tcp:80=192.168.110.255", "broadcast"),
        ("add udp:9628=192.168.110.11", "link between peers"),
        ("add tcp:2000-2999=192.168.110.11", "tcp port 2222 is that of a socket of this host"),
        ("add udp:3333=192.168.110.11", "udp port 3333 is that of a socket of this host"),
        ("add tcp:0=192.168.110.11", "`0` is no port"),
        ("add tcp:80-90=192.168.110.11:80-99", "differ in length"),
        ("add tcp:80", "PROTO:PORTS=ADDRESS"),
        ("add icmp:80=192.168.110.11", "`icmp`"),
        ("remove 8080", "PROTO:PORTS"),
        ("remove tcp:8080", "no such forward"),
        ("list -o yaml", "yaml"),
    ] {
        refused(one.attempt(&format!("forward {words}")), word);
    }
    assert_eq!(list(&one), json!([]));
    one.run("forward add udp:2222=192.168.110.11");
}

#[test]
fn curl_serves_as_well() {
    let reference = Reference::new();
    let one = start(&reference, "");
    let tcp = forward("tcp", "8080", N1, "80", true);
    let body = r#"{"protocol":"tcp","ports":8080,"address":"192.168.110.11","target_ports":"80"}"#;
    assert_eq!(curl(&one, &["-d", body], "/v1/forwards"), (201, json!([tcp])));
    assert_eq!(curl(&one, &["-d", body], "/v1/forwards"), (200, json!([tcp])));
    assert_eq!(curl(&one, &[], "/v1/forwards"), (200, json!([tcp])));
    let error = |words: &[&str], path: &str| {
        let (code, document) = curl(&one, words, path);
        (code, document["error"].as_str().unwrap_or_else(|| panic!("no error in {document}")).to_owned())
    };
    for (words, path, code, word) in [
        (["-d", &body.replace("80\"}", "81\"}")], "/v1/forwards", 409, "leads to 192.168.110.11:80 already"),
        (["-d", "{}"], "/v1/forwards", 400, "protocol"),
        (["-d", "tcp:80=1.2.3.4"], "/v1/forwards", 400, "the body is no forward"),
        (["-d", &body.replace("8080", "70000")], "/v1/forwards", 400, "`70000` is no port"),
        (["-d", &body.replace("110", "220")], "/v1/forwards", 400, "in no --subnet"),
        (["-X", "DELETE"], "/v1/forwards/tcp/80", 404, "no such forward"),
        (["-X", "DELETE"], "/v1/forwards/sctp/80", 400, "`sctp`"),
        (["-X", "DELETE"], "/v1/forwards/tcp/8080?to=192.168.110.12:80", 409, "leads to 192.168.110.11:80 instead"),
        (["-X", "DELETE"], "/v1/forwards/tcp/8080?from=x", 400, "to=ADDRESS"),
        (["-X", "PUT"], "/v1/forwards", 405, "method"),
        (["-X", "GET"], "/v2/forwards", 404, "/v1/forwards"),
    ] {
        let (found, message) = error(&words, path);
        assert!(found == code && message.contains(word), "{words:?} {path}: {found} {message}");
    }
    assert_eq!(curl(&one, &["-X", "DELETE"], "/v1/forwards/both/8000-9000"), (200, json!([tcp])));
    assert_eq!(curl(&one, &[], "/v1/forwards"), (200, json!([])));
}

#[test]
fn a_restart_keeps_what_was_added_and_takes_the_flags_of_now() {
    let reference = Reference::new();
    let mut one = start(&reference, "--forward tcp:80=192.168.110.11 --forward tcp:90=192.168.110.11");
    one.run("forward add tcp:1000-1001=192.168.110.12");
    one.run("forward add udp:7=192.168.110.12");
    one.run("forward remove tcp:90");
    one.stop(Signal::SIGKILL);
    // Without a daemon the pins tell; changing anything takes one.
    let there = list(&one);
    let added = [forward("tcp", "1000-1001", [192, 168, 110, 12].into(), "1000-1001", true)];
    assert_eq!(
        there,
        json!([
            forward("tcp", "80", N1, "80", false),
            added[0],
            forward("udp", "7", [192, 168, 110, 12].into(), "7", true)
        ])
    );
    let refused = one.attempt("forward add tcp:81=192.168.110.11").expect_code(1);
    assert!(refused.stderr.contains("no daemon runs"), "{refused}");
    assert!(one.run("status").contains("forwards  4 ports"));
    one.restart_with(&format!("--subnet {SUBNET1} --forward tcp:90=192.168.110.11 --forward udp:7=192.168.110.11:70"));
    let expected = [forward("tcp", "90", N1, "90", false), added[0].clone(), forward("udp", "7", N1, "70", false)];
    assert_eq!(list(&one), json!(expected));
    assert!(one.output().contains("udp:7=192.168.110.12, added while running, gives way"), "{}", one.output());
    // What ends in order leaves nothing, so the next run begins with its flags.
    one.stop(Signal::SIGTERM).expect_code(0);
    one.restart_with(&format!("--subnet {SUBNET1}"));
    assert_eq!(list(&one), json!([]));
}

fn hooks_of_loopback(kind: &str) {
    let reference = Reference::new();
    let host = reference.node1.host.ns();
    let before = Snapshot::of(host);
    let mut one = start(&reference, &format!("--hooks {kind}"));
    let qdisc = || host.run(&["tc", "qdisc", "show", "dev", "lo"]).contains("clsact");
    assert!(at_loopback(&one) == 0 && !qdisc(), "nothing is there without forwards");
    for _ in 0..2 {
        one.run("forward add tcp:8080=192.168.110.11");
        assert_eq!((at_loopback(&one), qdisc()), (1, kind == "clsact"));
        assert!(one.run("status").contains("xnat_loopback_out"));
        one.run("forward remove tcp:8080");
        assert_eq!((at_loopback(&one), qdisc()), (0, false));
    }
    one.run("forward add tcp:8080=192.168.110.11");
    one.stop(Signal::SIGKILL);
    assert!(at_loopback(&one) == 1 && one.run("status").contains("xnat_loopback_out"), "the dataplane works on");
    one.restart();
    assert_eq!(at_loopback(&one), 1);
    one.stop(Signal::SIGKILL);
    one.run("detach");
    Snapshot::of(host).expect_same_as(&before);
    assert_eq!(one.files(), Vec::<String>::new());
}

#[test]
fn the_loopback_hook_is_there_as_long_as_forwards_are_by_tcx() {
    hooks_of_loopback("tcx");
}

#[test]
fn the_loopback_hook_is_there_as_long_as_forwards_are_by_clsact() {
    hooks_of_loopback("clsact");
}

#[test]
fn status_tells_what_is_not_as_usual() {
    let reference = Reference::new();
    let words = "--mapping address-dependent,tcp=endpoint-independent --ports 1024-65535 --max-ports-per-container 100 \
                 --default-inbound 192.168.110.11";
    let one = start(&reference, words);
    let text = one.run("status");
    for line in [
        "mapping   icmp address-dependent, tcp endpoint-independent, udp address-dependent",
        "ports     1024-65535, at most 100 a container",
        "inbound   what nothing else claims goes to 192.168.110.11",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    assert!(!text.contains("\nfiltering"), "filtering is as usual:\n{text}");
    let json: Value = serde_json::from_str(&one.run("status -o json")).expect("a document");
    assert_eq!(json["mapping"]["udp"], "address-dependent");
    assert_eq!(json["filtering"]["tcp"], "address-dependent");
    assert_eq!((&json["ports"], &json["max_ports_per_container"]), (&json!("1024-65535"), &json!(100)));
    assert_eq!((&json["forwarded_ports"], &json["default_inbound"]), (&json!(0), &json!("192.168.110.11")));
}

#[test]
fn connections_outlive_the_forward_by_which_they_came() {
    let reference = Reference::new();
    let one = start(&reference, "");
    let outside = reference.outside.ns();
    let _server = tcp::Server::start(reference.n1().ns(), 80, tcp::Service::Echo);
    one.run("forward add tcp:8080=192.168.110.11:80");
    let mut stream = tcp::expect_connect(outside, 0, (NODE1, 8080));
    tcp::expect_echo(&mut stream, 1, 1000);
    one.expect_flow("by the forward", |flow| flow.kind == "forward");
    one.run("forward remove tcp:8080");
    tcp::expect_echo(&mut stream, 2, 1000);
    let error = tcp::connect(outside, 0, (NODE1, 8080)).expect_err("nobody has the port");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
}

#[test]
fn help_says_what_becomes_of_connections() {
    let reference = Reference::new();
    let help = |words: &str| xnat_tests::xnat::attempt(reference.node1.host.ns(), words).expect_success();
    assert!(help("forward remove --help").contains("live on"));
    assert!(help("forward add --help").contains("curl --unix-socket"));
}
