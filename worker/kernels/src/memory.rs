//! Memory for weights: aligned for vectors, and in large pages where the system has them.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// A cache line.
const LINE: usize = 64;
/// A large page. Streams of weights cross fewer borders in such pages, and prefetching stops at each.
const LARGE_PAGE: usize = 2 << 20;

/// Bytes that begin at a cache line, or at a large page if they fill one. Zero at first.
pub(crate) struct Memory {
    start: NonNull<u8>,
    layout: Layout,
    len: usize,
}

// SAFETY: it owns its bytes as a box does.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// So many bytes.
    pub fn new(len: usize) -> Self {
        let align = if len >= LARGE_PAGE { LARGE_PAGE } else { LINE };
        let Ok(layout) = Layout::from_size_align(len.max(1), align) else {
            handle_alloc_error(Layout::new::<u8>());
        };
        // SAFETY: the layout has a size.
        let Some(start) = NonNull::new(unsafe { alloc(layout) }) else { handle_alloc_error(layout) };
        #[cfg(target_os = "linux")]
        if align == LARGE_PAGE {
            // SAFETY: the range was just allocated. Advice that is refused changes nothing.
            unsafe { libc::madvise(start.as_ptr().cast(), len, libc::MADV_HUGEPAGE) };
        }
        // SAFETY: the allocation has this many bytes.
        unsafe { start.write_bytes(0, layout.size()) };
        Self { start, layout, len }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout.
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
    }
}

impl Deref for Memory {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: initialised when it was made.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for Memory {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Memory({} bytes)", self.len)
    }
}
