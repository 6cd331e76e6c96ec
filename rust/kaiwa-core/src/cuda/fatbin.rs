//! The compiled kernels: one file of NVIDIA's compiler with machine code for each generation that
//! the build was told, and portable code for later ones (`build.rs`).

/// As long words, since the driver reads it as a struct.
#[repr(C, align(16))]
struct Aligned<T: ?Sized>(T);

static KERNELS: &Aligned<[u8]> =
    &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/kernels.fatbin")));

/// The whole file.
pub(super) fn kernels() -> &'static [u8] {
    &KERNELS.0
}
