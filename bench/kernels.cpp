// SPDX-License-Identifier: MIT
//
// The kernels by themselves, through the public functions (candidate simd), against the plain loops they are tested
// with (reference) and against what one writes with Eigen (eigen). Shapes and memory layouts are HydraLoRA's: the down
// stack [A; gate] is feature-major, the up stack [B_1 … B_N] column-major per head.
#include <hydralora/hydralora.hpp>

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <utility>

#include "adapters.hpp"
#include "harness.hpp"

namespace bench {
namespace {

namespace simd = hydralora::kernels;
namespace reference = hydralora::reference;

/// The matrices between HydraLoRA's kernels, with a Problem's numbers, and stacks as the layers store them.
template <class S>
struct Operands {
  using Scalar = S;
  using M = Eigen::Matrix<S, Eigen::Dynamic, Eigen::Dynamic>;
  explicit Operands(const Problem& problem)
      : up(problem.B.cast<S>()),
        x(problem.x.cast<S>()),
        dy(problem.dy.cast<S>()),
        down(problem.rank + problem.heads, problem.in) {
    const Index heads = problem.heads, rank = problem.rank, tokens = problem.tokens;
    down << problem.A.cast<S>(), problem.gate.cast<S>();
    // Any numbers of the right size do for what lies between two kernels.
    p = x.topRows(1).replicate(rank + heads, 1) + dy.topRows(1).replicate(rank + heads, 1);
    h = p.topRows(rank);
    logits = p.bottomRows(heads);
    for (Index i = 0; i < heads; ++i) logits.row(i) *= static_cast<S>(i + 1) / static_cast<S>(heads);
    weights = logits.cwiseAbs() / static_cast<S>(heads);
    in_place = logits;
    v = x.topRows(1).replicate(heads * rank, 1);
    u.setZero(heads * rank, tokens);
    dh.setZero(rank, tokens);
    y.setZero(problem.out, tokens);
    dx.setZero(problem.in, tokens);
    ddown.setZero(down.rows(), down.cols());
    dup.setZero(up.rows(), up.cols());
    combined.setZero(problem.out, rank);
  }

