// How an activation is divided among blocks, and how the partial extrema they leave are merged.
//
// A plan depends on sizes alone, so that launches can be captured in a graph. It affects no result, except
// for the order in which slack is added up.

#pragma once

#include <cstdint>

#include "layout.h"

namespace jumpstart {
namespace cuda {

constexpr int kThreads = 256;
constexpr int kWarpSize = 32;
constexpr int kWarps = kThreads / kWarpSize;
constexpr int kSmallThreads = 512;
constexpr int kSmallBytes = 32768;  // of shared memory for a small matrix
constexpr int kDepth = 4;           // vectors that a thread loads at once, of as many rows or pieces of a row

// What plans are made from, found by measuring, but for those of clusters and CUDA's limit, most_blocks. Only
// benchmarks/plans.py and tests change it; nothing is checked: all must be positive, but forward_end_steps,
// small_bytes and cluster_blocks may be 0; forward_steps and cluster_steps below 64, since places in a region
// take 16 bits; small_bytes at most kSmallBytes; cluster_blocks a power of two; most_blocks below 2^31.
struct PlanParameters {
  int64_t forward_waves = 16;     // of blocks: the most that the regions of a forward make
  int64_t forward_steps = 16;     // tiles of full depth in a region: with more, blocks drift apart in memory
  int64_t forward_end_steps = 2;  // that take as long as the end of a region
  int64_t chunk_pieces = 2;       // of a plane that a warp takes one after the other
  int64_t merge_partials = 8;     // of an item, that a thread takes: some loads under way at once
  int64_t backward_steps = 2;     // of a block in the backward, which has no partial extrema to save
  int64_t bias_backward_steps = 4;   // the same, if columns have partial sums
  int64_t small_bytes = 32768;       // of shared memory that the small kernel may take
  int64_t most_blocks = 0x7fffffff;  // of a launch; if there is more work, a block takes several items
  int64_t cluster_blocks = 16;       // of a forward, at most, that merge in the same launch; 0: none do
  int64_t cluster_steps = 4;         // of each of them, at most, instead of a second launch; not measured yet
};
PlanParameters& plan_parameters();

// A tile is some rows by as many columns as `lanes` threads load at once. A block takes a region: tiles one
// below the other, within a segment. A segment is rows that share points, or all rows.
struct Tiling {
  int64_t rows, columns, mask_columns;  // of the matrix
  int64_t segments, segment_rows;
  int64_t regions, region_rows;  // of a segment
  int64_t tiles;                 // across the columns
  int32_t lanes, tile_columns;

  JUMPSTART_INLINE int64_t work() const { return segments * regions * tiles; }
};

// A row that is a plane is cut into chunks, each for `lanes` threads of a warp.
struct Chunks {
  int64_t rows, columns, mask_columns;
  int64_t chunks, chunk_columns;
  int32_t lanes;

  JUMPSTART_INLINE int64_t work() const { return rows * chunks; }
};

// What the partial extrema of units or points are extrema of.
enum class Source : int32_t {
  columns,   // columns of regions, [regions of all segments, columns]
  rows,      // rows of tiles or chunks, [rows, tiles or chunks]
  segments,  // tiles of regions, [regions of all segments, tiles]
};
// Units or points; one of them is an item.
struct Axis {
  Source source;
  int32_t items_per_block;       // a power of two
  int64_t items, partials;       // per item
  int64_t row_stride, row_step;  // Source::rows: an item has rows row_stride * item + row_step * i
  int64_t first_blocks;          // blocks of the merge that come before
  bool columns_first;            // the order of places in an item: of points in channels_last

  JUMPSTART_INLINE int64_t blocks() const { return (items + items_per_block - 1) / items_per_block; }
};

// The second launch.
struct MergePlan {
  Axis units, points;

  JUMPSTART_INLINE int64_t blocks() const { return units.blocks() + points.blocks(); }
};

// The number of partial extrema, by source.
struct PartialCounts {
  int64_t columns, rows, segments;
};

enum class ForwardKernel : int32_t {
  small,   // small.cuh: one launch, no partial extrema
  rows,    // rows.cuh: uses `tiling`; one launch if `in_cluster`
  planes,  // planes.cuh: uses `chunks`
};

struct ForwardPlan {
  ForwardKernel kernel;
  bool by_row;      // rows.cuh: partial extrema of points are those of rows, not of segments
  bool in_cluster;  // all blocks are one cluster, which merges too
  bool wide;        // 16-byte accesses
  int64_t blocks;
  Tiling tiling;
  Chunks chunks;
  PartialCounts partials;
  MergePlan merge;
};

struct BackwardPlan {
  bool wide;
  int64_t blocks;
  Tiling tiling;
};

// `vector` is the number of elements in 16 bytes, or 1 if memory is not aligned to 16 bytes; `key_bytes` is
// the size of a key (extrema.cuh); `cluster_blocks` the most blocks of a cluster on the device, 1 if it has
// none.
ForwardPlan plan_forward(const Layout& layout, bool position_points, int vector, int key_bytes,
                         int multiprocessors, int cluster_blocks);
BackwardPlan plan_backward(const Layout& layout, int vector, int multiprocessors, bool with_bias);
// How the partial sums of a bias are merged, `pieces` of them to a row that is of one unit; 1 if its units
// are columns.
Axis plan_bias_sums(const Layout& layout, const Tiling& tiling, int64_t pieces);

}  // namespace cuda
}  // namespace jumpstart
