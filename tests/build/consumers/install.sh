cmake -S hydralora -B build/hydralora -DHYDRALORA_BUILD_TESTS=OFF -DHYDRALORA_BUILD_EXAMPLES=OFF -DHYDRALORA_BUILD_BENCHMARKS=OFF
cmake --install build/hydralora --prefix ~/.local
