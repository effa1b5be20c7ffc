// SPDX-License-Identifier: MIT
#include "study.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <sstream>

#include <hydralora/analysis/k_means.hpp>
#include <hydralora/analysis/silhouette.hpp>
#include <hydralora/analysis/similarity.hpp>
#include <hydralora/analysis/tsne.hpp>

#include "trainings.hpp"

namespace finetune {
namespace {

using hydralora::GateGranularity;
using hydralora::GateInput;
using hydralora::GateSelection;

double mean_bits(const Result& r) { return r.mean; }
double first_part_bits(const Result& r) { return r.bits_per_byte.front(); }
double mean_likeness(const StudyResult& r) {
  return (r.layers[0].head_likeness + r.layers[1].head_likeness + r.layers[2].head_likeness) / 3;
}
double mean_entropy(const Result& r) {
  double sum = 0, count = 0;
  for (const auto& layer : r.routing) {
    for (const PartRouting& part : layer) {
      sum += part.normalized_entropy;
      ++count;
    }
  }
  return count == 0 ? 0 : sum / count;
}

Variant hydra_method(const Settings& settings, Index rank, Index heads) {
  Variant method = methods(settings, MixtureKind::tasks).back();
  method.rank = rank;
  method.heads = heads;
  return method;
}
/// The LoRA with as many parameters.
Variant lora_like(const Variant& other, const Settings& settings) {
  const Variant lora = Method{Method::Kind::lora, "LoRA same size", 1, 1, other.learning_rate};
  return at_budget(lora, trainable_parameters(other, settings), settings);
}

Scene tasks_scene() { return {}; }
Scene domains_scene() {
  Scene scene;
  scene.kind = MixtureKind::domains;
  return scene;
}

Scene only(const std::string& domain) {
  Scene scene = domains_scene();
  scene.only = domain;
  return scene;
}

/// A piece of the page: what it needs is planned when it is made, and written when all has been run.
using Section = std::function<void(std::ostream&)>;

class Study {
 public:
  explicit Study(const StudyOptions& options)
      : options_(options),
        settings_(options.settings),
        trainings_(settings_, options.tasks, options.domains, options.seeds),
        hydra_(hydra_method(settings_, settings_.rank, settings_.heads)),
        lora_(lora_like(hydra_, settings_)) {}

  std::vector<std::pair<std::string, std::string>> run(const std::function<void(std::size_t, std::size_t)>& progress) {
    std::vector<Section> sections = {about(),           all_methods(),   variants(), shared_gates(),
                                     number_of_heads(), hidden_groups(), when(),     likeness()};
    trainings_.run(progress);
    std::ostringstream page;
    for (const Section& section : sections) section(page);
    return {{"study.md", page.str()}, {"when.csv", when_csv_}, {"likeness.csv", likeness_csv_}};
  }

 private:
  using Row = Trainings::Row;

  Section about() {
    return [this](std::ostream& out) {
      out << "# The study: small language models on real text\n\n"
             "Printed by `finetune_study` ([studies](../../studies/study.cpp)); "
             "nothing here is typed by hand. What it means: [evidence.md](../evidence.md).\n\n"
             "Held-out bits per byte, lower is better, over "
          << options_.seeds << " seeds (each its own split, pretraining, adapters and batches) with 95 % intervals. "
          << "Differences are taken seed by seed. The model, the mixtures *tasks* and *domains* and the learning rates "
             "are those of [finetune_mlp.md](../finetune_mlp.md): "
          << settings_.steps << " steps of " << settings_.batch << " bytes. *LoRA same size* has the rank at which it "
          << "trains as many numbers. *Forgets*: what the first task, the text as it is, loses against the frozen "
             "base.\n";
    };
  }

