// SPDX-License-Identifier: MIT
//
// What the filter of the API pages makes of a header. With Σ_i ω_i B_i in it.
#pragma once

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace detail {

/// Left out, σ and all.
struct Hidden {};

/// What the layers inherit: y += ΔW x.
template <class Layer, class Tensors>
class AdapterLayer : public Tensors {
 public:
  int rank() const { return 1; }  ///< r of s = α / √r
};

}  // namespace detail

/// One adapter of vector<float>:
///   y += s B A x,  c_o = ‖w_o‖
///
///   Layer<float> layer;
///   layer.forward(x, y);  // y += …
///
/// Source   a paper, eq. (3), with
///          a second line of ω.
/// forward  h = A x     y += s B h
///          z = h
/// @param w  ω of every head, in
///           two lines.
template <class Scalar>
class Layer {
 public:
  /// y += A x.
  void forward(int x) const;
  void forward() const;

  void backward() const;

 protected:
  int seed_ = 0;
};

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
