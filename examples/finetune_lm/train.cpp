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
#include <iterator>
#include <sstream>
#include <stdexcept>

#include "hydralora/io/checkpoint.hpp"
#include "hydralora/lm/data/batches.hpp"
#include "hydralora/lm/export.hpp"
#include "hydralora/lm/generate.hpp"
#include "hydralora/lm/trainer.hpp"

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

/// FNV-1a over the ids and labels: tells other data from the same.
std::uint64_t hash_of(const std::vector<lm::Example>& examples) {
  std::uint64_t hash = 14695981039346656037U;
  const auto add = [&](int number) { hash = (hash ^ static_cast<std::uint32_t>(number)) * 1099511628211U; };
  for (const lm::Example& e : examples) {
    add(static_cast<int>(e.ids.size()));
    for (const int id : e.ids) add(id);
    for (const int label : e.labels) add(label);
    add(e.group);
  }
  return hash;
}

lm::ExampleFile read_data(const std::vector<std::string>& files, Text& text, const TrainOptions& o, const char* what) {
  lm::ExampleFile all;
  const lm::TextFunctions functions = text.functions();
  for (const std::string& file : files) all.read(file, functions, o.max_length, o.truncate);
  std::cout << what << ": " << all.examples.size() << " examples";
  if (all.too_long > 0) std::cout << ", " << all.too_long << " longer than " << o.max_length << " tokens left out";
  if (all.unlabelled > 0) std::cout << ", " << all.unlabelled << " without a trained token left out";
  std::cout << std::endl;
  if (all.examples.empty()) {
    throw std::invalid_argument(std::string(what) + ": no example is left of " + (files.empty() ? "" : files[0]));
  }
  return all;
}

/// Text of this machine: its licenses, in pieces.
lm::ExampleFile default_data() {
  lm::ExampleFile all;
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator("/usr/share/common-licenses")) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  all.groups = {""};
  for (const fs::path& path : files) {
    std::ifstream file(path, std::ios::binary);
    std::string piece(256, '\0');
    while (file.read(piece.data(), static_cast<std::streamsize>(piece.size()))) {
      lm::Example one;
      for (const char c : piece) one.ids.push_back(static_cast<unsigned char>(c));
      one.labels = one.ids;
      all.examples.push_back(std::move(one));
    }
  }
  if (all.examples.empty()) throw std::invalid_argument("no text under /usr/share/common-licenses: give --data");
  std::cout << "data: " << all.examples.size() << " pieces of the licenses under /usr/share/common-licenses\n";
  return all;
}

/// A run: the model, what is trained, the data, and the files in the output folder.
class Run {
 public:
  explicit Run(TrainOptions options) : o_(std::move(options)), text_(o_.model) { prepare_folder(); }

  int go() {
    load();
    std::signal(SIGINT, [](int) { interrupted = 1; });
    while (trainer_->optimizer().steps() < total_ && !stopped_early_) {
      const std::int64_t step = one_step();
      const bool last = step == total_;
      if (o_.evaluate_every > 0 && !validation_.examples.empty() && (step % o_.evaluate_every == 0 || last)) evaluate();
      if (interrupted != 0) {
        save_checkpoint();
        std::cerr << "\nstopped at step " << step << "; go on with the same command and --resume\n";
        return 130;
      }
      if (o_.checkpoint_every > 0 && step % o_.checkpoint_every == 0 && !last) save_checkpoint();
    }
    if (!best_saved_) save(o_.out);
    remove_checkpoints();
    if (isatty(STDERR_FILENO) != 0) std::cerr << '\n';
    std::cout << "written: " << o_.out << " after " << trainer_->optimizer().steps() << " steps, last loss "
              << std::setprecision(4) << std::fixed << last_loss_ << ", peak memory " << std::setprecision(0)
              << peak_memory() / 1e6 << " MB\n";
    return 0;
  }

 private:
  void prepare_folder() {
    if (o_.out.empty()) throw std::invalid_argument("--out is missing: the folder of the run");
    const bool exists = fs::exists(o_.out);
    if (exists && !fs::is_directory(o_.out)) throw std::invalid_argument("--out " + o_.out + " is not a folder");
    if (exists && !fs::is_empty(o_.out) && !o_.resume) {
      throw std::invalid_argument("--out " + o_.out + " is not empty" +
                                  (checkpoints().empty() ? "" : ": --resume goes on with it"));
    }
    if (o_.resume && checkpoints().empty()) throw std::invalid_argument("--resume: no checkpoint in " + o_.out);
  }

