//! A global allocator that caches large blocks.
//!
//! A training step allocates and frees hundreds of activations of 1 to 100 MB. The system allocator unmaps such blocks
//! when they are freed, and faulting in zeroed pages for the next ones takes a fifth of a step. This allocator instead
//! keeps freed blocks in a free list for each size class and reuses them.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Smallest size that is cached; smaller blocks come from the system allocator.
const MIN_BLOCK: usize = 64 * 1024;
/// Alignment of every cached block: one page, which satisfies all common layouts.
const ALIGN: usize = 4096;
/// Size classes per doubling of the size. A block is at most 1/8 larger than requested.
const CLASSES_PER_DOUBLING: usize = 8;
/// Number of size classes, which cover blocks of up to 16 GiB.
const CLASSES: usize = CLASSES_PER_DOUBLING * 18;

/// A global allocator that caches freed blocks of 64 KiB and more, up to a limit, and leaves smaller ones to the
/// system.
///
/// ```
/// #[global_allocator]
/// static ALLOCATOR: ddpm_kernels::CachingAllocator = ddpm_kernels::CachingAllocator::new();
///
/// let before = vec![1u8; 1 << 20];
/// drop(before);
/// let after = vec![0u8; 1 << 20]; // the same block, zeroed
/// assert!(after.iter().all(|&b| b == 0));
/// ```
pub struct CachingAllocator {
    lists: [List; CLASSES],
    cached: AtomicUsize,
    /// Called with the size when the system has no memory left.
    failed: fn(usize),
}

/// Limit on the cached bytes.
const MAX_CACHED: usize = 16 << 30;

/// The free blocks of one size class, linked through their first word.
struct List {
    locked: AtomicBool,
    head: AtomicUsize,
}

impl List {
    const fn new() -> Self {
        Self { locked: AtomicBool::new(false), head: AtomicUsize::new(0) }
    }

    /// Calls `change` with the head while holding the lock, and stores the new head. The lock is held for a few
    /// instructions.
    fn with(&self, change: impl FnOnce(usize) -> (usize, usize)) -> usize {
        while self.locked.compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
            // With as many threads as cores, the thread that holds the lock may need this core.
            std::thread::yield_now();
        }
        let (head, result) = change(self.head.load(Ordering::Relaxed));
        self.head.store(head, Ordering::Relaxed);
        self.locked.store(false, Ordering::Release);
        result
    }

    fn push(&self, block: *mut u8) {
        let address = block.expose_provenance();
        self.with(|head| {
            // SAFETY: this allocator owns the block, which is free, page-aligned and far larger than a word.
            unsafe { block.cast::<usize>().write(head) };
            (address, 0)
        });
    }

    fn pop(&self) -> *mut u8 {
        let address = self.with(|head| match head {
            0 => (0, 0),
            // SAFETY: every address in the list is a free block whose first word `push` wrote.
            _ => (unsafe { std::ptr::with_exposed_provenance::<usize>(head).read() }, head),
        });
        std::ptr::with_exposed_provenance_mut(address)
    }
}

/// Returns the index and block size of the size class for `size`, or `None` if the system allocator serves it.
fn class(size: usize) -> Option<(usize, usize)> {
    if size < MIN_BLOCK {
        return None;
    }
    // Sizes in (2^k, 2^(k+1)] are divided into CLASSES_PER_DOUBLING classes.
    let doublings = (size - 1).ilog2() as usize;
    let step = (1 << doublings) / CLASSES_PER_DOUBLING;
    let above = (size - (1 << doublings)).div_ceil(step);
    let index = (doublings + 1).checked_sub(MIN_BLOCK.ilog2() as usize)? * CLASSES_PER_DOUBLING + above - 1;
    (index < CLASSES).then_some((index, (1 << doublings) + above * step))
}

/// Returns the block size of a class.
fn class_size(index: usize) -> usize {
    let doubling = MIN_BLOCK << (index / CLASSES_PER_DOUBLING) >> 1;
    doubling + (index % CLASSES_PER_DOUBLING + 1) * (doubling / CLASSES_PER_DOUBLING)
}

