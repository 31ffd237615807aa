// The operator's options, besides its tensors; the counterpart of Options in ops/arguments.py. Free of
// PyTorch.

#pragma once

#include <cstdint>
#include <string_view>

#include "activations.h"

namespace jumpstart {

enum ExtremaKind {
  kLimited,  // to the margin: min(max, margin), max(min, -margin); those with slack have an index
  kExact,    // those with slack have an index
  kIndexed,  // exact, and all have an index
  kExtremaKinds
};

// In the order of ExtremaKind.
constexpr std::string_view kExtremaNames[] = {"limited", "exact", "indexed"};

struct Options {
  ActivationKind activation;
  double parameter;  // of the activation
  int64_t unit_dim;
  bool position_points;
  double margin;
  ExtremaKind extrema_kind;
};

}  // namespace jumpstart
