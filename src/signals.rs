//! Signals: what a build that is told to stop does, and limits that must not kill it.

#[cfg(unix)]
mod unix {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicBool, AtomicI32, Ordering},
        },
        thread,
        time::Duration,
    };

    use genai_builder::Interrupt;
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    use signal_hook::{
        consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ},
        flag,
        iterator::Signals,
    };

    use crate::{console, failure::Failure};

    /// The signal that came; 0 for none.
    static RECEIVED: AtomicI32 = AtomicI32::new(0);

    /// How long a build may take to stop by itself.
    const PATIENCE: Duration = Duration::from_millis(1000);

    pub(crate) fn interrupt_on_signals(interrupt: Interrupt) {
        // What the caller had this process ignore, as `nohup` does, stays ignored.
        let watched = [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|signal| !is_ignored(*signal));
        // Without handlers a signal ends the process as ever, and the next build cleans up.
        let Ok(mut signals) = Signals::new(watched) else { return };
        thread::spawn(move || {
            for signal in signals.forever() {
                if RECEIVED.swap(signal, Ordering::SeqCst) != 0 {
                    // Asked twice.
                    end(&interrupt, signal);
                }
                interrupt.request();
                let interrupt = interrupt.clone();
                // The build stops before its next write, but it may be computing, or in ONNX Runtime.
                thread::spawn(move || {
                    thread::sleep(PATIENCE);
                    end(&interrupt, signal);
                });
            }
        });
    }

    fn end(interrupt: &Interrupt, signal: i32) -> ! {
        interrupt.clean();
        console::fail(&failure(signal));
        std::process::exit(128 + signal)
    }

    fn failure(signal: i32) -> Failure {
        let name = match signal {
            SIGINT => "SIGINT",
            SIGTERM => "SIGTERM",
            _ => "SIGHUP",
        };
        let code = u8::try_from(128 + signal).unwrap_or(u8::MAX);
        Failure::new(code, format!("stopped by {name}, the output is as it was"))
    }

    /// What a build failed with, or that it was stopped.
    pub(crate) fn stopped() -> Option<Failure> {
        let signal = RECEIVED.load(Ordering::SeqCst);
        (signal != 0).then(|| failure(signal))
    }

    /// A write beyond `ulimit -f` becomes an error instead of the end of the process.
    pub(crate) fn survive_file_size_limit() {
        let _ = flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)));
    }

    /// A model may have hundreds of files, which are open together; systems start programs with a limit of 256 or 1024
    /// that a program may raise.
    pub(crate) fn raise_open_file_limit() {
        let limit = getrlimit(Resource::Nofile);
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        // What is refused shows when too many files are opened.
        let _ = setrlimit(Resource::Nofile, raised);
    }

    /// Ctrl-C as a chat takes it: it stops an answer, and ends the program where nobody is answering.
    pub(crate) struct Interruptible {
        idle: Arc<AtomicBool>,
        came: Arc<AtomicBool>,
    }

    /// An answer that is under way.
    pub(crate) struct Replying<'a> {
        signals: &'a Interruptible,
    }

    impl Interruptible {
        pub(crate) fn new() -> Self {
            let signals = Self { idle: Arc::new(AtomicBool::new(true)), came: Arc::new(AtomicBool::new(false)) };
            // Without handlers the signal ends the program.
            let _ = flag::register_conditional_default(SIGINT, signals.idle.clone());
            let _ = flag::register(SIGINT, signals.came.clone());
            signals
        }

        pub(crate) fn replying(&self) -> Replying<'_> {
            self.came.store(false, Ordering::SeqCst);
            self.idle.store(false, Ordering::SeqCst);
            Replying { signals: self }
        }
    }

    impl Replying<'_> {
        pub(crate) fn interrupted(&self) -> bool {
            self.signals.came.load(Ordering::SeqCst)
        }
    }

    impl Drop for Replying<'_> {
        fn drop(&mut self) {
            self.signals.idle.store(true, Ordering::SeqCst);
        }
    }

    fn is_ignored(signal: i32) -> bool {
        let ignored = || {
            let status = std::fs::read_to_string("/proc/self/status").ok()?;
            let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
            u64::from_str_radix(mask.trim(), 16).ok()
        };
        ignored().is_some_and(|mask| mask & (1 << (signal - 1)) != 0)
    }
}

#[cfg(unix)]
pub(crate) use unix::{Interruptible, interrupt_on_signals, raise_open_file_limit, stopped, survive_file_size_limit};

#[cfg(not(unix))]
pub(crate) fn interrupt_on_signals(_: genai_builder::Interrupt) {}

#[cfg(not(unix))]
pub(crate) fn stopped() -> Option<crate::failure::Failure> {
    None
}

#[cfg(not(unix))]
pub(crate) fn raise_open_file_limit() {}

#[cfg(not(unix))]
pub(crate) fn survive_file_size_limit() {}

/// Here Ctrl-C ends the program.
#[cfg(not(unix))]
pub(crate) struct Interruptible;

#[cfg(not(unix))]
impl Interruptible {
    pub(crate) fn new() -> Self {
        Self
    }

    pub(crate) fn replying(&self) -> &Self {
        self
    }

    pub(crate) fn interrupted(&self) -> bool {
        false
    }
}
