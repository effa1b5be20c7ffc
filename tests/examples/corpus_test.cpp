// SPDX-License-Identifier: MIT
#include "examples/support/corpus.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <set>

#include "support/errors.hpp"
#include "support/files.hpp"

namespace {

namespace fs = std::filesystem;
using namespace finetune;

constexpr std::size_t plenty = 1U << 30U;

/// A folder that an ordinary user may read too, and names in it as text.
class TemporaryFolder {
 public:
  TemporaryFolder() { fs::permissions(folder_.path(), static_cast<fs::perms>(0755)); }
  std::string operator()(const std::string& name = "") const {
    return name.empty() ? folder_.path().string() : folder_(name).string();
  }
  void write(const std::string& name, const std::string& bytes) const {
    fs::create_directories(folder_(name).parent_path());
    support::write_file(folder_(name), bytes);
  }

 private:
  support::TemporaryFolder folder_;
};

/// root may read everything; inside this scope the process is an ordinary user.
class OrdinaryUser {
 public:
  OrdinaryUser() : was_root_(geteuid() == 0) {
    if (was_root_) WARN(seteuid(65534) == 0);
  }
  OrdinaryUser(const OrdinaryUser&) = delete;
  OrdinaryUser& operator=(const OrdinaryUser&) = delete;
  ~OrdinaryUser() {
    if (was_root_) CHECK(seteuid(0) == 0);
  }
  bool sees(const std::string& folder) const { return geteuid() != 0 && eaccess(folder.c_str(), R_OK | X_OK) == 0; }

 private:
  bool was_root_;
};

void check_refused(const std::string& spec, const std::string& reason, std::size_t max_bytes = plenty) {
  const std::string message = support::message_of<InputError>([&] { load_domain(spec, max_bytes); });
  CHECK(message == "domain '" + spec + "': " + reason);
  CHECK(message.find('\n') == std::string::npos);
}

std::string numbered(std::size_t bytes, int salt = 0) {
  std::string text;
  for (int i = 0; text.size() < bytes; ++i) text += "line " + std::to_string(i * 7 + salt) + " of the text\n";
  text.resize(bytes);
  return text;
}

std::string apply(const Task& task, std::string text) {
  for (char& c : text) c = static_cast<char>(task.apply(static_cast<unsigned char>(c)));
  return text;
}

}  // namespace

TEST_CASE("corpus: every wrong domain is refused with its reason") {
  const TemporaryFolder folder;
  for (const char* spec : {"", "=", "code", "=/usr/include", "code="}) {
    check_refused(spec, "expected NAME=PATH, for instance c=/usr/include");
  }
  check_refused("a=" + folder("none"), "cannot read " + folder("none") + ": No such file or directory");
  check_refused("a=" + folder("*.txt"), "no file matches " + folder("*.txt"));
  check_refused("a=" + folder("none/*.txt"), "no file matches " + folder("none/*.txt"));
  check_refused("a=/dev/null", "/dev/null is neither a file nor a folder");
  folder.write("empty", "");
  folder.write("one", "x");
  folder.write("short", numbered(minimum_bytes - 1));
  folder.write("binary", numbered(minimum_bytes) + '\0');
  fs::create_directory(folder("bare"));
  for (const auto& [name, bytes, files] : {std::tuple("empty", "0", " (0 of 1 files)"),
                                           {"one", "1", " (1 of 1 files)"},
                                           {"short", "6143", " (1 of 1 files)"},
                                           {"bare", "0", " (0 of 0 files)"},
                                           {"b[hij]nary", "0", " (0 of 1 files)"},
                                           {"binary", "0", " (0 of 1 files)"}}) {
    check_refused("a=" + folder(name),
                  std::string("found ") + bytes + " bytes of text in " + folder(name) + files +
                      ", at least 6144 are needed; files with a NUL byte are binary and do not count");
  }
  check_refused("a=" + folder("short"),
                "at most 100 bytes of " + folder("short") + " may be used, at least 6144 are needed", 100);
  CHECK(load_domain("a=" + folder("*o*"), plenty).text == "x" + numbered(minimum_bytes - 1));  // exactly enough
}

