//! Collection of very many idle flows: the processor time it takes, and how long it makes a packet wait.
//!
//! The daemon is bound to one processor. Another sends a packet every 100 µs, which receive packet steering hands to the
//! first as a network card would: by an interrupt, after which the packet is forwarded at once unless something keeps that
//! processor from it. The time from sending until the packet is behind the uplink is taken.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Result;
use nix::time::{ClockId, ClockNanosleepFlags, clock_gettime, clock_nanosleep};
use socket2::{Domain, Socket, Type};
use xnat_tests::wait;

use crate::candidate::{Candidate, Setup, Terms};
use crate::frame::Packet;
use crate::kernel::Kernel;
use crate::layout::Job;
use crate::number::thousands;
use crate::plan::Plan;
use crate::processor;
use crate::progress::Progress;
use crate::rig::OUTSIDE;
use crate::sample::Measured;
use crate::traffic::Send;

/// Between two packets.
const PERIOD: Duration = Duration::from_micros(100);
/// Beyond which time the flows must be gone.
const GONE: Duration = Duration::from_secs(40);
/// How long packets are sent without collection.
const QUIET: Duration = Duration::from_secs(4);

/// Steps of progress: one a second.
pub fn steps(plan: &Plan) -> u64 {
    u64::from(plan.flow_idle) + 10 + u64::from(plan.many) / 200_000
}

/// Delays without, then with collection, and what collection costs.
pub fn measure(plan: &Plan, kernel: &mut Kernel, progress: &Progress, measured: &mut Measured) -> Result<()> {
    let terms = Terms { idle: plan.flow_idle, ..Terms::of(plan.many + 64) };
    let setup = Setup::new(Candidate::Xnat, terms);
    setup.rig.equip(kernel);
    let xnat = setup.xnat();
    processor::pin_process(xnat.id());
    setup.rig.steer(processor::number());

    progress.doing("delays without collection".to_owned())?;
    let before = processor::used_by(xnat.id());
    let quiet = delays(kernel, &setup, || std::thread::sleep(QUIET))?;
    let idling = processor::used_by(xnat.id()).saturating_sub(before).as_secs_f64() / QUIET.as_secs_f64();
    report(measured, "quiet", "without collection", &quiet);
    progress.done(QUIET.as_secs());

    let many = thousands(plan.many);
    progress.doing(format!("collecting {many} flows"))?;
    let send = Send { flows: plan.many, packets: plan.many, ..Send::default() };
    if let Err(error) = send.run_until_all_arrive(kernel, &setup) {
        measured.failures.push(format!("collecting: opening {many} flows: {error}"));
        return Ok(());
    }
    let before = processor::used_by(xnat.id());
    let start = std::time::Instant::now();
    let mut gone = false;
    let busy = delays(kernel, &setup, || {
        std::thread::sleep(Duration::from_secs(plan.flow_idle.into()));
        gone = wait::within(GONE, || {
            std::thread::sleep(Duration::from_millis(500));
            (xnat.status().flows.used < 10).then_some(())
        })
        .is_some();
    })?;
    let used =
        processor::used_by(xnat.id()).saturating_sub(before).as_secs_f64() - idling * start.elapsed().as_secs_f64();
    progress.done(steps(plan) - QUIET.as_secs());
    if !gone {
        let left = xnat.status().flows.used;
        measured.failures.push(format!("collecting: {left} flows are left {GONE:?} after their idle time"));
        return Ok(());
    }
    report(measured, "collecting", &format!("while {many} flows are collected"), &busy);
    let title = format!("collecting {many} idle flows: processor time of the daemon");
    measured.note("collecting/processor", &title, "ms", used * 1e3);
    Ok(())
}

fn report(measured: &mut Measured, id: &str, when: &str, delays: &[Duration]) {
    let mut sorted = delays.to_vec();
    sorted.sort_unstable();
    let at =
        |share: f64| sorted.get((sorted.len().saturating_sub(1) as f64 * share) as usize).copied().unwrap_or_default();
    for (name, title, share) in
        [("median", "median", 0.5), ("p99.9", "99.9th percentile", 0.999), ("max", "longest", 1.0)]
    {
        let title = format!("delay of a packet {when}: {title}");
        measured.note(&format!("delay/{id}/{name}"), &title, "µs", at(share).as_secs_f64() * 1e6);
    }
}

/// Sends packets of one flow, one a period, until `meanwhile` is over; returns how late each arrived.
fn delays(kernel: &mut Kernel, setup: &Setup, meanwhile: impl FnOnce()) -> Result<Vec<Duration>> {
    let send = Send { packet: Packet::Udp, packets: u32::MAX, ..Send::default() };
    let job = Job { probe: 1, ..send.job(setup.candidate) };
    kernel.expect(job)?;
    let over = AtomicBool::new(false);
    let container = &setup.rig.container;
    let outcome = std::thread::scope(|scope| {
        let sending = scope.spawn(|| container.within(|| probe(job.service, &over)));
        meanwhile();
        over.store(true, Ordering::Relaxed);
        sending.join()
    });
    match outcome {
        Ok(outcome) => outcome?,
        Err(panic) => std::panic::resume_unwind(panic),
    }
    Ok(kernel.delays())
}

fn probe(service: u32, over: &AtomicBool) -> io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    socket.set_tos_v4(service)?;
    socket.connect(&std::net::SocketAddr::from((OUTSIDE, 443)).into())?;
    processor::pin_elsewhere()?;
    processor::at_once()?;
    let clock = ClockId::CLOCK_MONOTONIC;
    let mut next = Duration::from(clock_gettime(clock)?);
    while !over.load(Ordering::Relaxed) {
        next += PERIOD;
        clock_nanosleep(clock, ClockNanosleepFlags::TIMER_ABSTIME, &next.into())?;
        let mut payload = [0; 22];
        let now = Duration::from(clock_gettime(clock)?);
        payload[..8].copy_from_slice(&(now.as_nanos() as u64).to_ne_bytes());
        socket.send(&payload)?;
    }
    Ok(())
}
