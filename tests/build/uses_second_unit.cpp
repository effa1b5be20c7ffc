// SPDX-License-Identifier: MIT
#include <hydralora/analysis.hpp>
#include <hydralora/hydralora.hpp>
#include <hydralora/layers/adapter_set.hpp>
#include <hydralora/layers/merge.hpp>
#include <hydralora/layers/stored_linear.hpp>
#include <hydralora/train.hpp>

hydralora::Index other_unit();
hydralora::Index other_unit() { return hydralora::LoRA<float>(hydralora::LoRAConfig{4, 4, 2}).parameter_count(); }
