// SPDX-License-Identifier: MIT
// Tokenizers of the kind BPE, read from tokenizer.json: text to token ids and back, as the tokenizers library does it.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <filesystem>
#include <functional>
#include <map>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "hydralora/lm/text/bpe.hpp"
#include "hydralora/lm/text/pipeline.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace lm {
namespace detail {

struct AddedToken {
  std::string content;
  int id;
  bool single_word, lstrip, rstrip, normalized, special;
  std::string decoded;  // what it is for decoders: the normalized content
};

class AddedTokens {
 public:
  /// Reads the key "added_tokens".
  /// @throws FileError  on a token whose id is not the one that the tokenizers library gives it: the id of the same
  ///                    token in the model's vocabulary, else the next free one.
  AddedTokens(const Section& place, const BytePairEncoding& model, const Step<AlignedText>& normalizer) {
    int next_id = static_cast<int>(model.tokens().size());
    for (const Section& entry : place.is_nothing() ? std::vector<Section>() : place.list()) {
      AddedToken token{
          entry["content"].text(), entry["id"].integer(),      entry["single_word"].flag(), entry["lstrip"].flag(),
          entry["rstrip"].flag(),  entry["normalized"].flag(), entry["special"].flag(),     ""};
      const int in_model = model.id_of(token.content);
      const int expected = in_model >= 0 ? in_model : next_id;
      const std::string id = std::to_string(token.id);
      if (token.id != expected) entry["id"].refuse("is " + id + ", supported is " + std::to_string(expected));
      next_id = (std::max)(next_id, token.id + 1);
      entry["id"].require(in_model >= 0 || model.tokens().count(token.id) == 0, "of one token only");
      entry["content"].require(ids_.emplace(token.content, token.id).second, "of one token only");
      AlignedText text = align(token.content);
      if (token.normalized) normalizer(text);
      token.decoded = text.text;
      const std::u32string characters = to_characters(token.decoded);
      const bool is_blank = std::all_of(characters.begin(), characters.end(), is_space);
      if (is_blank && (token.lstrip || token.rstrip)) entry["content"].refuse("is blank, with lstrip or rstrip");
      entry["content"].require(!characters.empty() && token.decoded.size() <= 256, "of 1 to 256 bytes");
      if (token.special) special_.insert(token.content);
      // Of two with the same normalized form, the first counts.
      Words& words = words_[token.normalized ? 1 : 0][static_cast<unsigned char>(token.decoded[0])];
      words.ids.emplace(token.decoded, token.id);
      words.lengths.insert(token.decoded.size());
      tokens_.emplace(expected, std::move(token));
    }
  }

  const std::map<int, AddedToken>& tokens() const { return tokens_; }
  const std::set<std::string>& special() const { return special_; }
  /// -1 where there is none.
  int id_of(const std::string& content) const {
    const auto found = ids_.find(content);
    return found == ids_.end() ? -1 : found->second;
  }

  /// Takes the added tokens (id >= 0) and what lies between them (id -1).
  using Receiver = std::function<void(AlignedText&&, int id)>;

