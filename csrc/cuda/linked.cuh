// The linked activations, cat(g(x), g(-x)), on a GPU: what becomes of a vector of x, and where it goes.

#pragma once

#include <cstdint>

#include "cuda/activate.cuh"
#include "cuda/device.cuh"
#include "cuda/packs.cuh"
#include "cuda/plan.h"
#include "cuda/statistics.cuh"
#include "half_rows.h"
#include "linked_activations.h"

namespace jumpstart {
namespace cuda {

// Single values, as csrc/linked_activations.h wants them.
template <typename stat>
struct LinkedValue {
  using stat_t = stat;
  using Values = stat_t;
  using Mask = bool;

  JUMPSTART_DEVICE static Values broadcast(stat_t x) { return x; }
  JUMPSTART_DEVICE static Values add(Values a, Values b) { return a + b; }
  JUMPSTART_DEVICE static Values subtract(Values a, Values b) { return a - b; }
  JUMPSTART_DEVICE static Values multiply(Values a, Values b) { return a * b; }
  JUMPSTART_DEVICE static Values divide(Values a, Values b) { return a / b; }
  JUMPSTART_DEVICE static Mask less(Values a, Values b) { return a < b; }
  JUMPSTART_DEVICE static Mask unordered(Values a, Values b) { return a != a || b != b; }
  JUMPSTART_DEVICE static Mask either(Mask a, Mask b) { return a || b; }
  JUMPSTART_DEVICE static Values select(Mask mask, Values a, Values b) { return mask ? a : b; }
  JUMPSTART_DEVICE static Values power_of_two(Values n) {
    if constexpr (sizeof(stat_t) == sizeof(float)) {
      return bit_cast<float>(static_cast<uint32_t>(static_cast<int32_t>(n) + 127) << 23);
    } else {
      return bit_cast<double>(static_cast<uint64_t>(static_cast<int64_t>(n) + 1023) << 52);
    }
  }
};

// What a linked activation has besides x. The activation of the kernels of statistics, which are compiled
// once for all kinds.
template <typename stat_t>
struct Linked {
  LinkedKind kind;
  const stat_t* slopes;  // [2, units], aligned to 16 bytes; null: none
  HalfRows rows;
};
template <typename Activation>
constexpr bool is_linked = false;
template <typename stat_t>
constexpr bool is_linked<Linked<stat_t>> = true;

// Resident blocks of a streaming kernel, as kBlocksAtOnce.
template <typename Activation>
constexpr int kBlocksOf = is_linked<Activation> ? 2 : kBlocksAtOnce;

// Calls `run` with the linked activation of a kind.
template <typename Run>
JUMPSTART_DEVICE void with_kind(LinkedKind kind, const Run& run) {
  switch (kind) {
#define JUMPSTART_CASE(Activation) \
  case k##Activation: return run(Activation());
    JUMPSTART_FOR_LINKED_ACTIVATIONS(JUMPSTART_CASE)
#undef JUMPSTART_CASE
    default: return;
  }
}

// The slopes of a vector's elements, if there are any.
template <typename stat_t, int elements, bool has_weight>
class Slopes {
 public:
  JUMPSTART_DEVICE void load(const Linked<stat_t>&, int64_t, int64_t) {}
  JUMPSTART_DEVICE void load_plane(const Linked<stat_t>&, int64_t) {}
  JUMPSTART_DEVICE void load_columns(const Linked<stat_t>&, int64_t) {}
  JUMPSTART_DEVICE Halves<LinkedValue<stat_t>> at(int) const { return {0, 0}; }
};
template <typename stat_t, int elements>
class Slopes<stat_t, elements, true> {
 public:
  // Of the vector at a row and column of x, which must be inside.
  JUMPSTART_DEVICE void load(const Linked<stat_t>& linked, int64_t row, int64_t column) {
    if (linked.rows.planes) {
      load_plane(linked, row);
    } else {
      load_columns(linked, column);
    }
  }
  JUMPSTART_DEVICE void load_plane(const Linked<stat_t>& linked, int64_t row) {
    const int64_t units = linked.rows.units, unit = row % units;
    const stat_t first = linked.slopes[unit], second = linked.slopes[units + unit];
#pragma unroll
    for (int e = 0; e < elements; ++e) {
      first_[e] = first;
      second_[e] = second;
    }
  }
  JUMPSTART_DEVICE void load_columns(const Linked<stat_t>& linked, int64_t column) {
    load_neighbors(linked.slopes + column, first_);
    load_neighbors(linked.slopes + linked.rows.units + column, second_);
  }
  JUMPSTART_DEVICE Halves<LinkedValue<stat_t>> at(int e) const { return {first_[e], second_[e]}; }

 private:
  // 16 bytes at once: a vector of x begins at a multiple of its elements, and so do both halves.
  JUMPSTART_DEVICE static void load_neighbors(const stat_t* from, stat_t (&to)[elements]) {
    if constexpr (elements == 1) {
      to[0] = *from;
    } else {
      uint4 raw[sizeof to / 16];
#pragma unroll
      for (int i = 0; i < static_cast<int>(sizeof to / 16); ++i) {
        raw[i] = reinterpret_cast<const uint4*>(from)[i];
      }
      memcpy(to, raw, sizeof to);
    }
  }

