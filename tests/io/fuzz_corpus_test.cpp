// SPDX-License-Identifier: MIT
//
// What fuzzing (tests/fuzz) found once is tried with every compiler.
#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>

#include "support/files.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

TEST_CASE("the fuzzer's inputs are read or refused") {
  int count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(HYDRALORA_FUZZ_CORPUS)) {
    const std::string bytes = support::file_content(entry.path());
    LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
    ++count;
  }
  CHECK(count >= 1000);
}
