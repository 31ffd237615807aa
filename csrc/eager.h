// The operators for eager code, without the dispatcher's Python layers: thin networks spend most of their
// time on call overhead.

#pragma once

#include <pybind11/pybind11.h>

#include <string_view>
#include <vector>

namespace jumpstart {

// (output, slack_sums, extrema, units, points), the last 0 if x is empty. None if the operator has to be
// called instead: a mode, transform or subclass must see the call, or x or the options are not supported
// here.
pybind11::object jumpstart_activation_eager(pybind11::handle x, std::string_view activation, double parameter,
                                            int64_t unit_dim, bool position_points, double margin,
                                            bool inplace, std::string_view extrema_kind);

// The penalty of a list of slack sums, or None.
pybind11::object penalty_eager(const pybind11::list& slack_sums, const std::vector<double>& weights,
                               bool square_root);

}  // namespace jumpstart
