// The activations: one file each, listed here. Free of PyTorch.
//
// An activation is written once, for CPU vectors and GPU packs alike (V below). It has
//   name           the operator's `activation` argument, as in ops/activations/;
//   a constructor  from the operator's `parameter`;
//   value<V>       the output, from raw inputs and the mask of the positive ones;
//   gradient<V>    the gradient of x, from that of the output and the same mask.
//
// V has the types Raw (values as stored), Sign (a mask of them) and stat_t (float, or double for double) and
//   keep(x, mask)       x where the mask is set, else 0;
//   choose(mask, a, b)  a where the mask is set, else b;
//   scale(x, factor)    x times a stat_t, rounded as PyTorch rounds the product of a tensor and a number.

#pragma once

#include <string_view>
#include <type_traits>

#include "activations/leaky_relu.h"
#include "activations/relu.h"
#include "layout.h"

// Applies a macro to the type of each activation.
#define JUMPSTART_FOR_ACTIVATIONS(apply) apply(ReLU) apply(LeakyReLU)

namespace jumpstart {

// Stands in for an activation where only statistics are computed: no output, no mask.
struct StatisticsAlone {
  static constexpr const char* name = "none";

  JUMPSTART_INLINE explicit StatisticsAlone(double) {}
};

template <typename Activation>
constexpr bool has_output = !std::is_same_v<Activation, StatisticsAlone>;

#define JUMPSTART_KIND(Activation) k##Activation,
enum ActivationKind {
  JUMPSTART_FOR_ACTIVATIONS(JUMPSTART_KIND) kActivations,
  kStatisticsAlone = kActivations
};
#undef JUMPSTART_KIND

#define JUMPSTART_NAME(Activation) Activation::name,
// In the order of ActivationKind.
constexpr std::string_view kActivationNames[] = {JUMPSTART_FOR_ACTIVATIONS(JUMPSTART_NAME)
                                                     StatisticsAlone::name};
#undef JUMPSTART_NAME

// Calls `run` with the activation; does nothing for kStatisticsAlone.
template <typename Run>
void with_activation(ActivationKind kind, double parameter, const Run& run) {
  switch (kind) {
#define JUMPSTART_CASE(Activation) \
  case k##Activation: return run(Activation(parameter));
    JUMPSTART_FOR_ACTIVATIONS(JUMPSTART_CASE)
#undef JUMPSTART_CASE
    default: return;
  }
}

}  // namespace jumpstart
