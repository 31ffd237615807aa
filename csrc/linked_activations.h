// The linked activations, cat(g(x), g(-x)): one file each, listed here. Free of PyTorch.
//
// A linked activation is written once, for CPU vectors and GPU values alike (V below). It has
//   name        the operator's `activation` argument, as in ops/activations/;
//   from_sign   whether the masks of the positive and the negative x are all that its gradient needs of x;
//   has_weight  whether it has learnable slopes, one of each half;
//   values<V>   both halves of the output;
//   gradient<V> the gradient of x, from those of both halves and from x; if from_sign, from those of both
//               halves where their masks are set, else 0;
//   slope_gradients<V>, if it has slopes.
//
// V has the types Values (in the type of statistics, stat_t) and Mask, and
//   broadcast, add, subtract, multiply, divide
//   less, unordered       to a Mask; unordered: one of the two is NaN
//   either(mask, mask)
//   select(mask, a, b)    a where the mask is set, else b
//   power_of_two(n)       2^n for a whole number within the exponents of normal numbers

#pragma once

#include <string_view>

#include "activations/linked_prelu.h"
#include "activations/linked_relu.h"
#include "activations/linked_selu.h"
#include "activations/linked_silu.h"

// Applies a macro to the type of each linked activation.
#define JUMPSTART_FOR_LINKED_ACTIVATIONS(apply) \
  apply(LinkedReLU) apply(LinkedPReLU) apply(LinkedSELU) apply(LinkedSiLU)

namespace jumpstart {

#define JUMPSTART_KIND(Activation) k##Activation,
enum LinkedKind { JUMPSTART_FOR_LINKED_ACTIVATIONS(JUMPSTART_KIND) kLinkedActivations };
#undef JUMPSTART_KIND

#define JUMPSTART_NAME(Activation) Activation::name,
// In the order of LinkedKind.
constexpr std::string_view kLinkedNames[] = {JUMPSTART_FOR_LINKED_ACTIVATIONS(JUMPSTART_NAME)};
#undef JUMPSTART_NAME

// Calls `run` with the linked activation.
template <typename Run>
void with_linked_activation(LinkedKind kind, const Run& run) {
  switch (kind) {
#define JUMPSTART_CASE(Activation) \
  case k##Activation: return run(Activation());
    JUMPSTART_FOR_LINKED_ACTIVATIONS(JUMPSTART_CASE)
#undef JUMPSTART_CASE
    default: return;
  }
}

}  // namespace jumpstart
