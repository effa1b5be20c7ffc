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

enum class Op : char { none = 'N', transpose = 'T' };

/// One library's product of matrices, and the three that an adapter is made of. All matrices are column-major without
/// padding: x, y features × tokens, p rows × tokens.
class Products {
 public:
  virtual ~Products() = default;
  /// p = scale · S x
  void shrink(StackShape shape, const float* s, const float* x, Size tokens, float scale, float* p) const {
    const Op op = shape.layout == Layout::tall ? Op::transpose : Op::none;
    multiply(op, Op::none, shape.rows, tokens, shape.features, scale, s, x, 0, p);
  }
  /// y += scale · Sᵀ p
  void expand(StackShape shape, const float* s, const float* p, Size tokens, float scale, float* y) const {
    const Op op = shape.layout == Layout::tall ? Op::none : Op::transpose;
    multiply(op, Op::none, shape.features, tokens, shape.rows, scale, s, p, 1, y);
  }
  /// dS = scale · p xᵀ, or += where `add`
  void accumulate(StackShape shape, const float* p, const float* x, Size tokens, float scale, bool add,
                  float* ds) const {
    const float beta = add ? 1.0F : 0.0F;
    if (shape.layout == Layout::tall) {
      multiply(Op::none, Op::transpose, shape.features, shape.rows, tokens, scale, x, p, beta, ds);
    } else {
      multiply(Op::none, Op::transpose, shape.rows, shape.features, tokens, scale, p, x, beta, ds);
    }
  }
  /// C (m × n) = scale · op(A) op(B) + beta · C, where op(A) has k columns; beta is 0 or 1.
  virtual void multiply(Op a_op, Op b_op, Size m, Size n, Size k, float scale, const float* a, const float* b,
                        float beta, float* c) const = 0;
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