  Section all_methods() {
    struct Line {
      std::string name;
      Index parameters;
      Row tasks, domains;
    };
    std::vector<Line> lines = {
        {"base frozen", 0, trainings_.plan(tasks_scene(), {}), trainings_.plan(domains_scene(), {})}};
    const auto on_domains = study_methods(settings_, MixtureKind::domains);
    std::size_t i = 0;
    for (const Variant& m : study_methods(settings_, MixtureKind::tasks)) {
      lines.push_back({m.name, trainable_parameters(m, settings_), trainings_.plan(tasks_scene(), m),
                       trainings_.plan(domains_scene(), on_domains[i++])});
    }
    const Row lora_tasks = trainings_.plan(tasks_scene(), lora_),
              lora_domains = trainings_.plan(domains_scene(), lora_);
    return [=](std::ostream& out) {
      out << "\n## Every method\n\n| | trained | tasks | − LoRA same size | forgets | domains | − LoRA same size |\n"
             "|---|---|---|---|---|---|---|\n";
      for (const Line& line : lines) {
        out << "| " << line.name << " | " << line.parameters << " | " << mean_of(line.tasks) << " | "
            << versus(line.tasks, lora_tasks) << " | "
            << trainings_.difference(line.tasks, lines[0].tasks, first_part_bits).text(3, true) << " | "
            << mean_of(line.domains) << " | " << versus(line.domains, lora_domains) << " |\n";
      }
    };
  }

  Section variants() {
    struct Line {
      std::string name;
      Row tasks, domains;
      bool learned;
    };
    std::vector<Line> lines;
    const auto add = [&](const std::string& name, auto&& change) {
      Variant m = hydra_;
      change(m);
      lines.push_back({name, trainings_.plan(tasks_scene(), m), trainings_.plan(domains_scene(), m),
                       m.routing == hydralora::Routing::learned});
    };
    add("dense softmax of G x, per token", [](Variant&) {});
    add("no gate: heads summed", [](Variant& m) { m.routing = hydralora::Routing::uniform; });
    add("no gate: heads averaged", [](Variant& m) {
      m.routing = hydralora::Routing::uniform;
      m.scaling /= static_cast<double>(m.heads);
    });
    add("told the part (one head each)", [](Variant& m) { m.routing = hydralora::Routing::given; });
    const auto top = [&](Index k) {
      add("top-" + std::to_string(k), [k](Variant& m) {
        m.gate.selection = GateSelection::top_k;
        m.gate.top_k = std::min(k, m.heads);
      });
    };
    top(1);
    top(2);
    add("straight-through", [](Variant& m) { m.gate.selection = GateSelection::one_hot; });
    add("gate on A x", [](Variant& m) { m.gate.input = GateInput::projection; });
    add("load balance 0.001", [](Variant& m) { m.balance = 1e-3; });
    add("load balance 0.01", [](Variant& m) { m.balance = 1e-2; });
    add("load balance 0.1", [](Variant& m) { m.balance = 1e-1; });
    add("head warm-up, a tenth of the steps",
        [this](Variant& m) { m.warmup = std::max<Index>(1, settings_.steps / 10); });
    if (settings_.rank % 2 == 0) add("orthogonal start", [](Variant& m) { m.start = Variant::Start::orthogonal; });
    add("Gaussian start, B of 0.01", [](Variant& m) { m.start = Variant::Start::gaussian; });
    add("gate from k-means of the layer's inputs", [](Variant& m) { m.start = Variant::Start::clusters; });
    return [=](std::ostream& out) {
      out << "\n## Gates and starts\n\nHydraLoRA, " << hydra_.heads << " heads of rank " << hydra_.rank
          << ". Against its default; the gate's normalised entropy (1: every token gets all heads alike) and the mean "
             "cosine between two heads' B, both over the layers.\n\n"
             "| | tasks | − default | entropy | cosine | domains | − default | entropy | cosine |\n"
             "|---|---|---|---|---|---|---|---|---|\n";
      for (const Line& line : lines) {
        out << "| " << line.name;
        for (const auto& [row, first] :
             {std::pair(line.tasks, lines[0].tasks), std::pair(line.domains, lines[0].domains)}) {
          out << " | " << mean_of(row) << " | " << versus(row, first) << " | "
              << (line.learned ? mean_of(row, mean_entropy, 2) : "–") << " | " << mean_of(row, mean_likeness, 2);
        }
        out << " |\n";
      }
    };
  }

