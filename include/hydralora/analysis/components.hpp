// SPDX-License-Identifier: MIT
// The number of heads for a corpus: TF-IDF features of its texts, k-means, and the elbow of the error or the largest
// silhouette, as in HydraLoRA (arXiv:2404.19245, appendix B). See also dbscan.hpp and initialize_gate().
#pragma once

#include "hydralora/analysis/k_means.hpp"
#include "hydralora/analysis/silhouette.hpp"
#include "hydralora/analysis/tf_idf.hpp"
