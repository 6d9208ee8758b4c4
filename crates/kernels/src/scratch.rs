//! Thread-local work buffers, kept for reuse.
//!
//! Fresh memory costs a page fault every 4 KB; for buffers of megabytes this takes as long as the arithmetic.

use std::cell::RefCell;

/// One cache line. Buffers consist of lines so that no vector straddles two.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

thread_local! {
    static FREE: RefCell<Vec<Vec<Line>>> = const { RefCell::new(Vec::new()) };
}

/// A borrowed buffer of floats, aligned to a cache line and returned to its list when dropped.
///
/// It is a value and not passed to a closure, because a closure would not inherit the target features of the kernel.
pub(crate) struct Scratch {
    lines: Vec<Line>,
    len: usize,
}

/// Returns a buffer of `len` floats with arbitrary contents.
pub(crate) fn take(len: usize) -> Scratch {
    let count = len.div_ceil(16);
    let mut lines = FREE.with_borrow_mut(|free| {
        // The smallest buffer that is large enough, otherwise the largest one, which then grows.
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
        // While a thread exits, the list may be gone already; the buffer is then freed.
        let _ = FREE.try_with(|free| free.borrow_mut().push(lines));
    }
}

impl std::ops::Deref for Scratch {
    type Target = [f32];

    #[inline(always)]
    fn deref(&self) -> &[f32] {
        // SAFETY: a `Line` is sixteen consecutive floats without padding, and the lines hold at least `len` floats.
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
