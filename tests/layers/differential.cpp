// SPDX-License-Identifier: MIT
//
// Random layers, gates, shapes, strides, misalignments and types against the textbook in double: the output entry by
// entry, all gradients along one random direction by complex step. A case that fails is made smaller while it fails,
// and printed.
//
//   differential CASES [SEED]     so many cases for every kind of layer and type
//   differential --case TEXT      one that was printed
#define DOCTEST_CONFIG_IMPLEMENT  // the tests' support needs it, main() is below
#include <algorithm>
#include <complex>
#include <cstdlib>
#include <iostream>
#include <optional>
#include <sstream>
#include <string>

#include "support/layers.hpp"
#include "support/textbook.hpp"
#include "support/textbook_gate.hpp"

using namespace hydralora;
using namespace support;
using Complex = std::complex<double>;

namespace {

enum class Type { float32, float64, bfloat16, half, mixed };
constexpr const char* type_names[] = {"float", "double", "bfloat16", "half", "mixed"};

/// All that a case is. Offsets and gaps are in numbers: of x, y, dy, dx.
struct Case {
  int type = 0, kind = 0;
  std::uint64_t seed = 0;
  LayerShape s{};
  double dropout = 0;
  int input = 0, selection = 0, granularity = 0;
  Index top_k = 1;
  double top_p = 1, temperature = 1;
  int segments = 0;
  Index offset[4] = {}, gap[4] = {};

