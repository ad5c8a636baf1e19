//! A VM boots while a packet source waits for its NIC. With the boot floor nothing forbidden reaches a listener, from the
//! first moment on; without it the same packets do, until the agent is there. What happens inside is `tests/src/boot.rs`.

use std::{
    fs,
    net::UdpSocket,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::{
    packages::{self, BOOT_TOOLS},
    run::{command, printed, say},
    setup::{self, vm_cache},
    test::Outcome,
    vm::{self, KERNELS, Missing, Test},
};

/// The NIC's driver and what it needs, in the order of their dependencies, as Linux 6.1 cuts them.
const NIC_MODULES: [&str; 8] = [
    "drivers/virtio/virtio",
    "drivers/virtio/virtio_ring",
    "drivers/virtio/virtio_pci_legacy_dev",
    "drivers/virtio/virtio_pci_modern_dev",
    "drivers/virtio/virtio_pci",
    "net/core/failover",
    "drivers/net/net_failover",
    "drivers/net/virtio_net",
];
const KERNEL: &str = "6.1";
/// What the policy in the VM allows, and what it does not.
const PORTS: [u16; 2] = [9998, 9999];
const PAUSE: Duration = Duration::from_millis(5);

pub(crate) fn step() -> Result<Outcome> {
    if let Some(why) = vm::unavailable() {
        return Ok(Outcome::Skipped(why));
    }
    if let Err(error) = packages::install(&BOOT_TOOLS) {
        return Ok(Outcome::Skipped(format!("{error:#}")));
    }
    setup::kernel_build()?;
    let programs = vm::build_test()?;
    for mode in ["floor", "bare"] {
        match one(mode, &programs) {
            Ok(()) => say(&format!("boot, {mode}: passed")),
            Err(Missing::Infrastructure(why)) => return Ok(Outcome::Skipped(why)),
            Err(Missing::Failure(why)) => return Ok(Outcome::Failed(format!("{mode}: {why}"))),
        }
    }
    Ok(Outcome::Passed)
}

fn one(mode: &str, programs: &Test) -> Result<(), Missing> {
    let failure = |error: anyhow::Error| Missing::Failure(format!("{error:#}"));
    let infrastructure = |error: anyhow::Error| Missing::Infrastructure(format!("{error:#}"));
    let kernel = KERNELS
        .iter()
        .find(|kernel| kernel.version == KERNEL)
        .context("the boot test's kernel is not among the kernels")
        .map_err(failure)?;
    let files = vm::fetch(kernel).map_err(infrastructure)?.with(&NIC_MODULES).map_err(failure)?;
    let initramfs = vm_cache().join(format!("boot-{mode}.cpio"));
    let pack = || -> Result<()> {
        let mut archive = vm::base(&files, programs)?;
        let busybox = printed(command("sh", Duration::from_secs(5)).args(["-c", "command -v busybox"]))
            .context("busybox is not in PATH")?;
        archive.file("bin/busybox", 0o755, &fs::read(busybox)?);
        fs::write(&initramfs, archive.finish())?;
        Ok(())
    };
    pack().map_err(failure)?;
    let environment = format!("PC_BOOT={mode}");
    let mut console =
        with_source(|devices| vm::boot(&files, &initramfs, devices, &environment)).map_err(failure)?;
    if vm::result(&console).is_none() {
        say("boot: the VM ended without a result; once more");
        console =
            with_source(|devices| vm::boot(&files, &initramfs, devices, &environment)).map_err(failure)?;
    }
    vm::judge(&format!("boot {mode}"), &console)
}

/// Sends frames into the NIC's socket for as long as `boot` runs, beginning before the machine is there.
fn with_source(boot: impl FnOnce(&[String]) -> Result<String>) -> Result<String> {
    let socket = UdpSocket::bind("127.0.0.1:0").context("no socket for the packet source")?;
    let source = socket.local_addr()?.port();
    // A free port for qemu's end: taken and given back.
    let nic = UdpSocket::bind("127.0.0.1:0")?.local_addr()?.port();
    let stop = Arc::new(AtomicBool::new(false));
    let sender = {
        let stop = stop.clone();
        thread::spawn(move || {
            let frames = PORTS.map(frame);
            while !stop.load(Ordering::Relaxed) {
                for frame in &frames {
                    // Nobody listens before qemu does.
                    let _ = socket.send_to(frame, ("127.0.0.1", nic));
                }
                thread::sleep(PAUSE);
            }
        })
    };
    let devices = [
        "-netdev".to_owned(),
        format!("socket,id=net,udp=127.0.0.1:{source},localaddr=127.0.0.1:{nic}"),
        "-device".to_owned(),
        "virtio-net-pci,netdev=net,mac=52:54:00:12:34:56,romfile=".to_owned(),
    ];
    let console = boot(&devices);
    stop.store(true, Ordering::Relaxed);
    let _ = sender.join();
    console
}

/// Ethernet, IPv4 10.0.2.2 → 10.0.2.15, UDP to `port`, the word `knock`.
fn frame(port: u16) -> Vec<u8> {
    const WORD: &[u8] = b"knock";
    let udp_length = 8 + WORD.len() as u16;
    let mut ip = vec![0x45, 0];
    ip.extend((20 + udp_length).to_be_bytes());
    ip.extend([0, 1, 0x40, 0, 64, 17, 0, 0, 10, 0, 2, 2, 10, 0, 2, 15]);
    let sum: u32 = ip.chunks(2).map(|two| u32::from(u16::from_be_bytes([two[0], two[1]]))).sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut frame = vec![0x52, 0x54, 0, 0x12, 0x34, 0x56, 0x52, 0x54, 0, 0, 0, 1, 0x08, 0];
    frame.extend(ip);
    frame.extend(40000u16.to_be_bytes());
    frame.extend(port.to_be_bytes());
    frame.extend(udp_length.to_be_bytes());
    // No checksum, which IPv4 allows.
    frame.extend([0, 0]);
    frame.extend(WORD);
    frame
}

#[cfg(test)]
mod tests {
    use super::frame;

    #[test]
    fn the_header_sums_to_nothing_but_ones() {
        let frame = frame(9999);
        let sum: u32 =
            frame[14..34].chunks(2).map(|two| u32::from(u16::from_be_bytes([two[0], two[1]]))).sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
        assert_eq!(frame.len(), 14 + 20 + 8 + 5);
    }
}
