// Which kernels run a call, and with what memory.

#include "cuda/kernels.h"

#include <cstdint>

#include "cuda/backward.cuh"
#include "cuda/penalty.cuh"
#include "cuda/planes.cuh"
#include "cuda/rows.cuh"
#include "cuda/small.cuh"

namespace jumpstart {
namespace cuda {
namespace {

// Calls `run` with the scalar type.
template <typename Run>
void for_scalar(Scalar scalar, const Run& run) {
  switch (scalar) {
    case Scalar::float32: return run(float{});
    case Scalar::float64: return run(double{});
    case Scalar::float16: return run(Half{});
    case Scalar::bfloat16: return run(BFloat16{});
  }
}

bool is_aligned(const void* memory) { return reinterpret_cast<uintptr_t>(memory) % 16 == 0; }

// Elements in 16 bytes, or 1 where rows are not aligned to that.
template <typename scalar_t>
int vector_of(const Layout& layout, const void* a, const void* b) {
  constexpr int wide = 16 / sizeof(scalar_t);
  return is_aligned(a) && is_aligned(b) && layout.matrix_columns() % wide == 0 ? wide : 1;
}

// The workspace of a forward: what its plan asks for, one behind the other.
template <typename scalar_t>
int64_t take_workspace(Forward<scalar_t>& f, void* workspace) {
  using stat_t = stat_of<scalar_t>;
  const ForwardPlan& plan = f.plan;
  if (plan.small) return 0;
  f.column_partials = static_cast<Partial<scalar_t>*>(workspace);
  f.row_partials = f.column_partials + plan.column_partials;
  f.segment_partials = f.row_partials + plan.row_partials;
  f.block_sums = reinterpret_cast<stat_t*>(f.segment_partials + plan.segment_partials);
  f.counter = reinterpret_cast<int32_t*>(f.block_sums + kSums * plan.merge_blocks());
  return reinterpret_cast<char*>(f.counter + 1) - static_cast<char*>(workspace);
}

template <typename scalar_t>
Forward<scalar_t> make_forward(const ForwardCall& call) {
  using stat_t = stat_of<scalar_t>;
  Forward<scalar_t> f{};
  f.x = static_cast<const scalar_t*>(call.x);
  f.output = static_cast<scalar_t*>(call.output);
  f.mask = call.mask;
  f.slack_sums = static_cast<stat_t*>(call.slack_sums);
  f.extrema = static_cast<stat_t*>(call.extrema);
  f.indices = call.indices;
  f.layout = call.layout;
  f.margin = static_cast<stat_t>(call.margin);
  f.all_indices = call.all_indices;
  f.plan =
      plan_forward(call.layout, call.position_points, vector_of<scalar_t>(call.layout, call.x, call.output),
                   sizeof(stat_t), call.multiprocessors);
  f.count = call.layout.units + f.plan.points.items;
  return f;
}

template <typename scalar_t, int elements>
void launch_forward(const Forward<scalar_t>& f, Stream stream) {
  if (f.plan.small) {
    launch(jumpstart_relu_forward_small_kernel<scalar_t>, 1, kSmallThreads, stream, f);
    return;
  }
  const auto kernel = f.plan.planes ? jumpstart_relu_forward_planes_kernel<scalar_t, elements>
                                    : jumpstart_relu_forward_rows_kernel<scalar_t, elements>;
  launch(kernel, f.plan.blocks, kThreads, stream, f);
  launch(jumpstart_relu_statistics_forward_kernel<scalar_t>, f.plan.merge_blocks(), kThreads, stream, f);
}

template <typename scalar_t, int elements>
void launch_backward(const Backward<scalar_t>& b, Stream stream) {
  const auto kernel = b.grad_slack_sums || b.grad_extrema
                          ? jumpstart_relu_backward_kernel<scalar_t, elements, true>
                          : jumpstart_relu_backward_kernel<scalar_t, elements, false>;
  launch(kernel, b.plan.blocks, kThreads, stream, b);
}

template <typename stat_t>
void launch_penalty(const PenaltyCall& call, Stream stream) {
  Penalty<stat_t> p{};
  for (int i = 0; i < kLayerSums; ++i) p.weights.of[i] = call.weights[i];
  p.value = static_cast<stat_t*>(call.value);
  p.total = call.total;
  p.square_root = call.square_root;
  for (int64_t done = 0; done < call.layers; done += kPenaltyLayers) {
    const int64_t left = call.layers - done;
    p.layers = static_cast<int32_t>(left < kPenaltyLayers ? left : kPenaltyLayers);
    p.first = done == 0;
    p.last = left <= kPenaltyLayers;
    for (int i = 0; i < p.layers; ++i)
      p.slack_sums[i] = static_cast<const stat_t*>(call.slack_sums[done + i]);
    launch(penalty_kernel<stat_t>, 1, kThreads, stream, p);
  }
}

template <typename stat_t>
void launch_penalty_backward(const void* grad, const void* value, const double* weights, void* by_sum,
                             Stream stream) {
  PenaltyBackward<stat_t> p{
      static_cast<const stat_t*>(grad), static_cast<const stat_t*>(value), static_cast<stat_t*>(by_sum), {}};
  for (int i = 0; i < kLayerSums; ++i) p.weights.of[i] = weights[i];
  launch(penalty_backward_kernel<stat_t>, 1, kWarpSize, stream, p);
}

}  // namespace

int64_t forward_workspace(const ForwardCall& call) {
  int64_t bytes = 0;
  for_scalar(call.scalar, [&](auto scalar) {
    auto f = make_forward<decltype(scalar)>(call);
    bytes = take_workspace(f, nullptr);
  });
  return bytes;
}

void forward(const ForwardCall& call, void* workspace, Stream stream) {
  for_scalar(call.scalar, [&](auto scalar) {
    using scalar_t = decltype(scalar);
    auto f = make_forward<scalar_t>(call);
    take_workspace(f, workspace);
    if (f.plan.wide) {
      launch_forward<scalar_t, 16 / sizeof(scalar_t)>(f, stream);
    } else {
      launch_forward<scalar_t, 1>(f, stream);
    }
  });
}

void backward(const BackwardCall& call, Stream stream) {
  for_scalar(call.scalar, [&](auto scalar) {
    using scalar_t = decltype(scalar);
    using stat_t = stat_of<scalar_t>;
    const int vector = vector_of<scalar_t>(call.layout, call.grad_output, call.grad_x);
    const Backward<scalar_t> b{
        static_cast<const scalar_t*>(call.grad_output),
        call.mask,
        static_cast<scalar_t*>(call.grad_x),
        static_cast<const stat_t*>(call.grad_slack_sums),
        static_cast<const stat_t*>(call.grad_extrema),
        static_cast<const stat_t*>(call.extrema),
        call.indices,
        plan_backward(call.layout, vector, call.multiprocessors),
        call.layout,
        call.points,
        call.points * call.layout.units == call.layout.matrix_rows() * call.layout.matrix_columns(),
        static_cast<stat_t>(call.margin)};
    if (b.plan.wide) {
      launch_backward<scalar_t, 16 / sizeof(scalar_t)>(b, stream);
    } else {
      launch_backward<scalar_t, 1>(b, stream);
    }
  });
}

void penalty(const PenaltyCall& call, Stream stream) {
  if (call.float64) {
    launch_penalty<double>(call, stream);
  } else {
    launch_penalty<float>(call, stream);
  }
}

void penalty_backward(bool float64, const void* grad, const void* value, const double* weights, void* by_sum,
                      Stream stream) {
  if (float64) {
    launch_penalty_backward<double>(grad, value, weights, by_sum, stream);
  } else {
    launch_penalty_backward<float>(grad, value, weights, by_sum, stream);
  }
}

}  // namespace cuda
}  // namespace jumpstart
