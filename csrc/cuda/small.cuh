// The forward of a small matrix whose rows are points, in one block: thin networks are bound by launches.

#pragma once

#include <cstdint>

#include "cuda/bias.cuh"
#include "cuda/device.cuh"
#include "cuda/linked.cuh"
#include "cuda/statistics.cuh"

namespace jumpstart {
namespace cuda {

template <typename scalar_t>
class Small {
  using stat_t = stat_of<scalar_t>;
  using key_t = key_of<stat_t>;

 public:
  JUMPSTART_DEVICE Small(const Forward<scalar_t>& f, unsigned char* shared)
      : f_(f),
        rows_(static_cast<int>(f.layout.matrix_rows())),
        columns_(static_cast<int>(f.layout.matrix_columns())),
        pitch_(columns_ | 1),
        keys_(reinterpret_cast<key_t*>(shared)) {}

  // Writes the output and keeps the keys of all elements.
  template <typename Activation, typename Bias>
  JUMPSTART_DEVICE void load(const Activation& activation, const Bias& bias) const {
    using P = Pack<scalar_t>;
    const int elements = rows_ * columns_;
    for (int first = static_cast<int>(threadIdx.x); first < elements; first += kDepth * kSmallThreads) {
      scalar_t x[kDepth] = {};
#pragma unroll
      for (int d = 0; d < kDepth; ++d) {
        const int i = first + d * kSmallThreads;
        if (i < elements) x[d] = f_.elementwise.x[i];
      }
      if constexpr (Bias::kUnitsAre != UnitsAre::without_bias) {
#pragma unroll
        for (int d = 0; d < kDepth; ++d) {
          const int i = first + d * kSmallThreads;
          if (i < elements) {
            x[d] = from_stat<scalar_t>(to_stat(x[d]) + to_stat(bias.values[i % columns_]));
          }
        }
      }
#pragma unroll
      for (int d = 0; d < kDepth; ++d) {
        const int i = first + d * kSmallThreads;
        if (i >= elements) break;
        keys_[i / columns_ * pitch_ + i % columns_] = order_key(to_stat(x[d]));
        if (!f_.elementwise.output) continue;
        if constexpr (is_linked<Activation>) {
          store_linked_element(activation, to_stat(x[d]), i / columns_, i % columns_, f_.elementwise.output);
        } else {
          const auto pack = P::from_element(x[d]);
          f_.elementwise.output[i] = P::to_element(activation.template value<P>(pack, P::positive(pack)));
        }
      }
    }
  }

  JUMPSTART_DEVICE void store_mask() const {
    const auto bytes = static_cast<int>(f_.layout.mask_columns());
    for (int i = static_cast<int>(threadIdx.x); i < rows_ * bytes; i += kSmallThreads) {
      const int row = i / bytes, first = i % bytes * 8;
      uint32_t bits = 0;
#pragma unroll
      for (int b = 0; b < 8; ++b) {
        if (first + b < columns_) bits |= static_cast<uint32_t>(keys_[row * pitch_ + first + b] > 0) << b;
      }
      f_.elementwise.mask[i] = static_cast<uint8_t>(bits);
    }
  }

  // Those of the positive elements, and of the negative ones, a NaN being both.
  JUMPSTART_DEVICE void store_linked_masks() const {
    const auto bytes = static_cast<int>(f_.layout.mask_columns());
    for (int i = static_cast<int>(threadIdx.x); i < rows_ * bytes; i += kSmallThreads) {
      const int row = i / bytes, first = i % bytes * 8;
      HalfBits bits{};
#pragma unroll
      for (int b = 0; b < 8; ++b) {
        if (first + b >= columns_) continue;
        const key_t key = keys_[row * pitch_ + first + b];
        bits.first |= static_cast<uint32_t>(key > 0) << b;
        bits.second |= static_cast<uint32_t>(key < 0 || key == largest_key<stat_t>()) << b;
      }
      uint8_t* to = f_.elementwise.mask + row * 2 * bytes + i % bytes;
      to[0] = static_cast<uint8_t>(bits.first);
      to[bytes] = static_cast<uint8_t>(bits.second);
    }
  }

