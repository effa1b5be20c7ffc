// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include "../examples/finetune_lm/sha256.hpp"
#include "hydralora/io/gguf_writer.hpp"
#include "hydralora/layers/stored_linear.hpp"
#include "support/errors.hpp"
#include "support/files.hpp"
#include "support/shapes.hpp"

using namespace hydralora;
using namespace support;

namespace {

const std::filesystem::path blocks = HYDRALORA_GGUF_BLOCKS;  // written by gguf-py, with random blocks of every type

std::vector<float> numbers_of(const GgufFile& file, const std::string& name) {
  std::vector<float> all;
  file.for_each_row(name, [&](Index, const std::vector<float>& row) { all.insert(all.end(), row.begin(), row.end()); });
  return all;
}

void read_file_whole(const std::filesystem::path& path) {
  const GgufFile file(path);
  std::uint64_t bytes = 0;
  for (const auto& [name, entry] : file.tensors()) {
    bytes += file.bytes(name).size();
    numbers_of(file, name);
  }
  CHECK(bytes <= std::filesystem::file_size(path));
}

}  // namespace

TEST_CASE("GGUF: numbers of every type are gguf-py's, bit for bit; pieces of rows are those of whole rows") {
  // SHA-256 of what gguf-py makes of the blocks, as float32.
  const std::map<std::string, std::string> sums = {
      {"f32", "0b0e8f5dabae1aff4974a4181b4e3e3f2d6224a7bc331f6533597501c1b9b285"},
      {"f16", "3b284b295b1fcf67d99949f1e4392a336c88eb8e76ac814e38041543e92b3f57"},
      {"bf16", "56ccad55079ec046c7bb759c467cf5f2869b608d49f5651f594e693f72b198ac"},
      {"q8_0", "982a51bd5b1b632913d35cf332496925d1ab9200146b6b3dcd367c41b6f8505c"},
      {"q4_0", "b15532891853c191aa421d028f27f6ad7bc9263c7771d166519c68f5f0bce763"},
      {"q4_1", "f75664de6cb6808df90f42d3ca5ab386e30ae08679b7e0056d0ec4eca480266f"},
      {"q5_0", "af83741da0a5d803d738697fd55311c86c19256b6cb350cf521934a2e1c94636"},
      {"q5_1", "b8ddc3231845c94c646618ee2dbc09e2dbd2839b1d2e63abc588fe92e251278a"},
      {"q4_k", "7938585d2fe87209f12e2e7e2bcc425433d465b76f8d963976d2a2b7c04a81b6"},
      {"q5_k", "92c375f069bf2cf73f5724028102c8f1841b05c10e6b4b8e76eac3f33870e2e8"},
      {"q6_k", "211e7c4cd75861c1b7d31a3ca3c54a98173079a0a0b8bd91a3085abb7426c713"}};
  const GgufFile file(blocks);
  CHECK(file.tensors().size() == sums.size());
  CHECK(file.metadata()["a.number"] == 7);
  CHECK(file.metadata()["a.list"] == nlohmann::json({"x", "yz"}));
  CHECK(file.metadata()["a.flag"] == true);
  CHECK(file.metadata()["a.real"] == 0.5);
  CHECK(file.metadata()["a.ints"] == nlohmann::json({-1, 2}));
  for (const auto& [name, sum] : sums) {
    CAPTURE(name);
    const GgufEntry& entry = file.entry(name, {2, 256});
    const std::vector<float> all = numbers_of(file, name);
    CHECK(finetune_lm::sha256(reinterpret_cast<const unsigned char*>(all.data()), all.size() * sizeof(float)) == sum);
    const StoredLinear<GgufWeight> linear(GgufWeight(entry.type, 2, 256, file.bytes(name)));
    for (const auto& [col, columns] : {std::pair<Index, Index>(0, 256), {32, 64}, {7, 3}, {31, 100}, {250, 6}}) {
      Eigen::MatrixXf tile(columns, 1);
      Eigen::MatrixXd wide(columns, 1);
      linear.storage().read_rows(1, col, Tokens<float>(tile));
      linear.storage().read_rows(1, col, Tokens<double>(wide));
      for (Index j = 0; j < columns; ++j) {
        CHECK(tile(j, 0) == all[static_cast<std::size_t>(256 + col + j)]);
        CHECK(wide(j, 0) == static_cast<double>(tile(j, 0)));
      }
    }
  }
}

