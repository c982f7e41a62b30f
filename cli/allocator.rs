//! The allocator, and how long it keeps what is freed.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Tells the allocator how long to keep what is freed for the next request. A training step asks for the same hundreds of
/// megabytes as the one before; to give them back to the system between the two, which then clears every page, took 45 % of a
/// step. An ingest asks for something else at every stage: a second is long enough for the next chunk of a file or bucket of a
/// table to find the pieces of the last, and too short for those of a stage to lie about in the next.
pub(crate) fn keep_freed_memory(is_ingest: bool) {
    // `mi_option_purge_delay` of mimalloc.h, ms (−1: never), and `mi_option_arena_purge_mult`: of large pieces so many times that.
    const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
    const ARENA_PURGE_MULT: libmimalloc_sys::mi_option_t = 24;
    let delay = if is_ingest { 1_000 } else { -1 };
    // SAFETY: sets numbers in a table, before there is a second thread.
    unsafe {
        libmimalloc_sys::mi_option_set(PURGE_DELAY, delay);
        libmimalloc_sys::mi_option_set(ARENA_PURGE_MULT, 1);
    }
}
