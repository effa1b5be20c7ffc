// SPDX-License-Identifier: MIT
// Added tokens: they are found in the text before the model sees it.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <map>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "hydralora/lm/text/bpe.hpp"
#include "hydralora/lm/text/normalizer.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace lm {
namespace detail {

/// A token in the text.
struct Token {
  int id;
  Span span;
  std::size_t leading = 0, trailing = 0;  // blanks, Ġ among them, at its start and its end
};

/// The number of blanks at the start and at the end of what a token matched.
inline void count_blanks(Token& token, const std::string& text) {
  const std::u32string characters = to_characters(text);
  const auto is_blank = [](char32_t c) { return c == 0x120 || is_space(c); };
  const auto first = std::find_if_not(characters.begin(), characters.end(), is_blank);
  const auto last = std::find_if_not(characters.rbegin(), characters.rend(), is_blank);
  token.leading = static_cast<std::size_t>(first - characters.begin());
  token.trailing = static_cast<std::size_t>(last - characters.rbegin());
}

/// A part of the text between added tokens, or (id >= 0) one of them.
struct Part {
  AlignedText text;
  Token token{-1, {0, 0}};
};

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
  AddedTokens(const Section& place, const BytePairEncoding& model, const Normalizer& normalizer) {
    constexpr std::size_t most_bytes = 1024;  // a text of n bytes costs up to n times the longest
    int next_id = static_cast<int>(model.tokens().size());
    for (const Section& entry : place.is_nothing() ? std::vector<Section>() : place.list()) {
      AddedToken token{
          entry["content"].text(), entry["id"].integer(),      entry["single_word"].flag(), entry["lstrip"].flag(),
          entry["rstrip"].flag(),  entry["normalized"].flag(), entry["special"].flag(),     ""};
      const std::u32string characters = to_characters(token.content);
      if (std::all_of(characters.begin(), characters.end(), is_space) &&
          (characters.empty() || token.lstrip || token.rstrip)) {
        entry["content"].refuse("is empty, or blank with lstrip or rstrip");
      }
      const int in_model = model.id_of(token.content);
      const int expected = in_model >= 0 ? in_model : next_id;
      if (token.id != expected) {
        entry["id"].refuse("of " + in_quotes(token.content) + " is " + std::to_string(token.id) +
                           ", but the model's vocabulary makes it " + std::to_string(expected));
      }
      next_id = std::max(next_id, token.id + 1);
      if (!ids_.emplace(token.content, token.id).second) entry.refuse(in_quotes(token.content) + " appears twice");
      if (tokens_.count(token.id) > 0 || (in_model < 0 && model.tokens().count(token.id) > 0)) {
        entry["id"].refuse(std::to_string(token.id) + " belongs to two tokens");
      }
      AlignedText text = align(token.content);
      if (token.normalized) normalizer(text);
      if (text.text.empty() || text.text.size() > most_bytes) {
        entry["content"].refuse("has " + std::to_string(text.text.size()) + " bytes, supported are 1 to 1024");
      }
      token.decoded = text.text;
      if (token.special) special_.insert(token.content);
      tries_[token.normalized ? 1 : 0].insert(token.decoded, token.id);
      tokens_.emplace(expected, std::move(token));
    }
  }

  const AddedToken* find(int id) const {
    const auto found = tokens_.find(id);
    return found == tokens_.end() ? nullptr : &found->second;
  }
  int id_of(const std::string& content) const {
    const auto found = ids_.find(content);
    return found == ids_.end() ? -1 : found->second;
  }
  bool is_special(const std::string& decoded) const { return special_.count(decoded) > 0; }
  std::vector<std::string> special() const { return {special_.begin(), special_.end()}; }
  int highest_id() const { return tokens_.empty() ? -1 : tokens_.rbegin()->first; }

  /// Cuts the text at the added tokens: first at those that are found in the text as it is, then, in what is left and
  /// normalized, at the others. `with_special` is false: special tokens stay text.
  std::vector<Part> extract(AlignedText text, const Normalizer& normalizer, bool with_special) const {
    std::vector<Part> first, result;
    cut(text, tries_[0], with_special, first);
    for (Part& part : first) {
      if (part.token.id >= 0) {
        result.push_back(std::move(part));
      } else {
        normalizer(part.text);
        cut(part.text, tries_[1], with_special, result);
      }
    }
    return result;
  }

 private:
  /// Finds the longest of its words at a place of the text.
  class Trie {
   public:
    void insert(const std::string& word, int id) {
      std::size_t node = 0;
      for (const char byte : word) {
        const auto [found, is_new] = nodes_[node].next.try_emplace(byte, nodes_.size());
        node = found->second;
        if (is_new) nodes_.emplace_back();
      }
      if (nodes_[node].id < 0) nodes_[node].id = id;  // of two with the same normalized form, the first
    }
    /// The id and the end of the longest word that begins at `from`; id -1 where there is none.
    std::pair<int, std::size_t> longest(const std::string& text, std::size_t from) const {
      std::pair<int, std::size_t> best{-1, from};
      std::size_t node = 0;
      for (std::size_t at = from; at < text.size();) {
        const auto found = nodes_[node].next.find(text[at++]);
        if (found == nodes_[node].next.end()) break;
        node = found->second;
        if (nodes_[node].id >= 0) best = {nodes_[node].id, at};
      }
      return best;
    }

   private:
    struct Node {
      std::map<char, std::size_t> next;
      int id = -1;
    };
    std::vector<Node> nodes_{1};
  };

  void cut(const AlignedText& piece, const Trie& trie, bool with_special, std::vector<Part>& parts) const {
    const std::string& text = piece.text;
    std::size_t done = 0;
    for (std::size_t at = 0; at < text.size();) {
      const auto [id, end] = trie.longest(text, at);
      if (id < 0) {
        ++at;
        continue;
      }
      std::size_t start = std::exchange(at, end), stop = end;
      const AddedToken& token = tokens_.at(id);
      if (token.special && !with_special) continue;
      if (token.single_word) {
        const bool behind_word = start > 0 && is_word(character_at(text, start_of_last(text, start)).code);
        const bool before_word = stop < text.size() && is_word(character_at(text, stop).code);
        if (behind_word || before_word) continue;
      }
      if (token.lstrip) start = start_of_blanks(text, start, done);
      if (token.rstrip) stop = end_of_blanks(text, stop);
      if (done < start) parts.push_back({piece.slice(done, start)});
      parts.push_back({{}, {id, piece.span_of(start, stop)}});
      count_blanks(parts.back().token, text.substr(start, stop - start));
      done = stop;
    }
    if (done < text.size()) parts.push_back({piece.slice(done, text.size())});
  }

  std::map<int, AddedToken> tokens_;
  std::unordered_map<std::string, int> ids_;
  std::set<std::string> special_;
  std::array<Trie, 2> tries_;  // of the text as it is, of the normalized text
};

}  // namespace detail
}  // namespace lm
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
