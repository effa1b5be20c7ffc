// SPDX-License-Identifier: MIT
//
// That the peers compute what the library computes: every product of every library in both layouts, and every peer on
// HydraLoRA and LoRA, against our layers in double precision.
#include <cmath>
#include <cstdio>

#include "composed.hpp"

namespace {

using namespace bench;
using MatrixD = Eigen::MatrixXd;

/// Sums of up to 10^3 products of O(1) in float, in an unknown order, relative to the largest magnitude.
constexpr double tolerance = 1e-5;

int failures = 0;

void check(const std::string& what, const Matrix& actual, const MatrixD& expected) {
  if (expected.size() == 0) return;
  const double error = (actual.cast<double>() - expected).cwiseAbs().maxCoeff() / expected.cwiseAbs().maxCoeff();
  if (error <= tolerance) return;  // false for NaN
  std::printf("%s: off by %g of the largest magnitude\n", what.c_str(), error);
  ++failures;
}

/// What the results are added to: nothing may be overwritten.
Matrix before(Index rows, Index cols) { return Matrix::Constant(rows, cols, 0.25F); }

std::string text(const Problem& p) {
  return " T=" + std::to_string(p.tokens) + ' ' + std::to_string(p.in) + "->" + std::to_string(p.out) +
         " r=" + std::to_string(p.rank) + (p.routed ? " N=" + std::to_string(p.heads) : " not routed");
}

struct Results {
  MatrixD y, dx, dA, dgate, dB;
};

template <class Layer>
Results expected(const Problem& p, typename Layer::Config config) {
  constexpr bool routed = std::is_same_v<Layer, hydralora::HydraLoRA<double>>;
  config.in_features = p.in;
  config.out_features = p.out;
  config.rank = p.rank;
  config.alpha = static_cast<double>(p.scaling) * static_cast<double>(p.rank);
  Layer layer(config);
  layer.A() = p.A.cast<double>();
  if constexpr (routed) {
    layer.gate() = p.gate.cast<double>();
    for (Index head = 0; head < p.heads; ++head) {
      layer.B(head) = p.B.middleCols(head * p.rank, p.rank).template cast<double>();
    }
  } else {
    layer.B() = p.B.cast<double>();
  }
  const MatrixD x = p.x.cast<double>(), dy = p.dy.cast<double>();
  Results r{MatrixD::Constant(p.out, p.tokens, 0.25), MatrixD::Constant(p.in, p.tokens, 0.25), {}, {}, {}};
  typename Layer::Cache cache;
  typename Layer::Gradients g(config);
  g.parameters().setConstant(0.25);
  layer.forward(x, r.y, cache);
  layer.backward(x, dy, cache, g, r.dx);
  r.dA = g.A();
  r.dB.resize(p.out, p.heads * p.rank);
  if constexpr (routed) {
    r.dgate = g.gate();
    for (Index head = 0; head < p.heads; ++head) r.dB.middleCols(head * p.rank, p.rank) = g.B(head);
  } else {
    r.dB = g.B();
  }
  return r;
}

void test_peer(const PeerKind& kind, const Problem& p, const Results& e) {
  const std::string what = kind.name + text(p);
  const auto peer = kind.make(p);
  for (const char* call : {" first", " second"}) {
    Matrix y = before(p.out, p.tokens), dx = before(p.in, p.tokens), dA = before(p.rank, p.in);
    Matrix dgate = before(p.gate.rows(), p.in), dB = before(p.out, p.B.cols());
    peer->forward(y);
    peer->backward(dA, dgate, dB, dx);
    check(what + call + " y", y, e.y);
    check(what + call + " dx", dx, e.dx);
    check(what + call + " dA", dA, e.dA);
    check(what + call + " dgate", dgate, e.dgate);
    check(what + call + " dB", dB, e.dB);
  }
}

void test_products(const std::string& name, const Products& products, Layout layout, Index features, Index rows,
                   Index tokens) {
  const std::string what = name + (layout == Layout::tall ? " tall " : " wide ") + std::to_string(features) + 'x' +
                           std::to_string(rows) + " T=" + std::to_string(tokens);
  const StackShape shape{layout, features, rows};
  const bool tall = layout == Layout::tall;
  const Matrix s = Matrix::Random(rows, features), x = Matrix::Random(features, tokens),
               p = Matrix::Random(rows, tokens);
  const Matrix stored = tall ? Matrix(s.transpose()) : s;
  const MatrixD sd = s.cast<double>(), xd = x.cast<double>(), pd = p.cast<double>();
  products.follow_threads();

  Matrix contracted = Matrix::Constant(rows, tokens, NAN);
  products.shrink(shape, stored.data(), x.data(), tokens, 0.5F, contracted.data());
  check(what + " shrink", contracted, 0.5 * (sd * xd));

  Matrix expanded = before(features, tokens);
  products.expand(shape, stored.data(), p.data(), tokens, 0.5F, expanded.data());
  check(what + " expand", expanded, (0.5 * (sd.transpose() * pd)).array() + 0.25);

  for (const bool add : {false, true}) {
    Matrix ds = tall ? before(features, rows) : before(rows, features);
    if (!add) ds.setConstant(NAN);
    products.accumulate(shape, p.data(), x.data(), tokens, 0.5F, add, ds.data());
    const MatrixD dsd = (0.5 * (pd * xd.transpose())).array() + (add ? 0.25 : 0.0);
    check(what + (add ? " accumulate +=" : " accumulate ="), ds, tall ? MatrixD(dsd.transpose()) : dsd);
  }
}

}  // namespace

int main() {
  for (const ProductLibrary& library : product_libraries()) {
    std::printf("library %s: %s%s\n", library.name.c_str(), library.version.c_str(), library.missing.c_str());
    for (const Layout layout : {Layout::tall, Layout::wide}) {
      for (const Index tokens : {1, 2, 17, 130}) {
        for (const Index rows : {1, 11, 64}) {
          if (library.gemm != nullptr) test_products(library.name, *library.gemm, layout, 131, rows, tokens);
          if (library.gemv != nullptr && tokens == 1) {
            test_products(library.name + " gemv", *library.gemv, layout, 131, rows, tokens);
          }
        }
      }
    }
  }
  struct Size {
    Index tokens, in, out, rank, heads;
    bool routed;
  };
  for (const Size& s : {Size{1, 64, 64, 8, 8, true}, Size{1, 37, 53, 4, 1, false}, Size{17, 37, 53, 5, 3, true},
                        Size{17, 53, 37, 5, 1, true}, Size{40, 300, 200, 8, 1, false}, Size{129, 256, 320, 8, 8, true},
                        Size{2, 320, 256, 16, 4, true}, Size{600, 70, 90, 4, 16, true}}) {
    const Problem& p = problem(s.tokens, s.in, s.out, s.rank, s.heads, s.routed);
    hydralora::HydraLoRAConfig routed;
    routed.heads = s.heads;
    const Results e = s.routed ? expected<hydralora::HydraLoRA<double>>(p, routed)
                               : expected<hydralora::LoRA<double>>(p, hydralora::LoRAConfig{});
    for (const PeerKind& kind : peers()) {
      if (kind.missing.empty()) test_peer(kind, p, e);
    }
  }
  for (const PeerKind& kind : peers()) {
    std::printf("peer %s: %s\n", kind.name.c_str(), (kind.missing.empty() ? kind.version : kind.missing).c_str());
  }
  std::printf("%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
