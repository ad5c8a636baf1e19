//! Per generation: settings, and the devices of this node.

/// Per-generation settings, array of one.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Settings {
    /// Number of the generation, for people; grows with every apply.
    pub generation: u64,
    /// Bits of [`settings_flag`].
    pub flags: u32,
    /// Entries used of `node_ports`.
    pub node_port_ranges: u32,
    /// FelixConfiguration `kubeNodePortRanges`, inclusive, host order; only without any Service document (D3).
    pub node_ports: [PortRange; crate::limits::MAX_NODE_PORT_RANGES],
    /// Grace of a device that becomes governed, ns (D17).
    pub grace_ns: u64,
    /// Always zero.
    pub spare: [u64; 4],
}

/// [`Settings::flags`].
pub mod settings_flag {
    /// `onPolicyChange: recheck` node-wide (D15).
    pub const RECHECK: u32 = 1 << 0;
    /// At least one device is governed: flows are recorded (D42).
    pub const GOVERNED: u32 = 1 << 1;
    /// Some rule looks at the source port.
    pub const SPORT: u32 = 1 << 2;
    /// `pc_infra` has entries (D39).
    pub const INFRA: u32 = 1 << 3;
    /// Some address is a frontend, or there are ranges of node ports (D3).
    pub const FRONTENDS: u32 = 1 << 4;
    /// Some endpoint has an untracked list (D41).
    pub const UNTRACKED: u32 = 1 << 5;
}

/// Inclusive, host order.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PortRange {
    /// First port.
    pub first: u16,
    /// Last port.
    pub last: u16,
}

/// A device of this node.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DeviceEntry {
    /// Index into `pc_endpoints` plus one; 0: no host endpoint governs this device.
    pub endpoint: u32,
    /// Bits of [`device_flag`].
    pub flags: u32,
    /// Kernel clock, ns: grace of this device ends (D17); 0: none.
    pub grace_until_ns: u64,
}

/// [`DeviceEntry::flags`].
pub mod device_flag {
    /// A workload device (D47): preDNAT and forward lists only.
    pub const WORKLOAD: u32 = 1 << 0;
    /// Accepts router advertisements (D7).
    pub const ACCEPT_RA: u32 = 1 << 1;
    /// Anti-spoof is on (D27).
    pub const ANTI_SPOOF: u32 = 1 << 2;
    /// Unknown ethertypes are dropped (D20).
    pub const DROP_UNKNOWN_ETHERTYPES: u32 = 1 << 3;
    /// The loopback device.
    pub const LOOPBACK: u32 = 1 << 4;
    /// No Ethernet header in front of the network header (D48).
    pub const NO_LINK_LAYER: u32 = 1 << 5;
}
