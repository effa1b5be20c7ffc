// SPDX-License-Identifier: MIT
// How many heads a corpus asks for: TF-IDF features of its texts, k-means, and the elbow of the error or the largest
// silhouette over the number of clusters. dbscan.hpp has an alternative that finds the number itself.
//
// HydraLoRA (arXiv:2404.19245, appendix B) runs k-means on TF-IDF features of the training texts and uses only the number
// of clusters, which becomes the number of heads. initialize_gate() (initialize.hpp) can start the gate from the clusters.
#pragma once

#include "hydralora/analysis/k_means.hpp"
#include "hydralora/analysis/silhouette.hpp"
#include "hydralora/analysis/tf_idf.hpp"
