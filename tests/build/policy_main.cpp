// SPDX-License-Identifier: MIT
#include <cstdio>

const void* baseline_unit(int& lanes, float& result);
const void* avx2_unit(int& lanes, float& result);

int main() {
  int baseline_lanes = 0, avx2_lanes = 0;
  float baseline_result = 0, avx2_result = 0;
  const void* baseline_kernel = baseline_unit(baseline_lanes, baseline_result);
  const bool runs_avx2 = __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0;
  const void* avx2_kernel = runs_avx2 ? avx2_unit(avx2_lanes, avx2_result) : nullptr;
  std::printf("baseline: %d lanes; avx2: %d lanes; kernels: %s\n", baseline_lanes, avx2_lanes,
              baseline_kernel == avx2_kernel ? "the same" : "one each");
  if (!runs_avx2) return 0;
  return baseline_lanes == 4 && avx2_lanes == 8 && baseline_kernel != avx2_kernel && baseline_result == 0 &&
                 avx2_result == 0
             ? 0
             : 1;
}