impl CachingAllocator {
    /// Returns an allocator with an empty cache.
    pub const fn new() -> Self {
        Self { lists: [const { List::new() }; CLASSES], cached: AtomicUsize::new(0), failed: |_| {} }
    }

    /// Sets a function that is called with the number of bytes when an allocation fails. It may end the process, with a
    /// better message than the abort that follows if it returns. It must not depend on memory being available.
    pub const fn on_failure(mut self, failed: fn(usize)) -> Self {
        self.failed = failed;
        self
    }

    /// Reports a failed allocation of `size` bytes.
    fn checked(&self, block: *mut u8, size: usize) -> *mut u8 {
        if block.is_null() {
            (self.failed)(size);
        }
        block
    }

    fn size_class(&self, layout: Layout) -> Option<(&List, usize)> {
        let (index, size) = class(layout.size()).filter(|_| layout.align() <= ALIGN)?;
        Some((&self.lists[index], size))
    }

    /// Returns a block, and whether it is new from the system (then zeroed if `zeroed`) rather than from the cache.
    fn take(&self, list: &List, size: usize, zeroed: bool) -> (*mut u8, bool) {
        let block = list.pop();
        if !block.is_null() {
            self.cached.fetch_sub(size, Ordering::Relaxed);
            return (block, false);
        }
        let Ok(layout) = Layout::from_size_align(size, ALIGN) else {
            return (std::ptr::null_mut(), true);
        };
        // SAFETY: the size is not zero.
        let fresh = || unsafe { if zeroed { System.alloc_zeroed(layout) } else { System.alloc(layout) } };
        let block = fresh();
        if block.is_null() {
            // Memory cached in other classes may make the allocation succeed.
            self.release();
            return (fresh(), true);
        }
        (block, true)
    }

    /// Returns all cached blocks to the system.
    fn release(&self) {
        for (index, list) in self.lists.iter().enumerate() {
            let size = class_size(index);
            let Ok(layout) = Layout::from_size_align(size, ALIGN) else { continue };
            loop {
                let block = list.pop();
                if block.is_null() {
                    break;
                }
                self.cached.fetch_sub(size, Ordering::Relaxed);
                // SAFETY: `take` allocated the block from `System` with this layout.
                unsafe { System.dealloc(block, layout) };
            }
        }
    }
}

impl Default for CachingAllocator {
    fn default() -> Self {
        Self::new()
    }
}

