//! A global allocator that caches large blocks.
//!
//! A training step allocates and frees hundreds of activations of 1 to 100 MB. The system's allocator gives such blocks
//! back at once and pays for it with fresh, zeroed pages the next time: a fifth of a step. Here a freed block waits in
//! the list of its size class for the next one of that class.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The size below which a block is the system allocator's.
const MIN_BLOCK: usize = 64 * 1024;
/// Alignment of every large block: a page, so that any layout's is met.
const ALIGN: usize = 4096;
/// Classes per doubling of the size; a block is at most 1/8 larger than asked for.
const CLASSES_PER_DOUBLING: usize = 8;
/// Enough for blocks of 16 GiB.
const CLASSES: usize = CLASSES_PER_DOUBLING * 18;

/// Keeps blocks of 64 KiB and more for their next use, up to a limit; everything else is the system allocator's.
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
}

/// The most bytes that are cached.
const MAX_CACHED: usize = 16 << 30;

/// Free blocks of one class, linked through their first word.
struct List {
    locked: AtomicBool,
    head: AtomicUsize,
}

impl List {
    const fn new() -> Self {
        Self { locked: AtomicBool::new(false), head: AtomicUsize::new(0) }
    }

    /// Runs `change` on the head with the list to itself. A lock is held for a few instructions.
    fn with(&self, change: impl FnOnce(usize) -> (usize, usize)) -> usize {
        while self.locked.compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
            // With as many threads as cores, the one that holds the lock may be waiting for this core.
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
            // SAFETY: the block is ours, free, page-aligned and far larger than a word.
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

/// The class of a size, and the size of its blocks. `None` for what is the system's.
fn class(size: usize) -> Option<(usize, usize)> {
    if size < MIN_BLOCK {
        return None;
    }
    // Sizes in (2^k, 2^(k+1)] are cut into CLASSES_PER_DOUBLING classes.
    let doublings = (size - 1).ilog2() as usize;
    let step = (1 << doublings) / CLASSES_PER_DOUBLING;
    let above = (size - (1 << doublings)).div_ceil(step);
    let index = (doublings + 1).checked_sub(MIN_BLOCK.ilog2() as usize)? * CLASSES_PER_DOUBLING + above - 1;
    (index < CLASSES).then_some((index, (1 << doublings) + above * step))
}

/// The size of the blocks of a class.
fn class_size(index: usize) -> usize {
    let doubling = MIN_BLOCK << (index / CLASSES_PER_DOUBLING) >> 1;
    doubling + (index % CLASSES_PER_DOUBLING + 1) * (doubling / CLASSES_PER_DOUBLING)
}

impl CachingAllocator {
    /// Returns an allocator with an empty cache.
    pub const fn new() -> Self {
        Self { lists: [const { List::new() }; CLASSES], cached: AtomicUsize::new(0) }
    }

    fn size_class(&self, layout: Layout) -> Option<(&List, usize)> {
        let (index, size) = class(layout.size()).filter(|_| layout.align() <= ALIGN)?;
        Some((&self.lists[index], size))
    }

    /// A block of a class, and whether it is fresh from the system (and zero, if so asked).
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
            // Blocks cached in other classes may be what is missing.
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
                // SAFETY: `take` got the block from `System` with this layout.
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

// SAFETY: a block comes either from `System` with the caller's layout, or from a class with a layout that has at least
// its size and alignment; which of the two depends on the layout alone, and a block is in at most one list, only while
// it is free.
unsafe impl GlobalAlloc for CachingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match self.size_class(layout) {
            Some((list, size)) => self.take(list, size, false).0,
            // SAFETY: the caller's contract.
            None => unsafe { System.alloc(layout) },
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let Some((list, size)) = self.size_class(layout) else {
            // SAFETY: the caller's contract.
            return unsafe { System.alloc_zeroed(layout) };
        };
        let (block, fresh) = self.take(list, size, true);
        if !fresh {
            // SAFETY: the block has at least `layout.size()` bytes and is nobody else's.
            unsafe { block.write_bytes(0, layout.size()) };
        }
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let Some((list, size)) = self.size_class(layout) else {
            // SAFETY: the caller's contract: `System` gave the block with this layout.
            return unsafe { System.dealloc(block, layout) };
        };
        if self.cached.fetch_add(size, Ordering::Relaxed) + size <= MAX_CACHED {
            return list.push(block);
        }
        self.cached.fetch_sub(size, Ordering::Relaxed);
        if let Ok(layout) = Layout::from_size_align(size, ALIGN) {
            // SAFETY: `take` got the block from `System` with this layout.
            unsafe { System.dealloc(block, layout) };
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        let Ok(new_layout) = Layout::from_size_align(new_size, layout.align()) else {
            return std::ptr::null_mut();
        };
        match (self.size_class(layout), self.size_class(new_layout)) {
            // SAFETY: the caller's contract; the block is `System`'s and stays so.
            (None, None) => unsafe { System.realloc(block, layout, new_size) },
            // The block's class has room already.
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
    fn classes_hold_what_they_are_for_and_waste_an_eighth_at_most() {
        assert_eq!(class(MIN_BLOCK - 1), None);
        let mut last = None;
        for size in (MIN_BLOCK..40 << 20).step_by(997) {
            let (index, block) = class(size).unwrap();
            assert!(block >= size && block - size <= size / CLASSES_PER_DOUBLING, "{size} {block}");
            // A class has one size of blocks, and classes ascend.
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
    fn blocks_come_back_zeroed_where_asked_and_keep_their_bytes_when_they_grow() {
        let allocator = CachingAllocator::new();
        let layout = Layout::from_size_align(100_000, 64).unwrap();
        // SAFETY: layouts are right and blocks are used within them.
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
    fn threads_share_it() {
        let allocator = CachingAllocator::new();
        std::thread::scope(|scope| {
            for id in 0..4u8 {
                let allocator = &allocator;
                scope.spawn(move || {
                    for i in 0..2000usize {
                        let layout = Layout::from_size_align(70_000 + 1000 * (i % 40), 8).unwrap();
                        // SAFETY: layouts are right and blocks are used within them.
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
