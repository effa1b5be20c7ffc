// SPDX-License-Identifier: MIT
#include <dlfcn.h>

#include "peers_torch.hpp"

namespace bench {

std::vector<PeerKind> torch_peers() {
  std::string version, missing;
  TorchMake* make = nullptr;
#ifdef BENCH_TORCH_MODULE
  if (void* const module = dlopen(BENCH_TORCH_MODULE, RTLD_NOW | RTLD_LOCAL)) {
    version = reinterpret_cast<TorchVersion*>(dlsym(module, torch_version_name))();
    make = reinterpret_cast<TorchMake*>(dlsym(module, torch_make_name));
  } else {
    missing = dlerror();
  }
#else
  missing = "libtorch not found at configure time (Debian: libtorch-dev)";
#endif
  const auto kind = [&](const char* name, TorchStyle style) {
    PeerKind result{name, version, missing, nullptr};
    if (make != nullptr) {
      result.make = [make, style](const Problem& problem) { return std::unique_ptr<Peer>(make(problem, style)); };
    }
    return result;
  };
  return {kind("torch_released", TorchStyle::released), kind("torch_smart", TorchStyle::smart)};
}

}  // namespace bench
