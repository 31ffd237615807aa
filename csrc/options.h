// What the operator does, beside its tensors: the twin of Options in ops/arguments.py. Free of PyTorch.

#pragma once

#include <cstdint>

#include "activations.h"

namespace jumpstart {

struct Options {
  ActivationKind activation;
  double parameter;  // the activation's own
  int64_t unit_dim;
  bool position_points;
  double margin;
  bool all_indices;
};

}  // namespace jumpstart
