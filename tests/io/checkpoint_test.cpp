// SPDX-License-Identifier: MIT
#include "hydralora/io/checkpoint.hpp"

#include "hydralora/train.hpp"
#include "support/child.hpp"
#include "support/files.hpp"
#include "support/shapes.hpp"

using namespace hydralora;
using namespace support;

namespace {

constexpr Index all_steps = 40;

/// A small training run with dropout, as a host would write it: batches are a function of the step.
template <class Scalar>
struct Run {
  Run()
      : layer(HydraLoRAConfig{9, 7, 2, 4, false, 0.2, 3}, 5),
        gradients(layer.config()),
        optimizer({{layer.down_parameters(), gradients.down_parameters(), 1e-2},
                   {layer.up_parameters(), gradients.up_parameters(), 3e-2, 0.1}}) {}

  void train(Index until, const std::function<void()>& after_step = {}) {
    for (Index step = optimizer.steps(); step < until; ++step) {
      const auto seed = static_cast<std::uint64_t>(step);
      const Matrix<Scalar> x = random_matrix<Scalar>(9, 16, seed), target = random_matrix<Scalar>(7, 16, seed + 1000);
      Matrix<Scalar> y = Matrix<Scalar>::Zero(7, 16);
      CallOptions<Scalar> options;
      options.step = seed;
      layer.forward(x, y, cache, options);
      gradients.set_zero();
      const Matrix<Scalar> dy = y - target;
      layer.backward(x, dy, cache, gradients);
      clip_global_norm(optimizer.groups(), 1.0);
      optimizer.step(cosine_schedule(step, all_steps));
      if (after_step) after_step();
    }
  }

  HydraLoRA<Scalar> layer;
  typename HydraLoRA<Scalar>::Gradients gradients;
  typename HydraLoRA<Scalar>::Cache cache;
  AdamW<Scalar> optimizer;
};

}  // namespace

TEST_CASE_TEMPLATE("checkpoint: a run stopped at any step and gone on with has the same bits", Scalar, float, double) {
  const TemporaryFolder folder;
  Run<Scalar> whole;
  whole.train(all_steps);
  for (const Index stop : {0, 1, 17, 39, 40}) {
    CAPTURE(stop);
    Run<Scalar> first;
    first.train(stop);
    save_checkpoint(folder("run"), first.optimizer, {{"seed", "5"}});
    Run<Scalar> second;
    second.layer.parameters().setConstant(3);  // whatever was there
    CHECK(load_checkpoint(folder("run"), second.optimizer) == std::map<std::string, std::string>{{"seed", "5"}});
    CHECK(second.optimizer.steps() == stop);
    CHECK(same_bits<Scalar>(second.layer.parameters(), first.layer.parameters()));
    second.train(all_steps);
    CHECK(same_bits<Scalar>(second.layer.parameters(), whole.layer.parameters()));
    CHECK(same_bits<Scalar>(second.optimizer.state(), whole.optimizer.state()));
  }
}

TEST_CASE("checkpoint: a run that is killed again and again ends as one that was never stopped") {
  const TemporaryFolder folder;
  Run<float> whole;
  whole.train(all_steps);
  save_checkpoint(folder("result"), whole.optimizer);
  int kills = 0;
  Index saved = 0;
  double slowness = 1;  // of this machine: a run that is killed before it saves a step gets more time the next time
  for (std::uint64_t attempt = 0;; ++attempt) {
    REQUIRE(attempt < 1000);
    const auto time = 500 + static_cast<double>(CounterRandom(3, 63).below(4000, attempt));
    const int status = in_child(
        [&] {
          Run<float> run;
          if (std::filesystem::exists(folder("run"))) load_checkpoint(folder("run"), run.optimizer);
          run.train(all_steps, [&] { save_checkpoint(folder("run"), run.optimizer); });
        },
        static_cast<long>(slowness * time));
    if (WIFEXITED(status)) break;
    ++kills;
    Run<float> now;
    if (std::filesystem::exists(folder("run"))) load_checkpoint(folder("run"), now.optimizer);
    if (now.optimizer.steps() == all_steps) break;
    if (now.optimizer.steps() == saved) slowness *= 1.25;
    saved = now.optimizer.steps();
  }
  MESSAGE(kills << " kills");
  CHECK(kills >= 1);
  CHECK(file_content(folder("run")) == file_content(folder("result")));
}

