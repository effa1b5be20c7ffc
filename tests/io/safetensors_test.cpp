// SPDX-License-Identifier: MIT
#include "hydralora/io/safetensors.hpp"

#include <sys/stat.h>

#include "support/files.hpp"
#include "support/shapes.hpp"

using namespace hydralora;
using namespace support;

namespace {

std::string tensor(const std::string& name, const std::string& dtype, const std::string& shape,
                   const std::string& offsets) {
  return "\"" + name + R"(":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}";
}

/// Opens a file and reads all that can be read.
void read_all(const std::filesystem::path& path, FileAccess access = FileAccess::buffered) {
  const SafetensorsFile file(path, access);
  std::uint64_t bytes = 0;
  for (const auto& [name, entry] : file.tensors()) {
    bytes += file.bytes(name).size();
    if (entry.shape.size() != 2 || !detail::is_floating(entry.type) || entry.elements() > 100000) continue;
    Eigen::MatrixXd m(entry.shape[0], entry.shape[1]);
    file.read(name, m, false);
  }
  CHECK(bytes <= std::filesystem::file_size(path));
}

}  // namespace

TEST_CASE("safetensors: what is written is read back, in every floating type, shape and access") {
  const TemporaryFolder folder;
  for (const FileAccess access : {FileAccess::buffered, FileAccess::mapped}) {
    for (const DType type : {DType::F64, DType::F32, DType::F16, DType::BF16}) {
      CAPTURE(info_of(type).name);
      SafetensorsWriter out, again;
      Eigen::MatrixXd wide = random_matrix<double>(70, 131, 1), tall = random_matrix<double>(5, 2, 2);
      wide(3, 4) = 65504;  // the largest half
      wide(0, 0) = -0.0;
      out.add("wide", wide, type);
      out.add("a row", tall.row(1), type);
      out.add("a vector", tall.col(0), type, true);
      out.add("nothing", Eigen::MatrixXd(0, 7), type);
      out.metadata = {{"format", "pt"}, {"weird \"key\" \xc3\xa9", "a\nb"}};
      out.save(folder("t"));
      const SafetensorsFile file(folder("t"), access);
      CHECK(file.metadata() == out.metadata);
      CHECK(file.tensors().size() == 4);
      CHECK(file.entry("wide").shape == std::vector<Index>{70, 131});
      CHECK(file.entry("wide").elements() == 70 * 131);
      CHECK(file.entry("a vector").shape == std::vector<Index>{5});
      Eigen::MatrixXd back(70, 131), row(1, 2), vector(5, 1), nothing(0, 7);
      file.read("wide", back);
      file.read("a row", row);
      file.read("a vector", vector);
      file.read("nothing", nothing);
      const auto bound = [&](const Eigen::MatrixXd& m) {
        const double digits = type == DType::F64 ? 0 : type == DType::F32 ? 24 : type == DType::F16 ? 11 : 8;
        return digits == 0 ? 0 : m.cwiseAbs().maxCoeff() * std::ldexp(1, -static_cast<int>(digits));
      };
      CHECK((back - wide).cwiseAbs().maxCoeff() <= bound(wide));
      CHECK((row - tall.row(1)).cwiseAbs().maxCoeff() <= bound(tall));
      CHECK((vector - tall.col(0)).cwiseAbs().maxCoeff() <= bound(tall));
      CHECK(std::signbit(back(0, 0)));
      if (type == DType::F16) CHECK(back(3, 4) == 65504);

      // What was rounded once is not rounded again: the same bytes.
      again.add("wide", back, type);
      again.save(folder("again"));
      CHECK(SafetensorsFile(folder("again")).bytes("wide") == file.bytes("wide"));
      // Into a strided block of floats.
      Eigen::MatrixXf large = Eigen::MatrixXf::Zero(80, 140);
      file.read("wide", large.block(5, 4, 70, 131));
      CHECK(large.block(5, 4, 70, 131) == back.cast<float>());
      CHECK(large.topRows(5).isZero(0));
    }
  }
}

