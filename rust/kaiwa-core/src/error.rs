//! The one error type. Every variant carries its facts as fields and ends with a remedy.
//!
//! [`Error::kind`] sorts the variants into the small tree that callers react to; the Python
//! bindings map that tree, without a catch-all, to exceptions under `kaiwa.KaiwaError`.

use std::path::PathBuf;

/// `Result` with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// What a caller can do about an error: the branches of the exception tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// An argument was wrong; the same call will fail again.
    Input,
    /// A weight or configuration file is missing.
    NotFound,
    /// A weight or configuration file is damaged or of another kind.
    Checkpoint,
    /// The device does not exist, is not compiled in, or failed.
    Device,
    /// A session or an engine is over.
    Closed,
    /// The caller asked to stop (Ctrl-C).
    Interrupted,
}

/// Everything that can go wrong in the core.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    // ---- input -------------------------------------------------------------------------
    /// An array has the wrong shape.
    #[error("{what} has shape {got}, but {wanted} was wanted; {remedy}")]
    Shape {
        /// Name of the argument.
        what: &'static str,
        /// Shape as given, e.g. `[2, 3]`.
        got: String,
        /// Shape in named axes, e.g. `[slots, 1, frames*1920]`.
        wanted: String,
        /// What to do.
        remedy: &'static str,
    },
    /// An array has no elements.
    #[error("{what} is empty; pass at least {at_least}")]
    Empty {
        /// Name of the argument.
        what: &'static str,
        /// Smallest accepted amount, e.g. "one sample".
        at_least: &'static str,
    },
    /// A sample is NaN, infinite, or far too large.
    #[error(
        "{what} holds {value:?} at row {row}, sample {index}; samples must be finite numbers \
         (usually in -1..1): clean the audio first, e.g. with numpy.nan_to_num and numpy.clip"
    )]
    Sample {
        /// Name of the argument.
        what: &'static str,
        /// Batch row or slot.
        row: usize,
        /// Sample index inside the row.
        index: usize,
        /// The offending value.
        value: f32,
    },
    /// A code is outside the codebook.
    #[error(
        "codes hold {value} at row {row}, codebook {codebook}, frame {frame}; a code must be in \
         0..{cardinality}: check that the codes come from this codec and that paused slots are \
         masked with active="
    )]
    CodeRange {
        /// Batch row or slot.
        row: usize,
        /// Codebook index.
        codebook: usize,
        /// Frame index.
        frame: usize,
        /// The offending code.
        value: i64,
        /// Number of entries of a codebook.
        cardinality: usize,
    },
    /// A code of a caller is none that a language model takes.
    #[error(
        "user_codes holds {value} for slot {slot}, codebook {codebook}; a code must be below \
         {card}, or {card} for the initial token, or -1 for nothing: check that the codec belongs \
         to the model and that paused slots are masked with active="
    )]
    UserCode {
        /// Slot.
        slot: usize,
        /// Codebook index.
        codebook: usize,
        /// The offending code.
        value: i64,
        /// Number of entries of a codebook.
        card: usize,
    },
    /// A forced token is outside the vocabulary.
    #[error(
        "{what} holds {value} for slot {slot}; a token must be below {size}, or negative to let \
         the model choose"
    )]
    TokenRange {
        /// Name of the argument.
        what: &'static str,
        /// Slot.
        slot: usize,
        /// The offending token.
        value: i64,
        /// Size of the vocabulary.
        size: usize,
    },
    /// A codebook count outside what the checkpoint holds.
    #[error("num_codebooks is {got}, but this checkpoint holds {max}; choose 1..={max}")]
    CodebookCount {
        /// Count as given.
        got: usize,
        /// Count in the file.
        max: usize,
    },
    /// A slot number outside the stream.
    #[error("slot {got} does not exist: the stream has {slots} slots, numbered from 0")]
    SlotIndex {
        /// Slot as given.
        got: usize,
        /// Number of slots.
        slots: usize,
    },
    /// An option has a value outside its list or range.
    #[error("{name} is {got}; use {allowed}")]
    OptionValue {
        /// Option name.
        name: &'static str,
        /// Value as given.
        got: String,
        /// Accepted values in words.
        allowed: String,
    },

    // ---- files -------------------------------------------------------------------------
    /// A file is not there.
    #[error(
        "{path} does not exist; check the path, or give a Hugging Face repo id such as kyutai/mimi"
    )]
    FileNotFound {
        /// Path as given.
        path: PathBuf,
    },
    /// Reading a file failed.
    #[error(
        "cannot read {path}: {source}; {}",
        remedy(source, "check that the disk is healthy")
    )]
    Io {
        /// Path as given.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// Writing a file failed.
    #[error(
        "cannot write {path}: {source}; {}",
        remedy(source, "check that the disk is healthy and has room")
    )]
    Write {
        /// Path as given.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// The file is not a safetensors file.
    #[error("{path} is not a safetensors file: it looks like {looks_like}; {remedy}")]
    NotSafetensors {
        /// Path as given.
        path: PathBuf,
        /// What the first bytes resemble.
        looks_like: &'static str,
        /// What to do.
        remedy: &'static str,
    },
    /// The header of a safetensors file is invalid.
    #[error(
        "{path} has an invalid safetensors header: {reason}; the file is damaged, download it again"
    )]
    Header {
        /// Path as given.
        path: PathBuf,
        /// Rule that was broken, with values.
        reason: String,
    },
    /// The header of a GGUF file is invalid.
    #[error("{path} has an invalid GGUF header: {reason}; the file is damaged, download it again")]
    Gguf {
        /// Path as given.
        path: PathBuf,
        /// Rule that was broken, with values.
        reason: String,
    },
    /// The file is not what it is used as.
    #[error("{path} is {found}, but {wanted} was wanted; {remedy}")]
    WrongFile {
        /// Path as given.
        path: PathBuf,
        /// What the file is.
        found: String,
        /// What it should be.
        wanted: &'static str,
        /// What to do.
        remedy: String,
    },
    /// The file is shorter (or longer) than its header promises.
    #[error(
        "{path} is truncated or corrupt: its header promises {promised} bytes, the file has \
         {found}; download it again"
    )]
    FileLength {
        /// Path as given.
        path: PathBuf,
        /// Length by the header.
        promised: u64,
        /// Length on disk.
        found: u64,
    },
    /// Tensors are missing or surplus.
    #[error(
        "{path} does not hold the tensors of this model: missing {missing}, unexpected \
         {unexpected}; {hint}"
    )]
    TensorNames {
        /// Path as given.
        path: PathBuf,
        /// Count and first names of missing tensors, or "none".
        missing: String,
        /// Count and first names of surplus tensors, or "none".
        unexpected: String,
        /// Likely reason and remedy.
        hint: String,
    },
    /// A tensor has another shape than the configuration implies.
    #[error(
        "tensor {name} in {path} has shape {found:?}, but the configuration implies \
         {expected:?}; pass the config.json that belongs to these weights"
    )]
    TensorShape {
        /// Path as given.
        path: PathBuf,
        /// Name in the file.
        name: String,
        /// Shape in the file.
        found: Vec<usize>,
        /// Shape by the configuration.
        expected: Vec<usize>,
    },
    /// A tensor of a language model has another shape than the configuration implies.
    #[error(
        "tensor {name} in {path} has shape {found:?}, but the configuration's {entry} implies \
         {expected:?}; pass the config.json that belongs to these weights"
    )]
    TensorConfig {
        /// Path as given.
        path: PathBuf,
        /// Name in the file.
        name: String,
        /// Shape in the file.
        found: Vec<usize>,
        /// Shape by the configuration.
        expected: Vec<usize>,
        /// The entry that implies it, with its value.
        entry: Box<str>,
    },
    /// A tensor has a type that it cannot have in this format.
    #[error("tensor {name} in {path} is {dtype}; {remedy}")]
    TensorDtype {
        /// Path as given.
        path: PathBuf,
        /// Name in the file.
        name: String,
        /// Type in the file.
        dtype: String,
        /// What it may be there, and what to do.
        remedy: &'static str,
    },
    /// A tensor holds NaN or infinity.
    #[error(
        "tensor {name} in {path} holds {value} at element {index}; the file is damaged, download it again"
    )]
    TensorNotFinite {
        /// Path as given.
        path: PathBuf,
        /// Name in the file.
        name: String,
        /// Flat element index.
        index: usize,
        /// The offending value.
        value: f32,
    },
    /// A configuration value is wrong or unsupported.
    #[error("configuration entry {field} is {got}; {wanted}")]
    Config {
        /// Dotted path of the entry, e.g. `transformer.num_heads`.
        field: String,
        /// Value as given.
        got: String,
        /// The rule, as an instruction.
        wanted: String,
    },

    // ---- running -----------------------------------------------------------------------
    /// A device that is not there or not compiled in.
    #[error("device {device} cannot be used: {reason}")]
    DeviceUnavailable {
        /// Device as given.
        device: String,
        /// Reason and remedy.
        reason: String,
    },
    /// A model does not fit into memory.
    #[error(
        "this model needs {need} of memory in the form asked for, {available} are free; {remedy}"
    )]
    Memory {
        /// What it needs, with unit.
        need: String,
        /// What there is, with unit.
        available: String,
        /// Forms that need less.
        remedy: String,
    },
    /// The state of so many conversations does not fit into a device's memory.
    #[error(
        "{slots} slots need {need} of the device's memory, {available} are free beside the weights; \
         {remedy}"
    )]
    SlotsMemory {
        /// Slots asked for.
        slots: usize,
        /// What they need, with unit.
        need: String,
        /// What there is, with unit.
        available: String,
        /// What would fit.
        remedy: String,
    },
    /// The tensor library failed (out of memory, kernel error).
    #[error("the tensor backend failed: {0}; if the device is out of memory, use fewer slots")]
    Backend(#[from] candle_core::Error),
    /// A GPU failed in a way that it does not recover from within a process.
    #[error(
        "the device {device} has failed and takes no more work ({reason}); start the program anew, \
         and look for the driver's message (dmesg, nvidia-smi)"
    )]
    DeviceLost {
        /// Its name.
        device: String,
        /// The driver's words.
        reason: String,
    },
    /// The resampler refused a block.
    #[error(
        "cannot convert audio from {from} to {to} Hz: {reason}; convert the audio with another tool first"
    )]
    Resample {
        /// Rate of the input, in Hz.
        from: usize,
        /// Rate of the output, in Hz.
        to: usize,
        /// The library's reason.
        reason: String,
    },
    /// The Opus library refused.
    #[error("cannot {what} (Opus): {reason}; {remedy}")]
    Opus {
        /// What was tried.
        what: &'static str,
        /// The library's reason.
        reason: &'static str,
        /// What to do.
        remedy: &'static str,
    },
    /// A thread could not be started.
    #[error("cannot start a thread: {reason}; allow this process more threads")]
    Thread {
        /// The operating system's reason.
        reason: String,
    },
    /// The operating system gives this process no more file descriptors.
    #[error("cannot open a file descriptor: {reason}; allow this process more of them (ulimit -n)")]
    Descriptor {
        /// The operating system's reason.
        reason: String,
    },
    /// The session has ended.
    #[error("the session has ended; read its last event for the reason, and open a new one")]
    SessionEnded,
    /// The engine is closed.
    #[error("the engine is closed; make a new one")]
    EngineClosed,
    /// The engine belongs to the process that this one was forked from.
    #[error(
        "the engine runs in process {parent}, of which this one ({process}) is a fork, and threads \
         are not forked; start an engine in this process, or start processes by \"spawn\""
    )]
    Forked {
        /// Process of the engine.
        parent: u32,
        /// This process.
        process: u32,
    },
    /// The caller's interrupt hook asked to stop.
    #[error("interrupted; no result was kept")]
    Interrupted,
}

