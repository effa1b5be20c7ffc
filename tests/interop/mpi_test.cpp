// SPDX-License-Identifier: MIT
//
// Run by mpirun on any number of ranks. Every rank also computes what one process would, and what each other rank does.
#define DOCTEST_CONFIG_IMPLEMENT
#include "hydralora/interop/mpi.hpp"

#include <doctest/doctest.h>

#include <fstream>

#include "hydralora/train/adamw.hpp"
#include "support/shapes.hpp"

using namespace hydralora;
using namespace support;

namespace {

std::string dump_path;  // where a run leaves its curve and parameters, for comparison with another run

constexpr Index features = 24, outputs = 17, batch_samples = 53;

/// So many samples for each rank: as even as they can be, or the last rank takes nearly all and the first none.
Share share(bool even, int rank, int size) {
  if (even || size == 1) return share_of(batch_samples, rank, size);
  if (rank == size - 1) return {size - 2, batch_samples - (size - 2)};
  return rank == 0 ? Share{0, 0} : Share{rank - 1, 1};
}

/// f(ranks, even) for every way to sum and to share.
template <class Function>
void for_every_way(Function&& f) {
  for (const bool even : {true, false}) {
    for (const Summation summation : {Summation::fastest, Summation::rank_order}) {
      MpiCommunicator ranks(MPI_COMM_WORLD, summation);
      f(ranks, even);
    }
  }
}

/// A layer that learns another's output; its batches are functions of the step.
template <class Scalar, class Layer>
struct Student {
  explicit Student(const typename Layer::Config& config, std::uint64_t start = 1)
      : layer(config, /*seed=*/5), gradients(config) {
    layer.parameters() = Scalar(0.3) * random_matrix<Scalar>(layer.parameter_count(), 1, start);
  }
  std::vector<ParameterGroup<Scalar>> groups() { return {{layer.parameters(), gradients.parameters(), 1e-2}}; }

  /// Gradients and value of the SUM of the losses of samples begin … begin + count − 1 of step's batch.
  double run(std::uint64_t step, Share share) {
    const Matrix<Scalar> all_x = random_matrix<Scalar>(features, batch_samples, 1000 + step),
                         all_targets = random_matrix<Scalar>(outputs, batch_samples, 2000 + step);
    const Matrix<Scalar> x = all_x.middleCols(share.begin, share.count);
    Matrix<Scalar> y = -all_targets.middleCols(share.begin, share.count), dx = Matrix<Scalar>::Zero(features, x.cols());
    CallOptions<Scalar> options;
    options.step = step;
    options.first_token = static_cast<std::uint64_t>(share.begin);
    layer.forward(x, y, cache, options);
    gradients.set_zero();
    layer.backward(x, y, cache, gradients, dx);
    return 0.5 * static_cast<double>(y.squaredNorm());
  }

  Layer layer;
  typename Layer::Gradients gradients;
  typename Layer::Cache cache;
};

template <class Scalar>
using Hydra = Student<Scalar, HydraLoRA<Scalar>>;

HydraLoRAConfig config() { return {features, outputs, 4, 16, false, 0.1, 3}; }

template <class Scalar>
struct Curve {
  std::vector<double> losses;
  Matrix<Scalar> parameters;
};

/// What one process does with the whole batch, without any of this.
template <class Scalar>
Curve<Scalar> one_process(int steps) {
  Hydra<Scalar> student(config());
  AdamW<Scalar> optimizer(student.groups());
  Curve<Scalar> curve;
  for (int step = 0; step < steps; ++step) {
    const double loss = student.run(static_cast<std::uint64_t>(step), {0, batch_samples});
    student.gradients.parameters() /= static_cast<Scalar>(batch_samples);
    clip_global_norm(optimizer.groups(), 1.0);
    optimizer.step();
    curve.losses.push_back(loss / batch_samples);
  }
  curve.parameters = student.layer.parameters();
  return curve;
}

template <class Scalar>
Curve<Scalar> many_processes(MpiCommunicator& ranks, int steps, bool even) {
  Hydra<Scalar> student(config(), ranks.rank() == 0 ? 1 : 99);  // only rank 0 starts where it should
  AdamW<Scalar> optimizer(student.groups());
  DataParallel<Scalar, MpiCommunicator> parallel(ranks, optimizer.groups());
  Curve<Scalar> curve;
  for (int step = 0; step < steps; ++step) {
    const Share mine = share(even, ranks.rank(), ranks.size());
    const auto batch = parallel.reduce(mine.count, student.run(static_cast<std::uint64_t>(step), mine));
    CHECK(batch.samples == batch_samples);
    clip_global_norm(optimizer.groups(), 1.0);
    optimizer.step();
    curve.losses.push_back(batch.mean_loss);
  }
  parallel.expects_equal_parameters();
  curve.parameters = student.layer.parameters();
  return curve;
}

}  // namespace