TEST_CASE("safetensors: numbers are stored as the format says") {
  const TemporaryFolder folder;
  SafetensorsWriter out;
  Eigen::MatrixXf m(2, 2);
  m << 1, -2, 0.5F, 3.1415927F;
  out.add("m", m);
  out.add("b", m.row(0), DType::BF16);
  out.add("h", m.row(0), DType::F16);
  out.add_bytes("i", DType::I64, {1}, {1, 2, 3, 4, 5, 6, 7, 8});
  out.save(folder("t"));
  const std::string all = file_content(folder("t"));
  const std::string header = R"({"i":{"dtype":"I64","shape":[1],"data_offsets":[0,8]},)"
                             R"("m":{"dtype":"F32","shape":[2,2],"data_offsets":[8,24]},)"
                             R"("b":{"dtype":"BF16","shape":[1,2],"data_offsets":[24,28]},)"
                             R"("h":{"dtype":"F16","shape":[1,2],"data_offsets":[28,32]}})";
  CHECK(all.substr(8, header.size()) == header);
  CHECK((all.size() - 32) % 8 == 0);
  const std::string data = all.substr(all.size() - 32);
  CHECK(data.substr(0, 8) == "\x01\x02\x03\x04\x05\x06\x07\x08");
  CHECK(data.substr(8, 16) ==
        std::string("\x00\x00\x80\x3f\x00\x00\x00\xc0\x00\x00\x00\x3f\xdb\x0f\x49\x40", 16));  // row after row
  CHECK(data.substr(24) == std::string("\x80\x3f\x00\xc0\x00\x3c\x00\xc0", 8));
  const SafetensorsFile file(folder("t"));
  CHECK(file.bytes("i") == std::vector<unsigned char>{1, 2, 3, 4, 5, 6, 7, 8});
}

TEST_CASE("safetensors: reading what is not as expected names the file, the tensor and both shapes") {
  const TemporaryFolder folder;
  SafetensorsWriter out;
  out.add("m", Eigen::MatrixXf::Ones(2, 3));
  Eigen::MatrixXf broken = Eigen::MatrixXf::Ones(2, 3);
  broken(1, 2) = std::numeric_limits<float>::quiet_NaN();
  out.add("broken", broken);
  out.add_bytes("i", DType::I32, {2, 3}, std::vector<unsigned char>(24));
  out.save(folder("t"));
  const std::string path = folder("t").string();
  const SafetensorsFile file(path);
  const auto reading = [&](const char* name, auto into, bool finite = true) {
    return message_of<FileError>([&] { file.read(name, into, finite); });
  };
  const Eigen::MatrixXf m(2, 3), other(3, 2);
  CHECK(reading("x", m) == path + ": has no tensor 'x'");
  CHECK(reading("m", other) == path + ": tensor 'm' has shape [2, 3], expected [3, 2]");
  CHECK(reading("m", Eigen::VectorXf(6)) == path + ": tensor 'm' has shape [2, 3], expected [6, 1]");
  CHECK(reading("i", m) == path + ": tensor 'i' holds I32, expected F64, F32, F16 or BF16");
  CHECK(reading("broken", m) == path + ": tensor 'broken' holds a number that is not finite at 5");
  CHECK(reading("broken", m, false) == "nothing thrown");
  for (const DType type : {DType::F64, DType::F32, DType::F16, DType::BF16}) {  // more than is read at once
    Eigen::VectorXd numbers = Eigen::VectorXd::Ones(5000);
    numbers[4999] = -std::numeric_limits<double>::infinity();
    SafetensorsWriter large;
    large.add("large", numbers, type, true);
    large.save(folder("large"));
    CHECK(message_of<FileError>([&] { SafetensorsFile(folder("large")).read("large", numbers); }) ==
          folder("large").string() + ": tensor 'large' holds a number that is not finite at 4999");
  }
  try {
    file.entry("x");
    CHECK(false);
  } catch (const FileError& error) {
    CHECK(error.path() == path);
  }
}

