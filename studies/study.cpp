// SPDX-License-Identifier: MIT
//
// `finetune_study`, the study behind docs/evidence.md: every method, gate and start on both mixtures over several
// seeds, and when routing pays. Or, with --search-learning-rates, the table that the methods' learning rates come from.
#include <algorithm>
#include <array>
#include <cmath>
#include <iostream>
#include <sstream>

#include <hydralora/analysis/k_means.hpp>
#include <hydralora/analysis/silhouette.hpp>
#include <hydralora/analysis/similarity.hpp>
#include <hydralora/analysis/tsne.hpp>

#include "../examples/support/options.hpp"
#include "../examples/support/report.hpp"
#include "trainings.hpp"

namespace {

using namespace finetune;
using hydralora::GateGranularity;
using hydralora::GateInput;
using hydralora::GateSelection;
using hydralora::principal_cosines;
using Row = Trainings::Row;

double mean_bits(const StudyResult& r) { return r.mean; }
double first_part_bits(const StudyResult& r) { return r.bits_per_byte.front(); }
double mean_likeness(const StudyResult& r) {
  return (r.layers[0].head_likeness + r.layers[1].head_likeness + r.layers[2].head_likeness) / 3;
}
double mean_entropy(const StudyResult& r) {
  double sum = 0, count = 0;
  for (const auto& layer : r.routing) {
    for (const PartRouting& part : layer) {
      sum += part.normalized_entropy;
      ++count;
    }
  }
  return count == 0 ? 0 : sum / count;
}

double cosine(const Matrix& a, const Matrix& b) {
  return static_cast<double>(a.cwiseProduct(b).sum() / (a.norm() * b.norm()));
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

Scene scene_of(MixtureKind kind) {
  Scene scene;
  scene.kind = kind;
  return scene;
}
Scene only(const std::string& domain) {
  Scene scene = scene_of(MixtureKind::domains);
  scene.only = domain;
  return scene;
}

/// The same on both mixtures.
struct Both {
  Row tasks, domains;
};

/// A piece of the page that becomes text when all trainings have been run.
using Later = std::function<std::string()>;

Later piece(std::string known) {
  return [known = std::move(known)] { return known; };
}
Later piece(Index known) { return piece(std::to_string(known)); }
Later piece(Later later) { return later; }

std::string decimal(double value, int digits, bool fixed = true) {
  std::ostringstream out;
  out << (fixed ? std::fixed : std::defaultfloat) << std::setprecision(digits) << value;
  return out.str();
}

class Study {
 public:
  Study(const Settings& settings, std::vector<Domain> tasks, std::vector<Domain> domains, Index seeds)
      : settings_(settings),
        seeds_(seeds),
        trainings_(settings, std::move(tasks), std::move(domains), seeds),
        hydra_(hydra_method(settings, settings.rank, settings.heads)),
        lora_(lora_like(hydra_, settings)) {}

  /// Runs it all, one training per thread at a time, and returns the files it makes: study.md and the data of its
  /// plots. The results are the same bits on any number of threads.
  std::vector<std::pair<std::string, std::string>> run(const std::function<void(std::size_t, std::size_t)>& progress) {
    about();
    all_methods();
    variants();
    shared_gates();
    number_of_heads();
    hidden_groups();
    when();
    likeness();
    trainings_.run(progress);
    std::array<std::string, 3> files;
    for (std::size_t i = 0; i < files.size(); ++i) {
      for (const Later& text : pieces_[i]) files[i] += text();
    }
    return {{"study.md", files[page]}, {"when.csv", files[when_csv]}, {"likeness.csv", files[likeness_csv]}};
  }

 private:
  enum File { page, when_csv, likeness_csv };

  /// Each of the next plans what it needs, and adds to the page.
  void about() {
    write(
        "# The study: small language models on real text\n\n"
        "Printed by `finetune_study` ([studies](../../studies/study.cpp)); nothing here is typed by hand. What it "
        "means: [evidence.md](../evidence.md).\n\nHeld-out bits per byte, lower is better, over ",
        seeds_,
        " seeds (each its own split, pretraining, adapters and batches) with 95 % intervals. Differences are taken "
        "seed by seed. The model, the mixtures *tasks* and *domains* and the learning rates are those of "
        "[finetune_mlp.md](../finetune_mlp.md): ",
        settings_.steps, " steps of ", settings_.batch,
        " bytes. *LoRA same size* has the rank at which it trains as many numbers. *Forgets*: what the first task, "
        "the text as it is, loses against the frozen base.\n");
  }

  void all_methods() {
    table("Every method", "", "| | trained | tasks | − LoRA same size | forgets | domains | − LoRA same size |");
    const Both base = plan({}), lora = plan(lora_);
    const auto add = [&](const std::string& name, Index parameters, const Both& rows) {
      row(name, parameters, mean(rows.tasks), versus(rows.tasks, lora.tasks),
          difference(rows.tasks, base.tasks, first_part_bits), mean(rows.domains), versus(rows.domains, lora.domains));
    };
    add("base frozen", 0, base);
    const auto on_tasks = study_methods(settings_, MixtureKind::tasks),
               on_domains = study_methods(settings_, MixtureKind::domains);
    for (std::size_t i = 0; i < on_tasks.size(); ++i) {
      add(on_tasks[i].name, trainable_parameters(on_tasks[i], settings_),
          {trainings_.plan(tasks_, on_tasks[i]), trainings_.plan(domains_, on_domains[i])});
    }
  }

  void variants() {
    table("Gates and starts",
          "HydraLoRA, " + std::to_string(hydra_.heads) + " heads of rank " + std::to_string(hydra_.rank) +
              ". Against its default; the gate's normalised entropy (1: every token gets all heads alike) and the mean "
              "cosine between two heads' B, both over the layers.",
          "| | tasks | − default | entropy | cosine | domains | − default | entropy | cosine |");
    const Both usual = plan(hydra_);
    const auto add = [&](const std::string& name, auto&& change) {
      Variant m = hydra_;
      change(m);
      const auto [on_tasks, on_domains] = plan(m);
      const auto entropy = [&](const Row& its) {
        return m.routing == hydralora::Routing::learned ? mean(its, mean_entropy, 2) : piece("–");
      };
      row(name, mean(on_tasks), versus(on_tasks, usual.tasks), entropy(on_tasks), mean(on_tasks, mean_likeness, 2),
          mean(on_domains), versus(on_domains, usual.domains), entropy(on_domains), mean(on_domains, mean_likeness, 2));
    };
    using Start = Variant::Start;
    const auto start = [](Start wanted) { return [wanted](Variant& m) { m.start = wanted; }; };
    const auto top = [](Index k) {
      return [k](Variant& m) {
        m.gate.selection = GateSelection::top_k;
        m.gate.top_k = std::min(k, m.heads);
      };
    };
    const auto balance = [](double weight) { return [weight](Variant& m) { m.balance = weight; }; };
    add("dense softmax of G x, per token", [](Variant&) {});
    add("no gate: heads summed", [](Variant& m) { m.routing = hydralora::Routing::uniform; });
    add("no gate: heads averaged", [](Variant& m) {
      m.routing = hydralora::Routing::uniform;
      m.scaling /= static_cast<double>(m.heads);
    });
    add("told the part (one head each)", [](Variant& m) { m.routing = hydralora::Routing::given; });
    add("top-1", top(1));
    add("top-2", top(2));
    add("straight-through", [](Variant& m) { m.gate.selection = GateSelection::one_hot; });
    add("gate on A x", [](Variant& m) { m.gate.input = GateInput::projection; });
    add("load balance 0.001", balance(1e-3));
    add("load balance 0.01", balance(1e-2));
    add("load balance 0.1", balance(1e-1));
    add("head warm-up, a tenth of the steps",
        [this](Variant& m) { m.warmup = std::max<Index>(1, settings_.steps / 10); });
    if (settings_.rank % 2 == 0) add("orthogonal start", start(Start::orthogonal));
    add("Gaussian start, B of 0.01", start(Start::gaussian));
    add("gate from k-means of the layer's inputs", start(Start::clusters));
  }

  void shared_gates() {
    constexpr Index run = 16;
    table("Gates that tokens share",
          "Domains, in segments of " + std::to_string(run) +
              " tokens of one domain. *Apart*: bytes from anywhere in it, so that no token's input holds another's "
              "answer. *In a row*: bytes that follow each other, so that a segment gate sees, in the inputs of later "
              "tokens, what earlier ones have to predict.",
          "| | apart | − per token | in a row | − per token |");
    Scene apart = domains_, in_a_row = domains_;
    apart.layout = {run, false};
    in_a_row.layout = {run, true};
    const Row first[] = {trainings_.plan(apart, hydra_), trainings_.plan(in_a_row, hydra_)};
    const auto add = [&](const std::string& name, const Variant& m) {
      const Row rows[] = {trainings_.plan(apart, m), trainings_.plan(in_a_row, m)};
      row(name, mean(rows[0]), versus(rows[0], first[0]), mean(rows[1]), versus(rows[1], first[1]));
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
  }

  void number_of_heads() {
    table("Number of heads, parameters equal", "One head is LoRA.",
          "| N | rank | trained | tasks | − LoRA | domains | − LoRA |");
    const Index budget = trainable_parameters(hydra_, settings_);
    const Both lora = plan(lora_);
    for (const Index heads : {1, 2, 3, 4, 8}) {
      const Variant m = heads == 1 ? lora_ : at_budget(hydra_method(settings_, 1, heads), budget, settings_);
      const Both rows = plan(m);
      row(m.heads, m.rank, trainable_parameters(m, settings_), mean(rows.tasks), versus(rows.tasks, lora.tasks),
          mean(rows.domains), versus(rows.domains, lora.domains));
    }
  }

  void hidden_groups() {
    table("Hidden groups: N from the data, no labels",
          "k-means on byte n-grams of the training text; the elbow is used. Against a LoRA of that HydraLoRA's size.",
          "| text | N by elbow | by silhouette | HydraLoRA | − LoRA same size |");
    const auto add = [&](const std::string& name, const Scene& scene) {
      const Eigen::MatrixXd features = chunk_features(trainings_.parts(scene, settings_.seed), settings_.seed);
      hydralora::KMeansConfig config;
      config.seed = settings_.seed;
      const Index elbow = hydralora::elbow(hydralora::sse_curve(features, most_heads_from_data, config));
      const std::vector<double> silhouettes = hydralora::silhouette_curve(features, most_heads_from_data, config);
      const auto best = std::max_element(silhouettes.begin(), silhouettes.end()) - silhouettes.begin();
      const Variant m = hydra_method(settings_, settings_.rank, elbow);
      const Row hydra = trainings_.plan(scene, m), lora = trainings_.plan(scene, lora_like(m, settings_));
      row(name, elbow, 1 + static_cast<Index>(best), mean(hydra), versus(hydra, lora));
    };
    add("all domains", domains_);
    for (const std::string& name : domain_names()) add("only " + name, only(name));
  }

  void when() {
    table("When routing pays",
          "HydraLoRA against a LoRA of its size, one thing changed at a time from " + std::to_string(hydra_.heads) +
              " heads of rank " + std::to_string(hydra_.rank) + ", four tasks told by the input, all letters, " +
              std::to_string(settings_.pretraining_steps) +
              " pretraining steps. *Forgets less*: the same difference on the first task alone, the text as it is.\n\n"
              "![HydraLoRA against LoRA](when.svg)",
          "| | | base | LoRA | HydraLoRA | HydraLoRA − LoRA | forgets less |");
    pieces_[when_csv] = {piece("factor,value,difference,half_width\n")};
    const auto add = [&](std::string factor, std::string value, const Scene& scene, const Variant& m) {
      const Row hydra = trainings_.plan(scene, m), lora = trainings_.plan(scene, lora_like(m, settings_));
      row(factor, value, mean(trainings_.plan(scene, {})), mean(lora), mean(hydra), difference(hydra, lora),
          scene.kind == MixtureKind::tasks ? difference(hydra, lora, first_part_bits) : piece(""));
      for (std::string* text : {&factor, &value}) std::replace(text->begin(), text->end(), ',', ' ');
      pieces_[when_csv].push_back([=] {
        const MeanInterval d = trainings_.difference(hydra, lora, mean_bits);
        return factor + ',' + value + ',' + decimal(d.mean, 6, false) + ',' + decimal(d.half_width, 6, false) + '\n';
      });
    };
    Scene scene = tasks_;
    for (const std::size_t count : {1, 2, 4, 8}) {
      scene.tasks = count;
      add("tasks", std::to_string(count), scene, hydra_);
    }
    add("tasks", "8, and 8 heads", scene, hydra_method(settings_, settings_.rank, 8));
    scene = tasks_;
    for (const int letters : {1, 5, 13, 26}) {
      scene.letters = letters;
      const std::string share = decimal(100 * conflict(scene), 0);
      add("conflict", std::to_string(letters) + " letters, " + share + " % of the bytes", scene, hydra_);
    }
    scene.instruction = false;
    add("input tells the task", "no", scene, hydra_);
    add("input tells the task", "yes", tasks_, hydra_);
    Variant told = hydra_;
    told.routing = hydralora::Routing::given;
    add("router", "told the task, one head each", tasks_, told);
    add("router", "told the domain, one head each", domains_, told);
    for (const auto& [in, kind] : {std::pair(", tasks", tasks_), std::pair(", domains", domains_)}) {
      for (const Index rank : {2, 4, 8, 16}) {
        add(std::string("rank") + in, std::to_string(rank), kind, hydra_method(settings_, rank, settings_.heads));
      }
      scene = kind;
      for (const double pretraining : {0.1, 0.3, 1.0, 3.0}) {
        scene.pretraining = pretraining;
        const auto steps = std::lround(pretraining * static_cast<double>(settings_.pretraining_steps));
        add(std::string("pretraining") + in, std::to_string(steps) + " steps", scene, hydra_);
      }
    }
  }

  /// Are the A of LoRAs that were trained apart more alike than their B?
  void likeness() {
    table("Are A alike and B different?",
          "A LoRA of rank " + std::to_string(settings_.rank) +
              " on every domain by itself, from one base, with the same and with different seeds for its start; at the "
              "learning rate of the other tables, and at an eighth of it. *Entries*: the cosine between the numbers of "
              "two matrices, which is what a picture of them sees. *Spaces*: the mean cosine of the principal angles "
              "between the row spaces of two A and the column spaces of two B, which no change of basis changes; two "
              "random spaces of these sizes have " +
              decimal(random_cosine(true), 2) + " and " + decimal(random_cosine(false), 2) +
              ". Means over the layers and all such pairs.",
          "| learning rate | pairs | A, entries | B, entries | A, spaces | B, spaces |");
    for (const double slower : {1.0, 8.0}) {
      Variant lora = lora_;
      lora.rank = settings_.rank;
      lora.learning_rate /= slower;
      std::vector<Row> rows;  // [domain][start]
      for (const std::string& name : domain_names()) rows.push_back(trainings_.plan_starts(only(name), lora));
      add_pairs(lora.learning_rate, rows, "different domains, same start", false, true);
      add_pairs(lora.learning_rate, rows, "different domains, different starts", false, false);
      add_pairs(lora.learning_rate, rows, "same domain, different starts", true, false);
      if (slower == 1) pieces_[likeness_csv] = {[=] { return points_csv(rows); }};
    }
    write(
        "\nThe picture, A and B of the second layer in the plane by t-SNE at the higher rate, one number per LoRA: "
        "that of its start:\n\n![A and B by t-SNE](likeness.svg)\n");
  }

  /// A line of the table, if there are such pairs of LoRAs.
  void add_pairs(double learning_rate, const std::vector<Row>& rows, const char* name, bool same_domain,
                 bool same_start) {
    std::vector<std::pair<std::size_t, std::size_t>> pairs;
    const std::size_t starts = rows.front().size(), all = rows.size() * starts;
    for (std::size_t i = 0; i < all; ++i) {
      for (std::size_t j = i + 1; j < all; ++j) {
        if ((i / starts == j / starts) != same_domain || (i % starts == j % starts) != same_start) continue;
        pairs.emplace_back(rows[i / starts][i % starts], rows[j / starts][j % starts]);
      }
    }
    if (pairs.empty()) return;
    using Measure = double(const Inspection&, const Inspection&);
    const auto mean_over_pairs = [&](Measure* measure) -> Later {
      return [this, pairs, measure] {
        std::vector<double> values;
        for (const auto& [one, other] : pairs) {
          for (std::size_t layer = 0; layer < 3; ++layer) {
            values.push_back(measure(trainings_.result(one).layers[layer], trainings_.result(other).layers[layer]));
          }
        }
        return decimal(MeanInterval(values).mean, 2);
      };
    };
    using I = const Inspection&;
    row(decimal(learning_rate, 2, false), name, mean_over_pairs([](I a, I b) { return cosine(a.A, b.A); }),
        mean_over_pairs([](I a, I b) { return cosine(a.B, b.B); }),
        mean_over_pairs([](I a, I b) { return principal_cosines(a.A.transpose(), b.A.transpose()).mean(); }),
        mean_over_pairs([](I a, I b) { return principal_cosines(a.B, b.B).mean(); }));
  }

  /// The A of the second layer of these LoRAs in the plane, and their B.
  std::string points_csv(const std::vector<Row>& rows) const {
    const std::size_t starts = rows.front().size();
    std::ostringstream csv;
    csv << "matrix,domain,start,x,y\n";
    for (const bool A : {true, false}) {
      Eigen::MatrixXd points;
      for (std::size_t i = 0; i < rows.size() * starts; ++i) {
        const Inspection& f = trainings_.result(rows[i / starts][i % starts]).layers[1];
        const Matrix& m = A ? f.A : f.B;
        if (i == 0) points.resize(m.size(), static_cast<Index>(rows.size() * starts));
        points.col(static_cast<Index>(i)) = m.reshaped().cast<double>();
      }
      if (points.cols() < 4) continue;
      hydralora::TsneConfig config;
      config.perplexity = std::min(4.0, static_cast<double>(points.cols() - 1) / 2);
      const Eigen::MatrixXd at = hydralora::tsne(points, config).coordinates;
      for (Index i = 0; i < at.cols(); ++i) {
        const auto run = static_cast<std::size_t>(i);
        csv << (A ? 'A' : 'B') << ',' << domain_names()[run / starts] << ',' << run % starts << ',' << at(0, i) << ','
            << at(1, i) << '\n';
      }
    }
    return csv.str();
  }

  /// The mean cosine of the principal angles of two random spaces as large as A's or B's, over the layers.
  double random_cosine(bool A) const {
    double sum = 0;
    for (const auto& [out, in] : layer_shapes(settings_.context * settings_.embedding, settings_.hidden)) {
      const hydralora::CounterRandom random(settings_.seed, 110);
      const auto draw = [&, rows = A ? in : out](std::uint64_t which) {
        Eigen::MatrixXd m(rows, settings_.rank);
        for (Index i = 0; i < m.size(); ++i) {
          m(i) = random.normal(static_cast<std::uint64_t>(i % rows), static_cast<std::uint64_t>(i / rows), which);
        }
        return m;
      };
      sum += principal_cosines(draw(0), draw(1)).mean() / 3;
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

  /// Those to be learned; the base knows another text.
  std::vector<std::string> domain_names() const {
    std::vector<std::string> names;
    for (std::size_t i = 1; i < trainings_.domains().size(); ++i) names.push_back(trainings_.domains()[i].name);
    return names;
  }

  Both plan(const std::optional<Variant>& m) { return {trainings_.plan(tasks_, m), trainings_.plan(domains_, m)}; }

  template <class... Parts>
  void write(const Parts&... parts) {
    (pieces_[page].push_back(piece(parts)), ...);
  }
  /// A section with a table, to which row() adds lines.
  void table(const std::string& heading, const std::string& text, const std::string& columns) {
    write("\n## " + heading + "\n\n" + text + (text.empty() ? "" : "\n\n") + columns + "\n|");
    for (auto bars = std::count(columns.begin(), columns.end(), '|'); bars > 1; --bars) write("---|");
    write("\n");
  }
  template <class First, class... Cells>
  void row(const First& first, const Cells&... cells) {
    write("| ", first);
    (write(" | ", cells), ...);
    write(" |\n");
  }
  Later mean(const Row& row, Trainings::Measure* f = mean_bits, int digits = 3) const {
    return [=] { return MeanInterval(trainings_.values(row, f)).text(digits); };
  }
  Later difference(const Row& row, const Row& other, Trainings::Measure* f = mean_bits) const {
    return [=] { return trainings_.difference(row, other, f).text(3, true); };
  }
  /// Nothing in the line that the others are compared with.
  Later versus(const Row& row, const Row& other) const { return row == other ? piece("") : difference(row, other); }

  Settings settings_;
  Index seeds_;
  Trainings trainings_;
  Scene tasks_ = scene_of(MixtureKind::tasks), domains_ = scene_of(MixtureKind::domains);
  Variant hydra_, lora_;
  std::array<std::vector<Later>, 3> pieces_;  // by File
};

void search_learning_rates(Options& options) {
  Settings& settings = options.settings;
  const Corpus corpus(load_texts(options.kind, options.texts), settings.context, settings.seed);
  const std::vector<Part> parts = corpus.parts(options.kind);
  print_texts(std::cout, corpus);
  if (options.heads_from_data) settings.heads = heads_from_data(parts, settings.seed, std::cout);
  ProgressLine line;
  Result curve;
  double bytes = 0;
  const Mixture pretraining(corpus.base_part(), settings.context, settings.seed, pretraining_stream);
  const Mixture mixture(parts, settings.context, settings.seed, finetuning_stream);
  const Weights base = pretrain(pretraining, settings, std::ref(line), curve, bytes);
  line.clear();

  const double grid[] = {1e-3, 2e-3, 4e-3, 8e-3, 16e-3, 32e-3};
  std::cout << std::defaultfloat << std::setprecision(3) << "mean validation bits/byte by learning rate\n"
            << std::left << std::setw(18) << "method" << std::right;
  for (const double rate : grid) std::cout << std::setw(10) << rate;
  std::cout << std::endl;
  for (const Variant& method : study_methods(settings, options.kind)) {
    std::ostringstream row;
    row << std::left << std::setw(18) << method.name << std::right << std::fixed << std::setprecision(3);
    for (const double rate : grid) {
      try {
        Result result;
        result.name = method.name;
        Mlp model = make_model(base, method, mixture, settings, 0);
        train(model, mixture, settings, settings.steps, rate, std::ref(line), result);
        row << std::setw(10) << result.validation;
      } catch (const Diverged&) {
        row << std::setw(10) << "diverged";
      }
    }
    line.clear();
    std::cout << row.str() << std::endl;
  }
}

void run(Options& options) {
  if (options.search) return search_learning_rates(options);
  TextOptions base_only = options.texts;
  base_only.domains.clear();
  Study study(options.settings, load_texts(MixtureKind::tasks, base_only),
              load_texts(MixtureKind::domains, options.texts), options.seeds);
  const OutputFolder out(options.out);  // tried before the work begins
  ProgressLine line;
  const auto progress = [&](std::size_t done, std::size_t all) {
    line.show("training " + std::to_string(done) + " of " + std::to_string(all));
  };
  const auto files = study.run(progress);
  line.clear();
  for (const auto& [name, content] : files) std::cout << out.write(name, content) << " written\n";
}

}  // namespace

int main(int argc, char** argv) { return finetune::run_program(argc, argv, /*study=*/true, run); }
