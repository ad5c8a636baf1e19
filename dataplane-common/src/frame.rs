//! The one thing the parser needs: bytes counted from the network header, and the packet's metadata.

/// A packet in the hands of the kernel (or of a test).
///
/// Offsets count from the **network header**, so that a device without Ethernet header reads the same (D48).
pub trait Frame {
    /// `N` bytes at `offset`, or `None` when the packet ends before. Never reads past the packet, and reads the
    /// same in linear and non-linear buffers.
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]>;
    /// Ethertype of what stands at offset 0, host order (after the tag in the metadata, if any).
    fn ethertype(&self) -> u16;
    /// The VLAN tag that the device stripped into the metadata: TCI, host order (D28).
    fn vlan_tag(&self) -> Option<u16>;
    /// `gso_size`: 0 unless this is a super-packet.
    fn gso_size(&self) -> u32;
    /// Packets on the wire that a super-packet stands for; 0 or 1 for any other.
    fn segments(&self) -> u16;
    /// Bytes from the network header to the end of the packet.
    fn network_len(&self) -> u32;
    /// Packet type LOOPBACK: the kernel's own multicast, looped back to it (D29).
    fn looped_back(&self) -> bool;
}
