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

    /// `product.h`; see [`super::product`].
    ProductArgs {
        weights: Pointer,
        row_scales: Pointer,
        x: Pointer,
        residual: Pointer,
        scale: Pointer,
        out: Pointer,
        partial: Pointer,
        counters: Pointer,
        rows: i32,
        k: i32,
        n: i32,
        tiles: i32,
        units: i32,
        splits: i32,
        epilogue: i32,
        padding: i32,
    }

    /// `attention.h`; see [`super::attention`].
    AttentionArgs {
        qkv: Pointer,
        rotation: Pointer,
        slots: Pointer,
        positions: Pointer,
        keys: Pointer,
        values: Pointer,
        key_scales: Pointer,
        value_scales: Pointer,
        out: Pointer,
        partial: Pointer,
        counters: Pointer,
        heads: i32,
        kv_heads: i32,
        context: i32,
        split: i32,
        splits: i32,
        halves: i32,
        score_scale: f32,
        padding: i32,
    }

    /// `attention_depth.cu`.
    DepthAttentionArgs {
        qkv: Pointer,
        keys: Pointer,
        values: Pointer,
        out: Pointer,
        rows: i32,
        heads: i32,
        kv_heads: i32,
        dim: i32,
        step: i32,
        steps: i32,
        score_scale: f32,
        padding: i32,
    }

    /// `rotation.cu`.
    RotationArgs {
        positions: Pointer,
        speeds: Pointer,
        out: Pointer,
        pairs: i32,
        padding: i32,
    }

    /// `embed.cu`.
    EmbedArgs {
        tables: Pointer,
        tokens: Pointer,
        conditions: Pointer,
        out: Pointer,
        count: i32,
        token_stride: i32,
        dim: i32,
        padding: i32,
    }
    /// `sample.cu`.
    SampleArgs {
        logits: Pointer,
        slots: Pointer,
        temperatures: Pointer,
        top_ks: Pointer,
        seeds: Pointer,
        steps: Pointer,
        forced: Pointer,
        tokens: Pointer,
        finite: Pointer,
        keys: Pointer,
        weights: Pointer,
        vocabulary: i32,
        draw: i32,
        forced_stride: i32,
        token_stride: i32,
        room: i32,
        first: i32,
    }
}
