//! What a backend has done and holds; tests assert on these figures.

/// Counters of one backend since it was made (bytes_peak: since `reset_peak`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Operations started on the device.
    pub launches: u64,
    /// Times that recorded operations were started as one; see [`Backend::repeated`](crate::Backend::repeated).
    pub graph_launches: u64,
    /// Times that operations were recorded, to be started as one from then on.
    pub graphs_recorded: u64,
    /// Recorded operations that were given other arguments before they were started again.
    pub graph_updates: u64,
    /// Times the host had to wait for the device (download and sync only).
    pub waits: u64,
    /// Bytes in buffers that are alive.
    pub bytes_live: u64,
    /// The largest value of `bytes_live`.
    pub bytes_peak: u64,
    /// Bytes kept by the pool for reuse, not alive.
    pub bytes_pooled: u64,
    /// Bytes copied from the host.
    pub bytes_uploaded: u64,
    /// Bytes copied to the host.
    pub bytes_downloaded: u64,
}