  /// f(field) for every field, in the order of the text.
  template <class Function>
  void for_each(Function&& f) {
    f(type), f(kind), f(seed), f(s.in), f(s.out), f(s.rank), f(s.heads), f(s.tokens), f(dropout), f(input);
    f(selection), f(granularity), f(top_k), f(top_p), f(temperature), f(segments);
    for (Index& one : offset) f(one);
    for (Index& one : gap) f(one);
  }
};

std::string text(Case c) {
  std::ostringstream out;
  out.precision(17);
  c.for_each([&](const auto& field) { out << field << ' '; });
  return out.str();
}

bool learned(Kind kind) { return kind == Kind::split_learned || kind == Kind::hydra || kind == Kind::shared_b; }

Case draw(Type type, Kind kind, std::uint64_t seed) {
  const CounterRandom random(seed, 500 + static_cast<std::uint64_t>(kind));
  std::uint64_t at = 0;
  const auto below = [&](Index n) { return static_cast<Index>(random.below(static_cast<std::uint64_t>(n), at++)); };
  const auto size = [&](Index most) { return 1 + below(below(4) == 0 ? most : most / 4); };  // small ones are frequent
  Case c;
  c.type = static_cast<int>(type), c.kind = static_cast<int>(kind), c.seed = seed;
  c.s = {size(150), size(150), size(20), size(12), size(44) - 1};
  c.segments = static_cast<int>(below(2));
  for (Index& one : c.offset) one = below(16);
  for (Index& one : c.gap) one = below(3) == 0 ? 0 : below(20);
  if (!learned(kind)) {
    c.dropout = below(2) == 0 ? 0 : random.uniform_between(0.01, 0.9, at++);
    return c;
  }
  c.granularity = static_cast<int>(below(3));
  c.input = static_cast<int>(below(c.granularity == 0 ? 2 : 3));  // rms_projection wants a pool
  c.selection = static_cast<int>(below(4));
  c.top_k = 1 + below(c.s.heads);
  c.top_p = random.uniform_between(0.1, 1.0, at++);
  c.temperature = below(2) == 0 ? 1 : random.uniform_between(0.5, 2.0, at++);
  return c;
}

GateConfig gate_of(const Case& c) {
  GateConfig gate{static_cast<GateInput>(c.input), static_cast<GateSelection>(c.selection),
                  static_cast<GateGranularity>(c.granularity)};
  gate.top_k = c.top_k, gate.top_p = c.top_p, gate.temperature = c.temperature;
  return gate;
}

/// Σ a ∘ b, and Σ |a ∘ b|.
struct Sums {
  double sum = 0, magnitude = 0;
  void add(const Matrix<double>& a, const Matrix<double>& b) {
    sum += a.cwiseProduct(b).sum();
    magnitude += a.cwiseProduct(b).cwiseAbs().sum();
  }
};

/// What is wrong with a layer, or nothing.
template <class Layer, class Twin>
std::string check(const Case& c, const Layer& layer, const Twin& twin) {
  using Scalar = typename Layer::Scalar;
  using Activation = typename Layer::Activation;
  using Middle = typename Layer::Middle;
  const auto kind = static_cast<Kind>(c.kind);
  const LayerShape& s = c.s;
  const auto numbers = [&](Index rows, std::uint64_t n) {
    return random_matrix<Activation>(rows, s.tokens, c.seed + n);
  };
  Guarded<Activation> x(numbers(s.in, 1), c.offset[0], c.gap[0]), y(numbers(s.out, 4), c.offset[1], c.gap[1]),
      dy(numbers(s.out, 2), c.offset[2], c.gap[2]), dx(numbers(s.in, 5), c.offset[3], c.gap[3]);
  const Matrix<double> xs = exact(x.values()), dys = exact(dy.values()), y0 = exact(y.values()),
                       dx0 = exact(dx.values());
  using Sum = typename Layer::Sum;
  const Matrix<Sum> weights = given_weights<Sum>(kind, s, c.seed + 3);
  std::vector<Index> segments = {s.tokens};
  if (c.segments != 0) segments = some_segments(s.tokens, c.seed);

  // The textbook, and the direction: a seeded matrix for every tensor.
  Matrix<Complex> xc = xs.cast<Complex>();
  Textbook<Complex> plain;
  std::optional<TextbookLoss<Complex>> routed;
  Matrix<double> mask;
  if constexpr (!(Middle::shares_A && Middle::shares_B)) {
    if (learned(kind)) routed.emplace(twin, segments);
  }
  if (!routed) {
    plain = textbook<Complex>(twin, weights.template cast<double>());
    plain.gate.resize(0, 0);
    if (c.dropout > 0) mask = dropout_factors(s.in, s.tokens, c.dropout, c.seed, c.seed + 9, 1000);
  }
  const auto result = [&] { return routed ? routed->y(xc) : plain(xc, mask); };
  const Matrix<double> y_expected = y0 + result().real();
  constexpr bool is_double = std::is_same_v<Scalar, double>;
  if (routed && c.selection != 0 && s.heads > 1 && s.tokens > 0 &&
      routed->gate.distance_from_a_tie() < (is_double ? 1e-9 : 1e-3)) {
    return {};  // rounding chooses
  }

  CallOptions<Sum> options;
  options.step = c.seed + 9;
  options.first_token = 1000;
  options.weights = weights;
  options.segments = segments;
  typename Layer::Cache cache;
  typename Layer::Gradients g(layer.config());
  Matrix<Sum> dweights = Matrix<Sum>::Zero(weights.rows(), weights.cols());
  layer.forward(x.view(), y.view(), cache, options);
  if (weights.size() > 0) options.weights_gradient = dweights;
  layer.backward(x.view(), dy.view(), cache, g, dx.view(), options);
  for (const auto& [view, what] : {std::pair(&x, "x"), {&y, "y"}, {&dy, "dy"}, {&dx, "dx"}}) {
    if (!view->rest_untouched()) return std::string("memory beside ") + what + " was written";
  }
  if (exact(x.values()) != xs || exact(dy.values()) != dys) return "x or dy changed";

  constexpr double unit = tolerance::rounding<Activation>, slack = is_double ? 1e-11 : 3e-4;
  const double largest = std::max(1.0, y_expected.size() == 0 ? 0 : y_expected.cwiseAbs().maxCoeff());
  const Matrix<double> error = (exact(y.values()) - y_expected).cwiseAbs() - unit * y_expected.cwiseAbs();
  if (s.tokens > 0 && !(error.array() <= slack * largest).all()) return "y differs";  // NaN too

  constexpr double h = 1e-30;
  Sums actual;
  std::uint64_t tensor = 20;
  const auto direction = [&](Index rows, Index cols) { return random_matrix<double>(rows, cols, c.seed + tensor++); };
  const auto move = [&](Matrix<Complex>& twins, const Matrix<double>& d) {
    twins += Complex(0, h) * d.cast<Complex>();
  };
  auto& A = routed ? routed->A : plain.A;
  auto& B = routed ? routed->B : plain.B;
  const auto one = [&](auto&& gradient, std::vector<Matrix<Complex>>& twins, Index i, bool shared) {
    const Matrix<double> d = direction(gradient.rows(), gradient.cols());
    actual.add(exact(gradient), d);
    for (std::size_t k = 0; k < twins.size(); ++k) {
      if (shared || static_cast<Index>(k) == i) move(twins[k], d);
    }
  };
  for (Index i = 0; i < s.heads; ++i) {
    if constexpr (!Middle::shares_A) one(g.A(i), A, i, false);
    if constexpr (!Middle::shares_B) one(g.B(i), B, i, false);
  }
  if constexpr (Middle::shares_A) one(g.A(), A, 0, true);
  if constexpr (Middle::shares_B) one(g.B(), B, 0, true);
  if constexpr (!(Middle::shares_A && Middle::shares_B)) {
    if (routed) {
      const Matrix<double> d = direction(routed->gate.G.rows(), routed->gate.G.cols());
      actual.add(exact(g.gate()), d);
      move(routed->gate.G, d);
    }
  }
  if (weights.size() > 0) {
    const Matrix<double> d = direction(weights.rows(), weights.cols());
    actual.add(exact(dweights), d);
    move(plain.weights, d);
  }
  const Matrix<double> dx_after = exact(dx.values()), e = direction(s.in, s.tokens);
  actual.add(dx_after - dx0, e);
  move(xc, e);
  const double expected = dys.cwiseProduct(result().imag()).sum() / h;
  const double roundings = unit * dx_after.cwiseProduct(e).cwiseAbs().sum();
  if (!(std::abs(actual.sum - expected) <= slack * std::max(1.0, actual.magnitude) + roundings)) {
    return "gradients differ: " + std::to_string(actual.sum) + ", expected " + std::to_string(expected);
  }
  return {};
}

template <class Scalar, class Activation = Scalar>
std::string failure_of(const Case& c) {
  std::string failure;
  with_twin<Scalar, Activation>(
      static_cast<Kind>(c.kind), c.s, c.dropout, c.seed,
      [&](auto& layer, auto& twin) { failure = check(c, layer, twin); }, gate_of(c));
  return failure;
}

std::string failure(const Case& c) {
  try {
    switch (static_cast<Type>(c.type)) {
      case Type::float32:
        return failure_of<float>(c);
      case Type::float64:
        return failure_of<double>(c);
      case Type::bfloat16:
        return failure_of<Eigen::bfloat16>(c);
      case Type::half:
        return failure_of<Eigen::half>(c);
      case Type::mixed:
        return failure_of<float, Eigen::bfloat16>(c);
    }
  } catch (const std::exception& e) {
    return std::string("throws: ") + e.what();
  }
  return "no such type";
}

/// A case that fails as well and of which nothing can be made smaller.
Case shrunken(Case c) {
  const auto accept = [&](Case smaller) {
    if (text(smaller) == text(c) || failure(smaller).empty()) return false;
    c = smaller;
    return true;
  };
  for (bool changed = true; changed;) {
    changed = false;
    Case simple = c;
    simple.dropout = 0, simple.input = simple.selection = simple.granularity = simple.segments = 0;
    simple.temperature = simple.top_p = 1;
    std::fill_n(simple.offset, 4, 0), std::fill_n(simple.gap, 4, 0);
    changed |= accept(simple);
    for (Index LayerShape::*size :
         {&LayerShape::tokens, &LayerShape::in, &LayerShape::out, &LayerShape::rank, &LayerShape::heads}) {
      for (const bool half : {true, false}) {
        Case smaller = c;
        smaller.s.*size = half ? (c.s.*size + 1) / 2 : c.s.*size - 1;
        smaller.top_k = std::max<Index>(1, (std::min)(smaller.top_k, smaller.s.heads));
        if (smaller.s.*size >= (size == &LayerShape::tokens ? 0 : 1)) changed |= accept(smaller);
      }
    }
    for (int Case::*field : {&Case::input, &Case::selection, &Case::granularity, &Case::segments}) {
      Case smaller = c;
      smaller.*field = 0;
      changed |= accept(smaller);
    }
    for (double Case::*field : {&Case::dropout, &Case::temperature, &Case::top_p}) {
      Case smaller = c;
      smaller.*field = field == &Case::dropout ? 0 : 1;
      changed |= accept(smaller);
    }
    for (int i = 0; i < 4; ++i) {
      for (auto field : {&Case::offset, &Case::gap}) {
        Case smaller = c;
        (smaller.*field)[i] = 0;
        changed |= accept(smaller);
      }
    }
  }
  return c;
}

}  // namespace

