// SPDX-License-Identifier: MIT
// Checkpoints of a training run. A run that is resumed from one ends with the same bits as an uninterrupted run.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "hydralora/core/expects.hpp"
#include "hydralora/io/safetensors.hpp"
#include "hydralora/io/safetensors_header.hpp"
#include "hydralora/train/adamw.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace detail {
inline std::string parameters_name(std::size_t group) { return "parameters." + std::to_string(group); }
constexpr const char* moments_name = "optimizer.moments";
constexpr const char* steps_name = "optimizer.steps";
}  // namespace detail

/// Saves parameters, the optimiser's moments and the number of steps; batches and dropout follow from seed and step.
/// @param path   REPLACED atomically (write_file_atomically()).
/// @param notes  text that load_checkpoint() returns: the seed, the data, the settings.
/// @throws FileError  if the file cannot be written; the old file is then unchanged.
template <class Scalar>
void save_checkpoint(const std::filesystem::path& path, const AdamW<Scalar>& optimizer,
                     const std::map<std::string, std::string>& notes = {}) {
  SafetensorsWriter file;
  file.metadata = notes;
  for (std::size_t g = 0; g < optimizer.groups().size(); ++g) {
    file.add(detail::parameters_name(g), optimizer.groups()[g].parameters, {}, true);
  }
  file.add(detail::moments_name, optimizer.state(), {}, true);
  std::vector<unsigned char> steps(sizeof(std::int64_t));
  detail::to_little_endian(static_cast<std::uint64_t>(optimizer.steps()), steps.data());
  file.add_bytes(detail::steps_name, DType::I64, {1}, std::move(steps));
  file.save(path);
}

/// Restores the parameters, the moments and the number of steps that save_checkpoint() wrote.
/// @param optimizer    has groups of the same sizes; parameters, moments and steps are OVERWRITTEN.
/// @param finite_only  refuse numbers that are not finite: a run that had diverged.
/// @return  the notes.
/// @throws FileError  a broken file, other groups, sizes or number types, additional tensors; nothing is then changed.
/// Memory   a second copy of everything that is read.
template <class Scalar>
std::map<std::string, std::string> load_checkpoint(const std::filesystem::path& path, AdamW<Scalar>& optimizer,
                                                   bool finite_only = true) {
  using Vector = typename AdamW<Scalar>::Vector;
  const SafetensorsFile file(path);
  std::vector<ParameterGroup<Scalar>> groups = optimizer.groups();
  const auto read = [&](const std::string& name, Index size) {
    const TensorEntry& stored = file.entry(name, {size});
    const DType expected = sizeof(Scalar) == 4 ? DType::F32 : DType::F64;
    if (stored.type != expected) {
      detail::fail_tensor(path, name, " holds " + stored.type_name() + ", the run has " + info_of(expected).name);
    }
    Vector numbers(size);
    file.read(name, numbers, finite_only);
    return numbers;
  };
  std::vector<Vector> parameters;
  for (std::size_t g = 0; g < groups.size(); ++g) {
    parameters.push_back(read(detail::parameters_name(g), groups[g].parameters.size()));
  }
  const Vector moments = read(detail::moments_name, optimizer.state().size());
  const DType steps_type = file.entry(detail::steps_name, {1}).type;
  if (steps_type != DType::I64) detail::fail_tensor(path, detail::steps_name, " is not I64");
  const auto steps = detail::from_little_endian<std::uint64_t>(file.bytes(detail::steps_name).data());
  constexpr std::uint64_t most_steps = std::uint64_t{1} << 62U;
  if (steps > most_steps) detail::fail_tensor(path, detail::steps_name, " is negative or above 2^62");
  if ((moments.tail(moments.size() / 2).array() < 0).any()) {  // AdamW takes their square roots
    detail::fail_tensor(path, detail::moments_name, " holds a negative mean of squares");
  }
  if (file.tensors().size() != groups.size() + 2) {
    throw FileError(path, "has " + std::to_string(file.tensors().size()) + " tensors, a run with " +
                              std::to_string(groups.size()) + " parameter groups has " +
                              std::to_string(groups.size() + 2));
  }
  for (std::size_t g = 0; g < groups.size(); ++g) groups[g].parameters = parameters[g];
  optimizer.state() = moments;
  optimizer.set_steps(static_cast<std::int64_t>(steps));
  return file.metadata();
}

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
