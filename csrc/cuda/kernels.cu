// Chooses the kernels of a call, lays out their workspace and launches them.

#include "cuda/kernels.h"

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "activations.h"
#include "cuda/backward.cuh"
#include "cuda/bias.cuh"
#include "cuda/bias_sums.cuh"
#include "cuda/device.cuh"
#include "cuda/launch.cuh"
#include "cuda/merge.cuh"
#include "cuda/packs.cuh"
#include "cuda/penalty.cuh"
#include "cuda/plan.h"
#include "cuda/planes.cuh"
#include "cuda/rows.cuh"
#include "cuda/small.cuh"
#include "cuda/statistics.cuh"
#include "slack.h"

namespace jumpstart {
namespace cuda {
namespace {

// Calls `run` with the activation and a value of the scalar type. Statistics alone run any activation's
// kernels, without an output.
template <typename Run>
void for_activation_and_scalar(const Options& options, Scalar scalar, const Run& run) {
  const ActivationKind kind = options.activation == kStatisticsAlone ? kReLU : options.activation;
  with_activation(kind, options.parameter, [&](const auto& activation) {
    for_scalar(scalar, [&](auto of_type) { run(activation, of_type); });
  });
}

// Calls `run` with the bias of a call.
template <typename scalar_t, typename Run>
void with_bias(const ForwardCall& call, const Run& run) {
  const auto* values = static_cast<const scalar_t*>(call.bias);
  if (!values) return run(Bias<scalar_t, UnitsAre::without_bias>{});
  if (call.layout.inner == 1) return run(Bias<scalar_t, UnitsAre::columns>{values});
  run(Bias<scalar_t, UnitsAre::rows>{values});
}

template <int elements, typename scalar_t, typename Activation, typename Bias>
void launch_forward(const Forward<scalar_t>& f, const Activation& activation, const Bias& bias,
                    Stream stream) {
  if constexpr (Bias::kUnitsAre != UnitsAre::rows) {
    if (f.plan.kernel == ForwardKernel::small) {
      launch(jumpstart_activation_forward_small_kernel<scalar_t, Activation, Bias>, 1, kSmallThreads, stream,
             f, activation, bias);
      return;
    }
  }
  auto kernel = jumpstart_activation_forward_rows_kernel<scalar_t, elements, Activation, Bias>;
  if constexpr (Bias::kUnitsAre != UnitsAre::columns) {
    if (f.plan.kernel == ForwardKernel::planes) {
      kernel = jumpstart_activation_forward_planes_kernel<scalar_t, elements, Activation, Bias>;
    }
  }
  launch_streaming(kernel, stream, f, activation, bias);
}

// Calls `run` with the sums of a call.
template <typename scalar_t, typename Run>
void with_bias_sums(const BackwardCall& call, const BackwardPlan& plan, const Allocate& allocate,
                    const Run& run) {
  using stat_t = stat_of<scalar_t>;
  if (!call.bias_sums) return run(BiasSums<stat_t, UnitsAre::without_bias>{});
  auto* sums = static_cast<stat_t*>(call.bias_sums);
  const int64_t pieces = call.layout.inner == 1 ? 1 : plan.tiling.tiles;
  const Axis axis = plan_bias_sums(call.layout, plan.tiling, pieces);
  stat_t* partials = make_partials<stat_t>(call.layout, axis, allocate);
  if (call.layout.inner == 1) return run(BiasSums<stat_t, UnitsAre::columns>{sums, partials, axis, 1});
  run(BiasSums<stat_t, UnitsAre::rows>{sums, partials, axis, pieces});
}

template <int elements, typename scalar_t, typename Activation, typename Sums>
void launch_backward(const Backward<scalar_t>& b, const Activation& activation, const Sums& sums,
                     Stream stream) {
  auto kernel = jumpstart_activation_backward_kernel<scalar_t, elements, true, Activation, Sums>;
  if constexpr (Sums::kUnitsAre == UnitsAre::without_bias) {
    if (!b.statistics.with_gradient()) {
      kernel = jumpstart_activation_backward_kernel<scalar_t, elements, false, Activation, Sums>;
    }
  }
  launch(kernel, b.plan.blocks, kThreads, stream, b, activation, sums);
  if constexpr (Sums::kUnitsAre != UnitsAre::without_bias) {
    if (!sums.partials) return;
    launch(jumpstart_activation_bias_backward_kernel<scalar_t, Activation, Sums>, sums.units.blocks(),
           kThreads, stream, b, activation, sums);
  }
}

template <typename stat_t>
void launch_penalty(const PenaltyCall& call, Stream stream) {
  Penalty<stat_t> p{};
  p.weights = make_weights(call.weights);
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
void launch_penalty_backward(const PenaltyGradientCall& penalty, void* by_sum, Stream stream) {
  launch(penalty_backward_kernel<stat_t>, 1, kWarpSize, stream, make_penalty_gradient<stat_t>(penalty),
         static_cast<stat_t*>(by_sum));
}

}  // namespace

template <typename scalar_t>
void launch_merge(const Forward<scalar_t>& f, Stream stream) {
  launch(jumpstart_activation_statistics_forward_kernel<scalar_t>, f.plan.merge.blocks(), kThreads, stream,
         f);
}
template void launch_merge(const Forward<float>&, Stream);
template void launch_merge(const Forward<double>&, Stream);
template void launch_merge(const Forward<Half>&, Stream);
template void launch_merge(const Forward<BFloat16>&, Stream);

template <typename stat_t>
void launch_sums(const BiasSums<stat_t, UnitsAre::columns>& sums, Stream stream) {
  using Sums = BiasSums<stat_t, UnitsAre::columns>;
  launch(jumpstart_activation_bias_backward_kernel<stat_t, ReLU, Sums>, sums.units.blocks(), kThreads, stream,
         Backward<stat_t>{}, ReLU(0), sums);
}
template void launch_sums(const BiasSums<float, UnitsAre::columns>&, Stream);
template void launch_sums(const BiasSums<double, UnitsAre::columns>&, Stream);

int most_cluster_blocks(int device) {
  static std::array<std::atomic<int>, 64> known{};  // 0: not yet
  const auto find = [] {
    using NoBias = Bias<float, UnitsAre::without_bias>;
    return most_cluster_blocks_of(jumpstart_activation_forward_rows_kernel<float, 4, ReLU, NoBias>, kThreads);
  };
  if (device >= static_cast<int>(known.size())) return find();
  std::atomic<int>& of_device = known[static_cast<size_t>(device)];
  if (!of_device) of_device = find();
  return of_device;
}

void forward(const ForwardCall& call, const Allocate& allocate, Stream stream) {
  for_activation_and_scalar(call.options, call.scalar, [&](const auto& activation, auto of_type) {
    using scalar_t = decltype(of_type);
    const auto f = make_forward<scalar_t>(call, allocate);
    with_bias<scalar_t>(call, [&](const auto& bias) {
      if (f.plan.wide) {
        launch_forward<16 / sizeof(scalar_t)>(f, activation, bias, stream);
      } else {
        launch_forward<1>(f, activation, bias, stream);
      }
    });
  });
}

void backward(const BackwardCall& call, const Allocate& allocate, Stream stream) {
  for_activation_and_scalar(call.options, call.scalar, [&](const auto& activation, auto of_type) {
    using scalar_t = decltype(of_type);
    const auto b =
        make_backward<scalar_t>(call, vector_of<scalar_t>(call.layout, call.grad_output, call.grad_x));
    with_bias_sums<scalar_t>(call, b.plan, allocate, [&](const auto& sums) {
      if (b.plan.wide) {
        launch_backward<16 / sizeof(scalar_t)>(b, activation, sums, stream);
      } else {
        launch_backward<1>(b, activation, sums, stream);
      }
    });
  });
}

void penalty(const PenaltyCall& call, Stream stream) {
  if (call.float64) {
    launch_penalty<double>(call, stream);
  } else {
    launch_penalty<float>(call, stream);
  }
}

void penalty_backward(bool float64, const PenaltyGradientCall& penalty, void* by_sum, Stream stream) {
  if (float64) {
    launch_penalty_backward<double>(penalty, by_sum, stream);
  } else {
    launch_penalty_backward<float>(penalty, by_sum, stream);
  }
}

}  // namespace cuda
}  // namespace jumpstart
