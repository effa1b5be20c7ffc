// SPDX-License-Identifier: MIT
//
// What a hostile file can make a reader allocate: 2 × file + 32 × header + 1 MiB at most; and what happens where a file
// asks for more than there is. Every operator new of this program is counted.
#include <doctest/doctest.h>
#include <malloc.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <new>

#include "hydralora/io/peft.hpp"
#include "support/errors.hpp"
#include "support/files.hpp"

namespace {

std::atomic<std::size_t> in_use{0}, peak{0};

void* counted(void* p) {
  if (p == nullptr) throw std::bad_alloc();
  const std::size_t now = in_use += malloc_usable_size(p);
  peak = std::max(peak.load(), now);
  return p;
}
void uncounted(void* p) noexcept {
  in_use -= malloc_usable_size(p);
  std::free(p);
}

}  // namespace

constexpr std::size_t most_at_once = std::size_t{1} << 40U;  // some systems promise any amount and kill later
void* operator new(std::size_t size) {
  return counted(size < most_at_once ? std::malloc(std::max<std::size_t>(size, 1)) : nullptr);
}
void* operator new(std::size_t size, std::align_val_t alignment) {
  void* p = nullptr;
  return counted(
      posix_memalign(&p, std::max<std::size_t>(static_cast<std::size_t>(alignment), 8), size) == 0 ? p : nullptr);
}
void operator delete(void* p) noexcept { uncounted(p); }
void operator delete(void* p, std::align_val_t /*alignment*/) noexcept { uncounted(p); }

// The others call these in the standard library, but not in a sanitizer's runtime, which has its own: memory from one
// and freed by the other is an error there.
void* operator new[](std::size_t size) { return ::operator new(size); }
void* operator new[](std::size_t size, std::align_val_t alignment) { return ::operator new(size, alignment); }
void* operator new(std::size_t size, const std::nothrow_t& /*tag*/) noexcept {
  try {
    return ::operator new(size);
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}
void* operator new[](std::size_t size, const std::nothrow_t& tag) noexcept { return ::operator new(size, tag); }
void operator delete(void* p, std::size_t /*size*/) noexcept { uncounted(p); }
void operator delete(void* p, std::size_t /*size*/, std::align_val_t /*alignment*/) noexcept { uncounted(p); }
void operator delete(void* p, const std::nothrow_t& /*tag*/) noexcept { uncounted(p); }
void operator delete[](void* p) noexcept { uncounted(p); }
void operator delete[](void* p, std::size_t /*size*/) noexcept { uncounted(p); }
void operator delete[](void* p, std::align_val_t /*alignment*/) noexcept { uncounted(p); }
void operator delete[](void* p, std::size_t /*size*/, std::align_val_t /*alignment*/) noexcept { uncounted(p); }
void operator delete[](void* p, const std::nothrow_t& /*tag*/) noexcept { uncounted(p); }

using namespace hydralora;
using namespace support;

namespace {

/// A text of some `size` bytes: piece(0), piece(1), … in between.
template <class Piece>
std::string filled(std::size_t size, const std::string& begin, Piece&& piece, const std::string& end) {
  std::string text = begin;
  for (std::size_t i = 0; text.size() < size; ++i) text += piece(i);
  return text + end;
}
std::string filled(std::size_t size, const std::string& begin, const char* piece, const std::string& end) {
  return filled(
      size, begin, [&](std::size_t) { return piece; }, end);
}
/// The same of values for the keys "0", "1", …
std::string filled_object(std::size_t size, const std::string& begin, const std::string& value,
                          const std::string& end) {
  const auto piece = [&](std::size_t i) { return (i == 0 ? "\"" : ",\"") + std::to_string(i) + "\":" + value; };
  return filled(size, begin, piece, end);
}

/// What f() has in use at its peak, beyond what was in use before.
template <class Function>
double peak_of(Function&& f) {
  const std::size_t before = in_use;
  peak = before;
  message_of<FileError>(f);  // whether it is refused or not
  return static_cast<double>(peak - before);
}

}  // namespace

TEST_CASE("no header makes the reader allocate more than its bound") {
  const TemporaryFolder folder;
  constexpr std::size_t size = std::size_t{1} << 20U;
  const std::string tensor = R"({"dtype":"I8","shape":[0],"data_offsets":[0,0]})";
  const struct {
    std::string name, header;
  } cases[] = {
      {"many empty tensors", filled_object(size, "{", tensor, "}")},
      {"the shortest entries", filled_object(size, "{", "{}", "}")},
      {"dimensions", filled_object(size, "{", R"({"dtype":"I8","shape":[0,0,0,0,0,0,0,0],"data_offsets":[0,0]})", "}")},
      {"metadata", filled_object(size, "{\"__metadata__\":{", "\"\"", "}}")},
      {"one long key", "{\"" + std::string(size, 'a') + R"(":{"dtype":"I8","shape":[],"data_offsets":[0,0]})" + "}"},
      {"one long value", "{\"__metadata__\":{\"a\":\"" + std::string(size, 'a') + "\"}}"},
      {"escapes", filled(size, "{\"__metadata__\":{\"a\":\"", "\\u20ac", "\"}}")},
      {"a long number", "{\"a\":{\"shape\":[" + std::string(size, '1') + "]}}"},
      {"arrays", "{\"a\":{\"shape\":" + std::string(size, '[')},
      {"objects", filled(size, "", "{\"a\":", "")},
      {"spaces", "{" + std::string(size, ' ') + "}"},
  };
  for (const auto& c : cases) {
    for (const std::size_t data : {std::size_t{0}, std::size_t{1} << 20U}) {
      CAPTURE(c.name);
      const std::string content = file_of(c.header, std::string(data, '\0'));
      write_file(folder("t"), content);
      const double bound =
          2 * static_cast<double>(content.size()) + 32 * static_cast<double>(c.header.size()) + (1U << 20U);
      const double used = peak_of([&] { SafetensorsFile file(folder("t")); });
      MESSAGE(c.name << ": " << used / static_cast<double>(content.size()) << " times the file");
      CHECK(used <= bound);
    }
  }
}

