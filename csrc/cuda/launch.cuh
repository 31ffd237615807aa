// From the host's calls to what kernels take, for all activations alike.

#pragma once

#include <cstdint>

#include "cuda/bias_sums.cuh"
#include "cuda/extrema_gradients.cuh"
#include "cuda/kernels.h"
#include "cuda/packs.cuh"
#include "cuda/plan.h"
#include "cuda/statistics.cuh"
#include "slack.h"

namespace jumpstart {
namespace cuda {

// Calls `run` with a value of the scalar type.
template <typename Run>
void for_scalar(Scalar scalar, const Run& run) {
  switch (scalar) {
    case Scalar::float32: return run(float{});
    case Scalar::float64: return run(double{});
    case Scalar::float16: return run(Half{});
    case Scalar::bfloat16: return run(BFloat16{});
  }
}

inline bool is_aligned(const void* memory) { return reinterpret_cast<uintptr_t>(memory) % 16 == 0; }

// Elements in 16 bytes, or 1 if rows are not aligned to 16 bytes.
template <typename scalar_t>
int vector_of(const Layout& layout, const void* a, const void* b) {
  constexpr int wide = 16 / sizeof(scalar_t);
  return is_aligned(a) && is_aligned(b) && layout.matrix_columns() % wide == 0 ? wide : 1;
}

inline int64_t points_of(const Layout& layout, const Options& options) {
  return layout.samples * (options.position_points ? layout.rows * layout.inner : 1);
}

// Lays out what the plan needs, one after the other. The small kernel needs nothing.
template <typename scalar_t>
Workspace<scalar_t> make_workspace(const ForwardPlan& plan, const Allocate& allocate) {
  using stat_t = stat_of<scalar_t>;
  const auto& [columns, rows, segments] = plan.partials;
  const int64_t sums = kSlackSums * plan.merge.blocks();
  const size_t bytes = static_cast<size_t>(columns + rows + segments) * sizeof(Partial<scalar_t>) +
                       static_cast<size_t>(sums) * sizeof(stat_t) + sizeof(int32_t);
  Workspace<scalar_t> w{};
  w.column_partials = static_cast<Partial<scalar_t>*>(allocate(static_cast<int64_t>(bytes)));
  w.row_partials = w.column_partials + plan.partials.columns;
  w.segment_partials = w.row_partials + plan.partials.rows;
  w.block_sums = reinterpret_cast<stat_of<scalar_t>*>(w.segment_partials + plan.partials.segments);
  w.counter = reinterpret_cast<int32_t*>(w.block_sums + kSlackSums * plan.merge.blocks());
  return w;
}

template <typename scalar_t>
Forward<scalar_t> make_forward(const ForwardCall& call, const Allocate& allocate) {
  using stat_t = stat_of<scalar_t>;
  Forward<scalar_t> f{};
  f.elementwise = {static_cast<const scalar_t*>(call.x), static_cast<scalar_t*>(call.output), call.mask};
  f.plan = plan_forward(call.layout, call.options.position_points,
                        vector_of<scalar_t>(call.layout, call.x, call.output), sizeof(stat_t),
                        call.multiprocessors, call.cluster_blocks);
  f.statistics = {static_cast<stat_t*>(call.slack_sums),
                  static_cast<stat_t*>(call.extrema),
                  call.indices,
                  call.layout.units + points_of(call.layout, call.options),
                  static_cast<stat_t>(call.options.margin),
                  call.options.extrema_kind};
  if (f.plan.kernel != ForwardKernel::small) f.workspace = make_workspace<scalar_t>(f.plan, allocate);
  f.layout = call.layout;
  return f;
}

// Where a backward leaves the partial sums of each unit; null where a block sees all of a unit.
template <typename stat_t>
stat_t* make_partials(const Layout& layout, const Axis& axis, const Allocate& allocate) {
  if (layout.inner == 1 && axis.partials == 1) return nullptr;
  return static_cast<stat_t*>(allocate(axis.items * axis.partials * static_cast<int64_t>(sizeof(stat_t))));
}

// `vector`: elements that are loaded at once.
template <typename scalar_t>
Backward<scalar_t> make_backward(const BackwardCall& call, int vector) {
  using stat_t = stat_of<scalar_t>;
  return {{static_cast<const scalar_t*>(call.grad_output), call.mask, static_cast<scalar_t*>(call.grad_x)},
          {static_cast<const stat_t*>(call.grad_slack_sums), make_penalty_gradient<stat_t>(call.penalty),
           static_cast<const stat_t*>(call.grad_extrema), static_cast<const stat_t*>(call.extrema),
           call.indices, points_of(call.layout, call.options), call.options.position_points,
           static_cast<stat_t>(call.options.margin)},
          plan_backward(call.layout, vector, call.multiprocessors, call.bias_sums),
          call.layout};
}

// Kernels that are compiled once, in kernels.cu.

// The second launch of a forward.
template <typename scalar_t>
void launch_merge(const Forward<scalar_t>& f, Stream stream);
// A forward's streaming kernel, which takes `f` and the arguments, and its merge.
template <typename scalar_t, typename Kernel, typename... Arguments>
void launch_streaming(Kernel kernel, Stream stream, const Forward<scalar_t>& f,
                      const Arguments&... arguments) {
  if (f.plan.in_cluster) return launch_cluster(kernel, f.plan.blocks, kThreads, stream, f, arguments...);
  launch(kernel, f.plan.blocks, kThreads, stream, f, arguments...);
  launch_merge(f, stream);
}
// The second launch of a backward that leaves partial sums, to which extrema add nothing.
template <typename stat_t>
void launch_sums(const BiasSums<stat_t, UnitsAre::columns>& sums, Stream stream);

}  // namespace cuda
}  // namespace jumpstart
