#include "cuda/plan.h"

#include <algorithm>
#include <cstdint>

namespace jumpstart {
namespace cuda {
namespace {

constexpr int64_t kBlocks = 3;    // resident on a multiprocessor
constexpr int64_t kWaves = 16;    // of blocks: the most that the regions of a forward make
constexpr int64_t kSteps = 16;    // tiles of full depth in a region: with more, blocks drift apart in memory
constexpr int64_t kEndSteps = 2;  // that take as long as the end of a region in the forward
constexpr int64_t kBackwardSteps = 2;  // of a block in the backward, which has no partial extrema to save
constexpr int64_t kPartials =
    8;  // of an item, that a thread of the merge takes: some loads under way at once
constexpr int64_t kShortSegment = 256;  // rows. Shorter samples share a region, which keeps partial extrema
                                        // of units few; those of points are then per row
constexpr int64_t kChunkPieces = 2;     // of a plane that a warp takes one after the other
constexpr int64_t kMostBlocks =
    0x7fffffff;  // of a launch; if there is more work, a block takes several items

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

int64_t power_of_two(int64_t number) {  // the smallest that is not below
  int64_t power = 1;
  while (power < number) power *= 2;
  return power;
}

int32_t lanes_of(int64_t columns, int vector) {
  return static_cast<int32_t>(std::min<int64_t>(kWarpSize, power_of_two(divide_up(columns, vector))));
}

// Steps (tiles of full depth) per region of a forward: few waves of blocks, chosen to lose little time in the
// last one, when part of the device is idle.
int64_t forward_steps(int64_t columns_of_tiles, int64_t steps, int multiprocessors) {
  int64_t best = 0, best_time = 0;
  for (int64_t waves = 1; waves <= kWaves; ++waves) {
    const int64_t blocks = waves * kBlocks * multiprocessors;
    const int64_t regions = std::min(std::max<int64_t>(blocks / columns_of_tiles, 1), steps);
    const int64_t of_region = std::min(divide_up(steps, regions), kSteps);
    const int64_t needed =
        divide_up(divide_up(steps, of_region) * columns_of_tiles, kBlocks * multiprocessors);
    const int64_t time = needed * (of_region + kEndSteps);
    if (best == 0 || time < best_time) {
      best = of_region;
      best_time = time;
    }
  }
  return best;
}

// The tiling of a forward, or, without segments, of a backward.
Tiling tile(const Layout& layout, int64_t segments, int vector, int multiprocessors) {
  Tiling t{};
  t.rows = layout.matrix_rows();
  t.columns = layout.matrix_columns();
  t.mask_columns = layout.mask_columns();
  t.segments = std::max<int64_t>(segments, 1);
  t.segment_rows = t.rows / t.segments;
  t.lanes = lanes_of(t.columns, vector);
  t.tile_columns = t.lanes * vector;
  t.tiles = divide_up(t.columns, t.tile_columns);
  const int64_t tile_rows = kThreads / t.lanes * kDepth;
  const int64_t steps = divide_up(t.segment_rows, tile_rows);  // of a segment
  const int64_t columns_of_tiles = t.segments * t.tiles;
  if (segments > 0) {
    t.region_rows = tile_rows * forward_steps(columns_of_tiles, steps, multiprocessors);
  } else {
    const bool fill = steps * columns_of_tiles >= kBackwardSteps * kBlocks * multiprocessors;
    t.region_rows = tile_rows * (fill ? kBackwardSteps : 1);
  }
  t.regions = divide_up(t.segment_rows, t.region_rows);
  return t;
}

Axis make_axis(Source source, int64_t items, int64_t partials) {
  Axis axis{};
  axis.source = source;
  axis.items = items;
  axis.partials = partials;
  // Threads share an item that has many partials. Of columns, a few neighbors are read at once.
  const int64_t most = source == Source::columns ? kThreads / 4 : kThreads;
  const int64_t threads = std::min(most, power_of_two(divide_up(partials, kPartials)));
  axis.items_per_block = static_cast<int32_t>(kThreads / threads);
  return axis;
}

}  // namespace

ForwardPlan plan_forward(const Layout& layout, bool position_points, int vector, int key_bytes,
                         int multiprocessors) {
  ForwardPlan plan{};
  const int64_t groups = layout.samples * layout.rows;  // rows of planes, one plane per unit
  plan.wide = vector > 1;
  if (layout.inner > 1 && !position_points) {
    plan.kernel = ForwardKernel::planes;
    Chunks& c = plan.chunks;
    c.rows = layout.matrix_rows();
    c.columns = layout.matrix_columns();
    c.mask_columns = layout.mask_columns();
    c.lanes = lanes_of(c.columns, vector);
    const int64_t piece = c.lanes * vector * kDepth;
    c.chunk_columns = piece * std::min(kChunkPieces, divide_up(c.columns, piece));
    c.chunks = divide_up(c.columns, c.chunk_columns);
    plan.partials.rows = c.work();
    plan.merge.units = make_axis(Source::rows, layout.units, groups * c.chunks);
    plan.merge.units.row_stride = 1;
    plan.merge.units.row_step = layout.units;
    plan.merge.points = make_axis(Source::rows, layout.samples, layout.rows_per_sample() * c.chunks);
    plan.merge.points.row_stride = layout.rows_per_sample();
    plan.merge.points.row_step = 1;
    const int64_t groups_per_block = kThreads / c.lanes;
    plan.blocks = std::min(divide_up(c.work(), groups_per_block), kMostBlocks);
  } else {
    const int64_t rows_per_point = position_points ? 1 : layout.rows;
    const bool planes = layout.inner > 1;  // of units, with positions as points
    const bool small = !planes && rows_per_point == 1 &&
                       layout.matrix_rows() * (layout.matrix_columns() + 1) * key_bytes <= kSmallBytes;
    plan.by_row = planes || rows_per_point < kShortSegment;
    plan.kernel = small ? ForwardKernel::small : ForwardKernel::rows;
    Tiling& t = plan.tiling;
    t = tile(layout, planes ? groups : plan.by_row ? 1 : layout.samples, vector, multiprocessors);
    const int64_t regions = t.segments * t.regions;
    plan.partials = {regions * t.columns, plan.by_row ? t.rows * t.tiles : 0,
                     plan.by_row ? 0 : regions * t.tiles};
    if (planes) {
      plan.merge.units = make_axis(Source::rows, layout.units, groups * t.tiles);
      plan.merge.units.row_stride = 1;
      plan.merge.units.row_step = layout.units;
      plan.merge.points = make_axis(Source::columns, groups * layout.inner, t.regions);
    } else {
      plan.merge.units = make_axis(Source::columns, layout.units, regions);
      if (plan.by_row) {
        plan.merge.points = make_axis(Source::rows, t.rows / rows_per_point, rows_per_point * t.tiles);
        plan.merge.points.row_stride = rows_per_point;
        plan.merge.points.row_step = 1;
      } else {
        plan.merge.points = make_axis(Source::segments, layout.samples, t.regions * t.tiles);
      }
      plan.merge.points.columns_first = layout.channels_last && rows_per_point > 1;
    }
    plan.blocks = std::min(t.work(), kMostBlocks);
  }
  plan.merge.points.first_blocks = plan.merge.units.blocks();
  return plan;
}

BackwardPlan plan_backward(const Layout& layout, int vector, int multiprocessors) {
  BackwardPlan plan{};
  plan.wide = vector > 1;
  plan.tiling = tile(layout, 0, vector, multiprocessors);
  plan.blocks = std::min(plan.tiling.work(), kMostBlocks);
  return plan;
}

}  // namespace cuda
}  // namespace jumpstart
