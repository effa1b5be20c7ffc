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

/// An opened library. What is made of it are Fortran's sgemm and sgemv (column-major).
class Library : public Products {
 public:
  explicit Library(const char* path) : handle_(dlopen(path, RTLD_NOW | RTLD_LOCAL)) {
    if (handle_ == nullptr) throw std::runtime_error(dlerror());
    set_threads_ = find<void (*)(int)>("omp_set_num_threads");  // of the OpenMP runtime that the library itself uses
  }  // never closed: their threads and tables live as long as the program
  void follow_threads() const override { set_threads_(threads_now()); }

  std::string version;

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

  void multiply(Op a_op, Op b_op, Size m, Size n, Size k, float scale, const float* a, const float* b, float beta,
                float* c) const override {
    const Size lda = a_op == Op::none ? m : k, ldb = b_op == Op::none ? k : n;
    gemm_(column_major, code(a_op), code(b_op), narrow(m), narrow(n), narrow(k), scale, a, narrow(lda), b, narrow(ldb),
          beta, c, narrow(m));
  }
  /// y = scale · op(A) x + beta · y, with A of rows × columns.
  void multiply_vector(Op op, Size rows, Size columns, float scale, const float* a, const float* x, float beta,
                       float* y) const {
    gemv_(column_major, code(op), narrow(rows), narrow(columns), scale, a, narrow(rows), x, 1, beta, y, 1);
  }

 private:
  static constexpr int column_major = 102;
  static int code(Op op) { return op == Op::none ? 111 : 112; }
  static int narrow(Size size) { return static_cast<int>(size); }

  void (*gemm_)(int, int, int, int, int, int, float, const float*, int, const float*, int, float, float*, int);
  void (*gemv_)(int, int, int, int, float, const float*, int, const float*, int, float, float*, int);
};

/// For one token, by sgemv. A product of depth one still is an sgemm.
class CblasVectors final : public Products {
 public:
  explicit CblasVectors(const Cblas& library) : library_(library) {}
  void follow_threads() const override { library_.follow_threads(); }
  void multiply(Op a_op, Op b_op, Size m, Size n, Size k, float scale, const float* a, const float* b, float beta,
                float* c) const override {
    if (b_op == Op::transpose) return library_.multiply(a_op, b_op, m, n, k, scale, a, b, beta, c);
    library_.multiply_vector(a_op, a_op == Op::none ? m : k, a_op == Op::none ? k : m, scale, a, b, beta, c);
  }

 private:
  const Cblas& library_;
};

struct OpenBlas final : Cblas {
  explicit OpenBlas(const char* path) : Cblas(path) {
    constexpr int openmp = 2;
    if (find<int (*)()>("openblas_get_parallel")() != openmp) {
      throw std::runtime_error("found, but not its OpenMP variant: threads of its own would fight ours");
    }
    version = find<char* (*)()>("openblas_get_config")();
  }
};

class Blis final : public Cblas {
 public:
  explicit Blis(const char* path) : Cblas(path) {
    find<void (*)()>("bli_init")();  // asked for its kernels before this, 0.9 aborts
    set_own_threads_ = find<decltype(set_own_threads_)>("bli_thread_set_num_threads");
    const int kernels = find<int (*)()>("bli_arch_query_id")();
    version = std::string(find<const char* (*)()>("bli_info_get_version_str")()) + ", kernels " +
              find<const char* (*)(int)>("bli_arch_string")(kernels);
  }
  void follow_threads() const override { set_own_threads_(threads_now()); }

 private:
  void (*set_own_threads_)(Size);
};

class OneDnn final : public Library {
 public:
  explicit OneDnn(const char* path) : Library(path), gemm_(find<decltype(gemm_)>("dnnl_sgemm")) {
    struct Version {
      int major, minor, patch;
    };
    const auto& v = *find<const Version* (*)()>("dnnl_version")();
    const int isa = find<int (*)()>("dnnl_get_effective_cpu_isa")();
    constexpr int avx2 = 0x7, avx512 = 0x20;  // bits of dnnl_cpu_isa_t
    version = std::to_string(v.major) + '.' + std::to_string(v.minor) + '.' + std::to_string(v.patch) + ", sgemm on " +
              ((isa & avx512) != 0    ? "AVX-512"
               : (isa & avx2) == avx2 ? "AVX2"
                                      : "less than AVX2");
  }
  void multiply(Op a_op, Op b_op, Size m, Size n, Size k, float scale, const float* a, const float* b, float beta,
                float* c) const override {
    const Size lda = a_op == Op::none ? m : k, ldb = b_op == Op::none ? k : n;
    // It is row-major, Cᵀ = Bᵀ Aᵀ here.
    gemm_(static_cast<char>(b_op), static_cast<char>(a_op), n, m, k, scale, b, ldb, a, lda, beta, c, m);
  }

 private:
  int (*gemm_)(char, char, Size, Size, Size, float, const float*, Size, const float*, Size, float, float*, Size);
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
    library.version = opened.version + kernels;
    library.gemm = &opened;
    if constexpr (std::is_base_of_v<Cblas, Kind>) {
      static const CblasVectors vectors(opened);
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
