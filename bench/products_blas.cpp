// SPDX-License-Identifier: MIT
//
// OpenBLAS, oneDNN and BLIS, opened at run time from the files that CMake found: two of them export the same names, so
// none may be linked, and what a library takes from the environment has to be there before it is loaded.
#include <dlfcn.h>

#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <type_traits>

#include "products.hpp"

namespace bench {
namespace {

enum class Op : char { none = 'N', transpose = 'T' };

/// One opened library and the two calls made of it, as Fortran's sgemm and sgemv have them (column-major).
class Library {
 public:
  explicit Library(const char* path) : handle_(dlopen(path, RTLD_NOW | RTLD_LOCAL)) {
    if (handle_ == nullptr) throw std::runtime_error(dlerror());
    set_threads_ = find<void (*)(int)>("omp_set_num_threads");  // of the OpenMP runtime that the library itself uses
  }
  virtual ~Library() = default;  // never closed: their threads and tables live as long as the program

  virtual void gemm(Op a_op, Op b_op, Size m, Size n, Size k, float alpha, const float* a, Size lda, const float* b,
                    Size ldb, float beta, float* c, Size ldc) const = 0;
  virtual void gemv(Op /*op*/, Size /*m*/, Size /*n*/, float /*alpha*/, const float* /*a*/, const float* /*x*/,
                    float /*beta*/, float* /*y*/) const {}

  virtual void set_threads(int threads) const { set_threads_(threads); }
  virtual void refuse_foreign_threads() const {}

 protected:
  template <class Function>
  Function find(const char* name) const {
    void* const symbol = dlsym(handle_, name);
    if (symbol == nullptr) throw std::runtime_error(std::string("no ") + name + " in it");
    return reinterpret_cast<Function>(symbol);
  }

 private:
  void* handle_;
  void (*set_threads_)(int);
};

class Cblas : public Library {
 public:
  explicit Cblas(const char* path)
      : Library(path), gemm_(find<decltype(gemm_)>("cblas_sgemm")), gemv_(find<decltype(gemv_)>("cblas_sgemv")) {}

  void gemm(Op a_op, Op b_op, Size m, Size n, Size k, float alpha, const float* a, Size lda, const float* b, Size ldb,
            float beta, float* c, Size ldc) const override {
    gemm_(column_major, code(a_op), code(b_op), narrow(m), narrow(n), narrow(k), alpha, a, narrow(lda), b, narrow(ldb),
          beta, c, narrow(ldc));
  }
  void gemv(Op op, Size m, Size n, float alpha, const float* a, const float* x, float beta, float* y) const override {
    gemv_(column_major, code(op), narrow(m), narrow(n), alpha, a, narrow(m), x, 1, beta, y, 1);
  }

 private:
  static constexpr int column_major = 102;
  static int code(Op op) { return op == Op::none ? 111 : 112; }
  static int narrow(Size size) { return static_cast<int>(size); }

  void (*gemm_)(int, int, int, int, int, int, float, const float*, int, const float*, int, float, float*, int);
  void (*gemv_)(int, int, int, int, float, const float*, int, const float*, int, float, float*, int);
};

class OpenBlas final : public Cblas {
 public:
  using Cblas::Cblas;
  std::string version() const { return find<char* (*)()>("openblas_get_config")(); }
  void refuse_foreign_threads() const override {
    constexpr int openmp = 2;
    if (find<int (*)()>("openblas_get_parallel")() == openmp) return;
    throw std::runtime_error("found, but not its OpenMP variant: threads of its own would fight ours");
  }
};

class Blis final : public Cblas {
 public:
  explicit Blis(const char* path) : Cblas(path) {
    find<void (*)()>("bli_init")();  // asked for its kernels before this, 0.9 aborts
    set_own_threads_ = find<decltype(set_own_threads_)>("bli_thread_set_num_threads");
  }
  std::string version() const {
    const int kernels = find<int (*)()>("bli_arch_query_id")();
    return std::string(find<const char* (*)()>("bli_info_get_version_str")()) + ", kernels " +
           find<const char* (*)(int)>("bli_arch_string")(kernels);
  }
  void set_threads(int threads) const override { set_own_threads_(threads); }

 private:
  void (*set_own_threads_)(Size);
};

class OneDnn final : public Library {
 public:
  explicit OneDnn(const char* path) : Library(path), gemm_(find<decltype(gemm_)>("dnnl_sgemm")) {}

  void gemm(Op a_op, Op b_op, Size m, Size n, Size k, float alpha, const float* a, Size lda, const float* b, Size ldb,
            float beta, float* c, Size ldc) const override {
    // It is row-major, Cᵀ = Bᵀ Aᵀ here.
    gemm_(static_cast<char>(b_op), static_cast<char>(a_op), n, m, k, alpha, b, ldb, a, lda, beta, c, ldc);
  }
  std::string version() const {
    struct Version {
      int major, minor, patch;
    };
    const auto& v = *find<const Version* (*)()>("dnnl_version")();
    const int isa = find<int (*)()>("dnnl_get_effective_cpu_isa")();
    constexpr int avx2 = 0x7, avx512 = 0x20;  // bits of dnnl_cpu_isa_t
    return std::to_string(v.major) + '.' + std::to_string(v.minor) + '.' + std::to_string(v.patch) + ", sgemm on " +
           ((isa & avx512) != 0    ? "AVX-512"
            : (isa & avx2) == avx2 ? "AVX2"
                                   : "less than AVX2");
  }

