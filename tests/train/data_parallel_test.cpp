// SPDX-License-Identifier: MIT
//
// Data-parallel training without MPI: the ranks are threads. tests/interop/mpi_test.cpp has the same with processes.
#include "hydralora/train/data_parallel.hpp"

#include <condition_variable>
#include <mutex>
#include <thread>

#include "support/shapes.hpp"

using namespace hydralora;
using namespace support;

namespace {

/// What the ranks of a run share. A collective call returns when every rank has made it.
class Ranks {
 public:
  explicit Ranks(int size) : size_(size) {}
  int size() const { return size_; }

  /// Calls f() for one rank after another, in their order; all wait for the last.
  template <class Function>
  void in_order(int rank, Function&& f) {
    std::unique_lock<std::mutex> lock(mutex_);
    const int round = round_;
    changed_.wait(lock, [&] { return next_ == rank; });
    f();
    if (++next_ == size_) next_ = 0, ++round_;
    changed_.notify_all();
    changed_.wait(lock, [&] { return round_ != round; });
  }
  std::vector<double> common;

 private:
  int size_, next_ = 0, round_ = 0;
  std::mutex mutex_;
  std::condition_variable changed_;
};

struct ThreadCommunicator {
  Ranks& ranks;
  int own;

  int rank() const { return own; }
  int size() const { return ranks.size(); }
  template <class Scalar>
  void broadcast(Scalar* numbers, Index count) {
    ranks.in_order(own, [&] {
      if (own == 0) ranks.common.assign(numbers, numbers + count);
      if (own != 0) take(numbers, count);
    });
  }
  template <class Scalar>
  void sum(Scalar* numbers, Index count) {
    ranks.in_order(own, [&] {
      if (own == 0) ranks.common.assign(static_cast<std::size_t>(count), 0.0);
      for (Index i = 0; i < count; ++i) {
        double& sum = ranks.common[static_cast<std::size_t>(i)];
        sum = static_cast<double>(static_cast<Scalar>(sum + static_cast<double>(numbers[i])));
      }
    });
    ranks.in_order(own, [&] { take(numbers, count); });
  }

 private:
  template <class Scalar>
  void take(Scalar* numbers, Index count) const {
    for (Index i = 0; i < count; ++i) numbers[i] = static_cast<Scalar>(ranks.common[static_cast<std::size_t>(i)]);
  }
};

/// f(communicator) on every rank. @return  the message of what each rank threw, or an empty text.
template <class Function>
std::vector<std::string> on_ranks(int size, Function&& f) {
  Ranks ranks(size);
  std::vector<std::string> messages(static_cast<std::size_t>(size));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size; ++rank) {
    threads.emplace_back([&, rank] {
      ThreadCommunicator communicator{ranks, rank};
      try {
        f(communicator);
      } catch (const std::invalid_argument& error) {
        messages[static_cast<std::size_t>(rank)] = error.what();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  return messages;
}

template <class Scalar>
std::vector<ParameterGroup<Scalar>> one_group(Matrix<Scalar>& parameters, Matrix<Scalar>& gradients) {
  using Map = typename ParameterGroup<Scalar>::Map;
  return {{Map(parameters.data(), parameters.size()), Map(gradients.data(), gradients.size()), 1e-2}};
}

}  // namespace

TEST_CASE("shares of a batch are in rank order, complete, and differ by at most one") {
  for (const Index total : {0, 1, 5, 63, 64}) {
    for (const int size : {1, 2, 3, 7}) {
      Index next = 0;
      for (int rank = 0; rank < size; ++rank) {
        const Share share = share_of(total, rank, size);
        CHECK(share.begin == next);
        CHECK(share.count >= total / size);
        CHECK(share.count <= total / size + 1);
        next += share.count;
      }
      CHECK(next == total);
    }
  }
}

TEST_CASE_TEMPLATE("ranks start from rank 0's parameters and get the gradient of the mean over uneven shares", Scalar,
                   float, double) {
  const Index samples[] = {3, 0, 68000};
  const Matrix<Scalar> start = random_matrix<Scalar>(5, 1, 1);
  std::vector<Matrix<Scalar>> own;
  Matrix<double> sum = Matrix<double>::Zero(5, 1);
  for (std::uint64_t rank = 0; rank < 3; ++rank) {
    own.push_back(Scalar(samples[rank]) * random_matrix<Scalar>(5, 1, rank + 2));
    sum += own.back().template cast<double>();
  }
  std::vector<Matrix<Scalar>> parameters(3), gradients = own;
  std::vector<double> losses(3);
  std::vector<Index> totals(3);
  const auto messages = on_ranks(3, [&](ThreadCommunicator& communicator) {
    const auto rank = static_cast<std::size_t>(communicator.rank());
    parameters[rank] = rank == 0 ? start : Matrix<Scalar>(Matrix<Scalar>::Zero(5, 1));
    DataParallel<Scalar, ThreadCommunicator> parallel(communicator, one_group(parameters[rank], gradients[rank]));
    const auto batch = parallel.reduce(samples[rank], static_cast<double>(samples[rank]) * 2);
    losses[rank] = batch.mean_loss;
    totals[rank] = batch.samples;
  });
  for (std::size_t rank = 0; rank < 3; ++rank) {
    CAPTURE(messages[rank]);
    CHECK(messages[rank].empty());
    CHECK(same_bits<Scalar>(parameters[rank], start));
    CHECK(totals[rank] == 68003);
    CHECK(std::abs(losses[rank] - 2) <= tolerance::law<Scalar>);
    CHECK(relative_difference(gradients[rank], sum / 68003) <= tolerance::law<Scalar>);
    CHECK(same_bits<Scalar>(gradients[rank], gradients[0]));
  }
}

TEST_CASE("ranks that do not fit together all throw, and so do ranks without a sample") {
  const auto all = [](const std::vector<std::string>& messages, const std::string& text) {
    for (const std::string& message : messages) CHECK(message == containing(text));
  };
  all(on_ranks(3,
               [](ThreadCommunicator& communicator) {
                 Matrix<float> p = Matrix<float>::Ones(communicator.rank() == 2 ? 4 : 5, 1), g = p;
                 DataParallel<float, ThreadCommunicator>(communicator, one_group(p, g));
               }),
      "the ranks' parameters differ in number or groups");
  all(on_ranks(2,
               [](ThreadCommunicator& communicator) {
                 Matrix<float> p = Matrix<float>::Ones(5, 1), g = p;
                 DataParallel<float, ThreadCommunicator> parallel(communicator, one_group(p, g));
                 if (communicator.rank() == 1) p(4, 0) = std::nextafter(1.0F, 2.0F);
                 parallel.expects_equal_parameters();
               }),
      "has other bits than rank 0, or another rank has");
  all(on_ranks(2,
               [](ThreadCommunicator& communicator) {
                 Matrix<float> p = Matrix<float>::Ones(5, 1), g = p;
                 DataParallel<float, ThreadCommunicator>(communicator, one_group(p, g)).reduce(0, 0);
               }),
      "no rank has samples");
}