TEST_CASE("nor do settings") {
  const TemporaryFolder folder;
  constexpr std::size_t size = (std::size_t{1} << 20U) - 200;
  for (const std::string& text : {filled(size, "{\"a\":[0", ",0", "]}"), filled(size, "{\"a\":[[]", ",[]", "]}"),
                                  filled(size, "{\"a\":[{}", ",{}", "]}"), filled_object(size, "{", "0", "}"),
                                  filled(size, "{\"a\":\"", "a", "\"}"), filled(size, "{\"a\":", "[", "")}) {
    CAPTURE(text.substr(0, 30));
    write_file(folder("adapter_config.json"), text);
    write_file(folder("adapter_model.safetensors"), file_of("{}"));
    const double used = peak_of([&] { PeftDirectory directory(folder.path()); });
    MESSAGE(text.substr(0, 12) << ": " << used / static_cast<double>(text.size()) << " times the file");
    CHECK(used <= 34 * static_cast<double>(text.size()) + (1U << 20U));
  }
}

TEST_CASE("a load takes no more than its numbers twice") {
  const TemporaryFolder folder;
  LoRAConfig config{3000, 1000, 32};
  for (const DType type : {DType::F32, DType::BF16}) {
    PeftWriter writer;
    writer.add("q", LoRA<float>(config), type);
    writer.save(folder.path());
    const auto bytes = static_cast<double>(std::filesystem::file_size(folder("adapter_model.safetensors")));
    LoRA<float> layer(config);
    const double used = peak_of([&] { PeftDirectory(folder.path()).load_into(layer, "q"); });
    MESSAGE(std::string(info_of(type).name) << ": " << used / bytes << " times the file");
    CHECK(used <= 2 * bytes + (1U << 20U));
  }
}

TEST_CASE("a file of holes that announces more than there is of memory is an error") {
  const TemporaryFolder folder;
  const std::string size = std::to_string(most_at_once);
  write_file(folder("t"), file_of(R"({"t":{"dtype":"U8","shape":[)" + size + R"(],"data_offsets":[0,)" + size + "]}}"));
  std::error_code error;
  std::filesystem::resize_file(folder("t"), std::filesystem::file_size(folder("t")) + most_at_once, error);
  if (error) {
    MESSAGE("not run: " << error.message());
    return;
  }
  const SafetensorsFile file(folder("t"));
  CHECK(message_of<FileError>([&] { file.bytes("t"); }) ==
        containing("'t' has " + size + " bytes: there is no memory for them"));
}
