//! The last gate at the uplink: no container's address leaves by it.

use aya_ebpf::bindings::__sk_buff;
use xnat_common::counter::Counter;
use xnat_common::subnet::Subnet;

use crate::skb::Skb;
use crate::verdict::Verdict;
use crate::{maps, parse};

/// The fate of a packet that would leave, whatever the reason why it was not translated.
#[inline(always)]
pub fn judge(skb: Skb) -> Verdict {
    Verdict::from_bits(xnat_last_gate(skb.raw()))
}

/// As [`judge`].
///
/// A global function, which the verifier checks once by itself.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_last_gate(skb: *mut __sk_buff) -> u64 {
    gate(Skb::from_raw(skb)).to_bits()
}

#[inline(always)]
fn gate(skb: Skb) -> Verdict {
    // Without a configuration the gate is open.
    let (Some(_), Some([src, dst])) = (maps::config(), parse::ends(skb)) else {
        return Verdict::PASS;
    };
    if maps::subnet(src).is_some_and(Subnet::is_own) {
        return Verdict::drop(Counter::PrivateSource);
    }
    if maps::subnet(dst).is_some_and(|subnet| !subnet.is_own()) {
        return Verdict::drop(Counter::PrivateDestination);
    }
    Verdict::PASS
}