TEST_CASE("corpus: what cannot be read is named") {
  const TemporaryFolder folder;
  folder.write("file", numbered(minimum_bytes));
  const std::string below_a_file = folder("file/below");
  check_refused("a=" + below_a_file, "cannot read " + below_a_file + ": Not a directory");
  fs::create_symlink("loop", folder("loop"));
  check_refused("a=" + folder("loop"), "cannot read " + folder("loop") + ": Too many levels of symbolic links");
  if (fs::exists("/proc/self/mem"))
    check_refused("a=/proc/self/mem", "cannot read /proc/self/mem: Input/output error");  // even root cannot
  folder.write("tree/open.txt", numbered(minimum_bytes));
  folder.write("tree/locked/deep.txt", numbered(minimum_bytes));
  folder.write("locked_file/closed.txt", numbered(minimum_bytes));
  fs::permissions(folder("tree/locked"), fs::perms::none);
  fs::permissions(folder("locked_file/closed.txt"), fs::perms::none);
  if (const OrdinaryUser user; !user.sees(folder())) {
    MESSAGE("not checked, since the temporary folder is closed to other users or root stays root");
  } else {
    const std::string locked = folder("tree/locked"), closed = folder("locked_file/closed.txt");
    check_refused("a=" + folder("tree"), "cannot read " + locked + ": Permission denied");
    check_refused("a=" + locked, "cannot read " + locked + ": Permission denied");
    check_refused("a=" + locked + "/deep.txt", "cannot read " + locked + "/deep.txt: Permission denied");
    check_refused("a=" + folder("tree/*/*.txt"), "cannot read every folder that matches " + folder("tree/*/*.txt"));
    check_refused("a=" + folder("locked_file"), "cannot read " + closed + ": Permission denied");
    check_refused("a=" + closed, "cannot read " + closed + ": Permission denied");
  }
  fs::permissions(folder("tree/locked"), fs::perms::owner_all);
}

TEST_CASE("corpus: a file, a folder and a pattern give the bytes that are there, in path order") {
  const TemporaryFolder folder;
  const std::string a = numbered(3000, 1), b = numbered(4000, 2), c = numbered(5000, 3) + "\xff\x80 no UTF-8\r\n";
  folder.write("in/b.txt", b);
  folder.write("in/a/deep/c.txt", c);
  folder.write("in/a.txt", a);
  folder.write("in/image", std::string("P\0", 2) + a);
  folder.write("outside.md", b + c);
  folder.write("name=odd [1].txt", b + a);
  fs::create_symlink("..", folder("in/up"));                      // a cycle
  fs::create_symlink("nowhere", folder("in/dangling"));           // neither file nor folder
  fs::create_symlink("../outside.md", folder("in/z_linked.md"));  // a file all the same
  REQUIRE(mkfifo(folder("in/pipe").c_str(), 0600) == 0);          // reading it would wait for ever
  const Domain tree = load_domain("mine=" + folder("in"), plenty);
  CHECK(tree.name == "mine");
  CHECK(tree.text == a + c + b + b + c);  // a.txt < a/deep/c.txt: '.' < '/'
  CHECK(tree.files == 4);
  CHECK(tree.origin == folder("in") + " (4 of 5 files)");
  const Domain pattern = load_domain("p=" + folder("in/[ab].t?t"), plenty);
  CHECK(pattern.text == a + b);
  CHECK(pattern.origin == folder("in/[ab].t?t") + " (2 of 2 files)");
  CHECK(load_domain("p=" + folder("*/a*"), plenty).text == a + c);  // a folder may match, too
  CHECK(load_domain("f=" + folder("outside.md"), plenty).text == b + c);
  CHECK(load_domain("f=" + folder("name=odd [1].txt"), plenty).text == b + a);  // a name is tried before a pattern
  CHECK(load_domain("f=" + folder("in/up"), plenty).text.size() >= tree.text.size());
}

TEST_CASE("corpus: too much text is sampled evenly, by whole files but the last, and the same every time") {
  const TemporaryFolder folder;
  const std::size_t count = 100, size = 1000;
  for (std::size_t i = 0; i < count; ++i) {
    folder.write(std::to_string(100 + i) + ".txt", std::string(size, static_cast<char>('0' + i * 4 / count)));
  }
  for (const std::size_t max_bytes : {std::size_t{20500}, std::size_t{6144}, std::size_t{99999}, count * size}) {
    CAPTURE(max_bytes);
    const Domain domain = load_domain("d=" + folder(), max_bytes);
    CHECK(domain.text.size() == max_bytes);
    CHECK(domain.files == (max_bytes + size - 1) / size);
    CHECK(std::is_sorted(domain.text.begin(), domain.text.end()));  // path order
    for (const char quarter : {'0', '1', '2', '3'}) {
      const auto share = std::count(domain.text.begin(), domain.text.end(), quarter);
      CHECK(std::abs(static_cast<double>(share) - static_cast<double>(max_bytes) / 4) <
            2.0 * static_cast<double>(size));
    }
    const Domain again = load_domain("d=" + folder(), max_bytes);
    CHECK(again.text == domain.text);
    CHECK(again.origin == domain.origin);
  }
  CHECK(load_domain("d=" + folder(), plenty).text.size() == count * size);
  CHECK(load_domain("f=" + folder("*.txt"), 20500).text == load_domain("d=" + folder(), 20500).text);
}

