// SPDX-License-Identifier: MIT
#include "train.hpp"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <csignal>
#include <fstream>
#include <iomanip>
#include <iostream>
#include <sstream>
#include <stdexcept>

#include "hydralora/io/checkpoint.hpp"
#include "hydralora/lm/data/batches.hpp"
#include "hydralora/lm/generate.hpp"
#include "hydralora/lm/trainer.hpp"
#include "hydralora/train/data_parallel.hpp"
#include "ranks.hpp"
#include "run_folder.hpp"
#include "train_data.hpp"
#include "train_options.hpp"

namespace finetune_lm {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;
using nlohmann::ordered_json;

volatile std::sig_atomic_t interrupted = 0;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }
double peak_memory() {  // bytes
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) * 1024;
}

/// A run: the model, what is trained, the data, and the files in the output folder.
class Run {
 public:
  Run(TrainOptions options, const Ranks& ranks)
      : o_(std::move(options)), ranks_(ranks), folder_(o_.out, ranks.rank() == 0), text_(o_.model) {
    folder_.check(o_.resume);
  }

  int go() {
    load();
    std::signal(SIGINT, [](int) { interrupted = 1; });
    while (trainer_->optimizer().steps() < total_ && !stopped_early_) {
      const std::int64_t step = one_step();
      const bool last = step == total_;
      if (o_.evaluate_every > 0 && !validation_.examples.empty() && (step % o_.evaluate_every == 0 || last)) evaluate();
      double stop = interrupted;  // of any rank
      ranks_.sum(&stop, 1);
      if (stop > 0) {
        save_checkpoint();
        if (folder_.writes()) {
          std::cerr << "\nstopped at step " << step << "; go on with the same command and --resume\n";
        }
        return 130;
      }
      if (o_.checkpoint_every > 0 && step % o_.checkpoint_every == 0 && !last) save_checkpoint();
    }
    if (!best_saved_) save(o_.out);
    folder_.remove_checkpoints();
    if (isatty(STDERR_FILENO) != 0) std::cerr << '\n';
    std::cout << "written: " << o_.out << " after " << trainer_->optimizer().steps() << " steps, last loss "
              << std::setprecision(4) << std::fixed << last_loss_ << ", peak memory " << std::setprecision(0)
              << peak_memory() / 1e6 << " MB\n";
    return 0;
  }

 private:
  void load() {
    model_ = load_model(o_.model);
    model_->checkpointing = o_.gradient_checkpointing;
    model_->saves_bfloat16 = base_type_of(o_.model) == lm::BaseType::bfloat16;
    if (o_.max_length > model_->config.positions) o_.max_length = model_->config.positions;
    read_data(o_, text_, data_, validation_);
    if (!o_.sample.empty() && static_cast<Index>(text_.encode(o_.sample, true).size()) > model_->config.positions) {
      throw std::invalid_argument("--sample is longer than the model's context");
    }
    check_ids(data_, model_->config.vocabulary);
    check_ids(validation_, model_->config.vocabulary);
    if (o_.method == "full" && o_.model.adapter.empty()) {
      full_gradients_.assign(model_->weights.size(), 0);
      lm::connect_gradients(*model_, full_gradients_.data());
      if (folder_.writes()) copy_model_files(o_.model, o_.out);  // before hours of training: a GGUF may be refused
    } else {
      adapters_ = make_adapters(o_, *model_, data_.groups);
    }
    using Buffer = hydralora::ParameterMap<float>;
    const auto all = static_cast<Index>(model_->weights.size());
    const Buffer parameters = adapters_ ? adapters_->parameters() : Buffer(model_->weights.data(), all);
    const Buffer gradients = adapters_ ? adapters_->gradients() : Buffer(full_gradients_.data(), all);
    batches_ = std::make_unique<lm::Batches>(data_.examples, o_.micro_batch, o_.pack, !o_.no_shuffle, o_.seed);
    total_ = o_.steps > 0 ? o_.steps : steps_of_epochs();
    trainer_ = std::make_unique<lm::Trainer<float>>(*model_, parameters, gradients, training_options(o_, total_));
    std::cout << "training " << parameters.size() << " numbers (" << o_.method << "), " << total_ << " steps"
              << std::endl;
    trainer_->reduction = ranks_.reduction();
    settings_ = settings();
    if (const std::string text = settings_.dump(); !ranks_.same(hydralora::fnv1a(text.data(), text.size()))) {
      throw std::invalid_argument("the ranks were given different options or data");
    }
    if (o_.resume) resume();
    folder_.open({{"settings", settings_}, {"data", o_.data}, {"validation", o_.validation}});
  }

