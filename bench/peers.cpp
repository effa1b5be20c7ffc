// SPDX-License-Identifier: MIT
#include "peers.hpp"

#include <dlfcn.h>

namespace bench {
namespace {

PeerKind composed(const std::string& name, const std::string& version, const std::vector<ProductLibrary>& libraries) {
  PeerKind kind{name, version, "", nullptr};
  for (const ProductLibrary& library : libraries) {
    if (library.gemm != nullptr) {
      kind.make = [libraries](const Problem& problem) { return make_composed(problem, libraries); };
      return kind;
    }
    kind.missing = library.missing;
  }
  return kind;
}

void add_torch_peers(std::vector<PeerKind>& all) {
  std::string version, missing = "libtorch not found at configure time (Debian: libtorch-dev)";
  TorchMake* make = nullptr;
#ifdef BENCH_TORCH_MODULE
  if (void* const module = dlopen(BENCH_TORCH_MODULE, RTLD_NOW | RTLD_LOCAL)) {
    version = reinterpret_cast<TorchVersion*>(dlsym(module, torch_version_name))();
    make = reinterpret_cast<TorchMake*>(dlsym(module, torch_make_name));
    missing.clear();
  } else {
    missing = dlerror();
  }
#endif
  for (const auto& [name, style] :
       {std::pair{"torch_released", TorchStyle::released}, std::pair{"torch_smart", TorchStyle::smart}}) {
    all.push_back(
        {name, version, missing, [make, s = style](const Problem& p) { return std::unique_ptr<Peer>(make(p, s)); }});
  }
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
    add_torch_peers(all);
    return all;
  }();
  return kinds;
}

}  // namespace bench
