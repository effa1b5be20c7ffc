// SPDX-License-Identifier: MIT
//
// An adapter out of GEMM products, as somebody would write it who has a fast BLAS and no fused kernels.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "problem.hpp"
#include "products.hpp"

namespace bench {

/// HydraLoRA (LoRA where not routed) as six products and the mixing between them:
///
///   P = [A; G] x    ω = softmax, u_i = ω_i h    y += s B u
///   V = s Bᵀ dy     dB += s dy uᵀ               dh, dℓ from V      [dA; dG] += [dh; dℓ] xᵀ     dx += [A; G]ᵀ [dh; dℓ]
///
/// Everything is allocated in the constructor, which also times each product on this problem, at the present number of
/// threads, with each of the libraries and both layouts of the weights. Forward and backward then run on the fastest for
/// each product, or all on one library where that is faster still (a product alone finds warmer caches). That both layouts are
/// there, without anybody paying for them when weights change, is in the peers' favour.
class ComposedPeer final : public Peer {
 public:
  ComposedPeer(const Problem& problem, const std::vector<ProductLibrary>& libraries);

  void forward(Matrix& y) override;
  void backward(Matrix& dA, Matrix& dgate, Matrix& dB, Matrix& dx) override;

  /// Which library and layout each product runs on: "P openblas wide, Y onednn tall, …".
  std::string choices() const;

 private:
  enum Step { project, expand_up, shrink_up, accumulate_up, accumulate_down, expand_down, steps };
  struct Choice {
    std::string library;
    const Products* products;
    Layout layout;
    const char* entry;
  };
  using Choices = std::array<Choice, steps>;
  struct Outputs {
    Matrix *y, *dA, *dgate, *dB, *dx;
  };

  StackShape down_shape(Layout layout) const { return {layout, problem_.in, problem_.rank + problem_.gate.rows()}; }
  StackShape up_shape(Layout layout) const { return {layout, problem_.out, problem_.B.cols()}; }
  std::vector<Choice> candidates(Step step, const std::vector<ProductLibrary>& libraries) const;
  void choose(const std::vector<ProductLibrary>& libraries);
  void follow_threads() const;
  void run(Step step, const Outputs& to) { run(step, choices_[step], to); }
  void run(Step step, const Choice& choice, const Outputs& to);
  void add_down_gradient(const Choice& choice, Matrix& dA, Matrix& dgate);
  void mix();
  void unmix();

  const Problem& problem_;
  std::array<Matrix, 2> down_, up_;  // by layout
  Matrix p_, omega_, u_, v_, dp_;    // columns are tokens; unrouted, u is p and dp is v
  Matrix down_gradient_;
  Choices choices_{};
};

}  // namespace bench