TEST_CASE("safetensors: a writer refuses what a file cannot hold") {
  SafetensorsWriter out;
  const Eigen::MatrixXf m = Eigen::MatrixXf::Ones(2, 3);
  out.add("m", m);
  CHECK(message_of([&] { out.add("m", m); }) == "SafetensorsWriter: 'm' was added before");
  CHECK(message_of([&] { out.add("__metadata__", m); }) == containing("cannot be named"));
  CHECK(message_of([&] { out.add("n", m, DType::I8); }) ==
        "SafetensorsWriter: 'n' as I8, expected F64, F32, F16 or BF16");
  CHECK(message_of([&] { out.add("n", m, DType::F32, true); }) ==
        "SafetensorsWriter: 'n' has 3 columns, a vector has 1");
  CHECK(message_of([&] { out.add("n", 1e6F * m, DType::F16); }) ==
        "SafetensorsWriter: 'n' has 1e+06, too large for F16");
  CHECK(message_of([&] { out.add_bytes("n", DType::I64, {2}, std::vector<unsigned char>(15)); }) ==
        "SafetensorsWriter: 'n' has 15 bytes, I64 [2] needs 16");
  CHECK(message_of([&] { out.add_bytes("n", DType::I8, {-1}, {}); }) == "SafetensorsWriter: 'n' has shape [-1]");
  CHECK(message_of([&] {
          out.add_bytes("n", DType::I8, {Index(1) << 40, Index(1) << 40}, {});
        }) == containing("too many"));
  out.add("caf\xe9", m);
  const TemporaryFolder folder;
  CHECK(message_of([&] { out.save(folder("t")); }) == containing("not UTF-8"));
  CHECK_FALSE(std::filesystem::exists(folder("t")));
}