  void load() {
    model_ = load_model(o_.model);
    model_->checkpointing = o_.gradient_checkpointing;
    if (o_.max_length > model_->config.positions) o_.max_length = model_->config.positions;
    data_ = o_.data.empty() ? default_data() : read_data(o_.data, text_, o_, "data");
    if (!o_.validation.empty()) validation_ = read_data(o_.validation, text_, o_, "validation");
    if (!o_.sample.empty() && static_cast<Index>(text_.encode(o_.sample, true).size()) > model_->config.positions) {
      throw std::invalid_argument("--sample is longer than the model's context");
    }
    check_ids(data_);
    check_ids(validation_);
    if (o_.method == "full") {
      full_gradients_.assign(model_->weights.size(), 0);
      lm::connect(*model_, full_gradients_.data());
    } else {
      adapters_ = o_.model.adapter.empty() ? new_adapters() : load_adapters(*model_, o_.model);
    }
    using Buffer = hydralora::ParameterMap<float>;
    const auto all = static_cast<Index>(model_->weights.size());
    const Buffer parameters = adapters_ ? adapters_->parameters() : Buffer(model_->weights.data(), all);
    const Buffer gradients = adapters_ ? adapters_->gradients() : Buffer(full_gradients_.data(), all);
    batches_ = std::make_unique<lm::Batches>(data_.examples, o_.micro_batch, o_.pack, !o_.no_shuffle, o_.seed);
    total_ = o_.steps > 0 ? o_.steps : steps_of_epochs();
    lm::TrainingOptions t;
    t.learning_rate = o_.learning_rate;
    t.schedule = o_.schedule == "cosine"   ? lm::Schedule::cosine
                 : o_.schedule == "linear" ? lm::Schedule::linear
                                           : lm::Schedule::constant;
    t.total_steps = total_;
    t.warmup_steps = o_.warmup_steps;
    t.max_grad_norm = o_.max_grad_norm;
    t.weight_decay = o_.weight_decay;
    t.adamw.beta1 = o_.beta1;
    t.adamw.beta2 = o_.beta2;
    t.adamw.epsilon = o_.epsilon;
    trainer_ = std::make_unique<lm::Trainer<float>>(*model_, parameters, gradients, t);
    std::cout << "training " << parameters.size() << " numbers (" << o_.method << "), " << total_ << " steps"
              << std::endl;
    if (o_.resume) resume();
    std::error_code error;
    fs::create_directories(o_.out, error);
    if (error) throw hydralora::FileError(o_.out, "cannot create the folder: " + error.message());
    metrics_.open(fs::path(o_.out) / "metrics.jsonl", std::ios::app);
    if (!metrics_) throw hydralora::FileError(fs::path(o_.out) / "metrics.jsonl", "cannot write");
  }

  std::unique_ptr<lm::Adapters<float>> new_adapters() {
    lm::AdapterOptions a;
    a.method = o_.method == "split" ? lm::Method::split : o_.method == "hydra" ? lm::Method::hydra : lm::Method::lora;
    a.rank = o_.rank;
    a.alpha = o_.alpha;
    a.heads = o_.heads;
    a.dropout = o_.dropout;
    a.target_modules = o_.target_modules;
    a.seed = o_.seed;
    for (int i = 0; i < 4; ++i) {
      if (o_.gate == lm::gate_names[i]) a.gate = static_cast<lm::GateKind>(i);
    }
    return std::make_unique<lm::Adapters<float>>(*model_, a);
  }

  /// The tokens of another model's tokenizer are found here, not in the middle of training.
  void check_ids(const lm::ExampleFile& file) const {
    for (const lm::Example& e : file.examples) {
      std::vector<int> all = e.ids;
      std::copy_if(e.labels.begin(), e.labels.end(), std::back_inserter(all),
                   [](int i) { return i != lm::not_scored; });
      for (const int id : all) {
        if (id < 0 || id >= model_->config.vocabulary) {
          throw std::invalid_argument(
              "token " + std::to_string(id) + " of the data is not in the model's vocabulary of " +
              std::to_string(model_->config.vocabulary) + ": is the tokenizer that of this model?");
        }
      }
    }
  }

