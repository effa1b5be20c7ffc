// SPDX-License-Identifier: MIT
//
// dlib: an adapter as a computational layer of a network, around the fc layer of a network that has been trained.
// Tensors are row-major [samples, k], so a sample is a token. The weights of fc are row-major [inputs, outputs]: the
// bytes of Eigen's W (outputs × inputs).
#include <dlib/dnn.h>

#include <cstdio>
#include <hydralora/hydralora.hpp>

using hydralora::Index;

/// Samples as tokens, on the tensor's memory; of a GPU's tensor host() is a copy that dlib keeps up to date.
hydralora::ConstTokens<float> tokens(const dlib::tensor& t) {
  return {t.host(), static_cast<Index>(t.size()) / t.num_samples(), t.num_samples()};
}
hydralora::Tokens<float> tokens(dlib::tensor& t) {
  return {t.host(), static_cast<Index>(t.size()) / t.num_samples(), t.num_samples()};
}
hydralora::ParameterMap<float> parameters(dlib::tensor& t) { return {t.host(), static_cast<Index>(t.size())}; }

/// y = fc(x) + s B A x, with fc as it was and A and B for dlib's solvers to train.
template <unsigned long outputs>
class adapted_fc_ {
 public:
  using LoRA = hydralora::LoRA<float>;
  using Base = dlib::fc_<outputs, dlib::FC_HAS_BIAS>;

  adapted_fc_(const Base& trained, Index rank) : base(trained) {
    base.set_learning_rate_multiplier(0);  // frozen: its backward() then computes dx alone
    config.out_features = outputs;
    config.rank = rank;
  }

  template <class Subnet>
  void setup(const Subnet& sub) {
    config.in_features = tokens(sub.get_output()).features();
    params.set_size(static_cast<long>(LoRA(config).parameter_count()));
    adapter().initialize();
  }

  template <class Subnet>
  void forward(const Subnet& sub, dlib::resizable_tensor& y) {
    base.forward(sub, y);
    adapter().forward(tokens(sub.get_output()), tokens(y), cache);
  }

  template <class Subnet>
  void backward(const dlib::tensor& dy, Subnet& sub, dlib::tensor& params_grad) {
    base.backward(dy, sub, params_grad);  // dx, which is added to
    params_grad = 0;                      // the gradients, which dlib wants written
    LoRA::Gradients g = gradients(params_grad);
    adapter().backward(tokens(sub.get_output()), tokens(dy), cache, g, tokens(sub.get_gradient_input()));
  }

  dlib::tensor& get_layer_params() { return params; }
  const dlib::tensor& get_layer_params() const { return params; }

  /// A view of params, made when it is needed: dlib copies and moves its layers.
  LoRA adapter() { return {config, parameters(params)}; }
  LoRA::Gradients gradients(dlib::tensor& params_grad) const { return {config, parameters(params_grad)}; }

 private:
  Base base;
  hydralora::LoRAConfig config;
  dlib::resizable_tensor params;  // A and B
  LoRA::Cache cache;
};

using Matrix = dlib::matrix<float>;  // row-major

/// One of an adapter's matrices, copied out.
template <class Map>
Matrix matrix(const Map& map) {
  Matrix copy(map.rows(), map.cols());
  Eigen::Map<Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>>(copy.begin(), copy.nr(),
                                                                                    copy.nc()) = map;
  return copy;
}

bool close(const char* what, const Matrix& actual, const Matrix& expected) {
  const float error = dlib::length(dlib::reshape_to_column_vector(actual - expected)) /
                      dlib::length(dlib::reshape_to_column_vector(expected));
  if (error <= 1e-5F) return true;  // some hundred roundings of 6e-8; a wrong formula is off by far more
  std::printf("dlib: %s is off by %g\n", what, static_cast<double>(error));
  return false;
}

int main() {
  constexpr long in = 24, out = 16, samples = 64, rank = 3;
  std::srand(1);  // dlib starts its layers from it
  dlib::rand random(1);
  const Matrix change = Matrix(dlib::matrix_cast<float>(dlib::gaussian_randm(out, rank, 1))) *
                        Matrix(dlib::matrix_cast<float>(dlib::gaussian_randm(rank, in, 2))) / in;
  std::vector<Matrix> x(samples), target(samples);
  for (Matrix& sample : x)
    sample = dlib::matrix_cast<float>(dlib::gaussian_randm(in, 1, random.get_random_32bit_number()));

  // The network that is there already, and what it should have learnt.
  dlib::loss_mean_squared_multioutput<dlib::fc<out, dlib::input<Matrix>>> trained;
  for (std::size_t i = 0; i < x.size(); ++i) target[i] = trained(x[i]) + change * x[i];
  const auto& fc = dlib::layer<1>(trained).layer_details();

  dlib::loss_mean_squared_multioutput<dlib::add_layer<adapted_fc_<out>, dlib::input<Matrix>>> net(
      adapted_fc_<out>(fc, rank));
  std::vector<dlib::adam> solvers(net.num_computational_layers, dlib::adam(/*weight_decay=*/0, 0.9F, 0.999F));
  dlib::resizable_tensor batch;
  net.to_tensor(x.begin(), x.end(), batch);
  const double first = net.compute_parameter_gradients(batch, target.begin());
  for (int step = 0; step < 300; ++step) {
    net.update_parameters(solvers, /*learning_rate=*/1e-2);
    net.compute_parameter_gradients(batch, target.begin());
  }
  const double last = net.compute_parameter_gradients(batch, target.begin());
  const std::vector<Matrix> goal(samples, dlib::zeros_matrix<float>(out, 1));
  net.compute_parameter_gradients(batch, goal.begin());  // for the comparison: at the minimum a gradient's terms cancel

  auto& layer = net.subnet();
  const auto lora = layer.layer_details().adapter();
  const auto gradients = layer.layer_details().gradients(layer.get_parameter_gradient());
  const Matrix W = dlib::mat(fc.get_weights()), b = dlib::mat(fc.get_biases());  // W is in × out here
  const Matrix A = matrix(lora.A()), B = matrix(lora.B()), X = dlib::reshape(dlib::mat(batch), samples, in);
  const Matrix Y = dlib::mat(layer.get_output()), dY = Y / samples;
  const float s = lora.scaling();

  bool good = close("Y", Y, X * W + dlib::ones_matrix<float>(samples, 1) * b + s * X * dlib::trans(A) * dlib::trans(B));
  good &= close("dX", dlib::reshape(dlib::mat(layer.get_final_data_gradient()), samples, in),
                dY * dlib::trans(W) + s * dY * B * A);
  good &= close("dA", matrix(gradients.A()), s * dlib::trans(B) * dlib::trans(dY) * X);
  good &= close("dB", matrix(gradients.B()), s * dlib::trans(dY) * X * dlib::trans(A));
  good &= close("W", matrix(Eigen::Map<const Eigen::MatrixXf>(fc.get_weights().get().host(), out, in)), dlib::trans(W));

  good &= last < first / 100 && tokens(layer.get_output()).data() == layer.get_output().host();
  good &= static_cast<const float*>(lora.parameters().data()) == layer.layer_details().get_layer_params().host();
  std::printf("dlib: loss %g -> %g with dlib's own solver on the adapter's parameters%s\n", first, last,
              good ? "" : ": FAILED");
  return good ? 0 : 1;
}
