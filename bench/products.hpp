// SPDX-License-Identifier: MIT
//
// The GEMM products that an adapter is made of, as one interface over other people's libraries. Without Eigen in it, so
// that Eigen can be one of them (products_eigen.cpp).
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#ifdef _OPENMP
#include <omp.h>
#endif

namespace bench {

using Size = std::ptrdiff_t;  // Eigen's Index

/// How many threads the next parallel region of this program would have: what libraries with threads of their own are
/// told.
inline int threads_now() {
#ifdef _OPENMP
  return omp_get_max_threads();
#else
  return 1;
#endif
}

/// How a stack of rows lies in column-major memory: features × rows, or rows × features. Libraries differ by a factor
/// of two and more between the two, and not always the same way round.
enum class Layout { tall, wide };

struct StackShape {
  Layout layout;
  Size features, rows;
};

/// All matrices are column-major without padding: x, y features × tokens, p rows × tokens.
class Products {
 public:
  virtual ~Products() = default;
  /// p = scale · S x
  virtual void shrink(StackShape shape, const float* s, const float* x, Size tokens, float scale, float* p) const = 0;
  /// y += scale · Sᵀ p
  virtual void expand(StackShape shape, const float* s, const float* p, Size tokens, float scale, float* y) const = 0;
  /// dS = scale · p xᵀ, or += where `add`
  virtual void accumulate(StackShape shape, const float* p, const float* x, Size tokens, float scale, bool add,
                          float* ds) const = 0;
  /// Before a run of products: the library takes over the number of threads that OpenMP has now.
  virtual void follow_threads() const {}
};

struct ProductLibrary {
  std::string name, version, missing;
  const Products* gemm = nullptr;
  const Products* gemv = nullptr;  // for one token, where the library has other entries for vectors
};

/// eigen, openblas, onednn, blis. The first call loads them; those not found say so in `missing`.
const std::vector<ProductLibrary>& product_libraries();

ProductLibrary eigen_library();
ProductLibrary openblas_library();
ProductLibrary onednn_library();
ProductLibrary blis_library();

}  // namespace bench
