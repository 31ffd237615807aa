// The operators without the dispatcher's detours, for eager code: what a thin network spends most on is
// calls.

#pragma once

#include <pybind11/pybind11.h>

#include <string_view>
#include <vector>

namespace jumpstart {

// (output, slack_sums, extrema, units, points, which are 0 of an empty x) of an `x` that autograd and the
// kernel can take as it is; None where somebody else has a say, or x is nothing that the operator takes, or
// overwrites.
pybind11::object jumpstart_activation_eager(pybind11::handle x, std::string_view activation, double parameter,
                                            int64_t unit_dim, bool position_points, double margin,
                                            bool inplace);

// The penalty of a list of slack sums, or None.
pybind11::object penalty_eager(const pybind11::list& slack_sums, const std::vector<double>& weights,
                               bool square_root);

}  // namespace jumpstart