TEST_CASE("GGUF: what is written is read back, rounded as the type rounds") {
  const TemporaryFolder folder;
  GgufWriter out;
  const Eigen::MatrixXd wide = random_matrix<double>(5, 64, 1);
  const std::pair<GgufType, double> types[] = {{GgufType::F32, 1e-7},
                                               {GgufType::F16, 1e-3},
                                               {GgufType::BF16, 8e-3},
                                               {GgufType::Q8_0, 0.01},
                                               {GgufType::Q4_0, 0.15}};
  for (const auto& [type, error] : types) out.add(info_of(type).name, wide, type);
  out.add("vector", Eigen::MatrixXd(wide.row(0).transpose()), GgufType::F32, true);
  out.add("zeros", Eigen::MatrixXf::Zero(1, 32), GgufType::Q4_0);
  out.metadata = {{"a", 1U}, {"b", -2}, {"c", "text"}, {"d", {"x", ""}}, {"e", false}, {"f", 0.25}, {"g", {1.5, 2.0}}};
  out.save(folder("t"));
  const GgufFile file(folder("t"));
  CHECK(file.metadata() == nlohmann::json(out.metadata));
  CHECK(file.entry("vector").shape == std::vector<Index>{64});
  for (const auto& [type, error] : types) {
    CAPTURE(info_of(type).name);
    file.for_each_row(info_of(type).name, [&](Index i, const std::vector<float>& row) {
      const Eigen::RowVectorXd back = Eigen::Map<const Eigen::RowVectorXf>(row.data(), 64).cast<double>();
      CHECK((back - wide.row(i)).cwiseAbs().maxCoeff() <= error * wide.row(i).cwiseAbs().maxCoeff());
    });
  }
  CHECK(numbers_of(file, "zeros") == std::vector<float>(32, 0.0F));
  CHECK(message_of([&] { out.add("zeros", wide, GgufType::F32); }) == containing("added before"));
  CHECK(message_of([&] { out.add("odd", wide.leftCols(40), GgufType::Q8_0); }) == containing("no whole blocks"));
  CHECK(message_of([&] { out.add("large", 1e6 * wide, GgufType::F16); }) == containing("too large for F16"));
  out.metadata["h"] = nullptr;
  CHECK(message_of([&] { out.content(); }) == containing("no type"));
}

TEST_CASE("GGUF: broken files are refused") {
  const TemporaryFolder folder;
  const std::string whole = file_content(blocks);
  const auto message = [&](const std::string& content) {
    write_file(folder("t"), content);
    return message_of<FileError>([&] { read_file_whole(folder("t")); });
  };
  const auto changed = [&](const std::string& from, const std::string& to) {
    std::string all = whole;
    const std::size_t place = all.find(from);
    REQUIRE(place != std::string::npos);
    return all.replace(place, to.size(), to);
  };
  using namespace std::string_literals;
  CHECK(message("") == containing("is not a GGUF"));
  CHECK(message(changed("GGUF", "GGUX")) == containing("is not a GGUF"));
  CHECK(message(changed("GGUF\x03", "GGUF\x01")) == containing("version 1, supported are 2 and 3"));
  CHECK(message(whole.substr(0, 8) + "\xff\xff\xff\xff\xff\xff\xff\x7f"s + whole.substr(16)) ==
        containing("announces"));
  CHECK(message(changed("a.number\x04", "a.number\x0d")) == containing("value of type 13"));
  CHECK(message(changed("a.flag", "a.list")) == containing("the key 'a.list' twice"));
  CHECK(message(changed("\x04\0\0\0\0\0\0\0q4_0"s, "\x04\0\0\0\0\0\0\0q4_1"s)) == containing("twice"));
  GgufWriter two;
  for (const char* name : {"a", "b"}) two.add(name, Eigen::MatrixXf::Ones(1, 32), GgufType::F32);
  std::string overlapping = two.content();
  const std::size_t b = overlapping.find("\x01\0\0\0\0\0\0\0b"s) + 9 + 4 + 2 * 8 + 4;  // where b begins
  REQUIRE(overlapping[b] == '\x80');
  overlapping[b] = '\x20';
  CHECK(message(overlapping) == containing("tensor 'b' overlaps 'a'"));
  const std::size_t padding = 28;  // behind the last tensor
  for (std::size_t size = 0; size < whole.size() - padding; ++size) {
    if (size % 7 == 0 || size < 600) CHECK(message(whole.substr(0, size)) != "nothing thrown");
  }
  // Every byte of the header with other values: an error or a file inside its bounds.
  const std::size_t header = whole.size() - 7000;
  for (std::size_t place = 0; place < header; ++place) {
    for (const char value : {'\0', '\x7f', '\xff'}) {
      std::string all = whole;
      all[place] = value;
      message(all);
    }
  }
}
