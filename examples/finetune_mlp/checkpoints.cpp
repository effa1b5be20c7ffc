// SPDX-License-Identifier: MIT
#include "checkpoints.hpp"

#include <nlohmann/json.hpp>

#include <hydralora/io/checkpoint.hpp>

#include "training.hpp"

namespace finetune {
namespace {

std::filesystem::path file_of(const std::filesystem::path& folder, std::string name) {
  for (char& c : name) c = c == ' ' ? '_' : c;
  return folder / (name + ".checkpoint.safetensors");
}

}  // namespace

void Checkpoints::load(hydralora::AdamW<float>& optimizer, Result& result, SincePoint& since) const {
  const std::filesystem::path path = file_of(folder, result.name);
  if (folder.empty() || !std::filesystem::exists(path)) return;
  const auto metadata = hydralora::SafetensorsFile(path).metadata();  // looked at before anything is changed
  const auto found = metadata.find("run");
  if (found == metadata.end() || found->second != run) {
    throw InputError(path.string() + " is from a run with other settings or text: remove it, or choose another --out");
  }
  try {
    const nlohmann::json state = nlohmann::json::parse(metadata.at("state"));
    since = {state.at("loss").get<double>(), state.at("start").get<hydralora::Index>()};
    result.curve.clear();
    for (const auto& point : state.at("curve")) {
      result.curve.push_back(
          {point.at(0).get<hydralora::Index>(), point.at(1).get<double>(), point.at(2).get<double>()});
    }
  } catch (const std::exception& e) {
    throw InputError(path.string() + ": " + e.what());
  }
  hydralora::load_checkpoint(path, optimizer);
}

void Checkpoints::save(const hydralora::AdamW<float>& optimizer, const Result& result, const SincePoint& since) const {
  nlohmann::json state = {{"loss", since.loss}, {"start", since.start}, {"curve", nlohmann::json::array()}};
  for (const CurvePoint& p : result.curve) state["curve"].push_back({p.step, p.training, p.validation});
  hydralora::save_checkpoint(file_of(folder, result.name), optimizer, {{"run", run}, {"state", state.dump()}});
}

void Checkpoints::remove(const std::string& name) const {
  std::error_code ignored;
  if (!folder.empty()) std::filesystem::remove(file_of(folder, name), ignored);
}

}  // namespace finetune
