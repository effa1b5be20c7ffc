// SPDX-License-Identifier: MIT
//
// Eigen's products, compiled with the flags that suit them best (CMakeLists.txt). The namespace is renamed because the
// linker would otherwise merge these templates with those of files compiled with other flags, and take either.
#define Eigen EigenAtItsBest
#include <Eigen/Core>

#include "products.hpp"

namespace bench {
namespace {

#ifdef BENCH_TUNED  // by CMakeLists.txt
constexpr auto tuned = " -mtune=haswell";
#else
constexpr auto tuned = "";
#endif

using Map = Eigen::Map<Eigen::MatrixXf>;
using ConstMap = Eigen::Map<const Eigen::MatrixXf>;

class EigenProducts final : public Products {
  void multiply(Op a_op, Op b_op, Size m, Size n, Size k, float scale, const float* a, const float* b, float beta,
                float* c) const override {
    Map to(c, m, n);
    if (beta == 0) to.setZero();
    if (a_op == Op::transpose) {
      to.noalias() += scale * (ConstMap(a, k, m).transpose() * ConstMap(b, k, n));
    } else if (b_op == Op::transpose) {
      to.noalias() += scale * (ConstMap(a, m, k) * ConstMap(b, n, k).transpose());
    } else {
      to.noalias() += scale * (ConstMap(a, m, k) * ConstMap(b, k, n));
    }
  }
};

std::string text(int number) { return std::to_string(number); }

}  // namespace

ProductLibrary eigen_library() {
  static const EigenProducts products;
  ProductLibrary library;
  library.name = "eigen";
  library.version = text(EIGEN_WORLD_VERSION) + '.' + text(EIGEN_MAJOR_VERSION) + '.' + text(EIGEN_MINOR_VERSION) +
                    ", " + Eigen::SimdInstructionSetsInUse() + ", " + BENCH_COMPILER " " BENCH_FLAGS + tuned;
  library.gemm = &products;
  return library;
}

}  // namespace bench
