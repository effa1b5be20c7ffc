// SPDX-License-Identifier: MIT
//
// Everything the adapters are compared with.
#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "composed.hpp"
#include "peers_torch.hpp"
#include "problem.hpp"

namespace bench {
namespace {

PeerKind composed(const std::string& name, const std::string& version, const std::vector<ProductLibrary>& libraries) {
  PeerKind kind{name, version, "", nullptr};
  for (const ProductLibrary& library : libraries) {
    if (library.gemm != nullptr) {
      kind.make = [libraries](const Problem& problem) { return std::make_unique<ComposedPeer>(problem, libraries); };
      return kind;
    }
    kind.missing = library.missing;
  }
  return kind;
}

/// glibc gives large blocks back to the system when they are freed, and torch, which allocates its temporaries anew in
/// every call, would mostly wait for page faults.
void keep_freed_memory() {
#ifdef __GLIBC__
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, -1);  // never
  mallopt(M_TOP_PAD, 512 << 20);
#endif
}

}  // namespace

const std::vector<ProductLibrary>& product_libraries() {
  // OpenBLAS before torch, which brings the same file: it reads the environment when it is loaded.
  static const std::vector<ProductLibrary> libraries{eigen_library(), openblas_library(), onednn_library(),
                                                     blis_library()};
  return libraries;
}

const std::vector<PeerKind>& peers() {
  static const std::vector<PeerKind> kinds = [] {
    keep_freed_memory();
    std::vector<PeerKind> all;
    for (const ProductLibrary& library : product_libraries()) {
      all.push_back(composed(library.name, library.version, {library}));
    }
    all.push_back(composed("best", "each product by the fastest of the above", product_libraries()));
    for (PeerKind& kind : torch_peers()) all.push_back(std::move(kind));
    return all;
  }();
  return kinds;
}

}  // namespace bench
