// SPDX-License-Identifier: MIT
#pragma once

namespace bench {

// One file each. Registered at the start of main, so that a name can be refused that is there already.
void register_ceilings();
void register_kernels();
void register_layers();
void register_peers();

}  // namespace bench
