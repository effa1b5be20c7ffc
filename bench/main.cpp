// SPDX-License-Identifier: MIT
//
//   benchmarks --benchmark_filter=^sweep/layers --benchmark_repetitions=7 --benchmark_enable_random_interleaving=true
//
// Runs the selection, ^select/, unless told otherwise; see problem.hpp for the sets of names.
#include "harness.hpp"

int main(int argc, char** argv) { return bench::run_benchmarks(argc, argv) > 0 ? 0 : 1; }