  std::int64_t steps_of_epochs() const {
    lm::Batches count(data_.examples, o_.micro_batch, o_.pack, !o_.no_shuffle, o_.seed);
    std::int64_t batches = 0;
    while (count.position().epoch < static_cast<std::int64_t>(std::ceil(o_.epochs))) {
      count.next();
      ++batches;
    }
    const double share = o_.epochs / std::ceil(o_.epochs);
    return std::max<std::int64_t>(1, static_cast<std::int64_t>(static_cast<double>(batches) * share) / o_.accumulate);
  }

  std::int64_t one_step() {
    const Clock::time_point start = Clock::now();
    std::vector<lm::Batch> batches;
    for (Index i = 0; i < o_.accumulate; ++i) batches.push_back(batches_->next());
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
    write_metrics(line);
    busy_ += seconds;
    ++done_;
    progress(r, speed);
    return r.step;
  }

  void progress(const lm::StepResult& r, double speed) {
    const bool terminal = isatty(STDERR_FILENO) != 0;
    if (!terminal && r.step % std::max<std::int64_t>(1, total_ / 20) != 0 && r.step != total_) return;
    const double left = busy_ / static_cast<double>(done_) * static_cast<double>(total_ - r.step);
    std::ostringstream line;
    line << std::fixed << "step " << r.step << '/' << total_ << "  loss " << std::setprecision(4) << r.loss << "  "
         << std::setprecision(0) << speed << " tokens/s  " << peak_memory() / 1e6 << " MB  " << left << " s left";
    std::cerr << (terminal ? "\r" : "") << line.str() << (terminal ? "   " : "\n") << std::flush;
  }

  void write_metrics(const ordered_json& line) {
    metrics_ << line.dump() << std::endl;
    if (!metrics_) throw hydralora::FileError(fs::path(o_.out) / "metrics.jsonl", "cannot write");
  }

