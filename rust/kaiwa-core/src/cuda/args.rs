//! Arguments of the kernels: twins of the structs in `cuda/args.h`, passed by value.

/// An address in the memory of whatever runs the kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct Pointer(pub(crate) u64);

impl Pointer {
    /// No address, which a kernel takes for "there is none".
    pub(crate) const NULL: Self = Self(0);
}

/// What a field of arguments may be.
pub(crate) trait Field: Copy {
    /// Whether it is an address.
    const POINTER: bool = false;
}

impl Field for Pointer {
    const POINTER: bool = true;
}
impl Field for i32 {}
impl Field for i64 {}
impl Field for f32 {}

/// Place of a field in its struct.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub name: &'static str,
    pub offset: usize,
    pub size: usize,
    pub pointer: bool,
}

/// A struct of arguments. All bit patterns of its fields are values of it.
///
/// # Safety
/// Plain old data of the layout of the struct called [`Args::NAME`] in `cuda/args.h`.
pub(crate) unsafe trait Args: Copy + 'static {
    /// Its name in `cuda/args.h`.
    const NAME: &'static str;
    /// Its fields in order.
    const PLACES: &'static [Place];
}

macro_rules! args {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $kind:ty),* $(,)? })*) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Clone, Copy)]
            #[repr(C)]
            pub(crate) struct $name { $(pub $field: $kind),* }

            // SAFETY: `repr(C)` of pointers and numbers; a test compares every place with C's.
            unsafe impl Args for $name {
                const NAME: &'static str = stringify!($name);
                const PLACES: &'static [Place] = &[$(Place {
                    name: stringify!($field),
                    offset: std::mem::offset_of!($name, $field),
                    size: size_of::<$kind>(),
                    pointer: <$kind as Field>::POINTER,
                }),*];
            }
        )*

        /// Name, size and fields of every struct.
        #[cfg(test)]
        pub(crate) const ALL: &[(&str, usize, &[Place])] =
            &[$(($name::NAME, size_of::<$name>(), $name::PLACES)),*];
    };
}

args! {
    /// `norm.cu`.
    NormArgs {
        x: Pointer,
        weight: Pointer,
        bias: Pointer,
        out: Pointer,
        dim: i32,
        eps: f32,
    }
}