TEST_CASE("checkpoint: what does not fit is refused, and the run is not changed") {
  const TemporaryFolder folder;
  Run<float> run;
  run.train(3);
  save_checkpoint(folder("run"), run.optimizer);
  const Matrix<float> parameters = run.layer.parameters(), state = run.optimizer.state();
  const std::string path = folder("run").string();
  const auto refused = [&](auto& optimizer, const std::string& reason) {
    const std::string message = message_of<FileError>([&] { load_checkpoint(folder("run"), optimizer); });
    CHECK(message.rfind(path, 0) == 0);
    CHECK(message == containing(reason));
  };
  Run<double> wide;
  refused(wide.optimizer, "tensor 'parameters.0' holds F32, the run has F64");
  AdamW<float> one_group({{run.layer.parameters(), run.gradients.parameters(), 1e-2}});
  refused(one_group, "tensor 'parameters.0' has shape [45], expected [87]");
  AdamW<float> first_group({{run.layer.down_parameters(), run.gradients.down_parameters(), 1e-2}});
  refused(first_group, "tensor 'optimizer.moments' has shape [174], expected [90]");

  const auto write = [&](const std::string& changed, float value, std::vector<unsigned char> steps, bool more,
                         DType steps_type = DType::I64) {
    SafetensorsWriter file;
    for (const auto& [name, size] : {std::pair("parameters.0", 45), {"parameters.1", 42}, {"optimizer.moments", 174}}) {
      Eigen::VectorXf numbers = Eigen::VectorXf::Ones(size);
      if (name == changed) numbers[size - 1] = value;
      file.add(name, numbers, {}, true);
    }
    file.add_bytes("optimizer.steps", steps_type, {1}, std::move(steps));
    if (more) file.add("more", Eigen::VectorXf::Ones(1), {}, true);
    file.save(folder("run"));
  };
  constexpr float nan = std::numeric_limits<float>::quiet_NaN();
  write("optimizer.moments", nan, {1, 0, 0, 0, 0, 0, 0, 0}, false);
  refused(run.optimizer, "tensor 'optimizer.moments' holds a number that is not finite at 173");
  for (const DType type : {DType::U64, DType::F64, DType::I32, DType::U8}) {
    const auto bytes = static_cast<std::size_t>(info_of(type).bytes);
    write("", 0, std::vector<unsigned char>(bytes, 1), false, type);
    refused(run.optimizer, "tensor 'optimizer.steps' is not I64");
  }
  write("", 0, {0, 0, 0, 0, 0, 0, 0, 0x80}, false);
  refused(run.optimizer, "'optimizer.steps' is negative");
  write("", 0, {255, 255, 255, 255, 255, 255, 255, 127}, false);
  refused(run.optimizer, "is negative or above 2^62");
  write("optimizer.moments", -1, {1, 0, 0, 0, 0, 0, 0, 0}, false);
  refused(run.optimizer, "'optimizer.moments' holds a negative mean of squares");
  write("", 0, {1, 0, 0, 0, 0, 0, 0, 0}, true);
  refused(run.optimizer, "has 5 tensors, a run with 2 parameter groups has 4");
  write_file(folder("run"), file_content(folder("run")).substr(0, 300));
  refused(run.optimizer, "");
  CHECK(same_bits<float>(run.layer.parameters(), parameters));
  CHECK(same_bits<float>(run.optimizer.state(), state));
  CHECK(run.optimizer.steps() == 3);
}
