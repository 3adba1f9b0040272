//! Collection of very many idle flows: the processor time it takes, and how long it makes a packet wait.
//!
//! The daemon is bound to one processor. Another sends a packet every 100 µs, which receive packet steering hands to the
//! first as a network card would: by an interrupt, after which the packet is forwarded at once unless something keeps that
//! processor from it. The time from sending until the packet is behind the uplink is taken, and the part of it from the
//! interrupt until the kernel gets to the packet, unless the processor was idle: the rest is not collection's, but of the
//! sender and of the interrupt's way. Nor is collection's what the hypervisor gives to others, and what tasks take that have
//! nothing to do with it. So that it shows what any busy processor does to packets, the same is measured while a program
//! does nothing there but count.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use nix::time::{ClockId, ClockNanosleepFlags, clock_gettime, clock_nanosleep};
use socket2::{Domain, Socket, Type};
use xnat_tests::wait;

use crate::candidate::{Candidate, Setup, Terms};
use crate::frame::Packet;
use crate::kernel::Kernel;
use crate::layout::{Delay, Job};
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

/// Steps of progress: one a second.
pub fn steps(plan: &Plan) -> u64 {
    2 * plan.quiet.as_secs() + u64::from(plan.flow_idle) + 6 + u64::from(plan.many) / 200_000
}

/// Delays without, then with collection, and what collection costs.
pub fn measure(plan: &Plan, kernel: &mut Kernel, progress: &Progress, measured: &mut Measured) -> Result<()> {
    let terms = Terms { idle: plan.flow_idle, ..Terms::of(plan.many + 64) };
    let setup = Setup::new(Candidate::Xnat, terms);
    setup.rig.equip(kernel);
    let xnat = setup.xnat();
    processor::pin_process(xnat.id());
    setup.rig.steer(processor::number());
    kernel.watch_waits();
    let outcome = collect(plan, kernel, &setup, progress, measured);
    kernel.leave_waits();
    measured.or_failure("collecting", outcome)
}

fn collect(
    plan: &Plan,
    kernel: &mut Kernel,
    setup: &Setup,
    progress: &Progress,
    measured: &mut Measured,
) -> Result<()> {
    let xnat = setup.xnat();
    progress.doing("delays without collection".to_owned())?;
    let before = processor::used_by(xnat.id());
    let quiet = delays(kernel, setup, || std::thread::sleep(plan.quiet))?;
    let idling = processor::used_by(xnat.id()).saturating_sub(before).as_secs_f64() / plan.quiet.as_secs_f64();
    report(measured, "quiet", "without collection", &quiet);
    progress.done(plan.quiet.as_secs());

    progress.doing("delays beside a busy program".to_owned())?;
    let beside = delays(kernel, setup, || busy_for(plan.quiet))?;
    report(measured, "busy", "without collection, beside a busy program", &beside);
    progress.done(plan.quiet.as_secs());

    let many = thousands(plan.many);
    progress.doing(format!("collecting {many} flows"))?;
    let send = Send { flows: plan.many, packets: plan.many, ..Send::default() };
    send.run_until_all_arrive(kernel, setup).map_err(anyhow::Error::msg)?;
    let before = processor::used_by(xnat.id());
    let start = Instant::now();
    let mut gone = false;
    let collecting = delays(kernel, setup, || {
        std::thread::sleep(Duration::from_secs(plan.flow_idle.into()));
        gone = wait::within(GONE, || {
            std::thread::sleep(Duration::from_millis(500));
            (xnat.status().flows.used < 10).then_some(())
        })
        .is_some();
    })?;
    let used =
        processor::used_by(xnat.id()).saturating_sub(before).as_secs_f64() - idling * start.elapsed().as_secs_f64();
    progress.done(steps(plan) - 2 * plan.quiet.as_secs());
    if !gone {
        bail!("{} flows are left {GONE:?} after their idle time", xnat.status().flows.used);
    }
    report(measured, "collecting", &format!("while {many} flows are collected"), &collecting);
    let title = format!("collecting {many} idle flows: processor time of the daemon");
    measured.note("collecting/processor", &title, "ms", used * 1e3);
    Ok(())
}

/// A part of a delay, in nanoseconds.
type Part = fn(&Delay) -> u64;

fn report(measured: &mut Measured, id: &str, when: &str, delays: &[Delay]) {
    let parts: [(_, _, Part); 3] = [
        ("", "", |it| it.whole),
        ("/waiting", ", of which waiting for the processor", |it| it.waited),
        ("/own", ", of that without steal time and other tasks", |it| it.waited.saturating_sub(it.elsewhere)),
    ];
    for (part, words, of) in parts {
        let mut sorted: Vec<u64> = delays.iter().map(of).collect();
        sorted.sort_unstable();
        let last = sorted.len().saturating_sub(1) as f64;
        let at = |share: f64| sorted.get((last * share) as usize).copied().unwrap_or_default() as f64;
        for (name, title, share) in
            [("median", "median", 0.5), ("p99.9", "99.9th percentile", 0.999), ("max", "longest", 1.0)]
        {
            let title = format!("delay of a packet {when}{words}: {title}");
            measured.note(&format!("delay/{id}{part}/{name}"), &title, "µs", at(share) / 1e3);
        }
    }
}

/// Keeps the processor busy as the daemon might: with its priority, and without ever waiting.
fn busy_for(time: Duration) {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            processor::pin(0).expect("a thread may be bound to a processor");
            let start = Instant::now();
            while start.elapsed() < time {
                std::hint::spin_loop();
            }
        });
    });
}

/// Sends packets of one flow, one a period, until `meanwhile` is over; returns how late each arrived. That one did not is an
/// error.
fn delays(kernel: &mut Kernel, setup: &Setup, meanwhile: impl FnOnce()) -> Result<Vec<Delay>> {
    let send = Send { packet: Packet::Udp, packets: u32::MAX, ..Send::default() };
    let job = Job { probe: setup.xnat().id(), ..send.job(setup.candidate) };
    kernel.expect(job)?;
    let over = AtomicBool::new(false);
    let container = &setup.rig.container;
    let outcome = std::thread::scope(|scope| {
        let sending = scope.spawn(|| container.within(|| probe(job.service, &over)));
        meanwhile();
        over.store(true, Ordering::Relaxed);
        sending.join()
    });
    let packets = match outcome {
        Ok(outcome) => outcome?,
        Err(panic) => std::panic::resume_unwind(panic),
    };
    let all_arrived = || (kernel.tally().arrived == packets).then_some(());
    if wait::within(wait::SOON, all_arrived).is_none() {
        bail!("{} of {packets} packets arrived", kernel.tally().arrived);
    }
    Ok(kernel.delays())
}

/// Sends, and returns how many packets that were.
fn probe(service: u32, over: &AtomicBool) -> io::Result<u64> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    socket.set_tos_v4(service)?;
    socket.connect(&std::net::SocketAddr::from((OUTSIDE, 443)).into())?;
    processor::pin_elsewhere()?;
    processor::at_once()?;
    let clock = ClockId::CLOCK_MONOTONIC;
    let mut next = Duration::from(clock_gettime(clock)?);
    let mut sent = 0;
    while !over.load(Ordering::Relaxed) {
        next += PERIOD;
        clock_nanosleep(clock, ClockNanosleepFlags::TIMER_ABSTIME, &next.into())?;
        let mut payload = [0; 22];
        let now = Duration::from(clock_gettime(clock)?);
        payload[..8].copy_from_slice(&(now.as_nanos() as u64).to_ne_bytes());
        socket.send(&payload)?;
        sent += 1;
    }
    Ok(sent)
}
