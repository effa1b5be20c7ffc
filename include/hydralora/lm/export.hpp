// SPDX-License-Identifier: MIT
// A whole model written as a Hugging Face checkpoint.
#pragma once

#include <filesystem>
#include <string>
#include <system_error>

#include "hydralora/io/safetensors.hpp"
#include "hydralora/lm/load.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace lm {

/// Writes model.safetensors in float32 and copies the other small files of the model's folder: config, tokenizer, chat
/// template. The weights come last.
/// @param source  the folder that the model came from; where it is empty only the weights are written.
/// @throws FileError  a file cannot be written or copied. Memory: two more copies of the weights.
template <class Scalar>
void save_model(const Decoder<Scalar>& model, const std::filesystem::path& folder,
                const std::filesystem::path& source) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) throw FileError(folder, "cannot create the folder: " + error.message());
  for (const char* name : {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
                           "chat_template.jinja", "special_tokens_map.json"}) {
    if (source.empty() || !std::filesystem::exists(source / name)) continue;
    std::filesystem::copy_file(source / name, folder / name, std::filesystem::copy_options::overwrite_existing, error);
    if (error) throw FileError(folder / name, "cannot write: " + error.message());
  }
  SafetensorsWriter file;
  file.metadata["format"] = "pt";
  for_each_tensor_in(
      model.config, model.weights.data(),
      [&](const std::string& name, const auto& numbers, bool vector) { file.add(name, numbers, {}, vector); });
  file.save(folder / "model.safetensors");
}

}  // namespace lm
}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
