// The bias of a forward: added to x as it is loaded, before all else.

#pragma once

#include <cstdint>

#include "cuda/device.cuh"
#include "cuda/packs.cuh"
#include "cuda/plan.h"

namespace jumpstart {
namespace cuda {

// What the units of a bias are in the matrix.
enum class UnitsAre { without_bias, columns, rows };

// A kernel's last argument, so that one without a bias is compiled as if there were none at all.
template <typename scalar_t, UnitsAre are>
struct Bias {
  static constexpr UnitsAre kUnitsAre = are;
  const scalar_t* values;  // [units]
};
template <typename scalar_t>
struct Bias<scalar_t, UnitsAre::without_bias> {
  static constexpr UnitsAre kUnitsAre = UnitsAre::without_bias;
};

// What a thread of a streaming kernel adds. Base classes, which take no room where they are empty.

// In the rows kernel, V::kElements neighbors of a row.
template <typename V, typename Bias>
class RowsBias {
 public:
  JUMPSTART_DEVICE RowsBias(const Bias&, unsigned char*) {}
};
template <typename V, typename scalar_t>
class RowsBias<V, Bias<scalar_t, UnitsAre::columns>> {
  using Value = typename V::Value;

 public:
  static constexpr int kBytes = kThreads * V::kPacks * sizeof(Value);  // of shared memory

  // Kept where only this thread reads it: in registers it would displace the extrema.
  JUMPSTART_DEVICE RowsBias(const Bias<scalar_t, UnitsAre::columns>& bias, unsigned char* shared)
      : values_(bias.values), kept_(reinterpret_cast<Value*>(shared) + threadIdx.x * V::kPacks) {}

  // `column`: the first of this thread, if it is inside of the matrix.
  JUMPSTART_DEVICE void begin(bool inside, int64_t column, int64_t) {
    if (!inside) return;
    Value loaded[V::kPacks];
    V::load_apart(values_ + column, loaded);
#pragma unroll
    for (int p = 0; p < V::kPacks; ++p) kept_[p] = loaded[p];
  }
  template <int depth, typename Row>
  JUMPSTART_DEVICE void add(Value (&x)[depth][V::kPacks], const Row&) const {
#pragma unroll
    for (int p = 0; p < V::kPacks; ++p) {
      const Value bias = kept_[p];
#pragma unroll
      for (int d = 0; d < depth; ++d) x[d][p] = V::sum(x[d][p], bias);
    }
  }

 private:
  const scalar_t* values_;
  Value* kept_;
};
template <typename V, typename scalar_t>
class RowsBias<V, Bias<scalar_t, UnitsAre::rows>> {
  using Value = typename V::Value;

 public:
  JUMPSTART_DEVICE RowsBias(const Bias<scalar_t, UnitsAre::rows>& bias, unsigned char*) : bias_(bias) {}

  // `unit`: that of the region's first row.
  JUMPSTART_DEVICE void begin(bool, int64_t, int64_t unit) { values_ = bias_.values + unit; }
  // row(d) is that of x[d] in the region.
  template <int depth, typename Row>
  JUMPSTART_DEVICE void add(Value (&x)[depth][V::kPacks], const Row& row) const {
#pragma unroll
    for (int d = 0; d < depth; ++d) {
      const Value bias = V::P::fill(to_stat(values_[row(d)]));
#pragma unroll
      for (int p = 0; p < V::kPacks; ++p) x[d][p] = V::sum(x[d][p], bias);
    }
  }

 private:
  const Bias<scalar_t, UnitsAre::rows>& bias_;
  const scalar_t* values_;
};

// In the planes kernel, one value.
template <typename V, typename Bias>
class PlaneBias {
 public:
  JUMPSTART_DEVICE explicit PlaneBias(const Bias&) {}
};
template <typename V, typename scalar_t>
class PlaneBias<V, Bias<scalar_t, UnitsAre::rows>> {
  using Value = typename V::Value;

 public:
  JUMPSTART_DEVICE explicit PlaneBias(const Bias<scalar_t, UnitsAre::rows>& bias) : bias_(bias) {}

  JUMPSTART_DEVICE void begin(int64_t unit) { value_ = V::P::fill(to_stat(bias_.values[unit])); }
  template <int depth>
  JUMPSTART_DEVICE void add(Value (&x)[depth][V::kPacks]) const {
#pragma unroll
    for (int d = 0; d < depth; ++d) {
#pragma unroll
      for (int p = 0; p < V::kPacks; ++p) x[d][p] = V::sum(x[d][p], value_);
    }
  }

 private:
  const Bias<scalar_t, UnitsAre::rows>& bias_;
  Value value_;
};

}  // namespace cuda
}  // namespace jumpstart
