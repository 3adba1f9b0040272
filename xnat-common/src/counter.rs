//! The counters: one name and one number each, numbered once and never renumbered.

/// What a counter counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// A packet was dropped.
    Drop,
    /// A packet took a slower way.
    Fallback,
    /// Something worth knowing happened.
    Event,
}

macro_rules! counters {
    ($($number:literal $variant:ident $name:literal $class:ident $help:literal;)*) => {
        /// A counter of the dataplane. The number is its index in the `COUNTERS` map.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Counter {
            $(#[doc = $help] $variant = $number,)*
        }

        impl Counter {
            /// All counters in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name in `xnat status`, in metrics and in the documents.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What it counts.
            #[must_use]
            pub const fn class(self) -> Class {
                match self { $(Self::$variant => Class::$class,)* }
            }

            /// What it means, in one line.
            #[must_use]
            pub const fn help(self) -> &'static str {
                match self { $(Self::$variant => $help,)* }
            }
        }
    };
}

counters! {
    0 FlowsOpened "flows_opened" Event "flows opened";
    1 FlowsExpired "flows_expired" Event "flows collected after their idle timeout";
    2 FlowsReopened "flows_reopened" Event "TCP flows taken up anew by a SYN after they had closed";
    3 FlowsReplaced "flows_replaced" Event "flows that gave way to another one on the same wire tuple";
    4 PortsChanged "ports_changed" Event "flows whose original port was taken, so that another was chosen";
    5 TagsSent "tags_sent" Event "opening packets sent to a peer with a flow tag";
    6 TagsReceived "tags_received" Event "opening packets with a flow tag accepted from a peer";
    7 AnnouncesSent "announces_sent" Event "flows announced by a header of their own, because the tag did not fit";
    8 AnnouncesReceived "announces_received" Event "announcements accepted from a peer";
    9 UnknownFlowSent "unknown_flow_sent" Event "resets and port-unreachable errors to a peer that say that the flow may be unknown here";
    10 UnknownFlowReceived "unknown_flow_received" Event "errors of a peer that has forgotten a flow; it is told of the flow again";
    11 ConflictSent "conflict_sent" Event "openings from a peer that crossed one of ours on the same wire tuple";
    12 ConflictReceived "conflict_received" Event "conflict answers from a peer; the flow moved to another port";
    13 KernelFlows "kernel_flows" Event "tuples remembered as belonging to the kernel's own NAT";
    14 ToKernelTtl "to_kernel_ttl" Fallback "packets with an exhausted TTL, left to the kernel to answer";
    15 ToKernelMtu "to_kernel_mtu" Fallback "packets over the MTU, left to the kernel to answer or fragment";
    16 ToKernelRoute "to_kernel_route" Fallback "packets to whose destination no route leads through the uplink, left to the kernel";
    17 UnknownFlowLimited "unknown_flow_limited" Drop "such errors to a peer beyond the rate at which they are sent";
    18 Malformed "malformed" Drop "packets whose headers are shorter than they claim";
    19 PrivateSource "private_source" Drop "packets that would have left the uplink with a container's address";
    20 InsideTag "inside_tag" Drop "packets from inside that carried a flow tag";
    21 TagStranger "tag_stranger" Drop "tagged packets from an address that is no peer";
    22 TagSubnet "tag_subnet" Drop "tagged packets for an address outside this host's subnets";
    23 TagVersion "tag_version" Drop "tagged packets of a version or kind that is not known here";
    24 TagMalformed "tag_malformed" Drop "tagged packets whose option is damaged";
    25 TableFull "table_full" Drop "openings refused because no flow record was free";
    26 PortsExhausted "ports_exhausted" Drop "openings refused because no port was free";
    27 FlowBusy "flow_busy" Drop "openings that met a flow in the moment of its collection";
    28 FragmentUnknown "fragment_unknown" Drop "fragments whose first fragment was not seen, or was dropped";
    29 RewriteFailed "rewrite_failed" Drop "packets that the kernel did not let the dataplane change";
    30 ConflictHeld "conflict_held" Drop "packets held back while a conflict was being resolved";
    31 FlowReleased "flow_released" Event "flows ended because they turned out to be the kernel's own NAT's, or to lead to a peer";
    32 IcmpErrorUntranslatable "icmp_error_untranslatable" Drop "ICMP errors about a known flow whose embedded packet could not be translated";
    33 FlowsCrossed "flows_crossed" Event "flows that a peer has opened from its end as well, made one";
    34 PrivateDestination "private_destination" Drop "packets that would have left the uplink for a peer's container by its own address";
    35 MessageUnmatched "message_unmatched" Drop "messages of a peer about no flow of this host's, or to which nothing could be done";
    36 MappingsOpened "mappings_opened" Event "ports given to a container's address and port";
    37 PortsShared "ports_shared" Event "flows that share their port with others toward other destinations, because none was free";
    38 PortsReclaimed "ports_reclaimed" Event "closed flows ended early, because ports or records ran short";
    39 QuotaExceeded "quota_exceeded" Drop "openings of containers that have all the ports that they may have";
    40 Refusals "refusals" Event "ICMP errors that told a container that its opening was refused";
    41 Filtered "filtered" Drop "packets from outside that a mapping's filtering does not let in";
    42 HostTranslated "host_translated" Event "connections of the host itself that got another port, because a flow had theirs";
    43 SpoofedSource "spoofed_source" Drop "packets from the wire with a container's address as their source";
    44 MartianSource "martian_source" Drop "packets from the wire whose source is no host's: 0/8, 127/8, multicast, broadcast";
    45 OwnSource "own_source" Drop "packets from the wire with this host's own address as their source";
    46 DirectDestination "direct_destination" Drop "packets from the wire to a container by its own address";
    47 SourceRoute "source_route" Drop "packets with an IP source route";
    48 BadChecksum "bad_checksum" Drop "opening packets and ICMP errors with a wrong IP or ICMP checksum";
    49 FragmentsHeld "fragments_held" Event "fragments kept until their datagram's first one came";
    50 FragmentOverlap "fragment_overlap" Drop "fragments that overlap others of their datagram, or are shaped so that they could";
    51 FragmentQuota "fragment_quota" Drop "fragments of a source with too many unfinished datagrams, or too long to be kept";
    52 FragmentExpired "fragment_expired" Drop "fragments kept for a first one that did not come in time";
    53 TcpImplausible "tcp_implausible" Event "segments outside of the window, translated without effect on the flow";
    54 StageMissing "stage_missing" Fallback "packets that met a dataplane of which only the hooks were left, left to the kernel";
}

/// Room in the `COUNTERS` map, so that new counters do not change its layout.
pub const CAPACITY: u32 = 256;
