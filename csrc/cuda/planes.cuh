// The forward if positions are innermost in memory (contiguous NCHW and the like). A matrix row is the plane
// of one unit and one sample; its extrema are partial extrema of both.

#pragma once

#include <cstdint>

#include "cuda/activate.cuh"
#include "cuda/bias.cuh"
#include "cuda/device.cuh"
#include "cuda/linked.cuh"
#include "cuda/merge.cuh"
#include "cuda/satisfied.cuh"
#include "cuda/statistics.cuh"

namespace jumpstart {
namespace cuda {

template <typename scalar_t, int elements, typename Activation, typename Bias>
class Planes : PlaneBias<Vector<scalar_t, elements>, Bias> {
  using V = Vector<scalar_t, elements>;
  using P = typename V::P;
  using Value = typename V::Value;
  using stat_t = typename V::stat_t;

 public:
  JUMPSTART_DEVICE Planes(const Forward<scalar_t>& f, const Activation& activation, const Bias& bias)
      : PlaneBias<Vector<scalar_t, elements>, Bias>(bias),
        f_(f),
        activation_(activation),
        c_(f.plan.chunks),
        lane_(static_cast<int>(threadIdx.x) % c_.lanes) {}

  // A group of lanes takes a chunk of a plane. Groups without work take part too, for the shuffles of the
  // warp.
  JUMPSTART_DEVICE void run(int64_t work) {
    const bool active = work < c_.work();
    plane_ = c_.chunks == 1 ? work : work / c_.chunks;
    begin_ = (work - plane_ * c_.chunks) * c_.chunk_columns;
    const int64_t left = active ? c_.columns - begin_ : 0;
    columns_ = static_cast<int32_t>(left < c_.chunk_columns ? left : c_.chunk_columns);
    if constexpr (kBiased) {
      if (active) this->begin(plane_ % f_.layout.units);
    }
    extrema_.clear();
    seen_ = 0;
    const int32_t width = c_.lanes * elements;
    const auto end = static_cast<int32_t>(c_.chunk_columns);  // the same for all groups, for the shuffles
    for (int32_t place = 0; place * width < end; place += kDepth) {
      if (__all_sync(kWholeWarp, (place + kDepth) * width <= columns_)) {
        step<true>(place, width);
      } else {
        step<false>(place, width);
      }
    }
    auto found = satisfied_extrema<stat_t>();
    if (seen_ != kReached) {
      const auto followed = reduce(lane_ * elements < columns_, width);
      // What has reached the margin was not followed; what seemed to be NaN may have been a sum that
      // overflowed.
      if (!(seen_ & kReached) || followed.max == largest_key<stat_t>()) found = followed;
    }
    if (active && lane_ == 0) f_.workspace.row_partials[work] = Partial<scalar_t>::close(found);
  }

 private:
  static constexpr bool kBiased = Bias::kUnitsAre != UnitsAre::without_bias;
  static constexpr int kReached = 1, kNaN = 2;  // the margin on both sides, in each chunk; perhaps NaN

  // Pieces place .. place + kDepth of this thread, `width` columns apart.
  template <bool full>
  JUMPSTART_DEVICE void step(int32_t place, int32_t width) {
    const int32_t column = place * width + lane_ * elements;  // in the chunk
    const bool active = full || column < columns_;
    const int64_t offset = plane_ * c_.columns + begin_ + column;
    Value x[kDepth][V::kPacks] = {};
    if (active) {
      V::load(f_.elementwise.x + offset, x[0]);
#pragma unroll
      for (int d = 1; d < kDepth; ++d) {
        if (full || column + d * width < columns_) {
          V::load(f_.elementwise.x + offset + d * width, x[d]);
        } else {  // repeat the first: changes no extremum and no first place
#pragma unroll
          for (int p = 0; p < V::kPacks; ++p) x[d][p] = x[0][p];
        }
      }
      if constexpr (kBiased) this->add(x);
    }
    if (is_limited()) look(x, active);
    if (active && seen_ != kReached) extrema_.add(x, place);
    if (!f_.elementwise.output) return;
    if constexpr (is_linked<Activation>) {
      const auto inside = [&](int d) { return active && (full || column + d * width < columns_); };
      store_linked<V>(activation_, x, f_.elementwise, c_.mask_columns, {plane_, begin_ + column, 0, width},
                      inside, lane_, c_.lanes);
    } else {
      uint32_t bits = 0;
#pragma unroll
      for (int d = 0; d < kDepth; ++d) {
        const uint32_t own = activate<V>(activation_, x[d]);
        if (!active || !(full || column + d * width < columns_)) continue;
        bits |= own << 8 * d;
        V::store(f_.elementwise.output + offset + d * width, x[d]);
      }
      bits = join_bits<V>(bits, lane_, c_.lanes);
      if (active && column % 8 == 0) {
        uint8_t* mask = f_.elementwise.mask + plane_ * c_.mask_columns + (begin_ + column) / 8;
#pragma unroll
        for (int d = 0; d < kDepth; ++d) {
          if (full || column + d * width < columns_)
            mask[d * width / 8] = static_cast<uint8_t>(bits >> 8 * d);
        }
      }
    }
  }