// SAFETY: the layout alone determines whether a block comes from `System` with the caller's layout or from a size class
// with at least its size and alignment. A block is in at most one list, and only while it is free.
unsafe impl GlobalAlloc for CachingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let block = match self.size_class(layout) {
            Some((list, size)) => self.take(list, size, false).0,
            // SAFETY: the caller's contract.
            None => unsafe { System.alloc(layout) },
        };
        self.checked(block, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let Some((list, size)) = self.size_class(layout) else {
            // SAFETY: the caller's contract.
            return self.checked(unsafe { System.alloc_zeroed(layout) }, layout.size());
        };
        let (block, fresh) = self.take(list, size, true);
        self.checked(block, layout.size());
        if !fresh {
            // SAFETY: the block has at least `layout.size()` bytes, and nothing else refers to it.
            unsafe { block.write_bytes(0, layout.size()) };
        }
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let Some((list, size)) = self.size_class(layout) else {
            // SAFETY: the caller's contract: `System` allocated the block with this layout.
            return unsafe { System.dealloc(block, layout) };
        };
        if self.cached.fetch_add(size, Ordering::Relaxed) + size <= MAX_CACHED {
            return list.push(block);
        }
        self.cached.fetch_sub(size, Ordering::Relaxed);
        if let Ok(layout) = Layout::from_size_align(size, ALIGN) {
            // SAFETY: `take` allocated the block from `System` with this layout.
            unsafe { System.dealloc(block, layout) };
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        let Ok(new_layout) = Layout::from_size_align(new_size, layout.align()) else {
            return std::ptr::null_mut();
        };
        match (self.size_class(layout), self.size_class(new_layout)) {
            // SAFETY: the caller's contract; `System` owns the block before and after.
            (None, None) => self.checked(unsafe { System.realloc(block, layout, new_size) }, new_size),
            // Both sizes are in the same class, so the block is large enough.
            (Some((_, size)), Some((_, new))) if size == new => block,
            _ => {
                // SAFETY: both blocks hold the smaller of the two sizes and do not overlap.
                unsafe {
                    let new = self.alloc(new_layout);
                    if !new.is_null() {
                        new.copy_from_nonoverlapping(block, layout.size().min(new_size));
                        self.dealloc(block, layout);
                    }
                    new
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_classes_waste_at_most_an_eighth() {
        assert_eq!(class(MIN_BLOCK - 1), None);
        let mut last = None;
        for size in (MIN_BLOCK..40 << 20).step_by(997) {
            let (index, block) = class(size).unwrap();
            assert!(block >= size && block - size <= size / CLASSES_PER_DOUBLING, "{size} {block}");
            // A class has one block size, and block sizes ascend with the class.
            if let Some((last_index, last_block)) = last {
                assert!((index == last_index) == (block == last_block) && index >= last_index);
            }
            assert_eq!(class(block), Some((index, block)));
            assert_eq!(class_size(index), block);
            last = Some((index, block));
        }
        assert!(class(1 << 40).is_none());
    }

    #[test]
    fn reused_blocks_are_zeroed_on_request_and_realloc_copies() {
        let allocator = CachingAllocator::new();
        let layout = Layout::from_size_align(100_000, 64).unwrap();
        // SAFETY: the layouts match and the accesses stay within the blocks.
        unsafe {
            let first = allocator.alloc(layout);
            first.write_bytes(7, 100_000);
            allocator.dealloc(first, layout);
            let again = allocator.alloc_zeroed(layout);
            assert_eq!(again, first);
            assert!(std::slice::from_raw_parts(again, 100_000).iter().all(|&b| b == 0));
            again.write_bytes(9, 100_000);
            let grown = allocator.realloc(again, layout, 1_000_000);
            let layout = Layout::from_size_align(1_000_000, 64).unwrap();
            assert!(std::slice::from_raw_parts(grown, 100_000).iter().all(|&b| b == 9));
            let spare = allocator.alloc(layout);
            allocator.dealloc(spare, layout);
            allocator.release();
            assert_eq!(allocator.cached.load(Ordering::Relaxed), 0);
            let shrunk = allocator.realloc(grown, layout, 10);
            let layout = Layout::from_size_align(10, 64).unwrap();
            assert_eq!(std::slice::from_raw_parts(shrunk, 10), [9; 10]);
            allocator.dealloc(shrunk, layout);
        }
    }

    #[test]
    fn a_failure_is_reported_with_its_size() {
        static FAILED: AtomicUsize = AtomicUsize::new(0);
        let allocator = CachingAllocator::new().on_failure(|size| FAILED.store(size, Ordering::Relaxed));
        // More than any address space, below and above the largest size class.
        for size in [1 << 62, (1 << 60) + 1] {
            let layout = Layout::from_size_align(size, 64).unwrap();
            // SAFETY: the size is not zero.
            assert!(unsafe { allocator.alloc(layout) }.is_null());
            assert_eq!(FAILED.swap(0, Ordering::Relaxed), size);
            // SAFETY: as above.
            assert!(unsafe { allocator.alloc_zeroed(layout) }.is_null());
            assert_eq!(FAILED.swap(0, Ordering::Relaxed), size);
        }
    }

    #[test]
    fn works_from_several_threads() {
        let allocator = CachingAllocator::new();
        std::thread::scope(|scope| {
            for id in 0..4u8 {
                let allocator = &allocator;
                scope.spawn(move || {
                    for i in 0..2000usize {
                        let layout = Layout::from_size_align(70_000 + 1000 * (i % 40), 8).unwrap();
                        // SAFETY: the layouts match and the accesses stay within the blocks.
                        unsafe {
                            let block = allocator.alloc(layout);
                            block.write_bytes(id, layout.size());
                            std::hint::black_box(block);
                            assert!(std::slice::from_raw_parts(block, layout.size()).iter().all(|&b| b == id));
                            allocator.dealloc(block, layout);
                        }
                    }
                });
            }
        });
    }
}
