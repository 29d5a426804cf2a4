//! The memory of a process that mostly waits.

/// Has long allocations made apart from the heap, each for itself: what an answer has used is the
/// kernel's again at once, and does not stay between the small ones that last.
pub(crate) fn keep_heap_small() {
    /// Bytes: what is shorter than a page takes one.
    const APART: i32 = 4096;
    // SAFETY: the call takes two numbers, and changes no memory that is in use.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, APART);
    }
}

/// Gives memory back that nothing uses any more: free pages of the heap, and the stack below the
/// caller.
#[inline(never)]
pub(crate) fn give_back() {
    /// Bytes of the stack below: more than the setup or an answer uses.
    const STACK: usize = 64 << 10;
    // SAFETY: the call takes a number, and changes no memory that is in use.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
    // SAFETY: sysconf only reads; the size of a page is always known.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
    let here = 0u8;
    // The page below has room for the frames of this function and of madvise(2).
    let end = ((&raw const here).addr() & !(page - 1)) - page;
    let start = std::ptr::without_provenance_mut(end - STACK);
    // SAFETY: the stack grows downwards, so that nothing there is in use. Where the stack has no
    // memory yet, the call fails and the rest of it is done all the same.
    unsafe { libc::madvise(start, STACK, libc::MADV_DONTNEED) };
}
