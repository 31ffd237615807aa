// Finding extrema: within a thread, a group of lanes, a warp.
//
// Extrema are compared as integer keys that order like floats. The key of a minimum is that of the negated
// value, so that both extrema are the largest key. -0.0 has the key of 0.0, every NaN the largest key. Among
// equal keys the lowest place wins.

#pragma once

#include <cstdint>
#include <type_traits>

#include "cuda/device.cuh"
#include "cuda/packs.cuh"
#include "cuda/plan.h"

namespace jumpstart {
namespace cuda {

constexpr unsigned kWholeWarp = 0xffffffffu;

template <typename stat_t>
using key_of = std::conditional_t<std::is_same<stat_t, double>::value, int64_t, int32_t>;

template <typename stat_t>
JUMPSTART_DEVICE key_of<stat_t> largest_key() {
  return static_cast<key_of<stat_t>>(~0ull >> (65 - 8 * sizeof(stat_t)));
}
template <typename stat_t>
JUMPSTART_DEVICE key_of<stat_t> no_key() {  // below that of any value
  return -largest_key<stat_t>() - 1;
}

template <typename stat_t>
JUMPSTART_DEVICE stat_t infinity() {
  return static_cast<stat_t>(bit_cast<float>(0x7f800000u));
}

template <typename stat_t>
JUMPSTART_DEVICE key_of<stat_t> order_key(stat_t value) {
  using key_t = key_of<stat_t>;
  if (value != value) return largest_key<stat_t>();
  const key_t bits = bit_cast<key_t>(value + stat_t{0});  // -0.0 + 0.0 is 0.0
  return bits ^ (bits >> (8 * sizeof(key_t) - 1) & largest_key<stat_t>());
}
template <typename stat_t>
JUMPSTART_DEVICE stat_t key_value(key_of<stat_t> key) {
  using key_t = key_of<stat_t>;
  return bit_cast<stat_t>(key ^ (key >> (8 * sizeof(key_t) - 1) & largest_key<stat_t>()));
}

// Extrema of a column, row or segment; what their places count from is up to the user.
template <typename stat_t>
struct Extrema {
  key_of<stat_t> max, min;
  int32_t max_at, min_at;
};

// Partial extrema as stored: 16 bytes, or 8 for 16-bit floats.
template <typename scalar_t>
struct alignas(8) LargePartial {
  using stat_t = stat_of<scalar_t>;
  Extrema<stat_t> extrema;

  JUMPSTART_DEVICE static LargePartial close(const Extrema<stat_t>& extrema) { return {extrema}; }
  JUMPSTART_DEVICE Extrema<stat_t> open() const { return extrema; }
};
template <typename scalar_t>
struct SmallPartial {
  uint64_t bits;  // from the lowest: maximum, negated minimum, their places

  JUMPSTART_DEVICE static SmallPartial close(const Extrema<float>& extrema) {
    const uint32_t max = from_stat<scalar_t>(key_value<float>(extrema.max)).bits;
    const uint32_t min = from_stat<scalar_t>(key_value<float>(extrema.min)).bits;
    const uint32_t places = static_cast<uint32_t>(extrema.max_at) | static_cast<uint32_t>(extrema.min_at)
                                                                        << 16;
    return {static_cast<uint64_t>(places) << 32 | min << 16 | max};
  }
  JUMPSTART_DEVICE Extrema<float> open() const {
    const auto part = [this](int i) { return static_cast<uint16_t>(bits >> 16 * i); };
    return {order_key(to_stat(scalar_t{part(0)})), order_key(to_stat(scalar_t{part(1)})), part(2), part(3)};
  }
};
// The upper half of a bfloat16's key determines the key.
template <>
struct SmallPartial<BFloat16> {
  uint64_t bits;  // from the lowest: keys of the maximum and the minimum, their places

  JUMPSTART_DEVICE static SmallPartial close(const Extrema<float>& extrema) {
    const uint32_t keys =
        static_cast<uint32_t>(extrema.max) >> 16 | (static_cast<uint32_t>(extrema.min) & 0xffff0000u);
    const uint32_t places = static_cast<uint32_t>(extrema.max_at) | static_cast<uint32_t>(extrema.min_at)
                                                                        << 16;
    return {static_cast<uint64_t>(places) << 32 | keys};
  }
  JUMPSTART_DEVICE Extrema<float> open() const {
    const auto part = [this](int i) { return static_cast<uint16_t>(bits >> 16 * i); };
    return {open_key(part(0)), open_key(part(1)), part(2), part(3)};
  }

 private:
  // The lower half is all zeros, or all ones for a negative value and NaN.
  JUMPSTART_DEVICE static int32_t open_key(uint16_t half) {
    const uint32_t behind = half >= 0x7fff ? 0xffffu : 0u;
    return static_cast<int32_t>(static_cast<uint32_t>(half) << 16 | behind);
  }
};
template <typename scalar_t>
using Partial = std::conditional_t<sizeof(scalar_t) == 2, SmallPartial<scalar_t>, LargePartial<scalar_t>>;

// The largest key in a group: lanes [0, lanes), [lanes, 2 lanes), ... of a warp.
template <typename key_t>
JUMPSTART_DEVICE key_t group_max(key_t key, int lanes) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  if constexpr (sizeof(key_t) == 4) {
    if (lanes == kWarpSize) return __reduce_max_sync(kWholeWarp, key);
  }
#endif
  for (int offset = lanes / 2; offset > 0; offset /= 2) {
    const key_t other = __shfl_xor_sync(kWholeWarp, key, offset);
    key = other > key ? other : key;
  }
  return key;
}
JUMPSTART_DEVICE int32_t group_min(int32_t place, int lanes) { return -group_max(-place, lanes); }
// The bits that any lane of a group has.
JUMPSTART_DEVICE uint32_t group_or(uint32_t bits, int lanes) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  if (lanes == kWarpSize) return __reduce_or_sync(kWholeWarp, bits);
#endif
  for (int offset = lanes / 2; offset > 0; offset /= 2) bits |= __shfl_xor_sync(kWholeWarp, bits, offset);
  return bits;
}