  std::int64_t steps_of_epochs() const {
    lm::Batches count(data_.examples, o_.micro_batch, o_.pack, !o_.no_shuffle, o_.seed);
    std::int64_t batches = 0;
    while (count.position().epoch < static_cast<std::int64_t>(std::ceil(o_.epochs))) {
      count.next();
      ++batches;
    }
    const double share = o_.epochs / std::ceil(o_.epochs);
    return std::max<std::int64_t>(1,
                                  static_cast<std::int64_t>(static_cast<double>(batches) * share) / batches_of_step());
  }

  /// Micro-batches of a step: --accumulate of them for each rank.
  Index batches_of_step() const { return o_.accumulate * ranks_.count(); }

  std::int64_t one_step() {
    const Clock::time_point start = Clock::now();
    std::vector<lm::Batch> batches;
    for (Index i = 0; i < batches_of_step(); ++i) batches.push_back(batches_->next());
    const lm::StepResult r = trainer_->step(batches);
    const double seconds = seconds_since(start), speed = static_cast<double>(r.tokens) / seconds;
    last_loss_ = r.loss;
    ordered_json line = {{"step", r.step},
                         {"loss", r.loss},
                         {"learning_rate", r.learning_rate},
                         {"grad_norm", r.gradient_norm},
                         {"tokens", r.tokens},
                         {"labelled_tokens", r.scored_tokens},
                         {"tokens_per_second", speed},
                         {"memory", peak_memory()}};
    folder_.write_metrics(line);
    busy_ += seconds;
    ++done_;
    progress(r, speed);
    return r.step;
  }

  void progress(const lm::StepResult& r, double speed) {
    const bool terminal = isatty(STDERR_FILENO) != 0;
    if (!folder_.writes()) return;
    if (!terminal && r.step % std::max<std::int64_t>(1, total_ / 20) != 0 && r.step != total_) return;
    const double left = busy_ / static_cast<double>(done_) * static_cast<double>(total_ - r.step);
    std::ostringstream line;
    line << std::fixed << "step " << r.step << '/' << total_ << "  loss " << std::setprecision(4) << r.loss << "  "
         << std::setprecision(0) << speed << " tokens/s  " << peak_memory() / 1e6 << " MB  " << left << " s left";
    std::cerr << (terminal ? "\r" : "") << line.str() << (terminal ? "   " : "\n") << std::flush;
  }

  void evaluate() {
    double sums[2] = {0, 0};  // of the losses, and of the scored tokens
    for (auto i = static_cast<std::size_t>(ranks_.rank()); i < validation_.examples.size();
         i += static_cast<std::size_t>(ranks_.count())) {
      const lm::Example& e = validation_.examples[i];
      lm::Batch batch;
      batch.add(e.ids, e.labels, e.group);
      sums[0] += model_->loss(batch);
      sums[1] += static_cast<double>(batch.scored().size());
    }
    ranks_.sum(sums, 2);
    const double mean = sums[0] / sums[1];
    folder_.write_metrics({{"step", trainer_->optimizer().steps()}, {"validation_loss", mean}});
    if (folder_.writes()) {
      std::cerr << (isatty(STDERR_FILENO) != 0 ? "\n" : "") << "step " << trainer_->optimizer().steps()
                << "  validation loss " << mean << '\n';
      if (!o_.sample.empty()) sample();
    }
    if (o_.patience == 0) return;
    if (mean < best_) {
      best_ = mean;
      evaluations_without_gain_ = 0;
      save(o_.out);
      best_saved_ = true;
    } else if (++evaluations_without_gain_ >= o_.patience) {
      stopped_early_ = true;
      std::cout << "no gain in " << o_.patience << " evaluations: stopped, the best adapter stays\n";
    }
  }

  void sample() {
    lm::GenerationOptions g;
    g.max_tokens = 48;
    g.end_tokens = text_.end_tokens();
    const std::vector<int> ids = lm::Generator<float>(*model_).generate(text_.encode(o_.sample, true), g);
    std::cerr << "  " << o_.sample << " → " << text_.decode(ids, true) << '\n';
  }