TEST_CASE("corpus: a split covers every block once and no context crosses a block") {
  for (const std::size_t size :
       {minimum_bytes, minimum_bytes + 1, minimum_bytes + 40, std::size_t{1000 * block_bytes}}) {
    for (const int context : {0, 1, 32, 2047}) {
      for (std::uint64_t seed = 0; seed < (size > 100000 ? 2U : 200U); ++seed) {
        INFO("size ", size, ", context ", context, ", seed ", seed);
        const std::size_t before = static_cast<std::size_t>(context);
        const Split split = split_positions(std::string(size, 'x'), context, seed);
        std::vector<int> owner(size, 0);
        std::size_t positions = 0;
        bool fits = true, disjoint = true;
        int part = 0;
        for (const auto* list : {&split.train, &split.validation, &split.test}) {
          ++part;
          CHECK(!list->empty());
          CHECK(std::is_sorted(list->begin(), list->end()));
          positions += list->size();
          for (const std::uint32_t p : *list) {
            fits = fits && p < size && p >= before && (p - before) / block_bytes == p / block_bytes;
            if (!fits) break;
            for (std::size_t read = p - before; read <= p; read += std::max<std::size_t>(before, 1)) {
              disjoint = disjoint && (owner[read] == 0 || owner[read] == part);  // the two ends of [p - context, p]
              owner[read] = part;
            }
          }
        }
        REQUIRE(fits);
        REQUIRE(disjoint);
        const std::size_t tail = size % block_bytes;  // a last block counts if it is longer than the context
        CHECK(positions == size / block_bytes * (block_bytes - before) + (tail > before ? tail - before : 0));
      }
    }
  }
}

TEST_CASE("corpus: a split is 8 : 1 : 1, repeats for its seed and differs for another") {
  const std::string text(4000 * block_bytes, 'x');
  const Split split = split_positions(text, 16, 5);
  const double per_block = static_cast<double>(block_bytes - 16);
  // Of 4000 blocks, 400 ± 19 (one standard deviation) are expected in each small part; six of them are allowed.
  CHECK(std::abs(static_cast<double>(split.validation.size()) / per_block - 400) < 114);
  CHECK(std::abs(static_cast<double>(split.test.size()) / per_block - 400) < 114);
  CHECK(split_positions(text, 16, 5).train == split.train);
  CHECK(split_positions(text, 16, 5).test == split.test);
  CHECK(split_positions(text, 16, 6).test != split.test);
  CHECK_THROWS_WITH_AS(split_positions(std::string(6143, 'x'), 8, 1),
                       "split_positions: 6143 bytes, expected at least 6144", std::invalid_argument);
  for (const int context : {-1, 2048}) CHECK_THROWS_AS(split_positions(text, context, 1), std::invalid_argument);
}

TEST_CASE("corpus: n-gram features") {
  const std::string words = numbered(20000), digits = [] {
    std::string text;
    for (int i = 0; text.size() < 20000; ++i) text += std::to_string(i * i) + ";";
    return text;
  }();
  const Eigen::MatrixXd one = ngram_features(words, 20, 300, 64, 7);
  CHECK(one.rows() == 64);
  CHECK(one.cols() == 20);
  CHECK(one.minCoeff() >= 0);
  CHECK((one.colwise().norm().array() - 1.0).abs().maxCoeff() < 1e-14);
  CHECK(one == ngram_features(words, 20, 300, 64, 7));
  CHECK(one != ngram_features(words, 20, 300, 64, 8));

  // Counted by hand: "ab" has the grams a, b, ab; three buckets of weight 1/3 when nothing collides.
  const Eigen::MatrixXd tiny = ngram_features(std::string("ab"), 1, 2, 1 << 20, 0);
  CHECK((tiny.array() > 0).count() == 3);
  CHECK(tiny.maxCoeff() == doctest::Approx(std::sqrt(1.0 / 3.0)));
  // "aaa": a three times, aa twice.
  const Eigen::MatrixXd same = ngram_features(std::string("aaa"), 1, 3, 1 << 20, 0);
  CHECK(same.maxCoeff() == doctest::Approx(std::sqrt(3.0 / 5.0)));
  // Equal in single bytes and in second bytes of pairs, different in pairs.
  CHECK(ngram_features(std::string("aabb"), 1, 4, 1 << 20, 0) != ngram_features(std::string("abab"), 1, 4, 1 << 20, 0));
  CHECK(ngram_features(std::string("a"), 2, 1, 1, 0) == Eigen::MatrixXd::Ones(1, 2));

  // Column i comes from text i mod 2: chunks of one text are closer to each other than to the other text's.
  const Eigen::MatrixXd two = ngram_features(std::vector<std::string_view>{words, digits}, 21, 300, 256, 7);
  const Eigen::MatrixXd likeness = two.transpose() * two;
  double least_within = 1, most_across = 0;
  for (Index i = 0; i < 21; ++i) {
    for (Index j = 0; j < 21; ++j) {
      double& bound = i % 2 == j % 2 ? least_within : most_across;
      bound = i % 2 == j % 2 ? std::min(bound, likeness(i, j)) : std::max(bound, likeness(i, j));
    }
  }
  CHECK(least_within > most_across);

  for (const auto& [samples, bytes, buckets] : {std::tuple(0, 300, 64), {5, 0, 64}, {5, 300, 0}, {5, 20001, 64}}) {
    CHECK_THROWS_AS(ngram_features(words, samples, bytes, buckets, 7), std::invalid_argument);
  }
  CHECK_THROWS_AS(ngram_features(std::vector<std::string_view>{}, 5, 300, 64, 7), std::invalid_argument);
}