 private:
  int (*gemm_)(char, char, Size, Size, Size, float, const float*, Size, const float*, Size, float, float*, Size);
};

/// The products as calls of gemm, or of gemv where `vectors` (for one token; accumulate then still is a gemm of depth
/// one).
class BlasProducts final : public Products {
 public:
  BlasProducts(const Library& library, bool vectors) : library_(library), vectors_(vectors) {}

  void shrink(StackShape shape, const float* s, const float* x, Size tokens, float scale, float* p) const override {
    apply(shape, /*up=*/false, s, x, tokens, scale, 0, p);
  }
  void expand(StackShape shape, const float* s, const float* p, Size tokens, float scale, float* y) const override {
    apply(shape, /*up=*/true, s, p, tokens, scale, 1, y);
  }
  void accumulate(StackShape shape, const float* p, const float* x, Size tokens, float scale, bool add,
                  float* ds) const override {
    const bool tall = shape.layout == Layout::tall;
    const Size m = tall ? shape.features : shape.rows, n = tall ? shape.rows : shape.features;
    library_.gemm(Op::none, Op::transpose, m, n, tokens, scale, tall ? x : p, m, tall ? p : x, n, add ? 1.0F : 0.0F, ds,
                  m);
  }
  void follow_threads() const override { library_.set_threads(threads_now()); }

 private:
  void apply(StackShape shape, bool up, const float* s, const float* from, Size tokens, float scale, float beta,
             float* to) const {
    const bool tall = shape.layout == Layout::tall;
    const Op op = tall == up ? Op::none : Op::transpose;
    const Size m = up ? shape.features : shape.rows, k = up ? shape.rows : shape.features;
    const Size lds = tall ? shape.features : shape.rows;
    if (vectors_) {
      library_.gemv(op, lds, tall ? shape.rows : shape.features, scale, s, from, beta, to);
    } else {
      library_.gemm(op, Op::none, m, tokens, k, scale, s, lds, from, k, beta, to, m);
    }
  }

  const Library& library_;
  bool vectors_;
};

/// Peers run at their best: kernels forced by the environment are forgotten, and a library of 2022 is told what to run
/// on an AMD with AVX-512, which BLIS 0.9 does not know (a sixth of the speed) and OpenBLAS 0.3.21 takes for a Cooper
/// Lake (no slower but for one token). Where this program itself is built for AVX2, so are they. Returns what was said,
/// for the version.
std::string choose_kernels(const char* variable, [[maybe_unused]] const char* avx512,
                           [[maybe_unused]] const char* avx2) {
  unsetenv(variable);
  const char* kernels = nullptr;
#if defined(__AVX512F__)
  __builtin_cpu_init();
  if (__builtin_cpu_is("amd")) kernels = avx512;
#elif defined(__AVX2__)
  kernels = avx2;
#endif
  if (kernels == nullptr) return "";
  setenv(variable, kernels, 1);
  return std::string(", ") + variable + '=' + kernels + " set here";
}

template <class Kind>
ProductLibrary open(const char* name, const char* path, const char* package, const std::string& kernels) {
  ProductLibrary library;
  library.name = name;
  try {
    if (*path == '\0') throw std::runtime_error("not found at configure time");
    static const Kind opened(path);
    opened.refuse_foreign_threads();
    library.version = opened.version() + kernels;
    static const BlasProducts matrices(opened, false);
    library.gemm = &matrices;
    if constexpr (std::is_base_of_v<Cblas, Kind>) {
      static const BlasProducts vectors(opened, true);
      library.gemv = &vectors;
    }
  } catch (const std::exception& error) {
    library.missing = std::string(error.what()) + " (Debian: " + package + ')';
  }
  return library;
}

}  // namespace

ProductLibrary openblas_library() {
  unsetenv("OPENBLAS_L2_SIZE");
  const std::string kernels = choose_kernels("OPENBLAS_CORETYPE", "SkylakeX", "Haswell");
  return open<OpenBlas>("openblas", BENCH_OPENBLAS, "libopenblas-openmp-dev", kernels);
}
ProductLibrary onednn_library() {
  return open<OneDnn>("onednn", BENCH_DNNL, "libdnnl-dev", choose_kernels("ONEDNN_MAX_CPU_ISA", nullptr, "AVX2"));
}
ProductLibrary blis_library() {
  constexpr auto skx = "0", haswell = "3";  // BLIS 0.9 reads the number of its arch_t; it takes any name for 0
  return open<Blis>("blis", BENCH_BLIS, "libblis-openmp-dev", choose_kernels("BLIS_ARCH_TYPE", skx, haswell));
}

}  // namespace bench
