// The activations: a file each, and here the list of them. Free of PyTorch.
//
// An activation is written once, for the vectors of the CPU and the packs of a GPU (V): it has
//   name               as ops/activations has it,
//   a constructor      from its parameter, a number,
//   value<V>           of raw values and the mask of the positive ones,
//   gradient<V>        of x, from that of the output and the same mask.
// V offers the types Raw (values of the scalar), Sign (a mask of them) and stat_t, what its products are made
// in: float, or double for double. It computes keep(x, mask), zero where the mask is not set;
// choose(mask, a, b), a where it is set and else b; scale(x, factor) with a factor of stat_t, rounded as
// PyTorch rounds a product with a number.

#pragma once

#include <string_view>
#include <type_traits>

#include "activations/relu.h"
#include "layout.h"

// For each activation, of a macro of its type.
#define JUMPSTART_FOR_ACTIVATIONS(apply) apply(ReLU)

namespace jumpstart {

// In place of an activation where there is no output, and no mask.
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

// Calls `run` with the activation; not at all for statistics alone.
template <typename Run>
JUMPSTART_INLINE void with_activation(ActivationKind kind, double parameter, const Run& run) {
  switch (kind) {
#define JUMPSTART_CASE(Activation) \
  case k##Activation: return run(Activation(parameter));
    JUMPSTART_FOR_ACTIVATIONS(JUMPSTART_CASE)
#undef JUMPSTART_CASE
    default: return;
  }
}

}  // namespace jumpstart
