// SPDX-License-Identifier: MIT
// Names for what the compiler and the command line offer. All preprocessor questions about the platform are asked here.
// A host may define, the same way in every file of its program:
//   HYDRALORA_NO_XSIMD    use the plain-loop kernels even where xsimd is installed
//   HYDRALORA_NO_OPENMP   stay on the calling thread even where OpenMP is switched on
//   HYDRALORA_EXTERN_TEMPLATES  compile the kernels in one file only, the one that includes instantiate.hpp
// and, in files with another instruction set than the rest of the program:
//   Eigen=Eigen_avx2      another name for Eigen's namespace, so that its symbols are other symbols (docs/design.md)
#pragma once

#include <Eigen/Core>

#include "hydralora/version.hpp"

static_assert(EIGEN_VERSION_AT_LEAST(3, 4, 0), "hydralora needs Eigen 3.4 or newer");

#if defined(__FAST_MATH__) || defined(_M_FP_FAST)
#error \
    "hydralora promises the same bits for a token in any batch and on any number of threads; -ffast-math breaks that. \
Compile this file without it."
#endif

#if !defined(HYDRALORA_NO_XSIMD) && __has_include(<xsimd/xsimd.hpp>)
#define HYDRALORA_HAS_XSIMD 1
#define HYDRALORA_SIMD_TAG xsimd
#else
#define HYDRALORA_HAS_XSIMD 0
#define HYDRALORA_SIMD_TAG plain
#endif

#if !defined(HYDRALORA_NO_OPENMP) && defined(_OPENMP)
#define HYDRALORA_HAS_OPENMP 1
#define HYDRALORA_THREADS_TAG openmp
#else
#define HYDRALORA_HAS_OPENMP 0
#define HYDRALORA_THREADS_TAG serial
#endif

#if defined(NDEBUG)
#define HYDRALORA_ASSERT_TAG ndebug
#else
#define HYDRALORA_ASSERT_TAG assert
#endif

#if defined(__cpp_exceptions) || defined(_CPPUNWIND)
#define HYDRALORA_HAS_EXCEPTIONS 1
#define HYDRALORA_ERRORS_TAG throwing
#else
#define HYDRALORA_HAS_EXCEPTIONS 0
#define HYDRALORA_ERRORS_TAG calling
#endif

// The widest instruction set this file is compiled for.
#if defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#define HYDRALORA_ISA_TAG avx512
#elif defined(__AVX512F__)
#define HYDRALORA_ISA_TAG avx512f
#elif defined(__AVX2__) && defined(__FMA__) && !defined(__F16C__)
#define HYDRALORA_ISA_TAG avx2_fma_without_f16c
#elif defined(__AVX2__) && defined(__FMA__)
#define HYDRALORA_ISA_TAG avx2_fma
#elif defined(__AVX2__)
#define HYDRALORA_ISA_TAG avx2
#elif defined(__AVX__) && defined(__FMA__)
#define HYDRALORA_ISA_TAG avx_fma
#elif defined(__AVX__)
#define HYDRALORA_ISA_TAG avx
#elif defined(__SSE4_2__)
#define HYDRALORA_ISA_TAG sse4_2
#elif defined(__SSE4_1__)
#define HYDRALORA_ISA_TAG sse4_1
#elif defined(__SSSE3__)
#define HYDRALORA_ISA_TAG ssse3
#elif defined(__SSE3__)
#define HYDRALORA_ISA_TAG sse3
#elif defined(__ARM_FEATURE_FMA) || defined(__aarch64__)
#define HYDRALORA_ISA_TAG neon
#else
#define HYDRALORA_ISA_TAG baseline
#endif

// Vector registers of the instruction set. They decide the size of a kernel's tile.
#if defined(__AVX512F__) || defined(__aarch64__) || defined(_M_ARM64)
#define HYDRALORA_VECTOR_REGISTERS 32
#else
#define HYDRALORA_VECTOR_REGISTERS 16
#endif

