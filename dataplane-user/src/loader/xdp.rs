//! XDP on devices with an untracked ingress list (D10): links (kernel ≥ 5.9), pinned beside those of TC, so that what is
//! dropped early goes on without an agent, and a new one replaces the program atomically. Losing XDP opens nothing: TC
//! judges every packet.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::xdp::XdpLink;
use aya::programs::{ProgramError, Xdp, XdpMode, loaded_programs};
use netlink_packet_core::{NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage, LinkXdp};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::sys::socket::{setsockopt, sockopt::ReceiveTimeout};
use nix::sys::time::TimeVal;

use super::pins::{PinDir, remove_if_there, xdp_pin, xdp_pins};

/// How XDP is attached, as the settings say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// By the network stack: works on every device and touches no hardware.
    #[default]
    Generic,
    /// By the driver: earlier, but some drivers reset the link when it is attached.
    Native,
    /// Not at all.
    Off,
}

impl Mode {
    fn of_kernel(self) -> XdpMode {
        match self {
            Self::Generic | Self::Off => XdpMode::Skb,
            Self::Native => XdpMode::Driver,
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Generic => "generic",
            Self::Native => "native",
            Self::Off => "off",
        })
    }
}

/// A program at the XDP hook of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Runs {
    /// `generic`, `native` or `offloaded`.
    pub mode: &'static str,
    pub program: u32,
    pub name: String,
}

/// What the kernel tells of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub programs: Vec<Runs>,
    /// It is a port of a bridge, bond or other device.
    pub has_controller: bool,
}

/// What became of a device that has an untracked list with a Deny.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Attached(Mode),
    /// Not attached, and why.
    Left(String),
}

/// The devices that carry our XDP program.
pub struct XdpAttacher {
    links: PathBuf,
    mode: Mode,
}

impl XdpAttacher {
    /// For a locked pin dir.
    pub fn new(pin_dir: &PinDir, mode: Mode) -> Self {
        Self { links: pin_dir.links(), mode }
    }

    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Brings one device to where it should be, and touches nothing when it is there. A program that is not ours stays.
    pub fn attach(&self, program: &mut Xdp, device: u32) -> Result<Outcome> {
        let seen = look(device)?;
        if seen.has_controller {
            self.remove(device)?;
            let why = "it is a port of another device: a driver may hide VLAN tags from XDP";
            return Ok(Outcome::Left(why.into()));
        }
        let own = program.info()?.id();
        let in_place =
            |seen: &Seen| seen.programs.iter().any(|p| p.program == own && p.mode == self.mode.to_string());
        if in_place(&seen) {
            return Ok(Outcome::Attached(self.mode));
        }
        let path = xdp_pin(&self.links, device);
        if self.adopt(program, &path)? && in_place(&look(device)?) {
            return Ok(Outcome::Attached(self.mode));
        }
        // No link, or one of another mode, or of a device that is gone or lives in another namespace.
        remove_if_there(&path)?;
        let seen = wait_for_release(device, program)?;
        if let Some(foreign) = seen.programs.iter().find(|p| p.program != own) {
            return Ok(Outcome::Left(format!(
                "program {} (id {}, {}) of somebody else runs there and was left in place",
                foreign.name, foreign.program, foreign.mode
            )));
        }
        let id = program.attach_to_if_index(device, self.mode.of_kernel())?;
        let link: FdLink = program.take_link(id)?.try_into()?;
        link.pin(&path).with_context(|| format!("cannot pin the link at {}", path.display()))?;
        Ok(Outcome::Attached(self.mode))
    }

    /// Puts `program` into the pinned link, atomically. False when there is no usable link.
    fn adopt(&self, program: &mut Xdp, path: &Path) -> Result<bool> {
        let pinned = match PinnedLink::from_pin(path) {
            Ok(pinned) => pinned,
            Err(LinkError::SyscallError(e)) if e.io_error.kind() == io::ErrorKind::NotFound => {
                return Ok(false);
            }
            Err(e) => {
                return Err(e).with_context(|| format!("cannot open the pinned link {}", path.display()));
            }
        };
        let link = XdpLink::try_from(FdLink::from(pinned))
            .with_context(|| format!("{} is no XDP link; remove it", path.display()))?;
        match program.attach_to_link(link) {
            // The pin keeps the link; our descriptor may go.
            Ok(id) => program.take_link(id).map(|_| true).map_err(Into::into),
            // The device is gone, or it no longer takes the program: a new link says why.
            Err(ProgramError::SyscallError(_)) => Ok(false),
            Err(e) => Err(e).with_context(|| format!("cannot replace the program of {}", path.display())),
        }
    }

    /// Takes our program off a device. False when there was none.
    pub fn remove(&self, device: u32) -> Result<bool> {
        let path = xdp_pin(&self.links, device);
        let there = fs::symlink_metadata(&path).is_ok();
        remove_if_there(&path).map(|()| there)
    }

    /// Detaches every device that is not in `wanted`. Says which.
    pub fn retain<T>(&self, wanted: &BTreeMap<u32, T>) -> Result<Vec<u32>> {
        let mut removed = Vec::new();
        for (device, path) in xdp_pins(&self.links)? {
            if !wanted.contains_key(&device) {
                remove_if_there(&path)?;
                removed.push(device);
            }
        }
        Ok(removed)
    }
}

/// The kernel takes a link off its device a moment after its last reference went.
fn wait_for_release(device: u32, program: &Xdp) -> Result<Seen> {
    let own_name = program.info()?.name().to_vec();
    let mut seen = look(device)?;
    for _ in 0..40 {
        if !seen.programs.iter().any(|p| p.name.as_bytes() == own_name) {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
        seen = look(device)?;
    }
    Ok(seen)
}

/// Asks the kernel about one device of this network namespace.
pub fn look(device: u32) -> Result<Seen> {
    let mut socket = Socket::new(NETLINK_ROUTE).context("cannot open a netlink route socket")?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    setsockopt(&socket, ReceiveTimeout, &TimeVal::new(2, 0))?;
    let mut link = LinkMessage::default();
    link.header.index = device;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST;
    let mut message = NetlinkMessage::new(header, RouteNetlinkMessage::GetLink(link).into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0).context("cannot ask for a device")?;
    let (answer, _) = socket.recv_from_full().context("the kernel does not answer")?;
    match NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer).map(|m| m.payload) {
        Ok(NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link))) => Ok(seen(&link)),
        Ok(NetlinkPayload::Error(e)) => Err(e.to_io()).with_context(|| format!("device {device}")),
        Ok(_) => bail!("the kernel's answer about device {device} is about something else"),
        Err(e) => Err(e).with_context(|| format!("the kernel's answer about device {device}")),
    }
}

fn seen(link: &LinkMessage) -> Seen {
    let mut seen = Seen::default();
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::Controller(index) => seen.has_controller |= *index != 0,
            LinkAttribute::Xdp(list) => {
                seen.programs.extend(list.iter().filter_map(|item| {
                    let (mode, program) = match item {
                        LinkXdp::SkbProgId(id) => ("generic", *id),
                        LinkXdp::DrvProgId(id) => ("native", *id),
                        LinkXdp::HwProgId(id) => ("offloaded", *id),
                        _ => return None,
                    };
                    Some(Runs { mode, program, name: name_of(program) })
                }));
            }
            _ => {}
        }
    }
    seen
}

fn name_of(program: u32) -> String {
    let found = loaded_programs().filter_map(Result::ok).find(|p| p.id() == program);
    found.and_then(|p| p.name_as_str().map(str::to_owned)).unwrap_or_else(|| "?".into())
}
