// SPDX-License-Identifier: MIT
#pragma once

namespace bench {

/// Calls of malloc and its relatives so far, by anybody in this process: operator new, Eigen and other libraries all end
/// there. Negative where they cannot be counted (not glibc, or AddressSanitizer).
long allocations();

/// The same honest allocator for all candidates: by default glibc returns large temporaries to the system and takes the
/// page faults again on every call, which makes libraries that allocate some ten megabytes per call five times slower.
/// To be called first thing in main, so that it holds however the program is started.
void keep_freed_memory();

}  // namespace bench