TEST_CASE("MPI: one step's gradients are those of one process on the whole batch") {
  for_every_way([](MpiCommunicator& ranks, bool even) {
    Hydra<float> alone(config()), student(config());
    const double loss = alone.run(7, {0, batch_samples});
    DataParallel<float, MpiCommunicator> parallel(ranks, student.groups());
    const Share mine = share(even, ranks.rank(), ranks.size());
    const auto batch = parallel.reduce(mine.count, student.run(7, mine));
    const Matrix<float> expected = alone.gradients.parameters() / float{batch_samples},
                        found = student.gradients.parameters();
    const float error = (found - expected).norm() / expected.norm();
    if (ranks.rank() == 0) MESSAGE(ranks.size() << " ranks: the gradients differ by " << error);
    CHECK(error <= 1e-6F);
    CHECK(batch.mean_loss == doctest::Approx(loss / batch_samples).epsilon(1e-6));
  });
}

TEST_CASE("MPI: in rank order, a sum has the bits of a loop over the ranks") {
  MpiCommunicator ranks(MPI_COMM_WORLD, Summation::rank_order);
  for (const Index count : {0, 1, 2, 3, 1000, 1001, (1 << 24) + 5}) {
    const auto numbers_of = [&](int rank) {  // of sizes so different that every order rounds differently
      Eigen::VectorXf numbers(count);
      for (Index i = 0; i < count; ++i) {
        numbers[i] = std::ldexp(std::sin(static_cast<float>(i + 1) * static_cast<float>(rank + 1)), (rank * 7) % 12);
      }
      return numbers;
    };
    Eigen::VectorXf expected = numbers_of(0), found = numbers_of(ranks.rank());
    for (int rank = 1; rank < ranks.size(); ++rank) expected += numbers_of(rank);
    ranks.sum(found.data(), count);
    CAPTURE(count);
    CHECK(same_bits<float>(found, expected));
  }
}

TEST_CASE("MPI: whole loss curves are those of one process") {
  constexpr int steps = 60;
  const Curve<double> expected = one_process<double>(steps);
  for_every_way([&](MpiCommunicator& ranks, bool even) {
    const Curve<double> found = many_processes<double>(ranks, steps, even);
    double worst = 0;
    for (std::size_t i = 0; i < steps; ++i) {
      worst = std::max(worst, std::abs(found.losses[i] / expected.losses[i] - 1));
    }
    if (ranks.rank() == 0) MESSAGE(ranks.size() << " ranks: the curves differ by " << worst);
    CHECK(worst <= 1e-10);
    CHECK(found.losses.back() < 0.95 * found.losses.front());
  });
}

TEST_CASE("MPI: another run in rank order gives the same bits") {
  MpiCommunicator ranks(MPI_COMM_WORLD, Summation::rank_order);
  const Curve<float> first = many_processes<float>(ranks, 40, false), second = many_processes<float>(ranks, 40, false);
  CHECK(first.losses == second.losses);
  CHECK(same_bits<float>(first.parameters, second.parameters));
  if (dump_path.empty()) return;
  std::ofstream file(dump_path + "." + std::to_string(ranks.rank()), std::ios::binary);
  const auto write = [&](const void* from, std::size_t bytes) {
    file.write(static_cast<const char*>(from), static_cast<std::streamsize>(bytes));
  };
  write(first.losses.data(), sizeof(double) * first.losses.size());
  write(first.parameters.data(), sizeof(float) * static_cast<std::size_t>(first.parameters.size()));
  CHECK(file.flush());
}

