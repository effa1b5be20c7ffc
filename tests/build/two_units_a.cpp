// SPDX-License-Identifier: MIT
#include <hydralora/hydralora.hpp>
#include <hydralora/train.hpp>

hydralora::Index other_unit();

int main() { return hydralora::LoRA<float>(hydralora::LoRAConfig{4, 4, 2}).parameter_count() == other_unit() ? 0 : 1; }