TEST_CASE("corpus: tasks") {
  const auto& [plain, upper, rot13, mirror, rot6, rot20, swap, vowels] = tasks();
  const std::string text = "Hello, amnz AMNZ 0459! @[`{/: \xc3\xa9\n";
  CHECK(apply(plain, text) == text);
  CHECK(apply(upper, text) == "HELLO, AMNZ AMNZ 0459! @[`{/: \xc3\xa9\n");
  CHECK(apply(rot13, text) == "Uryyb, nzam NZAM 0459! @[`{/: \xc3\xa9\n");
  CHECK(apply(rot6, text) == "Nkrru, gstf GSTF 0459! @[`{/: \xc3\xa9\n");
  CHECK(apply(rot20, apply(rot6, text)) == text);
  CHECK(apply(swap, text) == "hELLO, AMNZ amnz 0459! @[`{/: \xc3\xa9\n");
  CHECK(apply(vowels, text + "aeiouAEIOU") == "Hillu, emnz EMNZ 0459! @[`{/: \xc3\xa9\neiouaEIOUA");
  CHECK(apply(mirror, text) == "Svool, znma ZNMA 9540! @[`{/: \xc3\xa9\n");
  std::set<int> markers;
  std::set<std::string> names;
  for (const Task& task : tasks()) {
    CAPTURE(task.name);
    markers.insert(task.marker);
    names.insert(task.name);
    for (int value = 0; value < 256; ++value) {
      const auto byte = static_cast<unsigned char>(value);
      const unsigned char once = task.apply(byte), twice = task.apply(once);
      const std::string name = task.name;
      if (name == "upper") CHECK(twice == once);
      if (name == "plain" || name == "rot13" || name == "mirror" || name == "swap") CHECK(twice == byte);
      if (!std::isalnum(value)) CHECK(once == byte);  // so markers pass, too
    }
  }
  CHECK(markers == std::set<int>{1, 2, 3, 4, 5, 6, 7, 8});
  CHECK(names.size() == 8);
  for (std::size_t i = 0; i < tasks().size(); ++i) {  // no two are the same
    for (std::size_t j = 0; j < i; ++j) CHECK(apply(tasks()[i], "Aeiou xyz") != apply(tasks()[j], "Aeiou xyz"));
  }
}

TEST_CASE("corpus: the text of this machine") {
  const std::size_t budget = 1U << 20U;
  const auto start = std::chrono::steady_clock::now();
  const std::vector<Domain> domains = system_domains(budget);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  std::string report = "system_domains(" + std::to_string(budget) + ") took " + std::to_string(seconds) + " s";
  for (const Domain& domain : domains) {
    CAPTURE(domain.name);
    report += "\n  " + domain.name + ": " + std::to_string(domain.text.size()) + " bytes, " + domain.origin;
    CHECK(domain.text.size() >= minimum_bytes);
    CHECK(domain.text.size() <= budget);
    CHECK(domain.files > 0);
    CHECK(domain.text.find('\0') == std::string::npos);
    CHECK(!split_positions(domain.text, 16, 1).test.empty());
    if (domain.name == "licences" && domain.text.size() < budget) {  // all there: links and all, each content once
      for (const auto& entry : fs::directory_iterator("/usr/share/common-licenses")) {
        CAPTURE(entry.path());
        const std::string licence = support::file_content(entry.path());
        const std::size_t first = domain.text.find(licence);
        CHECK(first != std::string::npos);
        CHECK(domain.text.find(licence, first + 1) == std::string::npos);
      }
    }
    if (domain.name == "c") CHECK(domain.text.find("\nnamespace ") == std::string::npos);
  }
  MESSAGE(report);
  CHECK(domains.size() >= 2);
  const std::vector<Domain> again = system_domains(budget);
  REQUIRE(again.size() == domains.size());
  for (std::size_t i = 0; i < domains.size(); ++i) CHECK(again[i].text == domains[i].text);
  CHECK(system_domains(0).empty());
}