TEST_CASE("MPI: ranks that differ are found, by all of them") {
  MpiCommunicator ranks;
  const bool last = ranks.rank() == ranks.size() - 1;
  Hydra<float> student(config());
  DataParallel<float, MpiCommunicator> parallel(ranks, student.groups());
  CHECK(message_of([&] { parallel.expects_equal_parameters(); }) == "nothing thrown");
  if (last) student.layer.B(2)(1, 1) = std::nextafter(student.layer.B(2)(1, 1), 9.0F);
  const auto refused = [&](const std::string& message, const char* reason) {
    CHECK((message == containing(reason)) == (ranks.size() > 1));
  };
  refused(message_of([&] { parallel.expects_equal_parameters(); }), "the ranks' parameters differ");
  HydraLoRAConfig larger = config();
  larger.rank += last ? 1 : 0;
  Hydra<float> other(larger);
  using Parallel = DataParallel<float, MpiCommunicator>;
  std::vector<ParameterGroup<float>> turned = {
      {student.layer.down_parameters(), student.gradients.down_parameters(), 1e-2},
      {student.layer.up_parameters(), student.gradients.up_parameters(), 1e-2}};
  if (last) std::swap(turned[0], turned[1]);
  refused(message_of([&] { Parallel(ranks, turned); }), "the ranks' parameters differ in number or groups");
  refused(message_of([&] { Parallel(ranks, other.groups()); }), "the ranks' parameters differ in number");
}

TEST_CASE("MPI: no samples anywhere is an error, a number that is not finite is everybody's") {
  MpiCommunicator ranks;
  Hydra<float> student(config());
  DataParallel<float, MpiCommunicator> parallel(ranks, student.groups());
  student.run(1, {0, 4});
  const Matrix<float> before = student.gradients.parameters();
  CHECK(message_of([&] { parallel.reduce(0, 0); }) == containing("no rank has samples"));
  CHECK(message_of([&] { parallel.reduce(-1, 0); }) == containing("-1 samples"));
  CHECK(same_bits<float>(student.gradients.parameters(), before));
  if (ranks.rank() == ranks.size() - 1) student.gradients.A()(0, 0) = std::numeric_limits<float>::quiet_NaN();
  parallel.reduce(4, 1);
  CHECK_FALSE(std::isfinite(clip_global_norm(student.groups(), 1.0)));
}

TEST_CASE("MPI: counts of samples are exact, however many") {
  MpiCommunicator ranks;
  Hydra<float> student(config());
  DataParallel<float, MpiCommunicator> parallel(ranks, student.groups());
  const Index many = (Index{1} << 40) + 12345;
  CHECK(parallel.reduce(many, 0).samples == many * ranks.size());
}

TEST_CASE("shares cover the batch in order, and differ by one at most") {
  for (const Index total : {0, 1, 2, 7, 100}) {
    for (int size = 1; size <= 9; ++size) {
      Index next = 0;
      for (int rank = 0; rank < size; ++rank) {
        const Share s = share_of(total, rank, size);
        CHECK(s.begin == next);
        CHECK((s.count == total / size || s.count == total / size + 1));
        next += s.count;
      }
      CHECK(next == total);
    }
  }
  CHECK_THROWS_AS(share_of(3, 2, 2), std::invalid_argument);
}

int main(int argc, char** argv) {
  if (!(message_of([] { MpiCommunicator too_early; }) == containing("MPI_Init has not been called"))) return 3;
  int provided = 0;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
  if (argc > 1 && argv[1][0] != '-') dump_path = argv[1];
  doctest::Context context(argc, argv);
  const int failed = context.run();
  const MpiCommunicator outlives_mpi;
  MPI_Finalize();
  return failed;
}
