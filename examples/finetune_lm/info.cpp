// SPDX-License-Identifier: MIT
#include <algorithm>
#include <chrono>
#include <iomanip>
#include <iostream>
#include <vector>

#include "commands.hpp"
#include "forecast.hpp"
#include "hydralora/io/gguf.hpp"
#include "sha256.hpp"

namespace finetune_lm {
namespace {

/// Flop per second of a product as a decoder has them, on all threads; the best of a tenth of a second.
double product_speed() {
  constexpr Index in = 576, out = 1536, tokens = 512;
  const lm::Matrix<float> w = lm::Matrix<float>::Constant(in, out, 0.5F), x = lm::Matrix<float>::Ones(in, tokens);
  lm::Matrix<float> y(out, tokens);
  const hydralora::DenseView<float> view(w.data(), out, in);
  double best = 0;
  const auto now = [] { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()); };
  for (const double begin = now().count(); now().count() < begin + 0.1;) {
    const double start = now().count();
    view.forward(hydralora::ConstTokens<float>(x), hydralora::Tokens<float>(y), hydralora::Write::overwrite);
    best = std::max(best, 2.0 * in * out * tokens / (now().count() - start));
  }
  return best;
}

void print_tensor(const std::string& name, const char* type, const std::vector<Index>& shape, const float* numbers,
                  Index count) {
  const auto* const bytes = reinterpret_cast<const unsigned char*>(numbers);
  std::cout << name << ' ' << type << ' ' << hydralora::shape_text(shape) << ' '
            << sha256(bytes, static_cast<std::size_t>(count) * sizeof(float)) << '\n';
}
void print_tensors(const hydralora::GgufFile& file) {
  for (const auto& [name, entry] : file.tensors()) {
    std::vector<float> all;
    file.for_each_row(name, [&](Index, const auto& row) { all.insert(all.end(), row.begin(), row.end()); });
    print_tensor(name, hydralora::info_of(entry.type).name, entry.shape, all.data(), static_cast<Index>(all.size()));
  }
}

}  // namespace

void info(InfoOptions o) {
  const lm::ModelConfig c = config_of(o.model);
  const auto million = [](double n) { return n / 1e6; };
  std::cout << c.model_type << ": " << c.layers << " blocks, " << c.hidden << " features, " << c.heads << " heads of "
            << c.head_dim << " (" << c.kv_heads << " for keys), feed-forward " << c.intermediate << ", vocabulary "
            << c.vocabulary << ", context " << c.positions << (c.tied ? ", lm_head tied" : "") << '\n'
            << std::fixed << std::setprecision(1) << million(static_cast<double>(lm::weight_count(c)))
            << " million weights\nlinears of every block:\n";
  lm::for_each_tensor(c, [&](const std::string& name, Index rows, Index columns) {
    if (columns > 0 && name.rfind("model.layers.0.", 0) == 0) {
      std::cout << "  " << name.substr(15) << "  " << rows << " x " << columns << '\n';
    }
  });
  constexpr double beside_products = 1.4;  // measured: a step of 135 million weights against its flop at this speed
  const double product = product_speed(), speed = product / beside_products;
  double held = weight_bytes(c, base_type_of(o.model));
  if (o.model.has_own_blocks()) {
    held = 0;
    const hydralora::GgufFile file(o.model.folder);
    for (const auto& [name, entry] : file.tensors()) held += static_cast<double>(entry.bytes);
  }
  const std::string base = o.model.base.empty() ? o.model.is_gguf() ? "as in the file" : "float32" : o.model.base;
  std::cout << "rank " << o.rank << ", " << o.heads << " heads, " << o.tokens << " tokens a step, base " << base << " ("
            << std::setprecision(2) << held / static_cast<double>(lm::weight_count(c))
            << " bytes a weight); with gradient checkpointing in brackets:\n"
            << "  method       million trained     memory GB     seconds a step\n";
  for (const char* name : {"lora", "split", "split-gated", "hydra", "full"}) {
    const bool full = std::string(name) == "full";
    const auto of = [&](bool checkpointing) {
      const bool rounds = !full && base_type_of(o.model) == lm::BaseType::bfloat16;
      return forecast(c, name, o.rank, o.heads, o.tokens, checkpointing, rounds,
                      full ? weight_bytes(c, lm::BaseType::float32) : held);
    };
    const Forecast plain = of(false), less = of(true);
    std::cout << "  " << std::left << std::setw(11) << name << std::right << std::setw(17) << million(plain.trained)
              << std::setw(8) << plain.bytes / 1e9 << " (" << less.bytes / 1e9 << ")" << std::setw(10)
              << plain.flop / speed << " (" << less.flop / speed << ")\n";
  }
  std::cout << "seconds: 1.4 times the flop of a step at the speed of a product here, now " << std::setprecision(0)
            << product / 1e9 << " GFLOP/s\n";
  const std::filesystem::path folder = o.model.folder;
  if (o.model.folder.empty()) return;
  if (o.model.is_gguf()) {
    if (o.tensors) print_tensors(hydralora::GgufFile(folder));
    return;
  }
  if (!std::filesystem::exists(folder / "model.safetensors") &&
      !std::filesystem::exists(folder / "model.safetensors.index.json")) {
    std::cout << "there are no weights in " << o.model.folder << '\n';
    return;
  }
  if (!o.tensors) return;
  const lm::Checkpoint checkpoint(folder);
  for (const auto& [name, file] : checkpoint.files()) {
    const hydralora::TensorEntry& entry = file->entry(name);
    const Index rows = entry.shape.empty() ? 1 : entry.shape[0];
    const Index columns = entry.shape.size() < 2 ? 1 : entry.shape[1];
    Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> numbers(rows, columns);
    file->read(name, numbers, false);
    print_tensor(name, hydralora::info_of(entry.type).name, entry.shape, numbers.data(), numbers.size());
  }
}

}  // namespace finetune_lm
