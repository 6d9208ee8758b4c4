//! Tasks over the threads of rayon's current pool. How tasks are shared among threads never changes a result: a task
//! owns the outputs that it writes, and sums that cross tasks are made by [`crate::sums`] in the order of the tasks.

use rayon::prelude::*;
use std::marker::PhantomData;

/// Runs `task(i)` for every i below `count`, in any order, on the current pool's threads.
pub(crate) fn for_each(count: usize, task: impl Fn(usize) + Sync + Send) {
    if count == 1 || rayon::current_num_threads() == 1 {
        (0..count).for_each(task);
    } else {
        (0..count).into_par_iter().with_max_len(1).for_each(task);
    }
}

/// Threads of the current pool.
pub(crate) fn threads() -> usize {
    rayon::current_num_threads()
}

/// A mutable slice of which tasks take disjoint parts.
#[derive(Clone, Copy)]
pub(crate) struct Shared<'a> {
    start: *mut f32,
    len: usize,
    slice: PhantomData<&'a mut [f32]>,
}

// SAFETY: access goes through `part`, whose callers keep the parts disjoint.
unsafe impl Send for Shared<'_> {}
// SAFETY: as above.
unsafe impl Sync for Shared<'_> {}

impl<'a> Shared<'a> {
    pub(crate) fn new(slice: &'a mut [f32]) -> Self {
        Shared { start: slice.as_mut_ptr(), len: slice.len(), slice: PhantomData }
    }

    /// All from `start` on, still to be taken in disjoint parts.
    pub(crate) fn tail(self, start: usize) -> Self {
        assert!(start <= self.len);
        // SAFETY: within, or one past, the slice.
        let from = unsafe { self.start.add(start) };
        Shared { start: from, len: self.len - start, slice: PhantomData }
    }

    /// The start of the slice, of which the first `len` floats exist; writing through it is for the same parts as
    /// [`Shared::part`] gives.
    pub(crate) fn pointer(self, len: usize) -> *mut f32 {
        assert!(len <= self.len);
        self.start
    }

    /// The `len` floats from `start`.
    ///
    /// # Safety
    /// No other part that overlaps this one is in use at the same time.
    #[inline(always)]
    pub(crate) unsafe fn part(self, start: usize, len: usize) -> &'a mut [f32] {
        assert!(start <= self.len && len <= self.len - start);
        // SAFETY: within the slice, by the assertion; disjoint, by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), len) }
    }
}