  void evaluate() {
    double loss = 0, scored = 0;
    for (const lm::Example& e : validation_.examples) {
      lm::Batch batch;
      batch.add(e.ids, e.labels, e.group);
      loss += model_->loss(batch);
      scored += static_cast<double>(batch.scored().size());
    }
    const double mean = loss / scored;
    write_metrics({{"step", trainer_->optimizer().steps()}, {"validation_loss", mean}});
    std::cerr << (isatty(STDERR_FILENO) != 0 ? "\n" : "") << "step " << trainer_->optimizer().steps()
              << "  validation loss " << mean << '\n';
    if (!o_.sample.empty()) sample();
    if (o_.patience == 0) return;
    if (mean < best_) {
      best_ = mean;
      evaluations_without_gain_ = 0;
      save(o_.out);
      best_saved_ = true;
    } else if (++evaluations_without_gain_ >= o_.patience) {
      stopped_early_ = true;
      std::cerr << "no gain in " << o_.patience << " evaluations: stopped, the best adapter is kept\n";
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
    if (adapters_) return adapters_->save(folder, o_.model.folder);
    lm::save_model(*model_, folder, o_.model.folder);
  }

  // Checkpoints.

  /// What must be the same in a run that goes on.
  ordered_json settings() const {
    ordered_json all = {{"model", o_.model.folder},
                        {"adapter", o_.model.adapter},
                        {"method", o_.method},
                        {"target-modules", o_.target_modules},
                        {"rank", o_.rank},
                        {"alpha", o_.alpha},
                        {"heads", o_.heads},
                        {"gate", o_.gate},
                        {"dropout", o_.dropout},
                        {"learning-rate", o_.learning_rate},
                        {"schedule", o_.schedule},
                        {"warmup-steps", o_.warmup_steps},
                        {"weight-decay", o_.weight_decay},
                        {"beta1", o_.beta1},
                        {"beta2", o_.beta2},
                        {"epsilon", o_.epsilon},
                        {"max-grad-norm", o_.max_grad_norm},
                        {"steps", total_},
                        {"micro-batch", o_.micro_batch},
                        {"pack", o_.pack},
                        {"accumulate", o_.accumulate},
                        {"seed", o_.seed},
                        {"no-shuffle", o_.no_shuffle},
                        {"data", hash_of(data_.examples)},
                        {"validation", hash_of(validation_.examples)}};
    return all;
  }

  std::map<std::int64_t, fs::path> checkpoints(bool complete = true) const {
    std::map<std::int64_t, fs::path> all;
    const std::string prefix = "checkpoint-";
    if (!fs::exists(o_.out)) return all;
    for (const auto& entry : fs::directory_iterator(o_.out)) {
      const std::string name = entry.path().filename().string();
      if (name.rfind(prefix, 0) != 0 || (complete && !fs::exists(entry.path() / "training.safetensors"))) continue;
      const std::int64_t step = std::strtoll(name.c_str() + prefix.size(), nullptr, 10);
      if (name == prefix + std::to_string(step)) all[step] = entry.path();
    }
    return all;
  }
  /// All but that of a step, with what a killed run has left of others.
  void remove_checkpoints(std::int64_t but = 0) const {
    for (const auto& [step, folder] : checkpoints(false)) {
      if (step != but) fs::remove_all(folder);
    }
  }

  /// The training state is written last: a folder that has it is complete.
  void save_checkpoint() {
    const fs::path folder = fs::path(o_.out) / ("checkpoint-" + std::to_string(trainer_->optimizer().steps()));
    if (adapters_) save(folder);
    fs::create_directories(folder);
    const auto position = batches_->position();
    const ordered_json state = {{"epoch", position.epoch},
                                {"index", position.index},
                                {"best", std::isfinite(best_) ? ordered_json(best_) : ordered_json()},
                                {"evaluations_without_gain", evaluations_without_gain_},
                                {"best_saved", best_saved_}};
    hydralora::save_checkpoint(folder / "training.safetensors", trainer_->optimizer(),
                               {{"settings", settings().dump()}, {"state", state.dump()}});
    remove_checkpoints(trainer_->optimizer().steps());
  }

  void resume() {
    const auto [step, folder] = *checkpoints().rbegin();
    const fs::path file = folder / "training.safetensors";
    const auto notes_of = hydralora::SafetensorsFile(file).metadata();
    const auto note = [&](const char* name) {
      const auto found = notes_of.find(name);
      const ordered_json json =
          found == notes_of.end() ? ordered_json() : ordered_json::parse(found->second, nullptr, false);
      if (!json.is_object()) throw hydralora::FileError(file, std::string("has no ") + name + " of a run");
      return json;
    };
    const ordered_json then = note("settings"), now = settings(), state = note("state");
    for (const auto& [key, value] : now.items()) {
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
    keep_metrics_until(step);
    for (const auto& entry : fs::directory_iterator(o_.out)) {  // of a killed run
      const bool temporary = entry.path().filename().string().find(".tmp-") != std::string::npos;
      if (temporary && entry.is_regular_file()) fs::remove(entry.path());
    }
    std::cout << "going on after step " << step << std::endl;
  }

  /// Steps that were taken after the checkpoint are taken again: their lines go.
  void keep_metrics_until(std::int64_t step) const {
    const fs::path path = fs::path(o_.out) / "metrics.jsonl";
    std::ifstream file(path);
    std::string kept;
    for (std::string line; std::getline(file, line);) {
      const ordered_json json = ordered_json::parse(line, nullptr, false);
      if (json.is_object() && json.value("step", step + 1) <= step) kept += line + '\n';
    }
    hydralora::write_file_atomically(path, kept.data(), kept.size());
  }

  TrainOptions o_;
  Text text_;
  std::unique_ptr<lm::Decoder<float>> model_;
  std::unique_ptr<lm::Adapters<float>> adapters_;
  hydralora::AlignedVector<float> full_gradients_;
  lm::ExampleFile data_, validation_;
  std::unique_ptr<lm::Batches> batches_;
  std::unique_ptr<lm::Trainer<float>> trainer_;
  std::ofstream metrics_;
  std::int64_t total_ = 0, done_ = 0, evaluations_without_gain_ = 0;
  double busy_ = 0, last_loss_ = 0, best_ = std::numeric_limits<double>::infinity();
  bool best_saved_ = false, stopped_early_ = false;
};

}  // namespace

int train(TrainOptions options) { return Run(std::move(options)).go(); }

}  // namespace finetune_lm
