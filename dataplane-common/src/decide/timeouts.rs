//! How long a flow lives without a packet: the defaults of the kernel's own connection tracking, seconds.

use crate::flow::{FlowEntry, TcpState};
use crate::packet::protocol;

const SECOND: u64 = 1_000_000_000;
const TCP_SYN_SENT: u64 = 120;
const TCP_SYN_RECEIVED: u64 = 60;
const TCP_ESTABLISHED: u64 = 432_000;
const TCP_UNACKNOWLEDGED: u64 = 300;
const TCP_FIN: u64 = 120;
const TCP_CLOSE: u64 = 10;
const UDP_UNREPLIED: u64 = 30;
const UDP_REPLIED: u64 = 120;
const ICMP: u64 = 30;
const SCTP_INIT: u64 = 3;
const SCTP_ESTABLISHED: u64 = 210;
const GENERIC: u64 = 600;

/// ns after `last_seen_ns`.
#[inline(always)]
pub fn timeout_ns(flow: &FlowEntry, protocol: u8) -> u64 {
    let replied = flow.state_reply != TcpState::None as u8;
    let seconds = match protocol {
        protocol::TCP => tcp(flow),
        protocol::UDP | protocol::UDPLITE => {
            if replied {
                UDP_REPLIED
            } else {
                UDP_UNREPLIED
            }
        }
        protocol::ICMP | protocol::ICMPV6 => ICMP,
        protocol::SCTP => {
            if replied {
                SCTP_ESTABLISHED
            } else {
                SCTP_INIT
            }
        }
        _ => GENERIC,
    };
    seconds * SECOND
}

#[inline(always)]
fn tcp(flow: &FlowEntry) -> u64 {
    let (original, reply) = (flow.state_original, flow.state_reply);
    let is = |state: u8, want: TcpState| state == want as u8;
    if is(original, TcpState::Closing) || is(reply, TcpState::Closing) {
        TCP_CLOSE
    } else if is(original, TcpState::Fin) || is(reply, TcpState::Fin) {
        TCP_FIN
    } else if is(reply, TcpState::None) {
        if is(original, TcpState::SynSent) { TCP_SYN_SENT } else { TCP_UNACKNOWLEDGED }
    } else if is(original, TcpState::SynSent) {
        // The handshake's last ACK is still to come; behind it a server may stay silent for long.
        TCP_SYN_RECEIVED
    } else {
        TCP_ESTABLISHED
    }
}
