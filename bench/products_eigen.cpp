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
  void shrink(StackShape shape, const float* s, const float* x, Size tokens, float scale, float* p) const override {
    Map to(p, shape.rows, tokens);
    const ConstMap from(x, shape.features, tokens);
    if (shape.layout == Layout::tall) {
      to.noalias() = scale * (ConstMap(s, shape.features, shape.rows).transpose() * from);
    } else {
      to.noalias() = scale * (ConstMap(s, shape.rows, shape.features) * from);
    }
  }

  void expand(StackShape shape, const float* s, const float* p, Size tokens, float scale, float* y) const override {
    Map to(y, shape.features, tokens);
    const ConstMap from(p, shape.rows, tokens);
    if (shape.layout == Layout::tall) {
      to.noalias() += scale * (ConstMap(s, shape.features, shape.rows) * from);
    } else {
      to.noalias() += scale * (ConstMap(s, shape.rows, shape.features).transpose() * from);
    }
  }

  void accumulate(StackShape shape, const float* p, const float* x, Size tokens, float scale, bool add,
                  float* ds) const override {
    const ConstMap rows(p, shape.rows, tokens), features(x, shape.features, tokens);
    if (shape.layout == Layout::tall) {
      Map to(ds, shape.features, shape.rows);
      if (!add) to.setZero();
      to.noalias() += scale * (features * rows.transpose());
    } else {
      Map to(ds, shape.rows, shape.features);
      if (!add) to.setZero();
      to.noalias() += scale * (rows * features.transpose());
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