// What xsimd does not offer is written in intrinsics: transpositions (before its version 13) and numbers of 16 bits
// (core/narrow.hpp).
#if defined(__SSE2__) || defined(_M_X64)
#define HYDRALORA_HAS_SSE2 1
#else
#define HYDRALORA_HAS_SSE2 0
#endif
#if defined(__AVX2__)
#define HYDRALORA_HAS_AVX2 1
#else
#define HYDRALORA_HAS_AVX2 0
#endif
#if defined(__F16C__)
#define HYDRALORA_HAS_F16C 1
#else
#define HYDRALORA_HAS_F16C 0
#endif
#if defined(__AVX512F__)
#define HYDRALORA_HAS_AVX512F 1
#else
#define HYDRALORA_HAS_AVX512F 0
#endif
#if defined(__aarch64__)
#define HYDRALORA_HAS_NEON64 1
#else
#define HYDRALORA_HAS_NEON64 0
#endif

// Memory maps, and saving that survives a power failure (io/file.hpp).
#if defined(__unix__) || defined(__APPLE__)
#define HYDRALORA_HAS_POSIX 1
#else
#define HYDRALORA_HAS_POSIX 0
#endif

// libstdc++ matches regular expressions in polynomial time where it is asked to (io/peft_pattern.hpp).
#if defined(_GLIBCXX_RELEASE)
#define HYDRALORA_HAS_POLYNOMIAL_REGEX 1
#else
#define HYDRALORA_HAS_POLYNOMIAL_REGEX 0
#endif

// The linker's absolute symbols (core/one_instruction_set.hpp).
#if defined(__ELF__) && defined(__GNUC__)
#define HYDRALORA_HAS_ELF_SYMBOLS 1
#else
#define HYDRALORA_HAS_ELF_SYMBOLS 0
#endif

#if defined(__GNUC__)
#define HYDRALORA_PREFETCH(address, for_write, locality) __builtin_prefetch(address, for_write, locality)
#else
#define HYDRALORA_PREFETCH(address, for_write, locality) static_cast<void>(address)
#endif

// LIST(keyword, Scalar) is a header's list of template instances. With HYDRALORA_EXTERN_TEMPLATES they are only
// declared; instantiate.hpp defines them.
#if defined(HYDRALORA_EXTERN_TEMPLATES)
#define HYDRALORA_DECLARE_INSTANCES(LIST) LIST(extern, float) LIST(extern, double)
#else
#define HYDRALORA_DECLARE_INSTANCES(LIST)
#endif
#define HYDRALORA_DEFINE_INSTANCES(LIST) LIST(, float) LIST(, double)

#define HYDRALORA_JOIN_(a, b, c, d, e) a##_##b##_##c##_##d##_##e
#define HYDRALORA_JOIN(a, b, c, d, e) HYDRALORA_JOIN_(a, b, c, d, e)

/// The inline namespace that holds everything. Users never write it. It gives functions that are compiled for SSE2 in
/// one file and for AVX2 in another (or with and without OpenMP, xsimd, assertions, exceptions) different symbols;
/// otherwise the order of linking would decide which of the two both files run.
#define HYDRALORA_BUILD                                                                              \
  HYDRALORA_JOIN(HYDRALORA_ISA_TAG, HYDRALORA_SIMD_TAG, HYDRALORA_THREADS_TAG, HYDRALORA_ASSERT_TAG, \
                 HYDRALORA_ERRORS_TAG)

// g++ 12 warns about its own AVX-512 intrinsics (GCC bug 105593) in xsimd's exp. The warning can be switched off in the
// function that exp is inlined into; `flatten` inlines all of it.
#if defined(__GNUC__) && !defined(__clang__)
#define HYDRALORA_FALSE_UNINITIALIZED_BEGIN                                                  \
  _Pragma("GCC diagnostic push") _Pragma("GCC diagnostic ignored \"-Wmaybe-uninitialized\"") \
      _Pragma("GCC diagnostic ignored \"-Wuninitialized\"")
#define HYDRALORA_FALSE_UNINITIALIZED_END _Pragma("GCC diagnostic pop")
#define HYDRALORA_FLATTEN __attribute__((flatten))
#else
#define HYDRALORA_FALSE_UNINITIALIZED_BEGIN
#define HYDRALORA_FALSE_UNINITIALIZED_END
#define HYDRALORA_FLATTEN
#endif

namespace hydralora {
inline namespace HYDRALORA_BUILD {

using Index = Eigen::Index;

namespace detail {
#if defined(__SIZEOF_INT128__)
__extension__ using wide_uint = unsigned __int128;
#else
using wide_uint = void;  // multiply_high (random.hpp) then works in 32-bit halves
#endif
}  // namespace detail

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