  const M up, x, dy;  // the up stack and the wide operands
  M down;
  M p, v;                                 // (rank + heads × tokens), (heads · rank × tokens)
  M h, weights, logits, in_place, u, dh;  // between the stacks
  M y, dx, ddown, dup;                    // added to
  M combined;                             // B̄, (out × rank)
};
using F = Operands<float>;
using D = Operands<double>;
template <class O>
using ScalarOf = typename std::decay_t<O>::Scalar;

/// A matrix as the kernels take it; a gradient is written, everything else is const.
template <class M>
using StackOf = hydralora::Stack<std::remove_pointer_t<decltype(std::declval<M&>().data())>>;
template <class M>
StackOf<M> down_stack(M& m) {
  return {m.data(), m.rows(), m.cols(), 1, m.rows()};
}
template <class M>
StackOf<M> up_stack(M& m) {
  return {m.data(), m.cols(), m.rows(), m.rows(), 1};
}

double bytes(const Matrix& m) { return static_cast<double>(sizeof(float)) * static_cast<double>(m.size()); }

Work product(const Matrix& a, const Matrix& b, const Matrix& result) {
  // All three sizes of a product a · b are in the sizes of its operands: (m k) (k n) (m n) = (m k n)².
  const double volume =
      std::sqrt(static_cast<double>(a.size()) * static_cast<double>(b.size()) * static_cast<double>(result.size()));
  const double read = bytes(a) + bytes(b), updated = bytes(result);
  return {2 * volume, read, updated, read + updated};
}

struct Sizes {
  double bytes, largest;
};
template <class... M>
Sizes of(const M&... m) {
  return {(bytes(m) + ...), static_cast<double>(std::max({m.size()...}))};
}

/// `flop` per number of the largest operand, the one with a number for every token, head and rank.
Work elementwise(double flop, Sizes read, Sizes written) {
  return {flop * std::max(read.largest, written.largest), read.bytes, written.bytes, read.bytes + written.bytes};
}

/// B̄ = Σ_i ω_i B_i
template <class O>
void form_combined(O& o) {
  const Index rank = o.h.rows();
  o.combined.setZero();
  for (Index i = 0; i < o.weights.rows(); ++i) o.combined += o.weights(i, 0) * o.up.middleCols(i * rank, rank);
}

/// One kernel: work, three ways to compute it, the plain one also in double, and where its result is.
struct Kernel {
  const char* name;
  Work (*work)(const F&);
  void (*with_simd)(F&);
  void (*with_eigen)(F&);
  void (*plain)(F&);
  void (*twin)(D&);
  Matrix F::*output;
  Eigen::MatrixXd D::*twin_output;
};

/// `plain` is a generic function, for float and double.
template <class Plain>
Kernel kernel(const char* name, Matrix F::*output, Eigen::MatrixXd D::*twin_output, Work (*work)(const F&),
              void (*with_simd)(F&), void (*with_eigen)(F&), Plain plain) {
  return {name, work, with_simd, with_eigen, plain, plain, output, twin_output};
}

std::vector<Kernel> all_kernels() {
  return {
      kernel(
          "shrink_down", &F::p, &D::p, [](const F& o) { return product(o.down, o.x, o.p); },
          [](F& o) { simd::shrink<float>(down_stack(std::as_const(o.down)), o.x, 1, o.p); },
          [](F& o) { o.p.noalias() = o.down * o.x; },
          [](auto& o) { reference::shrink<ScalarOf<decltype(o)>>(down_stack(std::as_const(o.down)), o.x, o.p); }),
      kernel(
          "shrink_up", &F::v, &D::v, [](const F& o) { return product(o.up, o.dy, o.v); },
          [](F& o) { simd::shrink<float>(up_stack(o.up), o.dy, 1, o.v); },
          [](F& o) { o.v.noalias() = o.up.transpose() * o.dy; },
          [](auto& o) { reference::shrink<ScalarOf<decltype(o)>>(up_stack(o.up), o.dy, o.v); }),
      kernel(
          "expand_down", &F::dx, &D::dx, [](const F& o) { return product(o.down, o.p, o.dx); },
          [](F& o) { simd::expand<float>(down_stack(std::as_const(o.down)), o.p, 2, o.dx); },
          [](F& o) { o.dx.noalias() += 2 * o.down.transpose() * o.p; },
          [](auto& o) { reference::expand<ScalarOf<decltype(o)>>(down_stack(std::as_const(o.down)), o.p, 2, o.dx); }),
      kernel(
          "expand_up", &F::y, &D::y, [](const F& o) { return product(o.up, o.v, o.y); },
          [](F& o) { simd::expand<float>(up_stack(o.up), o.v, 2, o.y); }, [](F& o) { o.y.noalias() += 2 * o.up * o.v; },
          [](auto& o) { reference::expand<ScalarOf<decltype(o)>>(up_stack(o.up), o.v, 2, o.y); }),
      kernel(
          "accumulate_down", &F::ddown, &D::ddown, [](const F& o) { return product(o.p, o.x, o.ddown); },
          [](F& o) { simd::accumulate<float>(o.p, o.x, 2, down_stack(o.ddown)); },
          [](F& o) { o.ddown.noalias() += 2 * o.p * o.x.transpose(); },
          [](auto& o) { reference::accumulate<ScalarOf<decltype(o)>>(o.p, o.x, 2, down_stack(o.ddown)); }),
      kernel(
          "accumulate_up", &F::dup, &D::dup, [](const F& o) { return product(o.v, o.dy, o.dup); },
          [](F& o) { simd::accumulate<float>(o.v, o.dy, 2, up_stack(o.dup)); },
          [](F& o) { o.dup.transpose().noalias() += 2 * o.v * o.dy.transpose(); },
          [](auto& o) { reference::accumulate<ScalarOf<decltype(o)>>(o.v, o.dy, 2, up_stack(o.dup)); }),
      // The two softmaxes work in place: they start from a copy, or they would run on other numbers each time.
      kernel(
          "softmax", &F::in_place, &D::in_place,
          [](const F& o) { return elementwise(0, of(o.logits), of(o.in_place)); },
          [](F& o) { simd::softmax<float>(o.in_place = o.logits); },
          [](F& o) {
            o.in_place = (o.logits.rowwise() - o.logits.colwise().maxCoeff()).array().exp();
            o.in_place.array().rowwise() /= o.in_place.colwise().sum().array().eval();
          },
          [](auto& o) { reference::softmax<ScalarOf<decltype(o)>>(o.in_place = o.logits); }),
      kernel(
          "softmax_backward", &F::in_place, &D::in_place,
          [](const F& o) { return elementwise(0, of(o.logits, o.weights), of(o.in_place)); },
          [](F& o) { simd::softmax_backward<float>(o.weights, o.in_place = o.logits); },
          [](F& o) {
            o.in_place = o.logits;
            o.in_place.rowwise() -= o.weights.cwiseProduct(o.in_place).colwise().sum().eval();
            o.in_place.array() *= o.weights.array();
          },
          [](auto& o) { reference::softmax_backward<ScalarOf<decltype(o)>>(o.weights, o.in_place = o.logits); }),
      kernel(
          "mix_heads", &F::u, &D::u, [](const F& o) { return elementwise(1, of(o.h, o.weights), of(o.u)); },
          [](F& o) { simd::mix_heads<float>(o.h, o.weights, o.u); },
          [](F& o) {
            const Index rank = o.h.rows();
            for (Index i = 0; i < o.weights.rows(); ++i) {
              o.u.middleRows(i * rank, rank) = o.h.array().rowwise() * o.weights.row(i).array();
            }
          },
          [](auto& o) { reference::mix_heads<ScalarOf<decltype(o)>>(o.h, o.weights, o.u); }),
      // The reduction over the heads: dω_i = ⟨v_i, h⟩, dh = Σ_i ω_i v_i.
      kernel(
          "mix_heads_backward", &F::dh, &D::dh,
          [](const F& o) { return elementwise(4, of(o.v, o.h, o.weights), of(o.in_place, o.dh)); },
          [](F& o) { simd::mix_heads_backward<float>(o.v, o.h, o.weights, o.in_place, o.dh); },
          [](F& o) {
            const Index rank = o.h.rows();
            o.dh.setZero();
            for (Index i = 0; i < o.weights.rows(); ++i) {
              const auto v = o.v.middleRows(i * rank, rank);
              o.in_place.row(i) = v.cwiseProduct(o.h).colwise().sum();
              o.dh.array() += v.array().rowwise() * o.weights.row(i).array();
            }
          },
          [](auto& o) { reference::mix_heads_backward<ScalarOf<decltype(o)>>(o.v, o.h, o.weights, o.in_place, o.dh); }),
      // Where one ω serves all tokens: B̄ = Σ_i ω_i B_i is formed, then y += s · B̄ h. What expand_up does for a token
      // each.
      kernel(
          "one_weighting_up", &F::y, &D::y,
          [](const F& o) {
            Work work = product(o.combined, o.h, o.y);
            work.flop += 2 * static_cast<double>(o.up.size());
            work.bytes_read += bytes(o.up);
            return work;
          },
          [](F& o) {
            simd::combine_heads<float>(up_stack(o.up), o.weights.col(0), up_stack(o.combined));
            simd::expand<float>(up_stack(std::as_const(o.combined)), o.h, 2, o.y);
          },
          [](F& o) {
            form_combined(o);
            o.y.noalias() += 2 * o.combined * o.h;
          },
          [](auto& o) {
            form_combined(o);
            reference::expand<ScalarOf<decltype(o)>>(up_stack(std::as_const(o.combined)), o.h, 2, o.y);
          }),
  };
}

void add_kernels(const std::string& set, const Shape& s, int threads, bool with_reference) {
  static const std::vector<Kernel> kernels = all_kernels();
  for (const Kernel& k : kernels) {
    const auto variant = [&](const char* candidate, void (*run)(F&)) {
      add(set + "/kernels/" + candidate + "/" + k.name + "/" + s.text(), threads, [&k, s, run] {
        const auto operands = std::make_shared<F>(*problem(s));
        Candidate result;
        result.work = k.work(*operands);
        result.call = [operands, run] { run(*operands); };
        if (result.work.flop > 3e8) return result;  // plain loops in double take a second
        result.error = [&k, s, run] {
          F single(*problem(s));
          D twin(*problem(s));
          run(single);
          k.twin(twin);
          return largest_error((single.*k.output).cast<double>(), twin.*k.twin_output);
        };
        return result;
      });
    };
    variant("simd", k.with_simd);
    variant("eigen", k.with_eigen);
    if (with_reference) variant("reference", k.plain);
  }
}

}  // namespace

void register_kernels() {
  Shape few = centre, three = centre;
  few.tokens = 16;
  three.heads = 3;
  add_kernels("select", centre, 1, false);
  add_kernels("select", three, 1, false);
  add_kernels("select", few, 1, true);  // the plain loops would take a tenth of a second each at the centre
  for (const int threads : thread_counts()) {
    for (const Shape& s : one_at_a_time()) add_kernels("sweep", s, threads, true);
  }
}

}  // namespace bench