  stat_t first_[elements], second_[elements];
};

// The bits of both masks of kDepth vectors, a byte or less of each.
struct HalfBits {
  uint32_t first, second;
};

// Stores both halves of a vector of x, and adds the bits of its masks, if there are any, from bit `shift` on.
template <typename V, typename Activation, typename scalar_t, typename Slopes>
JUMPSTART_DEVICE void store_halves(const typename V::Value (&x)[V::kPacks], Slopes slopes, scalar_t* first,
                                   scalar_t* second, HalfBits& bits, int shift) {
  using L = LinkedValue<typename V::stat_t>;
  typename V::stat_t of_first[V::kElements], of_second[V::kElements];
#pragma unroll
  for (int e = 0; e < V::kElements; ++e) {
    const auto value = V::get(x, e);
    const Halves<L> halves = Activation::template values<L>(value, slopes.at(e));
    of_first[e] = halves.first;
    of_second[e] = halves.second;
    if constexpr (Activation::from_sign) {
      bits.first |= static_cast<uint32_t>(positive<L>(value)) << (e + shift);
      bits.second |= static_cast<uint32_t>(negative<L>(value)) << (e + shift);
    }
  }
  V::store_rounded(first, of_first);
  V::store_rounded(second, of_second);
}

// Where the kDepth vectors of a thread are in the matrix of x.
struct VectorsAt {
  int64_t row, column;            // of the first
  int32_t row_step, column_step;  // from one to the next

  JUMPSTART_DEVICE int64_t row_of(int d) const { return row + d * row_step; }
  JUMPSTART_DEVICE int64_t column_of(int d) const { return column + d * column_step; }
};

// Stores the masks, [matrix rows, 2 * mask_columns], of the vectors that are inside. All lanes of a warp take
// part; a group of `lanes` has neighbors.
template <typename V, typename Inside>
JUMPSTART_DEVICE void store_masks(HalfBits bits, uint8_t* mask, int64_t mask_columns, const VectorsAt& at,
                                  const Inside& inside, int lane, int lanes) {
  bits.first = join_bits<V>(bits.first, lane, lanes);
  bits.second = join_bits<V>(bits.second, lane, lanes);
  if (at.column % 8 != 0) return;
#pragma unroll
  for (int d = 0; d < kDepth; ++d) {
    if (!inside(d)) continue;
    uint8_t* to = mask + at.row_of(d) * 2 * mask_columns + at.column_of(d) / 8;
    to[0] = static_cast<uint8_t>(bits.first >> 8 * d);
    to[mask_columns] = static_cast<uint8_t>(bits.second >> 8 * d);
  }
}

// Stores what a linked activation of any kind makes of kDepth vectors, of which inside(d) says whether they
// are in the matrix. Overwrites them.
template <typename V, typename scalar_t, typename Inside>
JUMPSTART_DEVICE void store_linked(const Linked<typename V::stat_t>& linked,
                                   typename V::Value (&x)[kDepth][V::kPacks],
                                   const ElementwiseForward<scalar_t>& elementwise, int64_t mask_columns,
                                   const VectorsAt& at, const Inside& inside, int lane, int lanes) {
  HalfBits bits{};
  // One after the other in the place of the first: with all at once, extrema would be spilled.
#pragma unroll 1
  for (int d = 0; d < kDepth; ++d) {
    if (inside(d)) {
      const int64_t row = at.row_of(d), column = at.column_of(d);
      scalar_t* first = elementwise.output + linked.rows.first(row) + column;
      with_kind(linked.kind, [&](auto activation) {
        using Activation = decltype(activation);
        Slopes<typename V::stat_t, V::kElements, Activation::has_weight> slopes;
        slopes.load(linked, row, column);
        store_halves<V, Activation>(x[0], slopes, first, first + linked.rows.half, bits, 8 * d);
      });
    }
#pragma unroll
    for (int next = 1; next < kDepth; ++next) {
#pragma unroll
      for (int p = 0; p < V::kPacks; ++p) x[next - 1][p] = x[next][p];
    }
  }
  if (elementwise.mask) store_masks<V>(bits, elementwise.mask, mask_columns, at, inside, lane, lanes);
}

// The same of an element, of a matrix whose columns are units.
template <typename scalar_t>
JUMPSTART_DEVICE void store_linked_element(const Linked<stat_of<scalar_t>>& linked, stat_of<scalar_t> x,
                                           int64_t row, int64_t column, scalar_t* output) {
  with_kind(linked.kind, [&](auto activation) {
    using Activation = decltype(activation);
    Slopes<stat_of<scalar_t>, 1, Activation::has_weight> slopes;
    slopes.load(linked, row, column);
    const auto halves = Activation::template values<LinkedValue<stat_of<scalar_t>>>(x, slopes.at(0));
    output[linked.rows.first(row) + column] = from_stat<scalar_t>(halves.first);
    output[linked.rows.second(row) + column] = from_stat<scalar_t>(halves.second);
  });
}

}  // namespace cuda
}  // namespace jumpstart
