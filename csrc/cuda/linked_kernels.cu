// The launches of linked activations; a file of its own, which compiles beside kernels.cu.

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "cuda/bias.cuh"
#include "cuda/bias_sums.cuh"
#include "cuda/device.cuh"
#include "cuda/kernels.h"
#include "cuda/launch.cuh"
#include "cuda/linked.cuh"
#include "cuda/linked_backward.cuh"
#include "cuda/linked_forward.cuh"
#include "cuda/packs.cuh"
#include "cuda/plan.h"
#include "cuda/planes.cuh"
#include "cuda/rows.cuh"
#include "cuda/small.cuh"
#include "linked_activations.h"

namespace jumpstart {
namespace cuda {
namespace {

constexpr int64_t kMostExtremaBlocks = 4096;  // each thread then takes several extrema

template <typename scalar_t>
Linked<stat_of<scalar_t>> make_linked(LinkedKind kind, const void* slopes, const Layout& layout) {
  return {kind, static_cast<const stat_of<scalar_t>*>(slopes), HalfRows(layout)};
}

// Calls `run` with the linked activation and a value of the scalar type.
template <typename Run>
void for_linked_and_scalar(LinkedKind kind, Scalar scalar, const Run& run) {
  with_linked_activation(kind, [&](const auto& activation) {
    for_scalar(scalar, [&](auto of_type) { run(activation, of_type); });
  });
}

template <typename scalar_t, typename Activation>
void launch_alone(const LinkedForwardCall& call, const Activation&, Stream stream) {
  const ForwardCall& c = call.of_x;
  const int vector = vector_of<scalar_t>(c.layout, c.x, c.output);
  const BackwardPlan plan = plan_backward(c.layout, vector, c.multiprocessors, false);  // as elementwise
  const LinkedForward<scalar_t> f{
      {static_cast<const scalar_t*>(c.x), static_cast<scalar_t*>(c.output), c.mask},
      make_linked<scalar_t>(call.kind, call.slopes, c.layout),
      plan.tiling};
  auto kernel = linked_activation_forward_kernel<scalar_t, 1, Activation>;
  if (plan.wide) kernel = linked_activation_forward_kernel<scalar_t, 16 / sizeof(scalar_t), Activation>;
  launch(kernel, plan.blocks, kThreads, stream, f);
}

template <int elements, typename scalar_t>
void launch_with_statistics(const Forward<scalar_t>& f, const Linked<stat_of<scalar_t>>& linked,
                            Stream stream) {
  using Activation = Linked<stat_of<scalar_t>>;
  using NoBias = Bias<scalar_t, UnitsAre::without_bias>;
  if (f.plan.kernel == ForwardKernel::small) {
    launch(jumpstart_activation_forward_small_kernel<scalar_t, Activation, NoBias>, 1, kSmallThreads, stream,
           f, linked, NoBias{});
    return;
  }
  const auto kernel =
      f.plan.kernel == ForwardKernel::rows
          ? jumpstart_activation_forward_rows_kernel<scalar_t, elements, Activation, NoBias>
          : jumpstart_activation_forward_planes_kernel<scalar_t, elements, Activation, NoBias>;
  launch_streaming(kernel, stream, f, linked, NoBias{});
}

template <typename scalar_t>
Backward<scalar_t> make_linked_backward(const LinkedBackwardCall& call) {
  const BackwardCall& c = call.of_x;
  const int vector = is_aligned(call.x) ? vector_of<scalar_t>(c.layout, c.grad_output, c.grad_x) : 1;
  return make_backward<scalar_t>(c, vector);
}

// Of the slopes: their gradients are added up like those of a bias of twice the units.
template <typename scalar_t>
BiasSums<stat_of<scalar_t>, UnitsAre::columns> make_slope_sums(const BackwardCall& call, const Tiling& tiling,
                                                               const Allocate& allocate) {
  using stat_t = stat_of<scalar_t>;
  const int64_t pieces = call.layout.inner == 1 ? 1 : tiling.tiles;
  Axis axis = plan_bias_sums(call.layout, tiling, pieces);
  axis.items *= 2;
  return {static_cast<stat_t*>(call.bias_sums), make_partials<stat_t>(call.layout, axis, allocate), axis,
          pieces};
}

template <int elements, typename Activation, typename scalar_t>
void launch_gradient(const Backward<scalar_t>& b, const LinkedBackward<scalar_t>& more,
                     const BackwardCall& call, const Allocate& allocate, Stream stream) {
  using stat_t = stat_of<scalar_t>;
  const auto run = [&](const auto& sums) {
    using Sums = std::decay_t<decltype(sums)>;
    launch(linked_activation_backward_kernel<scalar_t, elements, Activation, Sums>, b.plan.blocks, kThreads,
           stream, b, more, sums);
  };
  if constexpr (Activation::has_weight) {
    if (call.bias_sums) {
      const auto sums = make_slope_sums<scalar_t>(call, b.plan.tiling, allocate);
      if (call.layout.inner == 1) {
        run(sums);
      } else {
        run(BiasSums<stat_t, UnitsAre::rows>{sums.sums, sums.partials, sums.units, sums.pieces});
      }
      if (sums.partials) launch_sums(sums, stream);
      return;
    }
  }
  run(BiasSums<stat_t, UnitsAre::without_bias>{});
}

}  // namespace

void linked_forward(const LinkedForwardCall& call, const Allocate& allocate, Stream stream) {
  if (!call.of_x.slack_sums) {
    for_linked_and_scalar(call.kind, call.of_x.scalar, [&](const auto& activation, auto of_type) {
      launch_alone<decltype(of_type)>(call, activation, stream);
    });
    return;
  }
  for_scalar(call.of_x.scalar, [&](auto of_type) {
    using scalar_t = decltype(of_type);
    const auto f = make_forward<scalar_t>(call.of_x, allocate);
    const auto linked = make_linked<scalar_t>(call.kind, call.slopes, call.of_x.layout);
    if (f.plan.wide) {
      launch_with_statistics<16 / sizeof(scalar_t)>(f, linked, stream);
    } else {
      launch_with_statistics<1>(f, linked, stream);
    }
  });
}

void linked_backward(const LinkedBackwardCall& call, const Allocate& allocate, Stream stream) {
  for_linked_and_scalar(call.kind, call.of_x.scalar, [&](const auto& activation, auto of_type) {
    using scalar_t = decltype(of_type);
    using Activation = std::decay_t<decltype(activation)>;
    const auto b = make_linked_backward<scalar_t>(call);
    const LinkedBackward<scalar_t> more{static_cast<const scalar_t*>(call.x),
                                        make_linked<scalar_t>(call.kind, call.slopes, call.of_x.layout)};
    if (call.of_x.grad_output) {
      if (b.plan.wide) {
        launch_gradient<16 / sizeof(scalar_t), Activation>(b, more, call.of_x, allocate, stream);
      } else {
        launch_gradient<1, Activation>(b, more, call.of_x, allocate, stream);
      }
    }
    if (!b.statistics.with_gradient()) return;
    const int64_t extrema = 2 * (call.of_x.layout.units + b.statistics.points);
    launch(linked_activation_extrema_backward_kernel<scalar_t>,
           std::min((extrema + kThreads - 1) / kThreads, kMostExtremaBlocks), kThreads, stream, b, more);
  });
}

}  // namespace cuda
}  // namespace jumpstart
