// SPDX-License-Identifier: MIT
//
// Reads an adapter directory and writes it again: rewrite <from> <to>. check.py compares the two in PEFT.
#include <cstdio>
#include <exception>

#include "hydralora/io/peft.hpp"

using namespace hydralora;

int main(int count, char** arguments) try {
  if (count != 3) return 2;
  PeftOptions options;
  options.allow_others = true;
  const PeftDirectory from(arguments[1], options);
  PeftWriter to;
  for (const AdapterModule& m : from.modules()) {
    if (m.dora) {
      DoRALinear<float> layer(DenseLinear<float>{Eigen::MatrixXf::Ones(m.out_features, m.in_features)},
                              from.config<LoRA<float>>(m.name));
      from.load_into(layer, m.name);
      to.add(m.name, layer, m.type);
    } else {
      to.add(m.name, from.load<LoRA<float>>(m.name), m.type);
    }
  }
  for (const OtherTensor& other : from.others()) {
    const TensorEntry& entry = from.weights().entry(other.name);
    if (entry.shape.size() == 1) {
      Eigen::VectorXf vector(entry.shape[0]);
      from.weights().read(other.name, vector);
      to.add_tensor(other.target, vector, entry.type);
    } else {
      Eigen::MatrixXf matrix(entry.shape.at(0), entry.shape.at(1));
      from.weights().read(other.name, matrix);
      to.add_tensor(other.target, matrix, entry.type);
    }
  }
  to.save(arguments[2]);
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