impl Error {
    /// The branch of the tree this error belongs to.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Shape { .. }
            | Self::Empty { .. }
            | Self::Sample { .. }
            | Self::CodeRange { .. }
            | Self::UserCode { .. }
            | Self::TokenRange { .. }
            | Self::CodebookCount { .. }
            | Self::SlotIndex { .. }
            | Self::Resample { .. }
            | Self::OptionValue { .. } => ErrorKind::Input,
            Self::FileNotFound { .. } => ErrorKind::NotFound,
            Self::Io { .. }
            | Self::Write { .. }
            | Self::NotSafetensors { .. }
            | Self::Header { .. }
            | Self::Gguf { .. }
            | Self::WrongFile { .. }
            | Self::FileLength { .. }
            | Self::TensorNames { .. }
            | Self::TensorShape { .. }
            | Self::TensorConfig { .. }
            | Self::TensorDtype { .. }
            | Self::TensorNotFinite { .. }
            | Self::Config { .. } => ErrorKind::Checkpoint,
            Self::DeviceUnavailable { .. }
            | Self::DeviceLost { .. }
            | Self::Memory { .. }
            | Self::SlotsMemory { .. }
            | Self::Backend(_)
            | Self::Opus { .. }
            | Self::Thread { .. }
            | Self::Descriptor { .. } => ErrorKind::Device,
            Self::SessionEnded | Self::EngineClosed | Self::Forked { .. } => ErrorKind::Closed,
            Self::Interrupted => ErrorKind::Interrupted,
        }
    }
}

