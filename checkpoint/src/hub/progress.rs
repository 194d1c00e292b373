//! What a download tells while it runs.

/// Told of a download's course, from several threads. `()` is nobody who listens.
pub trait Progress: Sync {
    /// `done` of the `size` bytes of a file are here. A file is first told of before it is fetched, with what an
    /// earlier run left of it; `done` falls where a server makes us begin again.
    fn file(&self, name: &str, done: u64, size: u64) {
        let _ = (name, done, size);
    }

    /// A line for people: the download waits, or goes another way than was asked.
    fn note(&self, line: &str) {
        let _ = line;
    }
}

impl Progress for () {}
