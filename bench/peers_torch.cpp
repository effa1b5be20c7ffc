// SPDX-License-Identifier: MIT
//
// HydraLoRA (LoRA where not routed) in PyTorch with its autograd, in two manners:
//
//   released  head by head, y += s · ω_i ∘ (B_i (A x)), A x computed anew for every head, as the authors' layer does
//             it, in the leanest words PyTorch has for that
//   smart     [A; gate] x once, u by a broadcast product, one addmm
//
// A row-major [tokens, features] tensor has the bytes of our matrices, so x, dy, y and dx are used in place.
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/softmax.h>
#include <c10/core/GradMode.h>
#include <dlfcn.h>
#include <torch/version.h>

#include <filesystem>

#include "peers.hpp"

namespace bench {
namespace {

using at::Tensor;

/// The bytes of a column-major matrix as its transpose, row-major.
Tensor transposed_view(const Matrix& m) {
  return at::from_blob(const_cast<float*>(m.data()), {m.cols(), m.rows()});  // torch has no read-only tensors
}

void follow_threads() {
  const int threads = threads_now();
  if (at::get_num_threads() != threads) at::set_num_threads(threads);
}

Tensor leaf(const Tensor& value) { return value.detach().requires_grad_(); }

/// Autograd adds into a gradient that is already there.
void collect_in(Tensor& parameter, const Tensor& gradient) { parameter.mutable_grad() = gradient; }

class Released final : public Peer {
 public:
  explicit Released(const Problem& p) : p_(p), x_(leaf(transposed_view(p.x))), A_(leaf(transposed_view(p.A).t())) {
    if (p.routed()) gate_ = leaf(transposed_view(p.gate).t());
    for (Index head = 0; head < p.blocks(); ++head) {
      B_.push_back(leaf(transposed_view(p.B).narrow(0, head * p.rank, p.rank).t()));
    }
  }

  void forward(Matrix& y) override {
    follow_threads();
    y_ = transposed_view(y);
    Tensor omega;
    if (p_.routed()) omega = at::softmax(at::linear(x_, gate_), -1);
    for (std::size_t head = 0; head < B_.size(); ++head) {
      Tensor add = at::linear(at::linear(x_, A_), B_[head]);
      if (p_.routed()) add = omega.select(1, static_cast<Index>(head)).unsqueeze(1) * add;
      y_.add_(add, p_.scaling);
    }
  }

  void backward(Matrix& dA, Matrix& dgate, Matrix& dB, Matrix& dx) override {
    follow_threads();
    collect_in(x_, transposed_view(dx));
    collect_in(A_, transposed_view(dA).t());
    if (p_.routed()) collect_in(gate_, transposed_view(dgate).t());
    for (std::size_t head = 0; head < B_.size(); ++head) {
      const auto first = static_cast<Index>(head) * p_.rank;
      collect_in(B_[head], transposed_view(dB).narrow(0, first, p_.rank).t());
    }
    y_.backward(transposed_view(p_.dy));
    y_.reset();
  }

 private:
  const Problem& p_;
  Tensor x_, A_, gate_, y_;
  std::vector<Tensor> B_;
};

class Smart final : public Peer {
 public:
  /// down [in, rank + heads] and up [heads·rank, out]: the way round in which all gradients come out contiguous.
  explicit Smart(const Problem& p) : p_(p), x_(leaf(transposed_view(p.x))), up_(leaf(transposed_view(p.B))) {
    Tensor down = transposed_view(p.A);
    if (p.routed()) down = at::cat({down, transposed_view(p.gate)}, 1);
    down_ = leaf(down);
  }

  void forward(Matrix& y) override {
    follow_threads();
    y_ = transposed_view(y);
    Tensor u = at::mm(x_, down_);
    if (p_.routed()) {
      const Tensor h = u.narrow(1, 0, p_.rank), omega = at::softmax(u.narrow(1, p_.rank, p_.heads), -1);
      u = (omega.unsqueeze(2) * h.unsqueeze(1)).reshape({p_.tokens, p_.heads * p_.rank});
    }
    y_.addmm_(u, up_, 1, p_.scaling);
  }

  void backward(Matrix& dA, Matrix& dgate, Matrix& dB, Matrix& dx) override {
    follow_threads();
    collect_in(x_, transposed_view(dx));
    collect_in(up_, transposed_view(dB));
    if (!p_.routed()) collect_in(down_, transposed_view(dA));
    y_.backward(transposed_view(p_.dy));
    y_.reset();
    if (!p_.routed()) return;
    const c10::NoGradGuard no_grad;
    transposed_view(dA).add_(down_.grad().narrow(1, 0, p_.rank));
    transposed_view(dgate).add_(down_.grad().narrow(1, p_.rank, p_.heads));
    down_.mutable_grad() = Tensor();
  }

 private:
  const Problem& p_;
  Tensor x_, up_, down_, y_;
};

/// Version and the BLAS that its products end up in.
std::string describe() {
  std::string text = TORCH_VERSION;
  Dl_info blas;
  if (at::hasMKL()) {
    text += ", MKL";
  } else if (dladdr(dlsym(RTLD_DEFAULT, "sgemm_"), &blas) != 0) {
    const auto file = std::filesystem::canonical(blas.dli_fname);  // Debian: the folder says whose it is
    text += ", no MKL, sgemm from " + (file.parent_path().filename() / file.filename()).string();
  }
  return text;
}

}  // namespace
}  // namespace bench

extern "C" {

const char* bench_torch_version() {
  static const std::string text = bench::describe();
  return text.c_str();
}

bench::Peer* bench_torch_make(const bench::Problem& problem, bench::TorchStyle style) {
  if (style == bench::TorchStyle::released) return new bench::Released(problem);
  return new bench::Smart(problem);
}
}