/// What to do about a failure of the file system; `otherwise` where its reason does not say more.
fn remedy(source: &std::io::Error, otherwise: &'static str) -> &'static str {
    use std::io::ErrorKind as Io;
    match source.kind() {
        Io::NotFound => "check the path, and that its folder exists",
        Io::PermissionDenied | Io::ReadOnlyFilesystem => {
            "allow this user to, or choose another place"
        }
        Io::IsADirectory => "give the path of a file",
        Io::StorageFull | Io::QuotaExceeded => "make room, or choose another place",
        _ => otherwise,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_of_the_file_system_asks_for_what_would_mend_it() {
        let says = |kind: std::io::ErrorKind| {
            let (path, source) = ("model.gguf".into(), kind.into());
            Error::Write { path, source }.to_string()
        };
        assert!(says(std::io::ErrorKind::NotFound).contains("its folder exists"));
        assert!(says(std::io::ErrorKind::StorageFull).contains("make room"));
        assert!(says(std::io::ErrorKind::PermissionDenied).contains("allow this user"));
        assert!(says(std::io::ErrorKind::Other).contains("the disk is healthy"));
    }

    #[test]
    fn the_type_of_a_tensor_is_refused_in_the_words_of_its_format() {
        let error = Error::TensorDtype {
            path: "model.safetensors".into(),
            name: "out_norm".into(),
            dtype: "I8".into(),
            remedy: "only matrices are 8-bit rows in this format",
        };
        assert_eq!(
            error.to_string(),
            "tensor out_norm in model.safetensors is I8; only matrices are 8-bit rows in this format"
        );
    }
}
