//! The instruction set of this processor, chosen once at run time.

use std::sync::OnceLock;

/// An instruction set that kernels exist for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isa {
    /// The target's baseline: SSE2 on x86-64, NEON on aarch64.
    Portable,
    /// AVX2 with FMA and F16C.
    Avx2,
    /// AVX-512 F and BW.
    Avx512,
    /// AVX-512 F, BW and VNNI.
    Avx512Vnni,
}

impl Isa {
    /// Sets this processor can run, best first.
    pub fn available() -> Vec<Self> {
        let mut sets = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c");
            if avx2 && is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw") {
                if is_x86_feature_detected!("avx512vnni") {
                    sets.push(Self::Avx512Vnni);
                }
                sets.push(Self::Avx512);
            }
            if avx2 {
                sets.push(Self::Avx2);
            }
        }
        sets.push(Self::Portable);
        sets
    }

    /// The set in use: the best available one, or the one named by `KAIWA_CPU`
    /// (`avx512vnni`, `avx512`, `avx2`, `portable`) when this processor has it.
    pub fn detect() -> Self {
        static CHOICE: OnceLock<Isa> = OnceLock::new();
        *CHOICE.get_or_init(|| {
            let sets = Self::available();
            let wanted = std::env::var("KAIWA_CPU").unwrap_or_default();
            let best = sets.first().copied().unwrap_or(Self::Portable);
            sets.into_iter()
                .find(|s| s.name() == wanted)
                .unwrap_or(best)
        })
    }

    /// The name `KAIWA_CPU` takes. On aarch64 the portable set *is* NEON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable if cfg!(target_arch = "aarch64") => "neon",
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Avx512Vnni => "avx512vnni",
        }
    }
}

/// Compiles a generic kernel for every instruction set and calls the one asked for.
///
/// `kernel! { fn name = body(arg: Type, ...) }` makes `unsafe fn name(isa, args)` out of
/// `#[inline(always)] unsafe fn body<S: Simd>(args)`; the body is inlined into functions that
/// enable the set's instructions.
macro_rules! kernel {
    ($(#[$doc:meta])* $vis:vis fn $name:ident = $body:ident($($arg:ident: $ty:ty),* $(,)?)) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// `isa` must come from [`Isa::detect`] or [`Isa::available`]; the pointers in the
        /// arguments must satisfy the body's contract.
        $vis unsafe fn $name(isa: $crate::cpu::isa::Isa, $($arg: $ty),*) {
            use $crate::cpu::isa::Isa;
            use $crate::cpu::simd;

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx2,fma,f16c")]
            unsafe fn avx512($($arg: $ty),*) {
                // SAFETY: the caller upholds the body's contract.
                unsafe { $body::<simd::Avx512>($($arg),*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn avx2($($arg: $ty),*) {
                // SAFETY: the caller upholds the body's contract.
                unsafe { $body::<simd::Avx2>($($arg),*) }
            }
            // SAFETY: `isa` says that the processor has the set; the caller upholds the rest.
            unsafe {
                match isa {
                    #[cfg(target_arch = "x86_64")]
                    Isa::Avx512 | Isa::Avx512Vnni => avx512($($arg),*),
                    #[cfg(target_arch = "x86_64")]
                    Isa::Avx2 => avx2($($arg),*),
                    _ => $body::<simd::Portable>($($arg),*),
                }
            }
        }
    };
}
pub(crate) use kernel;

/// As [`kernel!`], for integer kernels: with a compilation of its own for VNNI.
macro_rules! integer_kernel {
    ($(#[$doc:meta])* $vis:vis fn $name:ident = $body:ident($($arg:ident: $ty:ty),* $(,)?)) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// As for [`kernel!`].
        $vis unsafe fn $name(isa: $crate::cpu::isa::Isa, $($arg: $ty),*) {
            $crate::cpu::isa::kernel! {
                /// The other instruction sets.
                fn others = $body($($arg: $ty),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma,f16c")]
            unsafe fn vnni($($arg: $ty),*) {
                // SAFETY: the caller upholds the body's contract.
                unsafe { $body::<$crate::cpu::simd::Avx512Vnni>($($arg),*) }
            }
            // SAFETY: `isa` says that the processor has the set; the caller upholds the rest.
            unsafe {
                match isa {
                    #[cfg(target_arch = "x86_64")]
                    $crate::cpu::isa::Isa::Avx512Vnni => vnni($($arg),*),
                    isa => others(isa, $($arg),*),
                }
            }
        }
    };
}
pub(crate) use integer_kernel;
