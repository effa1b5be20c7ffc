// SPDX-License-Identifier: MIT
//
// xsimd that says it is 8.0.
#include_next <xsimd/xsimd.hpp>
#undef XSIMD_VERSION_MINOR
#define XSIMD_VERSION_MINOR 0
#undef XSIMD_VERSION_MAJOR
#define XSIMD_VERSION_MAJOR 8
