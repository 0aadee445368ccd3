//! Memory for weights, keys and values: aligned for vectors, and in large pages where the system has them.
//!
//! A decode step reads all of it once, and hardly does anything else. In small pages it would wait for the page table
//! more than for what it reads, so small pieces share large pages, in the order in which they are asked for and read.

use std::alloc::{Layout, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError, Weak};

#[cfg(target_os = "linux")]
use memmap2::Advice;
use memmap2::MmapMut;

/// A cache line.
const LINE: usize = 64;
/// A large page.
const LARGE_PAGE: usize = 2 << 20;
/// What is allocated for several. What is not used of it takes no memory.
const SHARED_BYTES: usize = 16 << 20;
/// Who needs more gets an allocation of its own.
const SHARE_MAX: usize = 4 << 20;

/// The allocation that is shared at present, and how much of it is taken.
static CURRENT: Mutex<(Weak<Allocation>, usize)> = Mutex::new((Weak::new(), 0));

/// Asks for a cache line that will be wanted soon. The address may be any: nothing is read.
#[inline]
pub(crate) fn fetch(line: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every processor of the family has the instruction, which is a hint.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(line.cast());
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: a hint.
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{line}]", line = in(reg) line, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = line;
}

/// Bytes that begin at a cache line. Zero at first.
pub(crate) struct Memory {
    /// Keeps the bytes in being.
    _allocation: Arc<Allocation>,
    start: NonNull<u8>,
    len: usize,
}

struct Allocation {
    /// Keeps the pages, which are zero until they are written to.
    _pages: MmapMut,
    /// The first of them at a large page's boundary.
    start: NonNull<u8>,
}

// SAFETY: it owns its bytes as a box does.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}
// SAFETY: it is only what frees the bytes.
unsafe impl Send for Allocation {}
// SAFETY: as above.
unsafe impl Sync for Allocation {}

impl Memory {
    /// So many bytes. Ends the process if the system has no memory for them, as other allocations do.
    pub fn new(len: usize) -> Self {
        Self::try_new(len).unwrap_or_else(|| handle_alloc_error(Layout::new::<u8>()))
    }

    /// So many bytes, if the system has memory for them.
    pub fn try_new(len: usize) -> Option<Self> {
        let (allocation, offset) =
            if len > SHARE_MAX { (Allocation::new(len)?, 0) } else { Allocation::share(len)? };
        // SAFETY: the bytes from there on are within the allocation, and taken by nobody else.
        let start = unsafe { allocation.start.add(offset) };
        Some(Self { _allocation: allocation, start, len })
    }

    /// Where the bytes begin, for those who see to it themselves that nobody reads what another one writes.
    pub fn start(&self) -> *mut u8 {
        self.start.as_ptr()
    }
}

impl Allocation {
    fn new(len: usize) -> Option<Arc<Self>> {
        let mut pages = MmapMut::map_anon(len.checked_add(LARGE_PAGE)?).ok()?;
        // Advice that is refused changes nothing.
        #[cfg(target_os = "linux")]
        let _ = pages.advise(Advice::HugePage);
        let boundary = pages.as_ptr().align_offset(LARGE_PAGE);
        let start = NonNull::from(pages.get_mut(boundary..)?).cast();
        Some(Arc::new(Self { _pages: pages, start }))
    }

    /// A part of an allocation that others use too, and where it begins.
    fn share(len: usize) -> Option<(Arc<Self>, usize)> {
        let mut current = CURRENT.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = current.1 + len <= SHARED_BYTES;
        let allocation = if let Some(allocation) = current.0.upgrade().filter(|_| fits) {
            allocation
        } else {
            let allocation = Self::new(SHARED_BYTES)?;
            *current = (Arc::downgrade(&allocation), 0);
            allocation
        };
        let offset = current.1;
        current.1 += len.next_multiple_of(LINE);
        Some((allocation, offset))
    }
}

impl Deref for Memory {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: pages are zero at first.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_zero_aligned_and_apart() {
        let sizes = [0, 1, 64, 100, 3 << 20, 3 << 20, 3 << 20, 3 << 20, 3 << 20, 3 << 20, 5 << 20, 7];
        let mut parts: Vec<Memory> = sizes.iter().map(|size| Memory::new(*size)).collect();
        for (index, part) in parts.iter_mut().enumerate() {
            assert_eq!(part.len(), sizes[index]);
            assert_eq!(part.as_ptr() as usize % LINE, 0);
            assert!(part.iter().all(|byte| *byte == 0));
            part.fill(index as u8 + 1);
        }
        for (index, part) in parts.iter().enumerate() {
            assert!(part.iter().all(|byte| *byte == index as u8 + 1));
        }
    }
}
