// SPDX-License-Identifier: MIT
//
// The library used by name, for every compiler and policy of the matrix (checks.py): what an embedding host writes,
// with nothing but plain Eigen arguments, and one training step of every layer.
#include <hydralora/analysis.hpp>
#include <hydralora/hydralora.hpp>
#include <hydralora/layers/adapter_set.hpp>
#include <hydralora/layers/merge.hpp>
#include <hydralora/layers/stored_linear.hpp>
#include <hydralora/train.hpp>

#include <cstdio>
#include <cstdlib>
#include <cstring>

hydralora::Index other_unit();  // two translation units with every header link
#if defined(ONE_UNIT)
hydralora::Index other_unit() { return 16; }
#endif

#if !HYDRALORA_HAS_EXCEPTIONS
void hydralora::on_failure(const char* message) {
  const bool expected = std::strcmp(message, "LoRA::forward: x is 7x3, expected 8x3 (in_features x tokens)") == 0;
  std::printf("on_failure: %s\n", message);
  std::exit(expected ? 0 : 2);
}
#endif

namespace {

using namespace hydralora;

/// One training step of a layer on a frozen base. @return  whether its parameters moved and everything is finite.
template <class Layer>
bool trains(const typename Layer::Config& config) {
  using Scalar = typename Layer::Scalar;
  using Matrix = Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic>;
  AdaptedLinear<DenseLinear<Scalar>, Layer> layer(DenseLinear<Scalar>(Matrix::Identity(8, 8)), Layer(config, 1));
  const Matrix before = layer.adapter.parameters(), x = Matrix::Ones(8, 300);
  Matrix y = Matrix::Zero(8, 300), dx = y;
  typename Layer::Cache cache;
  typename Layer::Gradients gradients(config);
  layer.forward(x, y, cache);
  layer.backward(x, y, cache, gradients, dx);
  AdamW<Scalar> optimizer({{layer.adapter.parameters(), gradients.parameters(), 1e-3}});
  optimizer.step();
  return y.allFinite() && dx.allFinite() && layer.adapter.parameters() != before;
}

bool embeds() {
  const Eigen::MatrixXf x = Eigen::MatrixXf::Random(24, 10), dy = Eigen::MatrixXf::Random(16, 10);
  Eigen::MatrixXf y = Eigen::MatrixXf::Zero(16, 10), dx = Eigen::MatrixXf::Zero(24, 10);

  HydraLoRAConfig config;
  config.in_features = 24;
  config.out_features = 16;
  config.rank = 4;
  config.heads = 3;
  HydraLoRA<float> layer(config, 42);
  layer.B(1).setConstant(0.5F);
  layer.A() = Eigen::MatrixXf::Ones(4, 24);
  layer.gate().setZero();
  layer.parameters() *= layer.scaling();

  HydraLoRA<float>::Cache cache;
  HydraLoRA<float>::Gradients g(layer.config());
  layer.forward(x, y);
  layer.forward(x, y, cache);
  layer.backward(x, dy, cache, g, dx);
  layer.backward(x, dy, cache, g);
  const float seen =
      g.A().sum() + g.B(1).sum() + g.gate().sum() + g.parameters().sum() + cache.weights().matrix().sum();
  g.set_zero();

  LoRA<double> lora(LoRAConfig{24, 16, 4});
  SplitLoRA<float> split(SplitLoRAConfig{24, 16, 4});
  split.forward(x, y.leftCols(10));
  const auto count = lora.parameter_count() + split.A(1).size() + lora.B().size();
  return seen == seen && count > 0 && y.allFinite() && dx.squaredNorm() > 0;
}

}  // namespace

int main() {
  const bool trained = trains<LoRA<float>>({8, 8, 2}) && trains<SplitLoRA<double>>({8, 8, 2}) &&
                       trains<HydraLoRA<float>>({8, 8, 2}) && trains<SharedBLoRA<double>>({8, 8, 2});
  Eigen::MatrixXf weight = Eigen::MatrixXf::Identity(8, 8);
  const LoRA<float> adapter(LoRAConfig{8, 8, 2});
  merge(adapter, weight).restore(weight);
  KMeansConfig clusters;
  clusters.clusters = 2;
  const bool clustered = kmeans(Eigen::MatrixXf(Eigen::MatrixXf::Random(8, 20)), clusters).centroids.cols() == 2;
  if (!trained || !clustered || !embeds() || other_unit() != LoRA<float>(LoRAConfig{4, 4, 2}).parameter_count())
    return 1;
#if !HYDRALORA_HAS_EXCEPTIONS
  Eigen::MatrixXf y = Eigen::MatrixXf::Zero(8, 3);
  adapter.forward(Eigen::MatrixXf(7, 3), y);
  return 3;  // on_failure() returned
#endif
}