  Section shared_gates() {
    struct Line {
      std::string name;
      std::array<Row, 2> rows;
    };
    std::vector<Line> lines;
    constexpr Index run = 16;
    std::array<Scene, 2> scenes = {domains_scene(), domains_scene()};
    scenes[0].layout = {run, false};
    scenes[1].layout = {run, true};
    const auto add = [&](const std::string& name, const Variant& m) {
      lines.push_back({name, {trainings_.plan(scenes[0], m), trainings_.plan(scenes[1], m)}});
    };
    const auto gated = [&](GateGranularity granularity, GateInput input) {
      Variant m = hydra_;
      m.gate.granularity = granularity;
      m.gate.input = input;
      return m;
    };
    add("HydraLoRA, gate per token", hydra_);
    add("causal gate", gated(GateGranularity::causal, GateInput::x));
    add("segment gate", gated(GateGranularity::segment, GateInput::x));
    add("causal gate on the RMS of A x", gated(GateGranularity::causal, GateInput::rms_projection));
    add("segment gate on the RMS of A x", gated(GateGranularity::segment, GateInput::rms_projection));
    add("LoRA same size", lora_);
    return [=](std::ostream& out) {
      out << "\n## Gates that tokens share\n\nDomains, in segments of " << run
          << " tokens of one domain. *Apart*: bytes from anywhere in it, so that no token's input holds another's "
             "answer. *In a row*: bytes that follow each other, so that a segment gate sees, in the inputs of later "
             "tokens, what earlier ones have to predict.\n\n"
             "| | apart | − per token | in a row | − per token |\n|---|---|---|---|---|\n";
      for (const Line& line : lines) {
        out << "| " << line.name;
        for (std::size_t i = 0; i < 2; ++i)
          out << " | " << mean_of(line.rows[i]) << " | " << versus(line.rows[i], lines[0].rows[i]);
        out << " |\n";
      }
    };
  }

  Section number_of_heads() {
    struct Line {
      Variant method;
      Row tasks, domains;
    };
    std::vector<Line> lines;
    const Index budget = trainable_parameters(hydra_, settings_);
    for (const Index heads : {1, 2, 3, 4, 8}) {
      const Variant m = heads == 1 ? lora_ : at_budget(hydra_method(settings_, 1, heads), budget, settings_);
      lines.push_back({m, trainings_.plan(tasks_scene(), m), trainings_.plan(domains_scene(), m)});
    }
    return [=](std::ostream& out) {
      out << "\n## Number of heads, parameters equal\n\nOne head is LoRA.\n\n"
             "| N | rank | trained | tasks | − LoRA | domains | − LoRA |\n|---|---|---|---|---|---|---|\n";
      for (const Line& line : lines) {
        out << "| " << line.method.heads << " | " << line.method.rank << " | "
            << trainable_parameters(line.method, settings_) << " | " << mean_of(line.tasks) << " | "
            << versus(line.tasks, lines[0].tasks) << " | " << mean_of(line.domains) << " | "
            << versus(line.domains, lines[0].domains) << " |\n";
      }
    };
  }

  Section hidden_groups() {
    struct Line {
      std::string name;
      Index elbow, silhouette;
      Variant method;
      Row hydra, lora;
    };
    std::vector<Line> lines;
    const auto add = [&](const std::string& name, const Scene& scene) {
      const Eigen::MatrixXd features = chunk_features(trainings_.parts(scene, settings_.seed), settings_.seed);
      hydralora::KMeansConfig config;
      config.seed = settings_.seed;
      const Index elbow = hydralora::elbow(hydralora::sse_curve(features, most_heads_from_data, config));
      const std::vector<double> silhouettes = hydralora::silhouette_curve(features, most_heads_from_data, config);
      const auto best = std::max_element(silhouettes.begin(), silhouettes.end()) - silhouettes.begin();
      const Variant m = hydra_method(settings_, settings_.rank, elbow);
      lines.push_back({name, elbow, 1 + static_cast<Index>(best), m, trainings_.plan(scene, m),
                       trainings_.plan(scene, lora_like(m, settings_))});
    };
    add("all domains", domains_scene());
    for (std::size_t i = 1; i < trainings_.domains().size(); ++i) {
      const Scene one = only(trainings_.domains()[i].name);
      add("only " + one.only, one);
    }
    return [=](std::ostream& out) {
      out << "\n## Hidden groups: N from the data, no labels\n\nk-means on byte n-grams of the training text; the "
             "elbow "
             "is used. Against a LoRA of that HydraLoRA's size.\n\n"
             "| text | N by elbow | by silhouette | HydraLoRA | − LoRA same size |\n|---|---|---|---|---|\n";
      for (const Line& line : lines) {
        out << "| " << line.name << " | " << line.elbow << " | " << line.silhouette << " | " << mean_of(line.hydra)
            << " | " << versus(line.hydra, line.lora) << " |\n";
      }
    };
  }

