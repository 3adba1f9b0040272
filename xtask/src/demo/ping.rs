//! `ping`, and what it found.

/// What a `ping` found.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pinged {
    /// How many requests were answered.
    pub(super) received: u32,
    /// The TTL of the first answer.
    pub(super) ttl: Option<u8>,
}

impl Pinged {
    /// Reads what iputils' ping prints.
    pub(super) fn parse(text: &str) -> Self {
        let received = text.lines().find_map(|line| {
            let (_, rest) = line.split_once(" transmitted, ")?;
            rest.split_once(" received")?.0.parse().ok()
        });
        let ttl = text.split_once(" ttl=").and_then(|(_, rest)| rest.split_once(' ')?.0.parse().ok());
        Self { received: received.unwrap_or(0), ttl }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_and_silence_are_told_apart() {
        let answered = "64 bytes from 192.168.220.11: icmp_seq=1 ttl=62 time=0.1 ms\n\n--- ping statistics ---\n\
                        2 packets transmitted, 2 received, 0% packet loss, time 201ms\n";
        assert_eq!(Pinged::parse(answered), Pinged { received: 2, ttl: Some(62) });
        let silent = "From 172.29.0.17 icmp_seq=1 Destination Host Unreachable\n\
                      1 packets transmitted, 0 received, +1 errors, 100% packet loss, time 0ms\n";
        assert_eq!(Pinged::parse(silent), Pinged { received: 0, ttl: None });
        assert_eq!(Pinged::parse(""), Pinged { received: 0, ttl: None });
    }
}
