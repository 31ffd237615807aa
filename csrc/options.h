// The operator's options, besides its tensors; the counterpart of Options in ops/arguments.py. Free of
// PyTorch.

#pragma once

#include <cstdint>

#include "activations.h"

namespace jumpstart {

struct Options {
  ActivationKind activation;
  double parameter;  // of the activation
  int64_t unit_dim;
  bool position_points;
  double margin;
  bool all_indices;
};

}  // namespace jumpstart
