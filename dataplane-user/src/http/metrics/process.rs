//! The process itself, under the names that every exporter has (proc(5)).

use std::fs;

use nix::time::{ClockId, clock_gettime};
use nix::unistd::{SysconfVar, sysconf};

use super::Found;
use super::agent::unix;

pub(super) fn collect(found: &mut Found) {
    if let Some((cpu, began)) = times() {
        found.put("process_cpu_seconds_total", Vec::new(), super::Value::Seconds(cpu));
        found.number("process_start_time_seconds", Vec::new(), began);
    }
    if let Some(bytes) = resident() {
        found.number("process_resident_memory_bytes", Vec::new(), bytes);
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        found.number("process_open_fds", Vec::new(), open.count() as f64);
    }
}

fn setting(name: SysconfVar) -> Option<f64> {
    sysconf(name).ok().flatten().map(|value| value as f64)
}

/// Seconds on CPUs, and Unix seconds of the begin: fields 14, 15 and 22 of `stat`.
fn times() -> Option<(f64, f64)> {
    let text = fs::read_to_string("/proc/self/stat").ok()?;
    let fields: Vec<f64> =
        text.get(text.rfind(')')? + 1..)?.split_whitespace().map(|w| w.parse().unwrap_or(0.0)).collect();
    let tick = setting(SysconfVar::CLK_TCK)?;
    let up = clock_gettime(ClockId::CLOCK_BOOTTIME).ok()?;
    let up = up.tv_sec() as f64 + up.tv_nsec() as f64 / 1e9;
    let boot = unix(std::time::SystemTime::now()) - up;
    Some(((fields.get(11)? + fields.get(12)?) / tick, boot + fields.get(19)? / tick))
}

fn resident() -> Option<f64> {
    let text = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: f64 = text.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * setting(SysconfVar::PAGE_SIZE)?)
}
