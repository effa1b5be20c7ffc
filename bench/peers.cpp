// SPDX-License-Identifier: MIT
//
// Everything the adapters are compared with.
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

}  // namespace

const std::vector<ProductLibrary>& product_libraries() {
  // OpenBLAS before torch, which brings the same file: it reads the environment when it is loaded.
  static const std::vector<ProductLibrary> libraries{eigen_library(), openblas_library(), onednn_library(),
                                                     blis_library()};
  return libraries;
}

const std::vector<PeerKind>& peers() {
  static const std::vector<PeerKind> kinds = [] {
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
