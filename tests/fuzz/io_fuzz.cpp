// SPDX-License-Identifier: MIT
//
// libFuzzer on the readers of files: whatever the bytes, a FileError or a result. The first byte chooses the reader.
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "hydralora/io/gguf.hpp"
#include "hydralora/io/peft.hpp"

using namespace hydralora;

namespace {

/// A file in memory that holds these bytes, by a path under which it can be opened.
std::filesystem::path file_with(const std::uint8_t* data, std::size_t size) {
  static const int fd = memfd_create("fuzz", 0);
  static const std::string path = "/proc/self/fd/" + std::to_string(fd);
  if (ftruncate(fd, 0) != 0 || pwrite(fd, data, size, 0) != static_cast<ssize_t>(size)) std::abort();
  return path;
}

void read_tensors(const std::filesystem::path& path, FileAccess access) {
  const SafetensorsFile file(path, access);
  for (const auto& [name, entry] : file.tensors()) {
    if (file.bytes(name).size() != entry.bytes) std::abort();
    detail::TensorName parsed;
    if (parsed.parse(name) && detail::tensor_name(parsed.module, parsed.part, parsed.head) != name) std::abort();
    if (entry.shape.size() != 2 || !detail::is_floating(entry.type) || entry.elements() == 0) continue;
    Eigen::MatrixXf matrix(entry.shape[0], entry.shape[1]);
    file.read(name, matrix, false);
  }
}

void read_gguf(const std::filesystem::path& path) {
  const GgufFile file(path);
  for (const auto& [name, entry] : file.tensors()) {
    if (file.bytes(name).size() != entry.bytes) std::abort();
    file.for_each_row(name, [](Index, const std::vector<float>&) {});
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::filesystem::path path = file_with(data + 1, size - 1);
  try {
    const int reader = data[0] % 4;
    if (reader == 2) detail::PeftConfig{path};
    if (reader == 3) read_gguf(path);
    if (reader < 2) read_tensors(path, reader == 0 ? FileAccess::buffered : FileAccess::mapped);
  } catch (const FileError&) {
  }
  return 0;
}
