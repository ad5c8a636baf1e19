//! What runs at a device's hook, in its order: TCX programs first, then clsact filters.

use anyhow::{Context, Result};
use aya::programs::SchedClassifier;
use aya::programs::links::{FdLink, PinnedLink};
use dataplane_common::abi::Hook;
use futures::TryStreamExt;
use netlink_packet_route::tc::{TcAttribute, TcFilterBpfOption, TcMessage, TcOption};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::Path;

use super::attach::{attach_type, program_name};
use super::pins::{pins, xdp_pins};
use super::xdp;
use crate::sys::tcx_programs;

/// A program or filter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Place {
    /// Name of the program; `program NUMBER` where it is another's and this process lacks CAP_SYS_ADMIN; for a filter without one its kind (`flower`).
    pub name: String,
    /// Number of the program; absent for filters that run none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<u32>,
    /// `tcx` or `clsact`; at XDP the mode, `generic` or `native`.
    pub by: String,
    /// Put there by this pin dir's agent.
    pub ours: bool,
}

/// Numbers of the programs behind the pinned links of this pin dir.
pub fn own_programs(pin_dir: &Path) -> BTreeSet<u32> {
    let links = pins(&pin_dir.join(super::pins::LINKS)).unwrap_or_default();
    let program = |path: &Path| {
        let link = FdLink::from(PinnedLink::from_pin(path).ok()?);
        link.info().ok().map(|info| info.program_id())
    };
    let xdp = xdp_pins(&pin_dir.join(super::pins::LINKS)).unwrap_or_default();
    let tc = links.iter().map(|(_, _, path)| path);
    tc.chain(xdp.iter().map(|(_, path)| path)).filter_map(|path| program(path)).collect()
}

/// What runs before TC ingress.
pub fn xdp_chain(own: &BTreeSet<u32>, device: u32) -> Result<Vec<Place>> {
    let place = |p: xdp::Runs| Place {
        name: p.name,
        program: Some(p.program),
        by: p.mode.to_owned(),
        ours: own.contains(&p.program),
    };
    Ok(xdp::look(device)?.programs.into_iter().map(place).collect())
}

/// The chain of one hook of a device of this network namespace.
pub async fn chain(
    handle: &rtnetlink::Handle,
    own: &BTreeSet<u32>,
    hook: Hook,
    device: &str,
    ifindex: u32,
) -> Result<Vec<Place>> {
    let mut places = Vec::new();
    // Before 6.6 there is no TCX, and asking for it is an error: nothing is there then.
    if let Ok(programs) = tcx_programs(ifindex, hook) {
        // Names of programs that are not ours take CAP_SYS_ADMIN.
        let named =
            SchedClassifier::query_tcx(device, attach_type(hook)).map_or_else(|_| Vec::new(), |(_, all)| all);
        let name = |id| named.iter().find(|p| p.id() == id).and_then(|p| p.name_as_str().map(str::to_owned));
        places.extend(programs.into_iter().map(|id| Place {
            name: match own.contains(&id) {
                true => program_name(hook).to_owned(),
                false => name(id).unwrap_or_else(|| format!("program {id}")),
            },
            program: Some(id),
            by: "tcx".to_owned(),
            ours: own.contains(&id),
        }));
    }
    let request = handle.traffic_filter(i32::try_from(ifindex).unwrap_or(0)).get();
    let request = match hook {
        Hook::Ingress => request.ingress(),
        Hook::Egress => request.egress(),
    };
    let mut filters: Vec<TcMessage> = match request.execute().try_collect().await {
        Ok(filters) => filters,
        // A device without clsact: the kernel says "no such parent".
        Err(rtnetlink::Error::NetlinkError(_)) => Vec::new(),
        Err(e) => return Err(e).with_context(|| format!("cannot list the filters of {device}")),
    };
    filters.sort_by_key(|f| f.header.info >> 16);
    // Each priority is told once without a filter, as its head.
    places.extend(filters.iter().filter(|f| u32::from(f.header.handle) != 0).map(|f| filter(f, hook)));
    Ok(places)
}

fn filter(message: &TcMessage, hook: Hook) -> Place {
    let kind = message.attributes.iter().find_map(|a| match a {
        TcAttribute::Kind(kind) => Some(kind.clone()),
        _ => None,
    });
    let options = message.attributes.iter().find_map(|a| match a {
        TcAttribute::Options(options) => Some(options.as_slice()),
        _ => None,
    });
    let bpf = |pick: &dyn Fn(&TcFilterBpfOption) -> Option<String>| {
        options.unwrap_or_default().iter().find_map(|o| match o {
            TcOption::Bpf(option) => pick(option),
            _ => None,
        })
    };
    let name = bpf(&|o| match o {
        TcFilterBpfOption::ProgName(name) => Some(name.clone()),
        _ => None,
    });
    let program = bpf(&|o| match o {
        TcFilterBpfOption::ProgId(id) => Some(id.to_string()),
        _ => None,
    });
    let ours = name.as_deref() == Some(program_name(hook));
    Place {
        name: name.or(kind).unwrap_or_else(|| "?".to_owned()),
        program: program.and_then(|p| p.parse().ok()),
        by: "clsact".to_owned(),
        ours,
    }
}