  Section when() {
    struct Line {
      std::string factor, value;
      Row hydra, lora, base;
      bool tasks;
    };
    std::vector<Line> lines;
    const auto add = [&](const std::string& factor, const std::string& value, const Scene& scene, const Variant& m) {
      lines.push_back({factor, value, trainings_.plan(scene, m), trainings_.plan(scene, lora_like(m, settings_)),
                       trainings_.plan(scene, {}), scene.kind == MixtureKind::tasks});
    };
    for (const std::size_t count : {1, 2, 4, 8}) {
      Scene scene;
      scene.tasks = count;
      add("tasks", std::to_string(count), scene, hydra_);
    }
    Scene eight;
    eight.tasks = 8;
    add("tasks", "8, and 8 heads", eight, hydra_method(settings_, settings_.rank, 8));
    for (const int letters : {1, 5, 13, 26}) {
      Scene scene;
      scene.letters = letters;
      std::ostringstream share;
      share << letters << " letters, " << std::fixed << std::setprecision(0) << 100 * conflict(scene)
            << " % of the bytes";
      add("conflict", share.str(), scene, hydra_);
    }
    Scene untold;
    untold.instruction = false;
    add("input tells the task", "no", untold, hydra_);
    add("input tells the task", "yes", tasks_scene(), hydra_);
    Variant told = hydra_;
    told.routing = hydralora::Routing::given;
    add("router", "told the task, one head each", tasks_scene(), told);
    add("router", "told the domain, one head each", domains_scene(), told);
    for (const Scene& kind : {tasks_scene(), domains_scene()}) {
      const std::string in = kind.kind == MixtureKind::tasks ? ", tasks" : ", domains";
      for (const Index rank : {2, 4, 8, 16})
        add("rank" + in, std::to_string(rank), kind, hydra_method(settings_, rank, settings_.heads));
      for (const double pretraining : {0.1, 0.3, 1.0, 3.0}) {
        Scene scene = kind;
        scene.pretraining = pretraining;
        std::ostringstream steps;
        steps << std::lround(pretraining * static_cast<double>(settings_.pretraining_steps)) << " steps";
        add("pretraining" + in, steps.str(), scene, hydra_);
      }
    }
    return [=](std::ostream& out) {
      out << "\n## When routing pays\n\nHydraLoRA against a LoRA of its size, one thing changed at a time from "
          << hydra_.heads << " heads of rank " << hydra_.rank << ", four tasks told by the input, all letters, "
          << settings_.pretraining_steps << " pretraining steps. *Forgets less*: the same difference on the first task "
          << "alone, the text as it is.\n\n![HydraLoRA against LoRA](when.svg)\n\n"
             "| | | base | LoRA | HydraLoRA | HydraLoRA − LoRA | forgets less |\n|---|---|---|---|---|---|---|\n";
      std::ostringstream csv;
      csv << "factor,value,difference,half_width\n";
      for (const Line& line : lines) {
        const MeanInterval difference = trainings_.difference(line.hydra, line.lora, mean_bits);
        out << "| " << line.factor << " | " << line.value << " | " << mean_of(line.base) << " | " << mean_of(line.lora)
            << " | " << mean_of(line.hydra) << " | " << difference.text(3, true) << " | "
            << (line.tasks ? trainings_.difference(line.hydra, line.lora, first_part_bits).text(3, true) : "")
            << " |\n";
        std::string value = line.value;
        std::replace(value.begin(), value.end(), ',', ' ');
        std::string factor = line.factor;
        std::replace(factor.begin(), factor.end(), ',', ' ');
        csv << factor << ',' << value << ',' << difference.mean << ',' << difference.half_width << '\n';
      }
      when_csv_ = csv.str();
    };
  }