TEST_CASE("safetensors: every header that lies is refused with the reason") {
  const TemporaryFolder folder;
  const std::string good = tensor("a", "F32", "[2]", "[0,8]"), eight(8, '\0');
  const auto one = [&](const std::string& text, const std::string& data) { return file_of("{" + text + "}", data); };
  const std::pair<const char*, std::vector<std::string>> cases[] = {
      // what a message says, files that it is said of
      {"has 0 bytes, a safetensors file has at least 8", {""}},
      {"has 7 bytes", {"1234567"}},
      {"announces a header of 18446744073709551615 bytes", {std::string("\xff\xff\xff\xff\xff\xff\xff\xff", 8)}},
      {"announces a header of 1 bytes", {std::string("\x01\0\0\0\0\0\0\0", 8)}},
      {"expected at most 2, which the file has behind this number", {std::string("\x03\0\0\0\0\0\0\0{}", 10)}},
      {"is a pointer of Git LFS, not the file itself: fetch it with `git lfs pull`",
       {"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"}},
      {"does not begin with {", {file_of(""), file_of(" {}"), file_of("[]")}},
      {"is not JSON",
       {file_of("{"), file_of("{}x"), file_of("{} {}"), one(tensor("a", "F32", "[1e999]", "[0,8]"), eight),
        one(tensor("\xff", "F32", "[2]", "[0,8]"), eight), file_of("{" + std::string(100000, '[')),
        file_of("{\"a\":" + std::string(100000, '{'))}},
      {"a number where none is allowed",
       {file_of("{\"a\":1}"), file_of("{\"a\":{\"shape\":3}}"), file_of("{\"__metadata__\":{\"a\":1}}")}},
      {"null where none is allowed", {file_of("{\"a\":null}")}},
      {"true or false", {file_of("{\"a\":true}")}},
      {"an array where none is allowed",
       {file_of("{\"a\":[]}"), file_of("{\"a\":{\"dtype\":[]}}"), file_of("{\"a\":{\"shape\":[[]]}}"),
        file_of("{\"__metadata__\":[]}")}},
      {"a string where none is allowed", {file_of("{\"a\":\"b\"}")}},
      {"tensor 'a': lacks its dtype, shape or data_offsets",
       {file_of("{\"a\":{}}"), one(R"("a":{"dtype":"F32","shape":[0]})", "")}},
      {"tensor 'a': lacks its dtype", {one(R"("a":{"shape":[2],"data_offsets":[0,8]})", eight)}},
      {"tensor 'a': lacks its dtype, shape", {one(R"("a":{"dtype":"F64","data_offsets":[0,8]})", eight)}},
      {"tensor 'b': lacks its dtype", {one(good + R"(,"b":{"dtype":"I8","shape":[0]})", eight)}},  // a's do not count
      {"has the unknown field 'a'", {file_of("{\"a\":{\"a\":{}}}")}},
      {"an object where none is allowed",
       {file_of("{\"a\":{\"dtype\":{}}}"), file_of("{\"__metadata__\":{\"a\":{}}}")}},
      {"'dtype' appears twice", {file_of("{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\"}}")}},
      {"'shape' appears twice", {one(R"("a":{"shape":[2],"shape":[],"dtype":"F32","data_offsets":[0,8]})", eight)}},
      {"'data_offsets' appears twice", {one(R"("a":{"data_offsets":[0,8],"data_offsets":[0,8]})", eight)}},
      {"__metadata__: 'a' appears twice", {file_of("{\"__metadata__\":{\"a\":\"\",\"a\":\"\"}}")}},
      {"'__metadata__' appears twice", {file_of("{\"__metadata__\":{},\"__metadata__\":{}}")}},
      {"'a' appears twice", {one(good + "," + good, eight)}},
      {"is too large", {one(tensor("a", "F4", "[4611686018427387904,2]", "[0,8]"), eight)}},
      {"do not lie in the 8 bytes", {one(tensor("a", "F4", "[2]", "[0,9]"), eight)}},
      {"leave a gap", {one(tensor("a", "F4", "[1]", "[1,8]"), eight)}},
      {"'a' appears twice", {one(tensor("a", "F4", "[1]", "[0,4]") + "," + tensor("a", "F4", "[1]", "[4,8]"), eight)}},
      {"the negative number -2", {one(tensor("a", "F32", "[-2]", "[0,8]"), eight)}},
      {"'2.0', which is not an integer", {one(tensor("a", "F32", "[2.0]", "[0,8]"), eight)}},
      {"which is not an integer", {one(tensor("a", "F32", "[2e0]", "[0,8]"), eight)}},
      {"which is not an integer below 2^64", {one(tensor("a", "F32", "[18446744073709551616]", "[0,8]"), eight)}},
      {"has a dimension of 18446744073709551615", {one(tensor("a", "F32", "[18446744073709551615]", "[0,8]"), eight)}},
      {"is too large",
       {one(tensor("a", "F32", "[4611686018427387904,2]", "[0,8]"), eight),
        one(tensor("a", "F32", "[4294967296,4294967296,0]", "[0,0]"), "")}},
      {"more than 8 dimensions", {one(tensor("a", "F32", "[1,1,1,1,1,1,1,1,2]", "[0,8]"), eight)}},
      {"shape [3] of F32 needs 12 bytes, data_offsets hold 8", {one(tensor("a", "F32", "[3]", "[0,8]"), eight)}},
      {"more than 2 numbers", {one(tensor("a", "F32", "[2]", "[0,8,8]"), eight)}},
      {"data_offsets has 1 numbers", {one(tensor("a", "F32", "[2]", "[8]"), eight)}},
      {"do not lie in the 8 bytes",
       {one(tensor("a", "F32", "[2]", "[8,0]"), eight), one(tensor("a", "F32", "[2]", "[1,9]"), eight)}},
      {"leave a gap", {one(tensor("a", "F32", "[1]", "[4,8]"), eight)}},
      {"has 70 bytes, its header and tensors need 66", {one(tensor("a", "F32", "[1]", "[0,4]"), eight)}},
      {"overlap",
       {one(good + "," + tensor("b", "F32", "[1]", "[4,8]"), eight),
        one(good + "," + tensor("b", "F32", "[2]", "[0,8]"), eight)}},
      {"do not lie in", {file_of("{\"a\":{\"data_offsets\":[0,18446744073709551615],\"shape\":[],\"dtype\":\"I8\"}}")}},
  };
  for (const auto& [reason, contents] : cases) {
    for (const std::string& content : contents) {
      CAPTURE(content.substr(0, 200));
      write_file(folder("t"), content);
      const std::string message = message_of<FileError>([&] { SafetensorsFile file(folder("t")); });
      CHECK(message.rfind(folder("t").string() + ": ", 0) == 0);
      CHECK(message == containing(reason));
    }
  }
  // And what is odd but true is read.
  for (const std::string& fine :
       {file_of("{}"), file_of("{}   "), one(good, eight), file_of("{" + good + "}   ", eight),
        one(tensor("a", "F32", "[2,0,9223372036854775]", "[0,0]"), ""), one(tensor("a", "F64", "[]", "[0,8]"), eight),
        one(tensor("b", "F32", "[0]", "[0,0]") + "," + good, eight),
        one(good + "," + tensor("b", "I8", "[0]", "[8,8]"), eight), one("\"__metadata__\":{}," + good, eight),
        one(tensor("", "F32", "[2]", "[0,8]"), eight)}) {
    CAPTURE(fine);
    write_file(folder("t"), fine);
    CHECK(message_of<FileError>([&] { read_all(folder("t")); }) == "nothing thrown");
  }
}

