// SPDX-License-Identifier: MIT
#include "hydralora/lm/text/tokenizer.hpp"

#include <doctest/doctest.h>

#include <functional>

#include "support/files.hpp"

using namespace hydralora;
using namespace support;
using Json = nlohmann::json;

namespace {

Json added_token(int id, const std::string& content, bool special = true) {
  return {{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", false},
          {"rstrip", false}, {"normalized", false}, {"special", special}};
}

/// Byte-level BPE of the 256 bytes, "ab" (256), "abc" (257) and the special tokens "<s>" (258) and "<s" (259).
Json small_tokenizer() {
  Json vocabulary;
  for (std::size_t byte = 0; byte < 256; ++byte) {
    std::string token;
    lm::detail::append_utf8(token, lm::detail::byte_characters()[byte]);
    vocabulary[token] = byte;
  }
  vocabulary["ab"] = 256;
  vocabulary["abc"] = 257;
  const Json byte_level = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}};
  return {{"added_tokens", {added_token(258, "<s>"), added_token(259, "<s")}},
          {"normalizer", nullptr},
          {"pre_tokenizer", byte_level},
          {"post_processor", nullptr},
          {"decoder", byte_level},
          {"model", {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", {"a b", Json::array({"ab", "c"})}}}}};
}

struct File {
  TemporaryFolder folder;
  lm::Tokenizer read(const std::string& text) const {
    write_file(folder("tokenizer.json"), text);
    return lm::Tokenizer(folder("tokenizer.json"));
  }
  std::string error(const std::string& text) const {
    try {
      read(text);
    } catch (const FileError& error) {
      return error.what();
    }
    return "none";
  }
  std::string error(const std::function<void(Json&)>& change) const {
    Json json = small_tokenizer();
    change(json);
    return error(json.dump());
  }
};

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST_CASE("tokenizers give the ids and the texts of the tokenizers library") {
  for (const char* name : {"C1_gpt2", "C2_smollm", "C3_llama3", "C4_qwen2", "C5_llama2"}) {
    CAPTURE(name);
    const std::filesystem::path folder = std::filesystem::path(HYDRALORA_LM_CASES) / name;
    const lm::Tokenizer tokenizer(folder / "tokenizer.json");
    const Json expected = Json::parse(file_content(folder / "expected.json"));
    CHECK(tokenizer.vocabulary_size() == expected["vocab_size"]);
    REQUIRE(expected["cases"].size() > 200);
    for (const Json& item : expected["cases"]) {
      const std::string text = item["text"];
      CAPTURE(text);
      CHECK(tokenizer.encode(text).ids == item["ids"].get<std::vector<int>>());
      const Json& with_special = item.contains("ids_with_special") ? item["ids_with_special"] : item["ids"];
      CHECK(tokenizer.encode(text, true).ids == with_special.get<std::vector<int>>());
      CHECK(tokenizer.decode(item["ids"]) == item["decoded"]);
      CHECK(tokenizer.decode(item["ids"], true) == item["decoded_skip_special"]);
    }
    for (const Json& item : expected["decode_only"]) {
      CHECK(tokenizer.decode(item["ids"]) == item["decoded"]);
      CHECK(tokenizer.decode(item["ids"], true) == item["decoded_skip_special"]);
    }
  }
}

TEST_CASE("spans are whole characters, special tokens can be read as words, invalid UTF-8 becomes U+FFFD") {
  const File file;
  const lm::Tokenizer tokenizer = file.read(small_tokenizer().dump());
  using Spans = std::vector<std::pair<std::size_t, std::size_t>>;
  CHECK(tokenizer.encode("<s>abcé").ids == std::vector<int>{258, 257, 0xC3, 0xA9});
  CHECK(tokenizer.encode("<s>abcé").spans == Spans{{0, 3}, {3, 6}, {6, 8}, {6, 8}});
  CHECK(tokenizer.encode("<s>", false, lm::SpecialTokens::as_words).ids == std::vector<int>{'<', 's', '>'});
  CHECK(tokenizer.encode("a\xE2\x82z").ids == std::vector<int>{'a', 0xEF, 0xBF, 0xBD, 'z'});
  CHECK(tokenizer.encode("a\xE2\x82z").spans == Spans{{0, 1}, {1, 3}, {1, 3}, {1, 3}, {3, 4}});
  CHECK(tokenizer.decode({0xE2, 0x82, 'z'}) == "\xEF\xBF\xBDz");
  CHECK(tokenizer.decode({0xE0, 0x80}) == "\xEF\xBF\xBD\xEF\xBF\xBD");
  CHECK(tokenizer.decode({258, 'z'}, true) == "z");
  CHECK(tokenizer.token_id("<s>") == 258);
  CHECK_THROWS_AS(tokenizer.decode({260}), std::invalid_argument);
}

TEST_CASE("special tokens are words in literal parts of the text") {
  const File file;
  const lm::Tokenizer tokenizer = file.read(small_tokenizer().dump());
  const auto ids = [&](const std::string& text, const lm::SpecialTokens& special) {
    const lm::Encoding encoding = tokenizer.encode(text, false, special);
    CHECK(tokenizer.decode(encoding.ids) == text);
    return encoding.ids;
  };
  using Ids = std::vector<int>;
  CHECK(ids("<s>a<s>b<s>", {{{4, 7}}}) == Ids{258, 'a', '<', 's', '>', 'b', 258});
  CHECK(ids("<s><s>", {{{0, 1}, {3, 3}}}) == Ids{'<', 's', '>', 258});  // a part of a token is enough
  CHECK(ids("<s><s>", {{{2, 5}}}) == Ids{'<', 's', '>', '<', 's', '>'});
  CHECK(ids("<<s>", {{{0, 1}}}) == Ids{'<', 258});
  // Behind a literal part a token may begin inside the match that was not taken.
  Json json = small_tokenizer();
  json["added_tokens"].push_back(added_token(260, "x<s>y"));
  const lm::Tokenizer other = file.read(json.dump());
  CHECK(other.encode("x<s>y").ids == Ids{260});
  CHECK(other.encode("x<s>y", false, {{{0, 1}}}).ids == Ids{'x', 258, 'y'});
  CHECK(other.encode("x<s>y", false, {{{1, 2}}}).ids == Ids{'x', '<', 's', '>', 'y'});
}

TEST_CASE("what is not supported is refused by name") {
  const File file;
  for (const auto& [key, type] :
       {std::pair{"model", "Unigram"}, std::pair{"model", "WordPiece"}, std::pair{"normalizer", "Precompiled"},
        std::pair{"pre_tokenizer", "BertPreTokenizer"}, std::pair{"post_processor", "BertProcessing"},
        std::pair{"decoder", "CTC"}, std::pair{"normalizer", "NFKC"}, std::pair{"pre_tokenizer", "Punctuation"}}) {
    const std::string error = file.error([key = key, type = type](Json& json) { json[key]["type"] = type; });
    CHECK(contains(error, file.folder("tokenizer.json").string()));
    CHECK(contains(error, std::string(key) + ".type is '" + type + "', supported are "));
  }
  CHECK(contains(file.error([](Json& json) { json["model"]["dropout"] = 0.1; }), "model.dropout is not null: 0.1"));
  CHECK(contains(file.error([](Json& json) { json["model"]["end_of_word_suffix"] = "_"; }), "end_of_word_suffix"));
}

TEST_CASE("broken files are refused") {
  const File file;
  CHECK(contains(file.error(""), "is not JSON"));
  CHECK(contains(file.error("[]"), "is not an object"));
  CHECK(contains(file.error(std::string(100000, '[')), "is nested deeper"));
  CHECK(contains(file.error([](Json& json) { json["model"]["merges"].push_back("a x"); }), "'ax'"));
  CHECK(contains(file.error([](Json& json) { json["model"]["merges"].push_back("ax"); }), "model.merges[2]"));
  CHECK(contains(file.error([](Json& json) { json["model"]["vocab"]["ab"] = 3; }), "two tokens the id 3"));
  CHECK(contains(file.error([](Json& json) { json["model"]["vocab"]["ab"] = -3; }), "'ab' is not a whole number"));
  CHECK(contains(file.error([](Json& json) { json["added_tokens"][0]["id"] = 300; }), "added_tokens[0].id"));
  CHECK(contains(file.error([](Json& json) { json["added_tokens"].push_back(added_token(258, "x")); }), "[2].id"));
  CHECK(contains(file.error([](Json& json) { json["model"]["unk_token"] = "?!"; }), "model.unk_token '?!'"));
  CHECK(contains(file.error([](Json& json) {
    json["post_processor"] = {{"type", "TemplateProcessing"}, {"single", {{{"SpecialToken", {{"id", "x"}}}}}}};
    json["post_processor"]["special_tokens"]["x"]["ids"] = {999};
  }),
                 "post_processor adds the id 999"));
}

TEST_CASE("hostile regular expressions end in an error") {
  const File file;
  Json json = small_tokenizer();
  json["pre_tokenizer"] = {{"type", "Split"}, {"behavior", "Isolated"}, {"invert", false}};
  json["pre_tokenizer"]["pattern"]["Regex"] = "(a+";
  CHECK(contains(file.error(json.dump()), "pre_tokenizer.pattern cannot compile '(a+'"));
  for (const char* part : {"\\w", "\\b", "\\p{Han}", "\\1", "(*", "(?i)", "(?<", "[", "{,", "}+"}) {
    json["pre_tokenizer"]["pattern"]["Regex"] = std::string("[a-z\\d]+") + part;
    CHECK(contains(file.error(json.dump()), std::string("not supported from '") + part + "' on; supported are"));
  }
  for (const char* pattern : {"(a+)+$", "(a|aa)+[bc]$", "a*[bc]"}) {  // exponential twice, quadratic
    json["pre_tokenizer"]["pattern"]["Regex"] = pattern;
    const lm::Tokenizer tokenizer = file.read(json.dump());
    CHECK(tokenizer.encode("aaab").ids.size() > 0);
    CHECK_THROWS_AS(tokenizer.encode("c" + std::string(50000, 'a') + "de"), FileError);
  }
}
