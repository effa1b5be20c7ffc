// SPDX-License-Identifier: MIT
// Tokenizers of the kind BPE, read from tokenizer.json: text to token ids and back, as the tokenizers library does it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "hydralora/lm/text/decoder.hpp"
#include "hydralora/lm/text/post_processor.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace lm {

/// Whether a special token that is written in the text becomes that token, or is read as words like any others. Text
/// that is not trusted should be read as words.
enum class SpecialTokens { parsed, as_words };

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

  /// Text to ids.
  /// @param text  each part that is not UTF-8 is read as U+FFFD, as Python does with errors="replace".
  /// @param add_special_tokens  whether the post-processor's tokens are added, <s> for example.
  /// @throws FileError  if a regular expression of the file needs too many steps on this text.
  /// @throws std::length_error  if the normalizers make it more than 64 times as long.
  /// Cost  n log n for n bytes; about 60 bytes of memory for each.
  Encoding encode(std::string_view text, bool add_special_tokens = false,
                  SpecialTokens special = SpecialTokens::parsed) const {
    std::vector<detail::Token> tokens;
    const bool parses = special == SpecialTokens::parsed;
    for (detail::Part& part : added_.extract(detail::align(text), normalizer_, parses)) {
      if (part.token.id >= 0) {
        tokens.push_back(part.token);
        continue;
      }
      std::vector<detail::AlignedText> pieces;
      pieces.push_back(std::move(part.text));
      pre_tokenizer_(pieces);
      for (const detail::AlignedText& piece : pieces) {
        std::size_t from = 0;
        for (const detail::PieceToken& token : model_.encode(piece.text)) {
          tokens.push_back({token.id, piece.span_of(from, from + token.bytes)});
          detail::count_blanks(tokens.back(), model_.tokens().at(token.id));
          from += token.bytes;
        }
      }
    }
    post_processor_(tokens, text, add_special_tokens);
    Encoding result;
    for (const detail::Token& token : tokens) {
      result.ids.push_back(token.id);
      result.spans.push_back(token.span);
    }
    return result;
  }

  /// Ids to text. Bytes that are no UTF-8 become U+FFFD.
  /// @param skip_special_tokens  whether special tokens are left out.
  /// @throws std::invalid_argument  on an id that is not in the vocabulary.
  /// @throws std::length_error  if the decoders make the text longer than 1 GiB.
  std::string decode(const std::vector<int>& ids, bool skip_special_tokens = false) const {
    detail::Tokens tokens;
    for (const int id : ids) {
      if (!has(id)) {
        throw std::invalid_argument("Tokenizer::decode: the id " + std::to_string(id) + " is not in the vocabulary");
      }
      const detail::AddedToken* added = added_.find(id);
      const std::string& token = added != nullptr ? added->decoded : model_.tokens().at(id);
      if (!skip_special_tokens || !added_.is_special(token)) tokens.push_back(token);
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
  std::vector<std::string> special_tokens() const { return added_.special(); }
  bool is_special(int id) const { return added_.find(id) != nullptr && added_.is_special(added_.find(id)->decoded); }

 private:
  Tokenizer(const std::filesystem::path& file, const nlohmann::json& json)
      : Tokenizer(detail::Section(file, "", json)) {}
  explicit Tokenizer(const detail::Section& root)
      : normalizer_(detail::make_normalizer(root["normalizer"])),
        pre_tokenizer_(detail::make_pre_tokenizer(root["pre_tokenizer"])),
        model_(root["model"]),
        added_(root["added_tokens"], model_, normalizer_),
        post_processor_(detail::make_post_processor(root["post_processor"])),
        decoder_(detail::make_decoder(root["decoder"])) {
    size_ = added_.highest_id() + 1;
    for (const auto& entry : model_.tokens()) size_ = std::max(size_, entry.first + 1);
    for (const int id : encode("", true).ids) {
      if (!has(id)) root["post_processor"].refuse("adds the id " + std::to_string(id) + ", which no token has");
    }
  }

  bool has(int id) const { return added_.find(id) != nullptr || model_.tokens().count(id) > 0; }

  detail::Normalizer normalizer_;
  detail::PreTokenizer pre_tokenizer_;
  detail::BytePairEncoding model_;
  detail::AddedTokens added_;
  detail::PostProcessor post_processor_;
  detail::Decoder decoder_;
  int size_ = 0;
};

}  // namespace lm
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