TEST_CASE("safetensors: a header may have 100 MB, no more") {
  const TemporaryFolder folder;
  write_file(folder("t"), std::string("\x01\xe1\xf5\x05\0\0\0\0", 8));  // 100,000,001
  std::filesystem::resize_file(folder("t"), 200'000'000);               // a hole
  CHECK(message_of<FileError>([&] { SafetensorsFile file(folder("t")); }) ==
        folder("t").string() + ": announces a header of 100000001 bytes, expected at most 100000000");
}

TEST_CASE("safetensors: a type that the library does not know blocks only its tensor") {
  const TemporaryFolder folder;
  for (const std::string type :
       {"F4", "F6_E2M3", "F6_E3M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "C64", "X_3000"}) {
    CAPTURE(type);
    write_file(folder("t"), file_of("{" + tensor("known", "F32", "[1,1]", "[0,4]") + "," +
                                        tensor("odd", type, "[3,1]", "[4,9]") + "}",
                                    std::string("\0\0\0\x3f", 4) + "abcde"));
    const SafetensorsFile file(folder("t"));
    Eigen::MatrixXf one(1, 1), three(3, 1);
    file.read("known", one);
    CHECK(one(0, 0) == 0.5F);
    CHECK(message_of<FileError>([&] { file.read("odd", three); }) ==
          folder("t").string() + ": tensor 'odd' holds " + type + ", expected F64, F32, F16 or BF16");
    CHECK(file.bytes("odd") == std::vector<unsigned char>{'a', 'b', 'c', 'd', 'e'});
    CHECK(file.entry("odd").type == DType::other);
    CHECK(file.entry("odd").type_name() == type);
    CHECK(file.entry("odd").elements() == 3);
    CHECK(file.entry("known").type_name() == "F32");
  }
  SafetensorsWriter out;
  CHECK(message_of([&] { out.add_bytes("odd", DType::other, {1}, {1}); }) ==
        "SafetensorsWriter: 'odd' has a type that is not supported");
  CHECK(message_of([&] { out.add("odd", Eigen::MatrixXf(1, 1), DType::other); }) ==
        containing("'odd' as another type"));
  CHECK(sizeof(TensorEntry) <= 64);
}

TEST_CASE("safetensors: a number alone is a matrix of one number") {
  const TemporaryFolder folder;
  write_file(folder("t"), file_of("{" + tensor("alpha", "BF16", "[]", "[0,2]") + "}", std::string("\x80\x40", 2)));
  const SafetensorsFile file(folder("t"));
  Eigen::MatrixXd alpha(1, 1), pair(2, 1);
  file.read("alpha", alpha);
  CHECK(alpha(0, 0) == 4);
  CHECK(message_of<FileError>([&] { file.read("alpha", pair); }) ==
        folder("t").string() + ": tensor 'alpha' has shape [], expected [2, 1]");
}

TEST_CASE("safetensors: the header is written in linear time, and every name is escaped") {
  SafetensorsWriter out;
  CHECK(out.content().substr(8) == "{}      ");
  for (int i = 0; i < 20000; ++i) out.add_bytes(std::to_string(i) + "\"\n\xc3\xa9", DType::U8, {0, 2}, {});
  const std::string content = out.content();  // took seconds when it was quadratic
  CHECK(content.substr(8, 63) == "{\"0\\\"\\n\xc3\xa9\":{\"dtype\":\"U8\",\"shape\":[0,2],\"data_offsets\":[0,0]},\"1");
  CHECK(nlohmann::json::parse(content.substr(8)).size() == 20000);
}

TEST_CASE("safetensors: long and unprintable names make short messages") {
  const TemporaryFolder folder;
  write_file(folder("t"), file_of("{\"" + std::string(100000, 'a') + "\":{}}"));
  CHECK(message_of<FileError>([&] { SafetensorsFile file(folder("t")); }).size() < 400);
  std::string controls;  // 0x00 to 0x1f and 0x7f, each escaped as JSON has it
  for (int i = 0; i <= 32; ++i) {
    const int c = i < 32 ? i : 0x7f;
    controls += std::string("\\u00") + "0123456789abcdef"[c / 16] + "0123456789abcdef"[c % 16];
  }
  write_file(folder("t"), file_of("{\"" + controls + " \\u001b[31m~\":{}}"));
  CHECK(message_of<FileError>([&] {
          SafetensorsFile file(folder("t"));
        }).find("'" + std::string(33, '?') + " ?[31m~'") != std::string::npos);
}

TEST_CASE("safetensors: a folder, a pipe and nothing at all are no files") {
  const TemporaryFolder folder;
  CHECK(message_of<FileError>([&] { SafetensorsFile file(folder("none")); }) ==
        folder("none").string() + ": cannot open: No such file or directory");
  CHECK(message_of<FileError>([&] { SafetensorsFile file(folder.path()); }) == containing("is not a regular file"));
  REQUIRE(mkfifo(folder("pipe").c_str(), 0600) == 0);
  CHECK(message_of<FileError>([&] { SafetensorsFile file(folder("pipe")); }) == containing("is not a regular file"));
}

TEST_CASE("safetensors: a file that is cut short after it was opened") {
  const TemporaryFolder folder;
  SafetensorsWriter out;
  out.add("m", Eigen::MatrixXd::Ones(100, 100));
  out.save(folder("t"));
  const SafetensorsFile file(folder("t"));
  std::filesystem::resize_file(folder("t"), 1000);
  Eigen::MatrixXd m(100, 100);
  CHECK(message_of<FileError>([&] { file.read("m", m); }) ==
        folder("t").string() + ": became shorter while it was read");
}

TEST_CASE("safetensors: every truncation and thousands of mutations are refused or read, never more") {
  const TemporaryFolder folder;
  SafetensorsWriter out;
  out.metadata = {{"format", "pt"}};
  out.add("base_model.model.q.lora_A.weight", random_matrix<float>(3, 5, 1));
  out.add("base_model.model.q.lora_B.weight", random_matrix<float>(4, 3, 2), DType::BF16);
  out.add("base_model.model.q.lora_route.weight", random_matrix<float>(2, 5, 3), DType::F16);
  const std::string whole = out.content();
  for (std::size_t length = 0; length < whole.size(); ++length) {
    CAPTURE(length);
    write_file(folder("t"), whole.substr(0, length));
    CHECK_THROWS_AS(SafetensorsFile(folder("t")), FileError);
  }
  write_file(folder("t"), whole + '\0');
  CHECK_THROWS_AS(SafetensorsFile(folder("t")), FileError);

  // Bytes changed, taken out, put in, and pieces copied elsewhere. JSON's own characters are likely, so that some of it
  // still parses.
  const std::string likely = "{}[]\",:0123456789-.eE \\ux\"FBI";
  Index refused = 0, read = 0;
  for (std::uint64_t seed = 0; seed < 4000; ++seed) {
    CAPTURE(seed);
    const CounterRandom random(seed, 60);
    std::string mutated = whole;
    const std::uint64_t edits = 1 + random.below(3, 0);
    for (std::uint64_t edit = 1; edit <= edits; ++edit) {
      const std::size_t at = random.below(mutated.size(), edit, 1), length = 1 + random.below(12, edit, 2);
      const auto character = static_cast<char>(
          random.below(2, edit, 3) == 0 ? static_cast<unsigned char>(likely[random.below(likely.size(), edit, 4)])
                                        : random.below(256, edit, 5));
      const std::uint64_t kind = random.below(5, edit, 6);
      if (kind == 0) mutated[at] = character;
      if (kind == 1) mutated[at] = static_cast<char>(mutated[at] ^ (1 << random.below(8, edit, 7)));
      if (kind == 2) mutated.erase(at, length);
      if (kind == 3) mutated.insert(at, length, character);
      if (kind == 4) mutated.insert(random.below(mutated.size(), edit, 8), mutated.substr(at, length));
      if (mutated.empty()) break;
    }
    // Half of them with a length that fits, so that what lies behind it is reached.
    if (seed % 2 == 0 && mutated.size() > 8) {
      const std::size_t end = mutated.find_last_of('}');
      if (end != std::string::npos && end >= 8) mutated = file_of(mutated.substr(8, end - 7), mutated.substr(end + 1));
    }
    write_file(folder("t"), mutated);
    try {
      read_all(folder("t"), seed % 3 == 0 ? FileAccess::mapped : FileAccess::buffered);
      ++read;
    } catch (const FileError& error) {
      ++refused;
      CHECK(std::string(error.what()).size() < 1000);
    }
  }
  MESSAGE(refused << " refused, " << read << " read");
  CHECK(refused > 2000);
  CHECK(read > 100);
}
