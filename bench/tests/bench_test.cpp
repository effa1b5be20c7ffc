// SPDX-License-Identifier: MIT
//
// That the peers compute what the library computes: every product of every library in both layouts, and every peer on
// HydraLoRA and LoRA, against our layers in double precision. And one short run of everything else.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <cmath>

#include "adapters.hpp"
#include "harness.hpp"
#include "peers.hpp"

namespace {

using namespace bench;
using Eigen::MatrixXd;
namespace fs = std::filesystem;

/// Sums of up to 10^3 products of O(1) in float, in an unknown order, relative to the largest magnitude.
constexpr double tolerance = 1e-5;

void check(const char* what, const Matrix& got, const MatrixXd& expected) {
  INFO(what);
  CHECK(largest_error(got.cast<double>(), expected) <= tolerance);  // false for NaN
}

/// What the results are added to: nothing may be overwritten.
Matrix before(Index rows, Index cols) { return Matrix::Constant(rows, cols, 0.25F); }
MatrixXd added(const MatrixXd& result) { return result.array() + 0.25; }

void check_products(const Products& products, Layout layout, Index features, Index rows, Index tokens) {
  const StackShape shape{layout, features, rows};
  const bool tall = layout == Layout::tall;
  INFO(features, " features, ", rows, " rows, ", tokens, " tokens, ", tall ? "tall" : "wide");
  const Matrix s = Matrix::Random(rows, features), x = Matrix::Random(features, tokens);
  const Matrix p = Matrix::Random(rows, tokens), stored = tall ? Matrix(s.transpose()) : s;
  const MatrixXd sd = s.cast<double>(), xd = x.cast<double>(), pd = p.cast<double>();
  products.follow_threads();

  Matrix shrunk = Matrix::Constant(rows, tokens, NAN);
  products.shrink(shape, stored.data(), x.data(), tokens, 0.5F, shrunk.data());
  check("shrink", shrunk, 0.5 * (sd * xd));

  Matrix expanded = before(features, tokens);
  products.expand(shape, stored.data(), p.data(), tokens, 0.5F, expanded.data());
  check("expand", expanded, added(0.5 * (sd.transpose() * pd)));

  for (const bool add : {false, true}) {
    Matrix ds = tall ? before(features, rows) : before(rows, features);
    if (!add) ds.setConstant(NAN);
    products.accumulate(shape, p.data(), x.data(), tokens, 0.5F, add, ds.data());
    const MatrixXd dsd = (0.5 * (pd * xd.transpose())).array() + (add ? 0.25 : 0.0);
    check(add ? "accumulate +=" : "accumulate =", ds, tall ? MatrixXd(dsd.transpose()) : dsd);
  }
}

TEST_CASE("the products of every library") {
  for (const ProductLibrary& library : product_libraries()) {
    MESSAGE("library " << library.name << ": " << library.version << library.missing);
    CAPTURE(library.name);
    for (const Layout layout : {Layout::tall, Layout::wide}) {
      for (const Index tokens : {1, 2, 17, 130}) {
        for (const Index rows : {1, 11, 64}) {
          if (library.gemm != nullptr) check_products(*library.gemm, layout, 131, rows, tokens);
          if (library.gemv != nullptr && tokens == 1) check_products(*library.gemv, layout, 131, rows, tokens);
        }
      }
    }
  }
}

TEST_CASE("every peer computes the layer, twice") {
  for (const PeerKind& kind : peers()) {
    MESSAGE("peer " << kind.name << ": " << (kind.missing.empty() ? kind.version : kind.missing));
  }
  for (const Shape& s :
       {Shape{1, 64, 64, 8, 8}, Shape{1, 37, 53, 4, 0}, Shape{17, 37, 53, 5, 3}, Shape{17, 53, 37, 5, 1},
        Shape{40, 300, 200, 8, 0}, Shape{129, 256, 320, 8, 8}, Shape{2, 320, 256, 16, 4}, Shape{600, 70, 90, 4, 16}}) {
    CAPTURE(s.text());
    const auto p = problem(s);
    const Results e = results_in_double(s.routed() ? LayerKind::hydra_lora : LayerKind::lora, *p, true);
    for (const PeerKind& kind : peers()) {
      if (!kind.missing.empty()) continue;
      CAPTURE(kind.name);
      const auto peer = kind.make(*p);
      for (int call = 0; call < 2; ++call) {
        Matrix y = before(s.out, s.tokens), dx = before(s.in, s.tokens), dA = before(s.rank, s.in);
        Matrix dgate = before(s.heads, s.in), dB = before(s.out, p->B.cols());
        peer->forward(y);
        peer->backward(dA, dgate, dB, dx);
        check("y", y, added(e.y));
        check("dx", dx, added(e.dx));
        check("dA", dA, added(e.down.topRows(s.rank)));
        check("dgate", dgate, added(e.down.bottomRows(s.heads)));
        check("dB", dB, added(e.up));
      }
    }
  }
}

TEST_CASE("a short run of a kernel, a layer and a peer") {
  const char* arguments[] = {"benchmarks", "--benchmark_min_time=0",
                             "--benchmark_filter=^(select/kernels/simd/softmax|select/layers/HydraLoRA/forward|"
                             "bits/numbers/.*/HydraLoRA_forward|select/peers/eigen/HydraLoRA_forward)/T:16/d:4096/r:8/"
                             "N:8/threads:1"};
  CHECK(run_benchmarks(3, const_cast<char**>(arguments)) == 7);
}

/// The energy counters as a folder of files: few machines let anybody read the real ones.
struct Powercap {
  Powercap() { fs::remove_all(path), fs::create_directories(path); }
  ~Powercap() { fs::remove_all(path); }
  void write(const std::string& file, const std::string& text) const { std::ofstream(path / file) << text << '\n'; }
  /// A domain as the kernel shows it.
  void add(const std::string& domain, const std::string& name, int energy) const {
    fs::create_directories(path / domain);
    write(domain + "/name", name);
    write(domain + "/energy_uj", std::to_string(energy));
    write(domain + "/max_energy_range_uj", "999999");
  }
  fs::path path = fs::temp_directory_path() / "hydralora_energy_test";
};

}  // namespace

