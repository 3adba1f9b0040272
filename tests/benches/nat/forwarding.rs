//! What a packet of an established flow costs.

use crate::candidate::{Candidate, Setup};
use crate::kernel::Kernel;
use crate::sample::summary;
use crate::traffic::{Direction, Protocol, Send, established, open};

pub fn slice(rounds: usize) {
    let mut kernel = Kernel::load();
    let candidates = [Candidate::Floor, Candidate::Plain, Candidate::IptablesNft, Candidate::Xnat];
    let setups: Vec<Setup> = candidates.map(|candidate| Setup::new(candidate, 200_000)).into();
    for setup in &setups {
        setup.rig.equip(&mut kernel);
    }
    let mut opened = 0;
    for flows in [1, 1024, 100_000] {
        for setup in &setups {
            if let Err(error) = open(&mut kernel, setup, Protocol::Udp, opened, flows - opened) {
                println!("{}: {error}", setup.candidate.name());
            }
        }
        opened = flows;
        for direction in Direction::BOTH {
            let mut rows: Vec<Vec<f64>> = vec![Vec::new(); setups.len()];
            for _ in 0..rounds {
                for (setup, row) in setups.iter().zip(&mut rows) {
                    let send = Send {
                        packet: established(Protocol::Udp, direction),
                        direction,
                        at_random: true,
                        first: 0,
                        flows,
                        warm_up: 20_000,
                        packets: 220_000,
                    };
                    match send.run(&mut kernel, setup) {
                        Ok(cost) => row.push(cost),
                        Err(error) => println!("{}: {error}", setup.candidate.name()),
                    }
                }
            }
            println!("{flows} flows, {direction:?}");
            for (setup, row) in setups.iter().zip(&rows) {
                if let Some(s) = summary(row) {
                    println!("  {:16} {:7.0} {:7.0} {:7.0}", setup.candidate.name(), s.median, s.min, s.max);
                }
            }
        }
    }
}
