//! A run of another program, with what the system says that it took.

use std::io;
use std::process::Command;
use std::time::{Duration, Instant};

#[derive(Clone, Copy)]
pub(crate) struct Taken {
    pub(crate) wall: Duration,
    /// User and system time of the program and of those that it waited for.
    pub(crate) cpu: Duration,
    /// The most resident memory, in bytes.
    pub(crate) peak: u64,
}

/// Runs a program to its end; an exit code other than 0 is an error.
pub(crate) fn run(command: &mut Command) -> io::Result<Taken> {
    let started = Instant::now();
    let child = command.spawn().map_err(|error| io::Error::other(format!("{command:?}: {error}")))?;
    let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
    let mut status = 0;
    // SAFETY: a struct of integers, for which zeros are a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to live variables. `child` is not waited for elsewhere, so the number is still its own.
    if unsafe { libc::wait4(pid, &mut status, 0, &mut usage) } != pid {
        return Err(io::Error::last_os_error());
    }
    let wall = started.elapsed();
    if !(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0) {
        return Err(io::Error::other(format!("{command:?} failed with status {status:#x}")));
    }
    let time = |time: libc::timeval| Duration::from_micros(time.tv_sec as u64 * 1_000_000 + time.tv_usec as u64);
    // Linux tells it in KiB, macOS in bytes.
    let unit = if cfg!(target_os = "macos") { 1 } else { 1024 };
    Ok(Taken { wall, cpu: time(usage.ru_utime) + time(usage.ru_stime), peak: usage.ru_maxrss as u64 * unit })
}
