#include "cuda/plan.h"

#include <algorithm>
#include <cstdint>

namespace jumpstart {
namespace cuda {
namespace {

constexpr int64_t kBlocks = 3;          // resident on a multiprocessor
constexpr int64_t kAloneSteps = 4;      // of a block that takes all rows, which saves the launch that merges
constexpr int32_t kLeastLanes = 4;      // then: 64 bytes of a row
constexpr int64_t kShortSegment = 256;  // rows. Shorter samples share a region, which keeps partial extrema
                                        // of units few; those of points are then per row

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
  const PlanParameters& parameters = plan_parameters();
  int64_t best = 0, best_time = 0;
  for (int64_t waves = 1; waves <= parameters.forward_waves; ++waves) {
    const int64_t blocks = waves * kBlocks * multiprocessors;
    const int64_t regions = std::min(std::max<int64_t>(blocks / columns_of_tiles, 1), steps);
    const int64_t of_region = std::min(divide_up(steps, regions), parameters.forward_steps);
    const int64_t needed =
        divide_up(divide_up(steps, of_region) * columns_of_tiles, kBlocks * multiprocessors);
    const int64_t time = needed * (of_region + parameters.forward_end_steps);
    if (best == 0 || time < best_time) {
      best = of_region;
      best_time = time;
    }
  }
  return best;
}

// Tiles, in as many regions as there are steps.
Tiling tile(const Layout& layout, int64_t segments, int vector, int32_t lanes) {
  Tiling t{};
  t.rows = layout.matrix_rows();
  t.columns = layout.matrix_columns();
  t.mask_columns = layout.mask_columns();
  t.segments = segments;
  t.segment_rows = t.rows / t.segments;
  t.lanes = lanes;
  t.tile_columns = t.lanes * vector;
  t.tiles = divide_up(t.columns, t.tile_columns);
  t.region_rows = kThreads / t.lanes * kDepth;
  t.regions = divide_up(t.segment_rows, t.region_rows);
  return t;
}

void join_steps(Tiling& t, int64_t steps) {
  t.region_rows *= steps;
  t.regions = divide_up(t.segment_rows, t.region_rows);
}

// Joins steps until the tiles are no more than a cluster's blocks; false, and `t` as it was, if a block would
// have too many.
bool join_for_cluster(Tiling& t, int cluster_blocks) {
  const PlanParameters& parameters = plan_parameters();
  const int64_t most = std::min<int64_t>(parameters.cluster_blocks, cluster_blocks);
  const int64_t columns_of_tiles = t.segments * t.tiles;
  if (most < columns_of_tiles) return false;
  const int64_t steps = divide_up(t.regions, most / columns_of_tiles);
  if (steps > parameters.cluster_steps) return false;
  join_steps(t, steps);
  return true;
}

Axis make_axis(Source source, int64_t items, int64_t partials) {
  Axis axis{};
  axis.source = source;
  axis.items = items;
  axis.partials = partials;
  // Threads share an item that has many partials. Of columns, a few neighbors are read at once.
  const int64_t most = source == Source::columns ? kThreads / 4 : kThreads;
  const int64_t threads = std::min(most, power_of_two(divide_up(partials, plan_parameters().merge_partials)));
  axis.items_per_block = static_cast<int32_t>(kThreads / threads);
  return axis;
}

}  // namespace

PlanParameters& plan_parameters() {
  static PlanParameters parameters;
  return parameters;
}

ForwardPlan plan_forward(const Layout& layout, bool position_points, int vector, int key_bytes,
                         int multiprocessors, int cluster_blocks) {
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
    c.chunk_columns = piece * std::min(plan_parameters().chunk_pieces, divide_up(c.columns, piece));
    c.chunks = divide_up(c.columns, c.chunk_columns);
    plan.partials.rows = c.work();
    plan.merge.units = make_axis(Source::rows, layout.units, groups * c.chunks);
    plan.merge.units.row_stride = 1;
    plan.merge.units.row_step = layout.units;
    plan.merge.points = make_axis(Source::rows, layout.samples, layout.rows_per_sample() * c.chunks);
    plan.merge.points.row_stride = layout.rows_per_sample();
    plan.merge.points.row_step = 1;
    const int64_t groups_per_block = kThreads / c.lanes;
    plan.blocks = std::min(divide_up(c.work(), groups_per_block), plan_parameters().most_blocks);
  } else {
    const int64_t rows_per_point = position_points ? 1 : layout.rows;
    const bool planes = layout.inner > 1;  // of units, with positions as points
    const bool small =
        !planes && rows_per_point == 1 &&
        layout.matrix_rows() * (layout.matrix_columns() + 1) * key_bytes <= plan_parameters().small_bytes;
    plan.by_row = planes || rows_per_point < kShortSegment;
    plan.kernel = small ? ForwardKernel::small : ForwardKernel::rows;
    Tiling& t = plan.tiling;
    const int64_t segments = plan.by_row ? 1 : layout.samples;
    t = tile(layout, planes ? groups : segments, vector, lanes_of(layout.matrix_columns(), vector));
    plan.in_cluster = join_for_cluster(t, cluster_blocks);
    if (!plan.in_cluster) join_steps(t, forward_steps(t.segments * t.tiles, t.regions, multiprocessors));
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
    // Clusters come in powers of two; a block may be without work.
    plan.blocks =
        plan.in_cluster ? power_of_two(t.work()) : std::min(t.work(), plan_parameters().most_blocks);
  }
  plan.merge.points.first_blocks = plan.merge.units.blocks();
  return plan;
}

BackwardPlan plan_backward(const Layout& layout, int vector, int multiprocessors, bool with_bias) {
  BackwardPlan plan{};
  plan.wide = vector > 1;
  Tiling& t = plan.tiling;
  t = tile(layout, 1, vector, lanes_of(layout.matrix_columns(), vector));
  const bool sums_columns = with_bias && layout.inner == 1;
  const int64_t filled = t.regions * t.tiles / (kBlocks * multiprocessors);  // how often over
  const PlanParameters& parameters = plan_parameters();
  const int64_t most = sums_columns ? parameters.bias_backward_steps : parameters.backward_steps;
  int64_t steps = std::clamp<int64_t>(filled, 1, most);
  if (sums_columns && filled <= 1) {
    Tiling narrow = t;
    while (narrow.regions > 1 && narrow.lanes > kLeastLanes) {
      narrow = tile(layout, 1, vector, narrow.lanes / 2);
    }
    if (narrow.regions <= kAloneSteps) {
      t = narrow;
      steps = t.regions;
    }
  }
  join_steps(t, steps);
  plan.blocks = std::min(plan.tiling.work(), plan_parameters().most_blocks);
  return plan;
}

Axis plan_bias_sums(const Layout& layout, const Tiling& tiling, int64_t pieces) {
  const int64_t groups = layout.inner == 1 ? tiling.regions : layout.samples * layout.rows;
  return make_axis(pieces == 1 ? Source::columns : Source::rows, layout.units, groups * pieces);
}

}  // namespace cuda
}  // namespace jumpstart