  // Extrema of all units, or of all points, by half of the block, each by a group of lanes. Adds their slack
  // to the sums.
  template <bool units>
  JUMPSTART_DEVICE void reduce(stat_t* sums) const {
    constexpr int kThreadsOfHalf = kSmallThreads / 2;
    const int items = units ? columns_ : rows_, length = units ? rows_ : columns_;
    const int item_stride = units ? 1 : pitch_, stride = units ? pitch_ : 1;
    int lanes = kWarpSize;
    while (lanes > 1 && items * lanes > kThreadsOfHalf) lanes /= 2;
    const int thread = static_cast<int>(threadIdx.x) % kThreadsOfHalf, lane = thread % lanes;
    for (int first = 0; first < items; first += kThreadsOfHalf / lanes) {
      const int item = first + thread / lanes;
      // The minimum is the largest negated key.
      key_t max = no_key<stat_t>(), min = no_key<stat_t>();
      int max_at = 0, min_at = 0;
      if (item < items) {
        const key_t* keys = keys_ + item * item_stride;
#pragma unroll 4
        for (int i = lane; i < length; i += lanes) {
          const key_t key = keys[i * stride];
          take_first_largest(max, max_at, key, i);
          take_first_largest(min, min_at, -key, i);
        }
      }
      for (int offset = lanes / 2; offset > 0; offset /= 2) {
        take_first_largest(max, max_at, __shfl_xor_sync(kWholeWarp, max, offset),
                           __shfl_xor_sync(kWholeWarp, max_at, offset));
        take_first_largest(min, min_at, __shfl_xor_sync(kWholeWarp, min, offset),
                           __shfl_xor_sync(kWholeWarp, min_at, offset));
      }
      if (lane > 0 || item >= items) continue;
      const bool nan = max == largest_key<stat_t>();
      f_.statistics.store(
          item + (units ? 0 : columns_), key_value<stat_t>(max), key_value<stat_t>(nan ? max : -min),
          [&] { return index<units>(item, max_at); },
          [&] { return index<units>(item, nan ? max_at : min_at); }, sums);
    }
  }

 private:
  // The index in the flattened tensor of a place in a unit or point.
  template <bool units>
  JUMPSTART_DEVICE int64_t index(int item, int place) const {
    const int row = units ? place : item, column = units ? item : place;
    if (!f_.layout.channels_last) return row * columns_ + column;
    const auto positions = static_cast<int>(f_.layout.rows);
    return (row / positions * columns_ + column) * positions + row % positions;
  }

  const Forward<scalar_t>& f_;
  const int rows_, columns_, pitch_;
  key_t* keys_;  // [rows, pitch]; an odd pitch avoids bank conflicts down a column
};

template <typename scalar_t, typename Activation, typename Bias>
__global__ void __launch_bounds__(kSmallThreads)
    jumpstart_activation_forward_small_kernel(const __grid_constant__ Forward<scalar_t> f,
                                              const __grid_constant__ Activation activation,
                                              const __grid_constant__ Bias bias) {
  using stat_t = stat_of<scalar_t>;
  alignas(16) __shared__ unsigned char shared[kSmallBytes];
  const Small<scalar_t> small(f, shared);
  small.load(activation, bias);
  __syncthreads();
  if constexpr (is_linked<Activation>) {
    if (f.elementwise.mask) small.store_linked_masks();
  } else {
    if (f.elementwise.output) small.store_mask();
  }
  stat_t sums[kSlackSums] = {};
  // Both at once: a warp then sees one axis only, and adds up half as many sums.
  if (threadIdx.x < kSmallThreads / 2) {
    small.template reduce<true>(sums);
  } else {
    small.template reduce<false>(sums);
  }
  __syncthreads();
  const stat_t sum = sum_block<kSmallThreads / kWarpSize, 2>(sums, shared);
  if (threadIdx.x < kLayerSums) f.statistics.slack_sums[threadIdx.x] = sum;
}

}  // namespace cuda
}  // namespace jumpstart
