// Adds the gradients of extrema to the elements that hold them.

#include <ATen/Dispatch.h>

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include "cpu/instruction_sets.h"
#include "cpu/run.h"
#include "slack.h"

namespace jumpstart {
namespace {

template <typename scalar_t>
void add_extrema_of(const PreparedBackward& b, const SavedExtrema& saved, const Options& options) {
  using stat_t = stat_of<scalar_t>;
  const Layout& layout = b.layout;
  const int64_t count = saved.values.size(1), plane = layout.rows * layout.units;
  const auto margin = static_cast<stat_t>(options.margin);
  const auto data = [](const at::Tensor& grad) {
    return grad.defined() ? grad.const_data_ptr<stat_t>() : nullptr;
  };
  const auto* values = saved.values.const_data_ptr<stat_t>();
  const auto* places = saved.places.const_data_ptr<int64_t>();
  const auto *sums = data(b.gradients.slack_sums), *direct = data(b.gradients.extrema);
  std::array<stat_t, kLayerSums> of_penalty{};
  if (const PenaltyGradient* const penalty = b.gradients.penalty) {
    const stat_t* const root = data(penalty->root);
    const double factor = penalty_factor(*data(penalty->grad), root != nullptr, root ? *root : 0);
    std::transform(penalty->weights.begin(), penalty->weights.end(), of_penalty.begin(),
                   [&](double weight) { return static_cast<stat_t>(factor * weight); });
    sums = of_penalty.data();
  }
  const auto* point_sums = sums ? sums + kSlackSums : nullptr;
  auto* grad = b.grad_x.mutable_data_ptr<scalar_t>();
  const bool with_bias = b.bias_sums.defined();
  std::vector<double> by_unit(with_bias ? static_cast<size_t>(layout.units) : 0);  // many points may add up
  const int64_t inner = layout.channels_last ? layout.rows : layout.inner;  // positions after the units
  std::vector<std::pair<int64_t, stat_t>> late;  // for 16-bit gradients: added before rounding
  const SlackKernels<stat_t>& slack = kernels().slack(stat_t{});
  const auto add = [&](int64_t place, stat_t g) {
    if (with_bias) by_unit[static_cast<size_t>(place / inner % layout.units)] += g;
    if (layout.channels_last) {
      const int64_t sample = place / plane, unit = place % plane / layout.rows;
      place = (sample * layout.rows + place % layout.rows) * layout.units + unit;
    }
    if (sizeof(scalar_t) == 2) {
      late.emplace_back(place, g);
    } else {
      grad[place] += g;
    }
  };
  constexpr int64_t kStep = 256;
  std::array<int64_t, kStep> found;
  std::array<stat_t, kStep> of_slack{};
  const auto add_side = [&](int64_t begin, int64_t end, int side, const stat_t* axis_sums) {
    for (int64_t first = begin; first < end; first += kStep) {
      // Which extrema have a place cannot be predicted: collect them first, without a branch.
      const int64_t *of_side = places + side * count + first, last = std::min(end - first, kStep);
      size_t number = 0;
      for (int64_t k = 0; k < last; ++k) {
        found[number] = k;
        number += of_side[k] >= 0;
      }
      if (number == 0) continue;
      if (axis_sums) {
        slack.gradients[side](values + first, values + count + first, last, margin, axis_sums,
                              of_slack.data());
      }
      for (size_t i = 0; i < number; ++i) {
        const int64_t k = found[i];
        const stat_t g = direct ? direct[side * count + first + k] : stat_t{0};
        add(of_side[k], g + of_slack[static_cast<size_t>(k)]);
      }
    }
  };
  for (int side = 0; side < 2; ++side) add_side(0, layout.units, side, sums);
  for (int side = 0; side < 2; ++side) add_side(layout.units, count, side, point_sums);
  std::stable_sort(late.begin(), late.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  for (size_t i = 0; i < late.size();) {
    const int64_t place = late[i].first;
    stat_t sum = grad[place];
    for (; i < late.size() && late[i].first == place; ++i) sum += late[i].second;
    grad[place] = static_cast<scalar_t>(sum);
  }
  for (size_t unit = 0; unit < by_unit.size(); ++unit) {
    stat_t& sum = b.bias_sums.mutable_data_ptr<stat_t>()[unit];
    sum = static_cast<stat_t>(sum + by_unit[unit]);
  }
}

}  // namespace

void add_extrema(const PreparedBackward& b, const SavedExtrema& saved, const Options& options) {
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, b.grad_x.scalar_type(), "add_extrema",
                                  [&] { add_extrema_of<scalar_t>(b, saved, options); });
}

}  // namespace jumpstart
