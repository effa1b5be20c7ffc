// SPDX-License-Identifier: MIT
#pragma once

/// Semantic version. CMakeLists.txt reads these three lines.
#define HYDRALORA_VERSION_MAJOR 0
#define HYDRALORA_VERSION_MINOR 2
#define HYDRALORA_VERSION_PATCH 0
