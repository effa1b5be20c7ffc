// SPDX-License-Identifier: MIT
//
// The kernels by themselves, through the public doors (candidate simd), against the plain loops they are tested with
// (reference) and against what one writes with Eigen (eigen). Shapes and memory layouts are HydraLoRA's: the down stack
// [A; gate] is feature-major, the up stack [B_1 … B_N] column-major per head.
#include "kernel_operands.hpp"

#include "groups.hpp"
#include "machine.hpp"
#include "shapes.hpp"
#include "twin.hpp"

namespace bench {
namespace {

namespace simd = hydralora::kernels;
namespace reference = hydralora::reference;
using F = Operands<float>;

/// The two stacks: which operands of a product are whose, and how Eigen sees the stack as (rows × features).
struct Down {
  static constexpr const char* name = "down";
  template <class O>
  static auto& stored(O& o) {
    return o.down;
  }
  template <class O>
  static auto& gradient(O& o) {
    return o.ddown;
  }
  template <class O>
  static auto& wide(O& o) {
    return o.x;
  }
  template <class O>
  static auto& added(O& o) {
    return o.dx;
  }
  template <class O>
  static auto& narrow(O& o) {
    return o.p;
  }
  template <class S>
  static auto stack(const Values<S>& m) {
    return down_stack<const S>(m.data(), m);
  }
  template <class S>
  static auto stack(Values<S>& m) {
    return down_stack<S>(m.data(), m);
  }
  template <class M>
  static M& eigen(M& m) {
    return m;
  }
};
struct Up {
  static constexpr const char* name = "up";
  template <class O>
  static auto& stored(O& o) {
    return o.up;
  }
  template <class O>
  static auto& gradient(O& o) {
    return o.dup;
  }
  template <class O>
  static auto& wide(O& o) {
    return o.dy;
  }
  template <class O>
  static auto& added(O& o) {
    return o.y;
  }
  template <class O>
  static auto& narrow(O& o) {
    return o.v;
  }
  template <class S>
  static auto stack(const Values<S>& m) {
    return up_stack<const S>(m.data(), m);
  }
  template <class S>
  static auto stack(Values<S>& m) {
    return up_stack<S>(m.data(), m);
  }
  template <class M>
  static auto eigen(M& m) {
    return m.transpose();
  }
};

template <class Side>
struct Contract {
  static std::string name() { return std::string("shrink_") + Side::name; }
  static Work work(F& o) { return product(Side::stored(o), Side::wide(o), Side::narrow(o)); }
  template <class O>
  static auto& output(O& o) {
    return Side::narrow(o);
  }
  static void run_simd(F& o) {
    simd::shrink<float>(Side::stack(std::as_const(Side::stored(o))), Side::wide(o), Side::narrow(o));
  }
  template <class S>
  static void run_reference(Operands<S>& o) {
    reference::shrink<S>(Side::stack(std::as_const(Side::stored(o))), Side::wide(o), Side::narrow(o));
  }
  static void run_eigen(F& o) { Side::narrow(o).noalias() = Side::eigen(Side::stored(o)) * Side::wide(o); }
};

template <class Side>
struct Expand {
  static std::string name() { return std::string("expand_") + Side::name; }
  static Work work(F& o) { return product(Side::stored(o), Side::narrow(o), Side::added(o)); }
  template <class O>
  static auto& output(O& o) {
    return Side::added(o);
  }
  static void run_simd(F& o) {
    simd::expand<float>(Side::stack(std::as_const(Side::stored(o))), Side::narrow(o), 2, Side::added(o));
  }
  template <class S>
  static void run_reference(Operands<S>& o) {
    reference::expand<S>(Side::stack(std::as_const(Side::stored(o))), Side::narrow(o), 2, Side::added(o));
  }
  static void run_eigen(F& o) {
    Side::added(o).noalias() += 2 * Side::eigen(Side::stored(o)).transpose() * Side::narrow(o);
  }
};

template <class Side>
struct Accumulate {
  static std::string name() { return std::string("accumulate_") + Side::name; }
  static Work work(F& o) { return product(Side::narrow(o), Side::wide(o), Side::gradient(o)); }
  template <class O>
  static auto& output(O& o) {
    return Side::gradient(o);
  }
  static void run_simd(F& o) {
    simd::accumulate<float>(Side::narrow(o), Side::wide(o), 2, Side::stack(Side::gradient(o)));
  }
  template <class S>
  static void run_reference(Operands<S>& o) {
    reference::accumulate<S>(Side::narrow(o), Side::wide(o), 2, Side::stack(Side::gradient(o)));
  }
  static void run_eigen(F& o) {
    Side::eigen(Side::gradient(o)).noalias() += 2 * Side::narrow(o) * Side::wide(o).transpose();
  }
};

/// The two softmaxes work in place: they start from a copy every time, or they would run on other numbers each time.
struct Softmax {
  static std::string name() { return "softmax"; }
  static Work work(F& o) { return elementwise(0, {&o.logits}, {&o.in_place}); }
  template <class O>
  static auto& output(O& o) {
    return o.in_place;
  }
  static void run_simd(F& o) { simd::softmax<float>(o.in_place = o.logits); }
  template <class S>
  static void run_reference(Operands<S>& o) {
    reference::softmax<S>(o.in_place = o.logits);
  }
  static void run_eigen(F& o) {
    o.in_place = (o.logits.rowwise() - o.logits.colwise().maxCoeff()).array().exp();
    o.in_place.array().rowwise() /= o.in_place.colwise().sum().array().eval();
  }
};

struct SoftmaxBackward {
  static std::string name() { return "softmax_backward"; }
  static Work work(F& o) { return elementwise(0, {&o.logits, &o.weights}, {&o.in_place}); }
  template <class O>
  static auto& output(O& o) {
    return o.in_place;
  }
  static void run_simd(F& o) { simd::softmax_backward<float>(o.weights, o.in_place = o.logits); }
  template <class S>
  static void run_reference(Operands<S>& o) {
    reference::softmax_backward<S>(o.weights, o.in_place = o.logits);
  }
  static void run_eigen(F& o) {
    o.in_place = o.logits;
    o.in_place.rowwise() -= o.weights.cwiseProduct(o.in_place).colwise().sum().eval();
    o.in_place.array() *= o.weights.array();
  }
};

struct MixHeads {
  static std::string name() { return "mix_heads"; }
  static Work work(F& o) { return elementwise(1, {&o.h, &o.weights}, {&o.u}); }
  template <class O>
  static auto& output(O& o) {
    return o.u;
  }
  static void run_simd(F& o) { simd::mix_heads<float>(o.h, o.weights, o.u); }
  template <class S>
  static void run_reference(Operands<S>& o) {
    reference::mix_heads<S>(o.h, o.weights, o.u);
  }
  static void run_eigen(F& o) {
    const Index rank = o.h.rows();
    for (Index i = 0; i < o.weights.rows(); ++i) {
      o.u.middleRows(i * rank, rank) = o.h.array().rowwise() * o.weights.row(i).array();
    }
  }
};

/// The reduction over the heads: dω_i = ⟨v_i, h⟩, dh = Σ_i ω_i v_i.
struct MixHeadsBackward {
  static std::string name() { return "mix_heads_backward"; }
  static Work work(F& o) { return elementwise(4, {&o.v, &o.h, &o.weights}, {&o.in_place, &o.dh}); }
  template <class O>
  static auto& output(O& o) {
    return o.dh;
  }
  static void run_simd(F& o) { simd::mix_heads_backward<float>(o.v, o.h, o.weights, o.in_place, o.dh); }
  template <class S>
  static void run_reference(Operands<S>& o) {
    reference::mix_heads_backward<S>(o.v, o.h, o.weights, o.in_place, o.dh);
  }
  static void run_eigen(F& o) {
    const Index rank = o.h.rows();
    o.dh.setZero();
    for (Index i = 0; i < o.weights.rows(); ++i) {
      const auto v = o.v.middleRows(i * rank, rank);
      o.in_place.row(i) = v.cwiseProduct(o.h).colwise().sum();
      o.dh.array() += v.array().rowwise() * o.weights.row(i).array();
    }
  }
};

/// Where one ω serves all tokens: B̄ = Σ_i ω_i B_i is formed, then y += s · B̄ h. What expand_up does for a token each.
struct OneWeighting {
  static std::string name() { return "one_weighting_up"; }
  static Work work(F& o) {
    Work work = product(o.combined, o.h, o.y);
    work.flop += 2 * static_cast<double>(o.up.size());
    work.bytes_read += static_cast<double>(sizeof(float)) * static_cast<double>(o.up.size());
    return work;
  }
  template <class O>
  static auto& output(O& o) {
    return o.y;
  }
  static void run_simd(F& o) {
    const auto combined = up_stack<float>(o.combined.data(), o.combined);
    simd::combine_heads<float>(Up::stack(std::as_const(o.up)), o.weights.col(0), combined);
    simd::expand<float>(up_stack<const float>(o.combined.data(), o.combined), o.h, 2, o.y);
  }
  template <class S>
  static void form(Operands<S>& o) {
    const Index rank = o.h.rows();
    o.combined.setZero();
    for (Index i = 0; i < o.weights.rows(); ++i) o.combined += o.weights(i, 0) * o.up.middleCols(i * rank, rank);
  }
  template <class S>
  static void run_reference(Operands<S>& o) {
    form(o);
    reference::expand<S>(up_stack<const S>(o.combined.data(), o.combined), o.h, 2, o.y);
  }
  static void run_eigen(F& o) {
    form(o);
    o.y.noalias() += 2 * o.combined * o.h;
  }
};

template <class Kernel>
void add_kernel(const std::string& set, const Shape& s, int threads, bool with_reference) {
  const auto add_variant = [&](const char* variant, void (*run)(F&)) {
    add(set + "/kernels/" + variant + "/" + Kernel::name() + "/" + text(s), threads, [s, run] {
      const Problem& p = problem(s.tokens, s.in, s.out, s.rank, s.heads, true);
      const auto operands = std::make_shared<F>(p);
      Candidate candidate;
      candidate.work = Kernel::work(*operands);
      candidate.call = [operands, run] { run(*operands); };
      candidate.error = [&p, run] {
        F single(p);
        Operands<double> twin(p);
        run(single);
        Kernel::run_reference(twin);
        return largest_error(Kernel::output(single).template cast<double>(), Kernel::output(twin));
      };
      if (candidate.work.flop > 3e8) candidate.error = {};  // plain loops in double take a second
      return candidate;
    });
  };
  add_variant("simd", Kernel::run_simd);
  add_variant("eigen", Kernel::run_eigen);
  if (with_reference) add_variant("reference", Kernel::template run_reference<float>);
}

void add_all(const std::string& set, const Shape& s, int threads, bool with_reference) {
  add_kernel<Contract<Down>>(set, s, threads, with_reference);
  add_kernel<Contract<Up>>(set, s, threads, with_reference);
  add_kernel<Expand<Down>>(set, s, threads, with_reference);
  add_kernel<Expand<Up>>(set, s, threads, with_reference);
  add_kernel<Accumulate<Down>>(set, s, threads, with_reference);
  add_kernel<Accumulate<Up>>(set, s, threads, with_reference);
  add_kernel<Softmax>(set, s, threads, with_reference);
  add_kernel<SoftmaxBackward>(set, s, threads, with_reference);
  add_kernel<MixHeads>(set, s, threads, with_reference);
  add_kernel<MixHeadsBackward>(set, s, threads, with_reference);
  add_kernel<OneWeighting>(set, s, threads, with_reference);
}

}  // namespace

void register_kernels() {
  Shape few = centre, three = centre;
  few.tokens = 16;
  three.heads = 3;
  add_all("select", centre, 1, false);
  add_all("select", three, 1, false);
  add_all("select", few, 1, true);  // the plain loops would take a tenth of a second each at the centre
  for (const int threads : thread_counts()) {
    for (const Shape& s : one_at_a_time()) add_all("sweep", s, threads, true);
    for (const Shape& s : all_combinations()) add_all("full", s, threads, true);
  }
}

}  // namespace bench