  /// Are the A of LoRAs that were trained apart more alike than their B?
  Section likeness() {
    struct Rate {
      double learning_rate;
      std::vector<Row> rows;  // [domain][start]
    };
    std::vector<Rate> rates;
    for (const double slower : {1.0, 8.0}) {
      Variant lora = lora_;
      lora.rank = settings_.rank;
      lora.learning_rate /= slower;
      rates.push_back({lora.learning_rate, {}});
      for (std::size_t i = 1; i < trainings_.domains().size(); ++i) {
        rates.back().rows.push_back(trainings_.plan_starts(only(trainings_.domains()[i].name), lora));
      }
    }
    return [=](std::ostream& out) {
      out << "\n## Are A alike and B different?\n\nA LoRA of rank " << settings_.rank
          << " on every domain by itself, from one base, with the same and with different seeds for its start; at the "
             "learning rate of the other tables, and at an eighth of it. *Entries*: the cosine between the numbers of "
             "two "
             "matrices, which is what a picture of them sees. *Spaces*: the mean cosine of the principal angles "
             "between "
             "the row spaces of two A and the column spaces of two B, which no change of basis changes; two random "
             "spaces "
             "of these sizes have "
          << std::fixed << std::setprecision(2) << random_cosine(true) << " and " << random_cosine(false)
          << ". Means over the layers and all such pairs.\n\n"
             "| learning rate | pairs | A, entries | B, entries | A, spaces | B, spaces |\n|---|---|---|---|---|---|\n";
      for (const Rate& rate : rates) {
        write_pairs(out, rate.learning_rate, rate.rows, "different domains, same start",
                    [](bool domain, bool start) { return !domain && start; });
        write_pairs(out, rate.learning_rate, rate.rows, "different domains, different starts",
                    [](bool domain, bool start) { return !domain && !start; });
        write_pairs(out, rate.learning_rate, rate.rows, "same domain, different starts",
                    [](bool domain, bool start) { return domain && !start; });
      }
      out << "\nThe picture, A and B of the second layer in the plane by t-SNE at the higher rate, one number per "
             "LoRA: "
             "that of its start:\n\n![A and B by t-SNE](likeness.svg)\n";
      write_likeness(rates[0].rows);
    };
  }

  /// One line of the table: the mean over the pairs of LoRAs for which wanted(same domain, same start).
  template <class Wanted>
  void write_pairs(std::ostream& out, double learning_rate, const std::vector<Row>& rows, const char* name,
                   Wanted&& wanted) const {
    const std::size_t starts = rows.front().size();
    std::array<std::vector<double>, 4> values;
    const auto cosine = [](const Matrix& a, const Matrix& b) {
      return static_cast<double>(a.cwiseProduct(b).sum() / (a.norm() * b.norm()));
    };
    for (std::size_t i = 0; i < rows.size() * starts; ++i) {
      for (std::size_t j = i + 1; j < rows.size() * starts; ++j) {
        if (!wanted(i / starts == j / starts, i % starts == j % starts)) continue;
        for (std::size_t layer = 0; layer < 3; ++layer) {
          const Inspection& one = trainings_.result(rows[i / starts][i % starts]).layers[layer];
          const Inspection& other = trainings_.result(rows[j / starts][j % starts]).layers[layer];
          values[0].push_back(cosine(one.A, other.A));
          values[1].push_back(cosine(one.B, other.B));
          values[2].push_back(hydralora::principal_cosines(one.A.transpose(), other.A.transpose()).mean());
          values[3].push_back(hydralora::principal_cosines(one.B, other.B).mean());
        }
      }
    }
    if (values[0].empty()) return;
    out << "| " << std::defaultfloat << learning_rate << std::fixed << " | " << name;
    for (const auto& v : values) out << " | " << MeanInterval(v).mean;
    out << " |\n";
  }

  void write_likeness(const std::vector<Row>& rows) {
    constexpr std::size_t layer = 1;
    std::ostringstream csv;
    csv << "matrix,domain,start,x,y\n";
    for (const bool A : {true, false}) {
      std::vector<Eigen::VectorXd> points;
      for (const Row& row : rows) {
        for (const std::size_t run : row) {
          const Inspection& f = trainings_.result(run).layers[layer];
          const Eigen::MatrixXd m = (A ? f.A : f.B).cast<double>();
          points.push_back(Eigen::Map<const Eigen::VectorXd>(m.data(), m.size()));
        }
      }
      Eigen::MatrixXd all(points[0].size(), static_cast<Index>(points.size()));
      for (std::size_t i = 0; i < points.size(); ++i) all.col(static_cast<Index>(i)) = points[i];
      if (all.cols() < 4) continue;
      hydralora::TsneConfig config;
      config.perplexity = std::min(4.0, static_cast<double>(all.cols() - 1) / 2);
      const Eigen::MatrixXd at = hydralora::tsne(all, config).coordinates;
      for (std::size_t i = 0; i < points.size(); ++i) {
        const std::size_t seeds = rows.front().size();
        csv << (A ? 'A' : 'B') << ',' << trainings_.domains()[1 + i / seeds].name << ',' << i % seeds << ','
            << at(0, static_cast<Index>(i)) << ',' << at(1, static_cast<Index>(i)) << '\n';
      }
    }
    likeness_csv_ = csv.str();
  }

