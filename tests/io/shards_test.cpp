// SPDX-License-Identifier: MIT
#include "hydralora/io/safetensors_shards.hpp"
#include "support/errors.hpp"
#include "support/files.hpp"

using namespace hydralora;
using namespace support;

TEST_CASE("shards are read as one file") {
  const TemporaryFolder folder;
  const auto write_shard = [&](const char* file, const char* tensor, float value) {
    SafetensorsWriter out;
    out.add(tensor, Eigen::MatrixXf::Constant(2, 3, value));
    out.save(folder(file));
  };
  write_shard("1.safetensors", "a", 1);
  write_shard("2.safetensors", "b", 2);
  const std::filesystem::path index = folder("model.safetensors.index.json");
  const auto opening = [&](const std::string& map) {
    write_file(index, map);
    return message_of<FileError>([&] { ShardedSafetensors base(index); });
  };
  const std::string both = R"({"weight_map":{"a":"1.safetensors","b":"2.safetensors"}})";
  REQUIRE(opening(both) == "nothing thrown");
  for (const FileAccess access : {FileAccess::buffered, FileAccess::mapped}) {
    const ShardedSafetensors base(index, access);
    CHECK(base.tensors().size() == 2);
    CHECK(base.has("a"));
    CHECK_FALSE(base.has("c"));
    CHECK(base.file_of("b").path() == folder("2.safetensors"));
    Eigen::MatrixXf b(2, 3);
    base.read("b", b);
    CHECK((b.array() == 2).all());
    CHECK(message_of<FileError>([&] { base.read("c", b); }) == index.string() + ": has no tensor 'c'");
  }
  const ShardedSafetensors one(folder("1.safetensors"));
  CHECK(one.has("a"));
  CHECK(one.tensors().size() == 1);

  CHECK(opening("{}") == containing("\"weight_map\" is not an object"));
  CHECK(opening(R"({"weight_map":{"a":"../1.safetensors"}})") == containing("expected the name of a file"));
  CHECK(opening(R"({"weight_map":{"a":1}})") == containing("expected the name of a file"));
  CHECK(opening(R"({"weight_map":{"a":"3.safetensors"}})") == containing("3.safetensors: cannot open"));
  CHECK(opening(R"({"weight_map":{"c":"1.safetensors"}})") == folder("1.safetensors").string() + ": has no tensor 'c'");
  write_shard("2.safetensors", "a", 2);
  CHECK(opening(both) ==
        folder("2.safetensors").string() + ": tensor 'a' is also in " + folder("1.safetensors").string());
}
