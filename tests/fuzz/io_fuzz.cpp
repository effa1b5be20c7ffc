// SPDX-License-Identifier: MIT
//
// libFuzzer on the readers of files: whatever the bytes, a FileError or a result. The first byte chooses the reader.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <fstream>
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
    const detail::TensorName parsed(name);
    const bool is_B = parsed.part == detail::TensorName::Part::B;
    if (is_B && parsed.dialect.empty() && parsed.adapter.empty() &&
        detail::tensor_name(parsed.module, "lora_B", parsed.head) != name) {
      std::abort();
    }
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

/// Two bytes with the size of the settings, the settings, the weights.
void read_directory(const std::uint8_t* data, std::size_t size) {
  if (size < 2) return;
  const std::size_t settings = std::min<std::size_t>(static_cast<std::size_t>(data[0]) * 256 + data[1], size - 2);
  static const std::filesystem::path folder = [] {
    std::string name = (std::filesystem::temp_directory_path() / "hydralora_fuzz_XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) std::abort();
    std::atexit([] { std::filesystem::remove_all(folder); });
    return name;
  }();
  const auto write = [](const char* name, const std::uint8_t* begin, const std::uint8_t* end) {
    std::ofstream(folder / name, std::ios::binary).write(reinterpret_cast<const char*>(begin), end - begin);
  };
  write("adapter_config.json", data + 2, data + 2 + settings);
  write("adapter_model.safetensors", data + 2 + settings, data + size);
  PeftOptions options;
  options.allow_others = true;
  const PeftDirectory directory(folder, options);
  for (const AdapterModule& m : directory.modules()) {
    if (m.in_features * m.rank > 4096 || m.out_features * m.rank > 4096) continue;
    if (m.kind == AdapterKind::lora && !m.dora) directory.load<LoRA<float>>(m.name, 0, false);
    if (m.dora) directory.magnitude<float>(m.name, false);
    if (m.kind == AdapterKind::hydra_lora) directory.load<HydraLoRA<float>>(m.name, 0, false);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::filesystem::path path = file_with(data + 1, size - 1);
  try {
    const int reader = data[0] >= 252 ? 4 : data[0] % 4;
    if (reader == 4) read_directory(data + 1, size - 1);
    if (reader == 2) detail::PeftConfig{path, read_text(path)};
    if (reader == 3) read_gguf(path);
    if (reader < 2) read_tensors(path, reader == 0 ? FileAccess::buffered : FileAccess::mapped);
  } catch (const FileError&) {
  }
  return 0;
}