  /// Cuts a text at the added tokens: first at those that are found in it as it is, then, normalized, at the others.
  /// @param literal  the parts of the original text in which special tokens are words.
  void cut(const AlignedText& piece, const Step<AlignedText>& normalizer, const std::vector<Span>& literal,
           const Receiver& receive, std::size_t pass = 0) const {
    const std::string& text = piece.text;
    std::size_t done = 0;
    const auto receive_until = [&](std::size_t end) {
      if (done >= end) return;
      AlignedText part = piece.slice(done, end);
      if (pass == 1) return receive(std::move(part), -1);
      normalizer(part);
      cut(part, normalizer, literal, receive, 1);
    };
    for (std::size_t at = 0; at < text.size();) {
      const auto [id, bytes] = longest(words_[pass], std::string_view(text).substr(at));
      std::size_t start = std::exchange(at, at + bytes), stop = at;
      if (id < 0) continue;
      const AddedToken& token = tokens_.at(id);
      const Span span = piece.span_of(start, stop);
      const auto range =
          std::partition_point(literal.begin(), literal.end(), [&](Span one) { return one.second <= span.first; });
      if (token.special && range != literal.end() && range->first < span.second) {
        if (range->second < span.second) at = start + 1;  // a token may begin behind the literal part
        continue;
      }
      const bool behind_word = start > 0 && is_word(character_before(text, start).code);
      const bool before_word = stop < text.size() && is_word(character_at(text, stop).code);
      if (token.single_word && (behind_word || before_word)) continue;
      if (token.lstrip) start = start_of_blanks(text, start, done);
      if (token.rstrip) stop = end_of_blanks(text, stop);
      receive_until(start);
      receive(piece.slice(start, stop), id);
      done = stop;
    }
    receive_until(text.size());
  }

 private:
  /// Words that begin with the same byte.
  struct Words {
    std::map<std::string, int, std::less<>> ids;
    std::set<std::size_t, std::greater<>> lengths;
  };
  /// The longest word at the start of a text, which is not empty: its id and its bytes. Without one: -1, 1.
  static std::pair<int, std::size_t> longest(const std::array<Words, 256>& all, std::string_view text) {
    const Words& words = all[static_cast<unsigned char>(text[0])];
    for (const std::size_t length : words.lengths) {
      const auto found = words.ids.find(text.substr(0, length));
      if (found != words.ids.end()) return {found->second, found->first.size()};
    }
    return {-1, 1};
  }

  std::map<int, AddedToken> tokens_;
  std::unordered_map<std::string, int> ids_;
  std::set<std::string> special_;
  std::array<std::array<Words, 256>, 2> words_;  // of the text as it is, of the normalized text; by the first byte
};

}  // namespace detail

/// Where in a text special tokens are words like any others: bytes [first, second), in rising order.
struct SpecialTokens {
  std::vector<std::pair<std::size_t, std::size_t>> words;
  static const SpecialTokens parsed, as_words;
};
inline const SpecialTokens SpecialTokens::parsed{};
inline const SpecialTokens SpecialTokens::as_words{{{0, static_cast<std::size_t>(-1)}}};

struct Encoding {
  std::vector<int> ids;
  /// The bytes [first, second) of the text that each id covers. They are whole characters: ids that are parts of one
  /// character have the same span. A token that the post-processor adds has the empty span (0, 0).
  std::vector<std::pair<std::size_t, std::size_t>> spans;
};

/// A tokenizer.json: byte-level BPE (GPT-2, SmolLM, Llama 3, Qwen) and SentencePiece-like BPE (Llama 2, Mistral).
/// Its settings `truncation` and `padding` are ignored. All functions may be called from several threads at once.
class Tokenizer {
 public:
  /// @param file  a tokenizer.json, which is not trusted.
  /// @throws FileError  if it cannot be read, is inconsistent, or has a part that is not supported; the message gives
  ///                    the key, the value and what is supported.
  /// Cost  about ten times the file in memory while it is read.
  explicit Tokenizer(const std::filesystem::path& file) : Tokenizer(file, detail::read_json_text(file)) {}
  /// @param json  what a tokenizer.json holds; `file` is for messages.
  Tokenizer(const std::filesystem::path& file, const nlohmann::json& json)
      : Tokenizer(detail::Section(file, "", json)) {}