template <typename key_t, typename place_t>
JUMPSTART_DEVICE void take_first_largest(key_t& key, place_t& place, key_t other, place_t other_place) {
  if (other > key || (other == key && other_place < place)) {
    key = other;
    place = other_place;
  }
}

// Extrema of a thread's columns, over rows added in order, `depth` rows at a time. A place is a row number of
// the thread.
template <typename V, int depth>
struct Columns {
  using P = typename V::P;
  using stat_t = typename V::stat_t;
  using Value = typename V::Value;
  using Place = typename P::Place;

  Value max[V::kPacks], min[V::kPacks];
  Place max_at[V::kPacks], min_at[V::kPacks];

  JUMPSTART_DEVICE void clear() {
#pragma unroll
    for (int p = 0; p < V::kPacks; ++p) {
      max[p] = P::fill(-infinity<stat_t>());
      min[p] = P::fill(infinity<stat_t>());
      max_at[p] = min_at[p] = P::fill_place(0);
    }
  }

  JUMPSTART_DEVICE void add(const Value (&x)[depth][V::kPacks], int32_t first) {
    Place at[depth];
#pragma unroll
    for (int d = 0; d < depth; ++d) at[d] = P::fill_place(first + d);
#pragma unroll
    for (int p = 0; p < V::kPacks; ++p) {
      Value high = x[0][p], low = x[0][p];
#pragma unroll
      for (int d = 1; d < depth; ++d) {
        high = P::max(high, x[d][p]);
        low = P::min(low, x[d][p]);
      }
      Place high_at = at[depth - 1], low_at = at[depth - 1];
#pragma unroll
      for (int d = depth - 2; d >= 0; --d) {
        high_at = P::choose(P::equal(x[d][p], high), at[d], high_at);
        low_at = P::choose(P::equal(x[d][p], low), at[d], low_at);
      }
      max_at[p] = P::choose(P::greater(high, max[p]), high_at, max_at[p]);
      min_at[p] = P::choose(P::greater(min[p], low), low_at, min_at[p]);
      // NaN compares false, so it is handled apart; it is rare. It is both extrema at once.
      if (P::any(P::nan(high))) {
#pragma unroll
        for (int d = depth - 1; d >= 0; --d) high_at = P::choose(P::nan(x[d][p]), at[d], high_at);
        const auto first_nan = P::both(P::nan(high), P::negate(P::nan(max[p])));
        max_at[p] = P::choose(first_nan, high_at, max_at[p]);
        min_at[p] = P::choose(first_nan, high_at, min_at[p]);
      }
      max[p] = P::max(max[p], high);
      min[p] = P::min(min[p], low);
    }
  }
};

// The largest value of one vector and the smallest of another, over the active lanes of a group.
template <typename V>
JUMPSTART_DEVICE Extrema<typename V::stat_t> reduce_values(const typename V::Value (&max)[V::kPacks],
                                                           const typename V::Value (&min)[V::kPacks],
                                                           bool active, int lanes) {
  using P = typename V::P;
  using stat_t = typename V::stat_t;
  auto high = max[0], low = min[0];
#pragma unroll
  for (int p = 1; p < V::kPacks; ++p) {
    high = P::max(high, max[p]);
    low = P::min(low, min[p]);
  }
  stat_t largest = P::get(high, 0), smallest = P::get(low, 0);
  if constexpr (P::kValues == 2) {
    largest = Pack<float>::max(largest, P::get(high, 1));
    smallest = Pack<float>::min(smallest, P::get(low, 1));
  }
  return {group_max(active ? order_key(largest) : no_key<stat_t>(), lanes),
          group_max(active ? order_key(-smallest) : no_key<stat_t>(), lanes), 0, 0};
}

// The lowest place in a group that holds `value`; place(pack, i) is the place of a lane's element.
template <typename V, typename Place>
JUMPSTART_DEVICE int32_t first_place(const typename V::Value (&x)[V::kPacks], typename V::stat_t value,
                                     bool active, int lanes, const Place& place) {
  using P = typename V::P;
  int32_t first = 0x7fffffff;
  if (active) {
    const auto wanted = P::fill(value);
#pragma unroll
    for (int p = 0; p < V::kPacks; ++p) {
      const auto mask = value != value ? P::nan(x[p]) : P::equal(x[p], wanted);
#pragma unroll
      for (int i = 0; i < P::kValues; ++i) {
        const int32_t at = place(p, i);
        if (P::test(mask, i) && at < first) first = at;
      }
    }
  }
  return group_min(first, lanes);
}

}  // namespace cuda
}  // namespace jumpstart