  // Whether extrema need not be followed beyond the margin.
  JUMPSTART_DEVICE bool is_limited() const { return f_.statistics.kind == kLimited; }

  // Looks whether the values of a step satisfy the chunks of this warp.
  JUMPSTART_DEVICE void look(const Value (&x)[kDepth][V::kPacks], bool active) {
    if (__any_sync(kWholeWarp, may_hold_nan<V>(x))) seen_ |= kNaN;
    if (seen_) return;
    Value high[1] = {x[0][0]}, low[1] = {x[0][0]};
#pragma unroll
    for (int i = 1; i < kDepth * V::kPacks; ++i) {
      high[0] = P::max(high[0], x[i / V::kPacks][i % V::kPacks]);
      low[0] = P::min(low[0], x[i / V::kPacks][i % V::kPacks]);
    }
    const Reach<V> reach(f_.statistics.margin);
    const uint32_t bits = group_or(active ? reach.template bits<1>(high, low) : 0, c_.lanes);
    if (__all_sync(kWholeWarp, Reach<V>::template all_packs<1>(bits))) seen_ = kReached;
  }

  JUMPSTART_DEVICE Extrema<stat_t> reduce(bool active, int32_t width) const {
    Extrema<stat_t> found = reduce_values<V>(extrema_.max, extrema_.min, active, c_.lanes);
    if (__any_sync(kWholeWarp, active && f_.statistics.has_slack(order_key(f_.statistics.margin), found))) {
      const auto column = [&](const typename P::Place(&at)[V::kPacks], int p, int i) {
        return P::get_place(at[p], i) * width + lane_ * elements + p * P::kValues + i;
      };
      found.max_at = first_place<V>(extrema_.max, key_value<stat_t>(found.max), active, c_.lanes,
                                    [&](int p, int i) { return column(extrema_.max_at, p, i); });
      found.min_at = first_place<V>(extrema_.min, -key_value<stat_t>(found.min), active, c_.lanes,
                                    [&](int p, int i) { return column(extrema_.min_at, p, i); });
    }
    return found;
  }

  const Forward<scalar_t>& f_;
  const Activation& activation_;
  const Chunks& c_;
  const int lane_;
  int64_t plane_, begin_;  // first column of the chunk
  int32_t columns_;        // of the chunk
  int seen_;               // in the chunks of this warp
  Columns<V, kDepth> extrema_;
};

template <typename scalar_t, int elements, typename Activation, typename Bias>
__global__ void __launch_bounds__(kThreads, kBlocksOf<Activation>)
    jumpstart_activation_forward_planes_kernel(const __grid_constant__ Forward<scalar_t> f,
                                               const __grid_constant__ Activation activation,
                                               const __grid_constant__ Bias bias) {
  Planes<scalar_t, elements, Activation, Bias> planes(f, activation, bias);
  const int groups = kThreads / f.plan.chunks.lanes, groups_per_warp = kWarpSize / f.plan.chunks.lanes;
  const auto thread = static_cast<int>(threadIdx.x);
  const int64_t warp = static_cast<int64_t>(blockIdx.x) * kWarps + thread / kWarpSize;
  const int64_t first = warp * groups_per_warp, group = thread % kWarpSize / f.plan.chunks.lanes;
  for (int64_t work = first; work < f.plan.chunks.work(); work += static_cast<int64_t>(gridDim.x) * groups) {
    planes.run(work + group);
  }
  end_of_forward(f);
}

}  // namespace cuda
}  // namespace jumpstart