  /// The mean cosine of the principal angles of two random spaces as large as A's or B's, over the layers.
  double random_cosine(bool A) const {
    const Index in = settings_.context * settings_.embedding;
    const std::array<Index, 3> features = A ? std::array<Index, 3>{in, settings_.hidden, settings_.hidden}
                                            : std::array<Index, 3>{settings_.hidden, settings_.hidden, byte_values};
    double sum = 0;
    for (const Index n : features) {
      const hydralora::CounterRandom random(settings_.seed, 110);
      const auto draw = [&](std::uint64_t which) {
        return Eigen::MatrixXd::NullaryExpr(n, settings_.rank,
                                            [&random, which](Index i, Index j) {
                                              return random.normal(static_cast<std::uint64_t>(i),
                                                                   static_cast<std::uint64_t>(j), which);
                                            })
            .eval();
      };
      sum += hydralora::principal_cosines(draw(0), draw(1)).mean() / 3;
    }
    return sum;
  }

  /// The share of bytes on which not all tasks of a scene agree.
  double conflict(const Scene& scene) {
    const std::vector<Part> parts = trainings_.parts(scene, settings_.seed);
    const std::string& text = *parts[0].text;
    const auto differ = [&](char c) {
      const auto byte = static_cast<unsigned char>(c);
      return std::any_of(parts.begin(), parts.end(),
                         [&](const Part& p) { return p.task.apply(byte) != parts[0].task.apply(byte); });
    };
    return static_cast<double>(std::count_if(text.begin(), text.end(), differ)) / static_cast<double>(text.size());
  }

  std::string mean_of(const Row& row) const { return mean_of(row, mean_bits, 3); }
  template <class Function>
  std::string mean_of(const Row& row, Function&& f, int digits) const {
    return MeanInterval(trainings_.values(row, f)).text(digits);
  }
  std::string versus(const Row& row, const Row& other) const {
    return &row == &other || row == other ? "" : trainings_.difference(row, other, mean_bits).text(3, true);
  }

  StudyOptions options_;
  Settings settings_;
  Trainings trainings_;
  Variant hydra_, lora_;
  std::string when_csv_, likeness_csv_;
};

}  // namespace

std::vector<Variant> study_methods(const Settings& settings, MixtureKind kind) {
  std::vector<Variant> all;
  for (const Method& method : methods(settings, kind)) all.emplace_back(method);
  const Index budget = trainable_parameters(all.back(), settings);
  const auto add = [&](Method::Kind its_kind, Variant::Adapter adapter, const char* name, double rate) {
    Variant m = Method{its_kind, name, 1, settings.heads, settings.learning_rate > 0 ? settings.learning_rate : rate};
    m.adapter = adapter;
    if (its_kind == Method::Kind::split_lora) m.routing = hydralora::Routing::uniform;
    all.push_back(at_budget(m, budget, settings));
  };
  // Rates from the same search as those of methods().
  using Kind = Method::Kind;
  using Adapter = Variant::Adapter;
  const double rate = kind == MixtureKind::tasks ? 8e-3 : 16e-3;
  add(Kind::split_lora, Adapter::usual, "SplitLoRA summed", rate);
  add(Kind::hydra_lora, Adapter::shared_b_lora, "SharedBLoRA", 8e-3);
  add(Kind::lora, Adapter::dora, "DoRA", rate);
  add(Kind::lora, Adapter::lora_fa, "LoRA-FA", 16e-3);
  return all;
}

std::vector<std::pair<std::string, std::string>> run_study(
    const StudyOptions& options, const std::function<void(std::size_t, std::size_t)>& progress) {
  return Study(options).run(progress);
}

}  // namespace finetune