  /// Text to ids.
  /// @param text  each part that is not UTF-8 is read as U+FFFD, as Python does with errors="replace".
  /// @param add_special_tokens  whether the post-processor's tokens are added, <s> for example.
  /// @param special  where the text's own special tokens are words.
  /// @throws FileError  if a regular expression of the file needs too many steps on this text.
  /// @throws std::length_error  if the normalizers make it more than 64 times as long.
  /// Cost  n log n for n bytes; about 60 bytes of memory for each.
  Encoding encode(std::string_view text, bool add_special_tokens = false,
                  const SpecialTokens& special = SpecialTokens::parsed) const {
    detail::EncodedText encoded{text, add_special_tokens, {}, {}};
    const auto add = [&](int id, detail::Span span) {
      encoded.ids.push_back(id);
      encoded.spans.push_back(span);
    };
    added_.cut(detail::align(text), normalizer_, special.words, [&](detail::AlignedText&& part, int added) {
      if (added >= 0) return add(added, part.span_of(0, part.text.size()));
      detail::Pieces pieces;
      pieces.push_back(std::move(part));
      pre_tokenizer_(pieces);
      for (const detail::AlignedText& piece : pieces) {
        std::size_t from = 0;
        for (const auto& token : model_.encode(piece.text)) {
          if (token.bytes > 0) add(token.id, piece.span_of(from, from + token.bytes));
          from += token.bytes;
        }
      }
    });
    post_processor_(encoded);
    return {std::move(encoded.ids), std::move(encoded.spans)};
  }

  /// Ids to text. Bytes that are no UTF-8 become U+FFFD.
  /// @param skip_special_tokens  whether special tokens are left out.
  /// @throws std::invalid_argument  on an id that is not in the vocabulary.
  /// @throws std::length_error  if the decoders make the text longer than 1 GiB.
  std::string decode(const std::vector<int>& ids, bool skip_special_tokens = false) const {
    detail::TokenTexts tokens;
    for (const int id : ids) {
      const auto token = tokens_.find(id);
      if (token == tokens_.end()) {
        throw std::invalid_argument("Tokenizer::decode: the id " + std::to_string(id) + " is not in the vocabulary");
      }
      if (!skip_special_tokens || !is_special(id)) tokens.push_back(token->second);
    }
    decoder_(tokens);
    return detail::join(tokens);
  }

  /// The highest id + 1.
  int vocabulary_size() const { return size_; }
  /// The id of a token, added or of the model's vocabulary; -1 where there is none.
  int token_id(std::string_view token) const {
    const int added = added_.id_of(std::string(token));
    return added >= 0 ? added : model_.id_of(std::string(token));
  }
  /// The special added tokens, as they are written.
  std::vector<std::string> special_tokens() const { return {added_.special().begin(), added_.special().end()}; }
  bool is_special(int id) const {
    const auto token = tokens_.find(id);
    return token != tokens_.end() && added_.special().count(token->second) > 0;
  }

 private:
  explicit Tokenizer(const detail::Section& root)
      : normalizer_(detail::make_normalizer(root["normalizer"])),
        pre_tokenizer_(detail::make_pre_tokenizer(root["pre_tokenizer"])),
        model_(root["model"]),
        added_(root["added_tokens"], model_, normalizer_),
        post_processor_(detail::make_post_processor(root["post_processor"])),
        decoder_(detail::make_decoder(root["decoder"])),
        tokens_(model_.tokens()) {
    for (const auto& [id, token] : added_.tokens()) tokens_[id] = token.decoded;
    for (const auto& entry : tokens_) size_ = (std::max)(size_, entry.first + 1);
    for (const int id : encode("", true).ids) {
      if (tokens_.count(id) > 0) continue;
      root["post_processor"].refuse("adds the id " + std::to_string(id) + ", which no token has");
    }
  }

  detail::Step<detail::AlignedText> normalizer_;
  detail::Step<detail::Pieces> pre_tokenizer_;
  detail::BytePairEncoding model_;
  detail::AddedTokens added_;
  detail::Step<detail::EncodedText> post_processor_;
  detail::Step<detail::TokenTexts> decoder_;
  std::unordered_map<int, std::string> tokens_;  // as decoders see them
  int size_ = 0;
};

}  // namespace lm
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
