// How an activation is cut into work for blocks, and how the partial extrema that these leave belong
// together.
//
// Chosen by rule from sizes alone, so that a launch can be captured in a graph. No plan changes a result,
// but for the order in which slack is added up.

#pragma once

#include <cstdint>

#include "layout.h"

namespace jumpstart {
namespace cuda {

constexpr int kThreads = 256;
constexpr int kWarpSize = 32;
constexpr int kWarps = kThreads / kWarpSize;
constexpr int kSmallThreads = 512;
constexpr int kSmallBytes = 32768;  // of a small matrix, in shared memory
constexpr int kDepth = 4;           // vectors of a thread in flight, in as many rows or pieces of a row

// A tile is a piece of the matrix, some rows of as many columns as `lanes` threads load at once. A block
// takes a region, tiles one below the other in one segment: rows that share points, or all rows.
struct Tiling {
  int64_t rows, columns, mask_columns;  // of the matrix
  int64_t segments, segment_rows;
  int64_t regions, region_rows;  // of a segment
  int64_t tiles;                 // of the columns
  int32_t lanes, tile_columns;

  JUMPSTART_INLINE int64_t work() const { return segments * regions * tiles; }
};

// A long row (a plane) is cut into chunks, each for `lanes` threads of a warp.
struct Chunks {
  int64_t rows, columns, mask_columns;
  int64_t chunks, chunk_columns;
  int32_t lanes;

  JUMPSTART_INLINE int64_t work() const { return rows * chunks; }
};

// Where the partial extrema of units or points are. A unit or point is an item.
enum class Source : int32_t {
  columns,   // [regions of all segments, columns], of a column
  rows,      // [rows, tiles], of a row
  segments,  // [regions of all segments, tiles], of the columns
};
struct Axis {
  Source source;
  int32_t items_per_block;       // a power of two
  int64_t items, partials;       // of an item
  int64_t row_stride, row_step;  // rows: those of an item are row_stride * item + row_step * i
  int64_t first_blocks;          // of the merge, before those of this axis
  bool columns_first;            // places of an item count columns before rows: points in channels_last

  JUMPSTART_INLINE int64_t blocks() const { return (items + items_per_block - 1) / items_per_block; }
};

// How partial extrema are merged.
struct MergePlan {
  Axis units, points;

  JUMPSTART_INLINE int64_t blocks() const { return units.blocks() + points.blocks(); }
};

// How many partial extrema there are, by source.
struct PartialCounts {
  int64_t columns, rows, segments;
};

enum class ForwardKernel : int32_t {
  small,   // small.cuh: alone, without partial extrema
  rows,    // rows.cuh, by the tiling
  planes,  // planes.cuh, by the chunks
};

struct ForwardPlan {
  ForwardKernel kernel;
  bool by_row;  // whether rows.cuh finds the extrema of points in rows, not in segments
  bool wide;    // 16-byte accesses
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

// `vector` is the number of elements in 16 bytes, or 1 where memory is not aligned to that; a key is an
// extremum's in comparisons.
ForwardPlan plan_forward(const Layout& layout, bool position_points, int vector, int key_bytes,
                         int multiprocessors);
BackwardPlan plan_backward(const Layout& layout, int vector, int multiprocessors);

}  // namespace cuda
}  // namespace jumpstart
