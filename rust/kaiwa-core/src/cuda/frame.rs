//! A frame as data: which kernels run, in which order, over which memory. Executors run it: on a
//! card launch by launch, as a captured graph, or on the processor.

use super::args::{Args, Place, Pointer};
use super::shape::Shape;

/// One launch of a kernel.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    /// Name of the kernel.
    pub kernel: &'static str,
    /// How many threads run it.
    pub shape: Shape,
    /// The struct of arguments, in words so that it is aligned.
    args: Vec<u64>,
    size: usize,
    places: &'static [Place],
}

impl Node {
    pub(crate) fn new<A: Args>(kernel: &'static str, shape: Shape, args: &A) -> Self {
        let size = size_of::<A>();
        let mut words = vec![0u64; size.div_ceil(8)];
        // SAFETY: `Args` is plain data of `size` bytes, and the words are at least as many.
        unsafe {
            let to = words.as_mut_ptr().cast::<u8>();
            std::ptr::copy_nonoverlapping((&raw const *args).cast::<u8>(), to, size);
        }
        Self {
            kernel,
            shape,
            args: words,
            size,
            places: A::PLACES,
        }
    }

    /// The arguments: where they lie, and their bytes.
    pub(crate) fn args(&self) -> (*const std::ffi::c_void, usize) {
        (self.args.as_ptr().cast(), self.size)
    }

    /// Every address among the arguments, with the field's name.
    pub(crate) fn pointers(&self) -> impl Iterator<Item = (&'static str, Pointer)> {
        let addresses = self.places.iter().filter(|place| place.pointer);
        addresses.map(|place| (place.name, Pointer(self.args[place.offset / 8])))
    }
}

/// What a step does: one block of bytes in, launches, one block of bytes out.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    /// Where the input goes, and its bytes.
    pub input: (Pointer, usize),
    /// Bytes of an input whose rows are all none.
    pub idle: Vec<u8>,
    /// Launches, each after the one before.
    pub nodes: Vec<Node>,
    /// Where the output lies at the end, and its bytes.
    pub output: (Pointer, usize),
}