  void save(const fs::path& folder) const {
    if (!folder_.writes()) return;
    adapters_ ? adapters_->save(folder, o_.model.folder) : lm::save_model(*model_, folder);
  }

  // Checkpoints.

  /// What must be the same in a run that goes on.
  ordered_json settings() const {
    ordered_json all = settings_of(o_);
    all["steps"] = total_;
    all["accumulate"] = batches_of_step();
    all["data"] = hash_of(data_.examples);
    all["validation"] = hash_of(validation_.examples);
    return all;
  }

  /// The training state is written last: a folder that has it is complete.
  void save_checkpoint() {
    if (!folder_.writes()) return;
    const fs::path folder = folder_.checkpoint(trainer_->optimizer().steps());
    if (adapters_) save(folder);
    fs::create_directories(folder);
    const auto position = batches_->position();
    const ordered_json state = {{"epoch", position.epoch},
                                {"index", position.index},
                                {"best", std::isfinite(best_) ? ordered_json(best_) : ordered_json()},
                                {"evaluations_without_gain", evaluations_without_gain_},
                                {"best_saved", best_saved_}};
    hydralora::save_checkpoint(folder / "training.safetensors", trainer_->optimizer(),
                               {{"settings", settings_.dump()}, {"state", state.dump()}});
    folder_.remove_checkpoints(trainer_->optimizer().steps());
  }

  void resume() {
    const auto [step, folder] = *folder_.checkpoints().rbegin();
    const fs::path file = folder / "training.safetensors";
    const auto notes_of = hydralora::SafetensorsFile(file).metadata();
    const auto note = [&](const char* name) {
      const auto found = notes_of.find(name);
      const ordered_json json =
          found == notes_of.end() ? ordered_json() : ordered_json::parse(found->second, nullptr, false);
      if (!json.is_object()) throw hydralora::FileError(file, std::string("has no ") + name + " of a run");
      return json;
    };
    const ordered_json then = note("settings"), state = note("state");
    for (const auto& [key, value] : settings_.items()) {
      if (then.value(key, ordered_json()) == value) continue;
      const bool data = key == "data" || key == "validation";
      throw std::invalid_argument(
          "--resume: the run in " + o_.out + " has " +
          (data ? "other --" + key
                : "--" + key + " " + then.value(key, ordered_json()).dump() + ", not " + value.dump()));
    }
    hydralora::load_checkpoint(file, trainer_->optimizer());
    try {
      batches_->set_position({state.at("epoch").get<std::int64_t>(), state.at("index").get<std::int64_t>()});
      if (!state.at("best").is_null()) best_ = state["best"];
      evaluations_without_gain_ = state.at("evaluations_without_gain");
      best_saved_ = state.at("best_saved");
    } catch (const std::exception& error) {
      throw hydralora::FileError(file, std::string("has a broken state: ") + error.what());
    }
    folder_.go_on_after(step);
    std::cout << "going on after step " << step << std::endl;
  }

  TrainOptions o_;
  ordered_json settings_;  // hashes all data: made once
  const Ranks& ranks_;
  RunFolder folder_;
  Text text_;
  std::unique_ptr<lm::Decoder<float>> model_;
  std::unique_ptr<lm::Adapters<float>> adapters_;
  hydralora::AlignedVector<float> full_gradients_;
  lm::ExampleFile data_, validation_;
  std::unique_ptr<lm::Batches> batches_;
  std::unique_ptr<lm::Trainer<float>> trainer_;
  std::int64_t total_ = 0, done_ = 0, evaluations_without_gain_ = 0;
  double busy_ = 0, last_loss_ = 0, best_ = std::numeric_limits<double>::infinity();
  bool best_saved_ = false, stopped_early_ = false;
};

}  // namespace

int train(TrainOptions options) {
  const Ranks ranks;
  if (ranks.rank() > 0) std::cout.setstate(std::ios::failbit);  // one rank reports
  try {
    const int code = Run(std::move(options), ranks).go();
    if (ranks.rank() > 0) std::cout.clear();
    return code;
  } catch (const std::exception& error) {
    if (ranks.count() > 1) std::cerr << "finetune_lm: rank " << ranks.rank() << ": " << error.what() << std::endl;
    ranks.abort(2);
    throw;
  }
}

}  // namespace finetune_lm