int main(int argc, char** argv) {
  doctest::Context context;
  context.setAsDefaultForAssertsOutOfTestCases();
  if (argc == 3 && std::string(argv[1]) == "--case") {
    Case c;
    std::istringstream in(argv[2]);
    c.for_each([&](auto& field) { in >> field; });
    const std::string wrong = in ? failure(c) : "the text has too few numbers";
    std::cout << (wrong.empty() ? "passes" : wrong) << '\n';
    return wrong.empty() ? 0 : 1;
  }
  const std::uint64_t cases = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 200;
  const std::uint64_t first = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1;
  int failures = 0;
  for (std::size_t type = 0; type < std::size(type_names); ++type) {
    for (const Kind kind : all_kinds) {
      std::uint64_t wrong = 0;
      for (std::uint64_t i = 0; i < cases; ++i) {
        const Case c = draw(static_cast<Type>(type), kind, first + i);
        const std::string what = failure(c);
        if (what.empty()) continue;
        if (wrong++ > 0) continue;
        const Case small = shrunken(c);
        std::cout << name(kind) << ", " << type_names[type] << ": " << failure(small) << "\n  " << small.s
                  << "\n  differential --case '" << text(small) << "'\n";
      }
      if (wrong > 0) std::cout << name(kind) << ", " << type_names[type] << ": " << wrong << " cases fail\n";
      failures += wrong > 0 ? 1 : 0;
    }
  }
  std::cout << cases << " cases for each of " << std::size(all_kinds) << " kinds of layers in " << std::size(type_names)
            << " types, " << failures << " with failures\n";
  return failures > 0 ? 1 : 0;
}
