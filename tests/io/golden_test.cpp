// SPDX-License-Identifier: MIT
//
// Adapters that Python wrote (tests/golden/make_adapters.py): loaded, run against what PyTorch computed, and saved
// again.
#include "hydralora/io/peft.hpp"
#include "support/files.hpp"
#include "support/layers.hpp"

using namespace hydralora;
using namespace support;

namespace {

const std::filesystem::path golden = HYDRALORA_GOLDEN_FOLDER;

template <class Layer>
void check(const char* name, DType type) {
  CAPTURE(name);
  const TemporaryFolder folder;
  const PeftDirectory directory(golden / name);
  const SafetensorsFile expected(golden / name / "expected.safetensors");
  PeftWriter writer;
  CHECK(directory.modules().size() == 2);
  for (const AdapterModule& m : directory.modules()) {
    CAPTURE(m.name);
    const Layer layer = directory.load<Layer>(m.name);
    const Index tokens = expected.entry(m.name + ".x").shape[0];
    Matrix<float> x(m.in_features, tokens), y(m.out_features, tokens);
    expected.read(m.name + ".x", x.transpose());  // in the file a row is a token
    expected.read(m.name + ".y", y.transpose());
    CHECK((apply(layer, x) - y).norm() <= 1e-6F * y.norm());
    CHECK(y.norm() > 1);
    CHECK(m.type == type);
    writer.add(m.name, layer, type);
  }
  writer.save(folder("saved"));
  const SafetensorsFile before(golden / name / "adapter_model.safetensors"),
      after(folder("saved") / "adapter_model.safetensors");
  CHECK(before.tensors().size() == after.tensors().size());
  for (const auto& [tensor, entry] : before.tensors()) {
    CAPTURE(tensor);
    CHECK(after.entry(tensor, entry.shape).type == entry.type);
    CHECK(after.bytes(tensor) == before.bytes(tensor));
  }
  for (const AdapterModule& m : directory.modules()) {  // and what was saved computes the same
    const Layer one = directory.load<Layer>(m.name), other = PeftDirectory(folder("saved")).load<Layer>(m.name);
    CHECK(same_bits<float>(one.parameters(), other.parameters()));
    CHECK(one.scaling() == other.scaling());
  }
}

}  // namespace

TEST_CASE("adapters from Python give PyTorch's results, and are saved with the same bytes") {
  check<LoRA<float>>("lora", DType::F32);
  check<HydraLoRA<float>>("hydra_lora", DType::F32);
  check<HydraLoRA<float>>("hydra_lora_bf16", DType::BF16);
  check<SplitLoRA<float>>("lora_moe", DType::F32);
}
