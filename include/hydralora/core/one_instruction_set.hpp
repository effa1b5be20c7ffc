// SPDX-License-Identifier: MIT
// Included by headers that need Eigen's products, decompositions or memory: files that include one of them must have
// one instruction set, or a name of their own for Eigen. Otherwise the program does not link (docs/design.md).
#pragma once

#include "hydralora/core/config.hpp"

#if HYDRALORA_HAS_ELF_SYMBOLS

#define HYDRALORA_STRING_(name) #name
#define HYDRALORA_STRING(name) HYDRALORA_STRING_(name)
#define HYDRALORA_ONE_CODE "hydralora_needs_one_instruction_set_for_namespace_" HYDRALORA_STRING(Eigen)

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace detail {

/// Stands for what Eigen's functions depend on and their symbols do not name.
constexpr int eigen_code() {
  int code = EIGEN_DEFAULT_ALIGN_BYTES;
  for (const char letter : HYDRALORA_STRING(HYDRALORA_ISA_TAG)) code = (code * 37 + letter) % 0x1000000;
  return code;
}

// Every file defines this absolute symbol. A linker takes it several times if the value is the same, and otherwise
// reports "multiple definition", where it would silently mix Eigen's functions and crash the program. A file with
// another name for Eigen has another symbol. The .error is for -flto, which puts all files into one assembler file.
[[gnu::used]] inline void define_eigen_code() {
  __asm__ volatile(".ifdef " HYDRALORA_ONE_CODE "\n.if " HYDRALORA_ONE_CODE " - %c0\n.error \"" HYDRALORA_ONE_CODE
                   "\"\n.endif\n.endif\n.globl " HYDRALORA_ONE_CODE "\n.hidden " HYDRALORA_ONE_CODE
                   "\n.set " HYDRALORA_ONE_CODE ", %c0"
                   :
                   : "i"(eigen_code()));
}

}  // namespace detail
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
#endif
