//! Parallel loops on the current rayon pool.
//!
//! The distribution of tasks among threads never affects a result: each task writes its own outputs, and sums across
//! tasks are in the order of the tasks.

use rayon::prelude::*;
use std::marker::PhantomData;

/// Runs `task(i)` for every i in `0..count`, in any order, on the threads of the current pool.
pub(crate) fn for_each(count: usize, task: impl Fn(usize) + Sync + Send) {
    if count == 1 || rayon::current_num_threads() == 1 {
        (0..count).for_each(task);
    } else {
        (0..count).into_par_iter().with_max_len(1).for_each(task);
    }
}

/// Returns the number of threads of the current pool.
pub(crate) fn threads() -> usize {
    rayon::current_num_threads()
}

/// A mutable slice whose disjoint parts are written by different tasks.
#[derive(Clone, Copy)]
pub(crate) struct SharedSlice<'a> {
    start: *mut f32,
    len: usize,
    slice: PhantomData<&'a mut [f32]>,
}

// SAFETY: access goes through `part`, whose callers keep the parts disjoint.
unsafe impl Send for SharedSlice<'_> {}
// SAFETY: as above.
unsafe impl Sync for SharedSlice<'_> {}

impl<'a> SharedSlice<'a> {
    pub(crate) fn new(slice: &'a mut [f32]) -> Self {
        SharedSlice { start: slice.as_mut_ptr(), len: slice.len(), slice: PhantomData }
    }

    /// Returns the slice from `start` on. Its parts must be disjoint from all others, too.
    pub(crate) fn tail(self, start: usize) -> Self {
        assert!(start <= self.len);
        // SAFETY: the pointer stays within the slice or one past its end.
        let from = unsafe { self.start.add(start) };
        SharedSlice { start: from, len: self.len - start, slice: PhantomData }
    }

    /// Returns a pointer to the first `len` floats. Writes through it must stay within parts that [`SharedSlice::part`]
    /// could return.
    pub(crate) fn pointer(self, len: usize) -> *mut f32 {
        assert!(len <= self.len);
        self.start
    }

    /// Returns the `len` floats from `start`.
    ///
    /// # Safety
    /// No overlapping part is in use at the same time.
    #[inline(always)]
    pub(crate) unsafe fn part(self, start: usize, len: usize) -> &'a mut [f32] {
        assert!(start <= self.len && len <= self.len - start);
        // SAFETY: within the slice by the assertion above, and disjoint from other parts as the caller guarantees.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), len) }
    }
}

/// The division of a product's rows and column blocks among tasks.
///
/// Rows are divided if there are enough of them, so that a task packs its rows once. Otherwise columns are divided,
/// too, in pairs of blocks.
pub(crate) struct Partition {
    pub rows: usize,
    pub rows_per_task: usize,
    /// Number of blocks of sixteen columns.
    pub blocks: usize,
    pub blocks_per_task: usize,
}

/// The rows and column blocks of one task.
pub(crate) struct Part {
    pub first: usize,
    pub rows: usize,
    pub block: usize,
    pub blocks: usize,
}

impl Partition {
    /// Divides the product into tasks of at most `max_rows` rows. Columns are divided, too, if there are fewer than
    /// `min_rows` rows per thread.
    pub(crate) fn new(rows: usize, min_rows: usize, max_rows: usize, blocks: usize) -> Self {
        let (threads, pairs) = (threads(), blocks.div_ceil(2));
        let (row_tasks, column_tasks) = match rows < min_rows * threads {
            true => (rows.div_ceil(max_rows), threads.min(pairs)),
            false => (rows.div_ceil(max_rows).next_multiple_of(threads), 1),
        };
        Partition {
            rows,
            rows_per_task: rows.div_ceil(row_tasks),
            blocks,
            blocks_per_task: 2 * pairs.div_ceil(column_tasks),
        }
    }

    /// Returns the number of tasks along the rows.
    pub(crate) fn row_tasks(&self) -> usize {
        self.rows.div_ceil(self.rows_per_task)
    }

    fn column_tasks(&self) -> usize {
        self.blocks.div_ceil(self.blocks_per_task)
    }

    /// Returns the total number of tasks.
    pub(crate) fn tasks(&self) -> usize {
        self.row_tasks() * self.column_tasks()
    }

    /// Returns the part of task number `task`.
    pub(crate) fn part(&self, task: usize) -> Part {
        let column_tasks = self.column_tasks();
        let (first, block) = (task / column_tasks * self.rows_per_task, task % column_tasks * self.blocks_per_task);
        Part {
            first,
            rows: self.rows_per_task.min(self.rows - first),
            block,
            blocks: self.blocks_per_task.min(self.blocks - block),
        }
    }
}
