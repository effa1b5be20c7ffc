// SPDX-License-Identifier: MIT
//
// Choosing the number of heads for a corpus: TF-IDF features of its texts, k-means, and the elbow of the error or the
// largest silhouette over the number of clusters. DBSCAN (dbscan.hpp) is an alternative that finds the number itself.
//
// HydraLoRA (arXiv:2404.19245, appendix B) takes the number of k-means clusters of the training texts as the number of
// heads. initialize_gate() (train/initialize.hpp) can also initialise the gate from the clusters.
#pragma once

#include "hydralora/analysis/k_means.hpp"
#include "hydralora/analysis/silhouette.hpp"
#include "hydralora/analysis/tf_idf.hpp"
