//! Bytes by position: a file on disk, or a buffer standing in for one.
//!
//! Reads never move a shared cursor, so one open file serves several threads, and the file is
//! not mapped: a file that shrinks while it is read gives an error instead of a dead process.

use std::fs::File;
use std::io;

/// Where the bytes of a checkpoint come from.
pub(super) enum Source {
    /// A regular file.
    #[cfg(unix)]
    File(File),
    /// A regular file; systems without positioned reads share a cursor behind a lock.
    #[cfg(not(unix))]
    File(std::sync::Mutex<File>),
    /// A whole file held in memory (tests and fuzzing).
    Memory(Vec<u8>),
}

impl Source {
    /// Takes over an open file.
    pub(super) fn file(file: File) -> Self {
        #[cfg(unix)]
        return Self::File(file);
        #[cfg(not(unix))]
        return Self::File(std::sync::Mutex::new(file));
    }

    /// Length in bytes at this moment.
    pub(super) fn len(&self) -> io::Result<u64> {
        match self {
            #[cfg(unix)]
            Self::File(file) => Ok(file.metadata()?.len()),
            #[cfg(not(unix))]
            Self::File(file) => Ok(lock(file)?.metadata()?.len()),
            Self::Memory(bytes) => Ok(bytes.len() as u64),
        }
    }

    /// Fills `buf` from byte `offset` on; an error of kind `UnexpectedEof` if the bytes end early.
    pub(super) fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        match self {
            #[cfg(unix)]
            Self::File(file) => std::os::unix::fs::FileExt::read_exact_at(file, buf, offset),
            #[cfg(not(unix))]
            Self::File(file) => {
                use std::io::{Read, Seek, SeekFrom};
                let mut file = lock(file)?;
                file.seek(SeekFrom::Start(offset))?;
                file.read_exact(buf)
            }
            Self::Memory(bytes) => {
                let end_of_data = || io::Error::from(io::ErrorKind::UnexpectedEof);
                let start = usize::try_from(offset).map_err(|_| end_of_data())?;
                let end = start.checked_add(buf.len()).ok_or_else(end_of_data)?;
                buf.copy_from_slice(bytes.get(start..end).ok_or_else(end_of_data)?);
                Ok(())
            }
        }
    }
}

#[cfg(not(unix))]
fn lock(file: &std::sync::Mutex<File>) -> io::Result<std::sync::MutexGuard<'_, File>> {
    file.lock()
        .map_err(|_| io::Error::other("a reader of this file panicked"))
}
