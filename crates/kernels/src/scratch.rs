//! Work space that stays with its thread. Fresh memory costs a page fault every 4 KB, which for buffers of megabytes
//! takes as long as the arithmetic, so buffers are handed back to a list instead of to the system.

use std::cell::RefCell;

/// One cache line; buffers are made of them so that vectors never straddle two.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

thread_local! {
    static FREE: RefCell<Vec<Vec<Line>>> = const { RefCell::new(Vec::new()) };
}

/// Borrowed floats, aligned to a cache line; given back when dropped.
///
/// A value and not a closure's argument, because a closure does not inherit the instructions of the function around it.
pub(crate) struct Scratch {
    lines: Vec<Line>,
    len: usize,
}

/// `len` floats. Their contents are whatever the last use left there.
pub(crate) fn take(len: usize) -> Scratch {
    let count = len.div_ceil(16);
    let mut lines = FREE.with_borrow_mut(|free| {
        // The smallest that is large enough, else the largest, to grow.
        let fits = (0..free.len()).filter(|&i| free[i].len() >= count).min_by_key(|&i| free[i].len());
        let best = fits.or_else(|| (0..free.len()).max_by_key(|&i| free[i].len()));
        best.map(|i| free.swap_remove(i)).unwrap_or_default()
    });
    if lines.len() < count {
        lines = vec![Line([0.0; 16]); count];
    }
    Scratch { lines, len }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let lines = std::mem::take(&mut self.lines);
        // At the end of a thread the list may be gone; then the memory simply goes too.
        let _ = FREE.try_with(|free| free.borrow_mut().push(lines));
    }
}

impl std::ops::Deref for Scratch {
    type Target = [f32];

    #[inline(always)]
    fn deref(&self) -> &[f32] {
        // SAFETY: a `Line` is sixteen consecutive floats without padding, and `len` of them fit the lines.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }
}

impl std::ops::DerefMut for Scratch {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}
