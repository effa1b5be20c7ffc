// SPDX-License-Identifier: MIT
//
// Tensors of every type into matrices of every memory layout, against the conversion of one number at a time.
#include "hydralora/io/tensor_numbers.hpp"

#include "hydralora/io/safetensors.hpp"
#include "support/files.hpp"
#include "support/shapes.hpp"

using namespace hydralora;
using namespace support;

namespace {

using RowMajor = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// Reads a tensor into `matrix`, and compares it and what surrounds it.
template <class Matrix, class View>
void check(const SafetensorsFile& file, Matrix& all, View&& view, const Eigen::MatrixXd& expected) {
  using Scalar = typename Matrix::Scalar;
  all.setConstant(7);
  file.read("t", view(all));
  CHECK(view(all) == expected.cast<Scalar>());
  view(all).setConstant(7);
  CHECK((all.array() == 7).all());
}

}  // namespace

TEST_CASE("every half is converted exactly, infinities and NaN included") {
  std::vector<unsigned char> bytes;
  for (int i = 0; i < 1 << 16; ++i) {
    bytes.push_back(static_cast<unsigned char>(i & 255));
    bytes.push_back(static_cast<unsigned char>(i >> 8));
  }
  for (const DType type : {DType::F16, DType::BF16}) {
    std::vector<float> numbers(1 << 16);
    CHECK_FALSE(detail::decode_run(type, bytes.data(), numbers.data(), Index{1} << 16));
    Index wrong = 0;
    for (std::size_t i = 0; i < numbers.size(); ++i) {
      const auto expected = detail::decode<float>(type, bytes.data() + 2 * i);
      const bool same = detail::bits_as<std::uint32_t>(expected) == detail::bits_as<std::uint32_t>(numbers[i]);
      wrong += !same && !(std::isnan(expected) && std::isnan(numbers[i]));
      const bool finite = detail::decode_run(type, bytes.data() + 2 * i, &numbers[i], 1);
      wrong += finite != std::isfinite(expected);
    }
    CHECK(wrong == 0);
  }
}

TEST_CASE("a tensor is read into any layout, whole or in parts") {
  const TemporaryFolder folder;
  // Sizes around tiles, and rows longer than what is read of them at once.
  const std::pair<Index, Index> shapes[] = {{1, 1},   {1, 5000}, {5000, 1}, {3, 7},     {64, 64},    {65, 63},
                                            {131, 8}, {70, 129}, {200, 33}, {67, 5001}, {1, 140001}, {140001, 1}};
  for (const DType type : {DType::F64, DType::F32, DType::F16, DType::BF16}) {
    for (const auto& [rows, columns] : shapes) {
      CAPTURE(info_of(type).name);
      CAPTURE(rows);
      CAPTURE(columns);
      SafetensorsWriter out;
      out.add("t", random_matrix<double>(rows, columns, 1), type);
      out.add("x", Eigen::MatrixXf::Ones(1, 1));  // of F16: moves t to an odd place
      out.save(folder("t"));
      const std::vector<unsigned char> bytes = SafetensorsFile(folder("t")).bytes("t");
      Eigen::MatrixXd expected(rows, columns);
      for (Index i = 0; i < rows * columns; ++i) {
        expected(i / columns, i % columns) = detail::decode<double>(type, bytes.data() + i * info_of(type).bytes);
      }
      for (const FileAccess access : {FileAccess::buffered, FileAccess::mapped}) {
        const SafetensorsFile file(folder("t"), access);
        const Index r = rows, c = columns;
        const auto whole = [](auto& m) -> auto& { return m; };
        const auto block = [&](auto& m) { return m.block(3, 2, r, c); };
        const auto turned = [&](auto& m) { return m.block(2, 3, c, r).transpose(); };
        const auto reversed = [](auto& m) { return m.reverse(); };  // without memory of its own
        Eigen::MatrixXf f(r, c), f_large(r + 5, c + 4), f_turned(c + 3, r + 5);
        Eigen::MatrixXd d(r, c);
        RowMajor m(r, c), m_large(r + 5, c + 4);
        check(file, f, whole, expected);
        check(file, d, whole, expected);
        check(file, m, whole, expected);
        check(file, f_large, block, expected);
        check(file, m_large, block, expected);
        check(file, f_turned, turned, expected);
        check(file, f, reversed, expected);
        Eigen::MatrixXf strided(2 * r, 3 * c);
        const auto map = [&](auto& s) {
          return Eigen::Map<Eigen::MatrixXf, 0, Eigen::Stride<-1, -1>>(s.data(), r, c, Eigen::Stride<-1, -1>(6 * r, 2));
        };
        check(file, strided, map, expected);
      }
    }
  }
}

TEST_CASE("the first number that is not finite is named, wherever it is, in either layout") {
  const TemporaryFolder folder;
  const Index rows = 70, columns = 5001;
  for (const auto& [i, j] : {std::pair<Index, Index>{0, 0}, {2, 5000}, {63, 4096}, {64, 0}, {69, 5000}}) {
    for (const float wrong : {HUGE_VALF, -HUGE_VALF, NAN}) {
      Eigen::MatrixXf numbers = Eigen::MatrixXf::Ones(rows, columns);
      numbers(i, j) = wrong;
      numbers(rows - 1, 7) = NAN;  // earlier in another order
      const Index first = std::min(i * columns + j, (rows - 1) * columns + 7);
      SafetensorsWriter out;
      out.add("t", numbers);
      out.save(folder("t"));
      const std::string expected =
          folder("t").string() + ": tensor 't' holds a number that is not finite at " + std::to_string(first);
      const SafetensorsFile file(folder("t"));
      RowMajor by_rows(rows, columns);
      CHECK(message_of<FileError>([&] { file.read("t", numbers); }) == expected);
      CHECK(message_of<FileError>([&] { file.read("t", by_rows); }) == expected);
      CHECK(message_of<FileError>([&] { file.read("t", by_rows, false); }) == "nothing thrown");
      CHECK(std::isnan(by_rows(rows - 1, 7)));
    }
  }
  Eigen::MatrixXd large = Eigen::MatrixXd::Ones(3, 3);
  large(1, 1) = 1e300;  // infinite as float
  SafetensorsWriter out;
  out.add("t", large);
  out.save(folder("t"));
  const SafetensorsFile file(folder("t"));
  Eigen::MatrixXf single(3, 3);
  file.read("t", large);
  CHECK(message_of<FileError>([&] { file.read("t", single); }) == containing("not finite at 4"));
}