TEST_CASE("packages are added; their parts, the platform and other domains are not") {
  const Powercap counters;
  counters.add("intel-rapl:0", "package-0", 1000);
  counters.add("intel-rapl:1", "package-1", 2000);
  counters.add("intel-rapl:0:0", "core", 500);
  counters.add("intel-rapl:2", "psys", 9000);
  counters.add("dtpm", "package-9", 7);
  const EnergyMeter meter(counters.path);
  REQUIRE(meter.available());
  const auto before = meter.read();
  for (const char* domain : {"intel-rapl:0", "intel-rapl:0:0", "intel-rapl:2", "dtpm"}) {
    counters.write(std::string(domain) + "/energy_uj", "251000");
  }
  counters.write("intel-rapl:1/energy_uj", "502000");
  CHECK(meter.joules(before, meter.read()).value() == doctest::Approx(0.75));
}

TEST_CASE("a counter that started again has gone through its whole range") {
  const Powercap counters;
  counters.add("intel-rapl:0", "package-0", 900000);
  const EnergyMeter meter(counters.path);
  const auto before = meter.read();
  counters.write("intel-rapl:0/energy_uj", "100000");
  CHECK(meter.joules(before, meter.read()).value() == doctest::Approx(0.2));  // of a range of 1 J
}

TEST_CASE("what cannot be read is not available, and says why") {
  const Powercap counters;
  CHECK_FALSE(EnergyMeter(counters.path / "missing").available());
  CHECK_FALSE(EnergyMeter(counters.path).available());
  CHECK(EnergyMeter(counters.path).why_not().find("no package") == 0);
  counters.add("intel-rapl:0", "package-0", 1000);
  counters.add("intel-rapl:1", "package-1", 1000);
  const EnergyMeter meter(counters.path);
  const auto before = meter.read();
  fs::remove(counters.path / "intel-rapl:1/energy_uj");  // as for a user who may not read it
  CHECK_FALSE(meter.joules(before, meter.read()).has_value());
  const EnergyMeter without(counters.path);
  CHECK_FALSE(without.available());  // half of the packages would be an estimate
  CHECK(without.why_not().find("cannot be read") != std::string::npos);
}
