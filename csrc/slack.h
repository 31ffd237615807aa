// Slack and its gradient, for host and device; the counterpart of ops/slack.py. Free of PyTorch.

#pragma once

#include "layout.h"

namespace jumpstart {

// The sums over one axis: the units, or the points.
enum SlackSum { kPositive, kNegative, kPositiveSquared, kNegativeSquared, kProduct, kSlackSums };

constexpr int kLayerSums = 2 * kSlackSums;  // of a layer, [2, kSlackSums]: of the units, of the points

template <typename stat_t>
struct Slack {
  stat_t positive, negative;
};

// relu(distance), propagating NaN.
template <typename stat_t>
JUMPSTART_INLINE stat_t hinge(stat_t distance) {
  return distance <= 0 ? stat_t{0} : distance;
}

template <typename stat_t>
JUMPSTART_INLINE Slack<stat_t> slack_of(stat_t largest, stat_t smallest, stat_t margin) {
  return {hinge(margin - largest), hinge(margin + smallest)};
}

// An extremum as its slack knows it: beyond the margin all are alike.
template <typename stat_t>
JUMPSTART_INLINE stat_t limit_maximum(stat_t largest, stat_t margin) {
  return largest >= margin ? margin : largest;
}
template <typename stat_t>
JUMPSTART_INLINE stat_t limit_minimum(stat_t smallest, stat_t margin) {
  return smallest <= -margin ? -margin : smallest;
}

template <typename sum_t, typename stat_t>
JUMPSTART_INLINE void add_slack(const Slack<stat_t>& slack, sum_t* sums) {
  const sum_t positive = slack.positive, negative = slack.negative;
  sums[kPositive] += positive;
  sums[kNegative] += negative;
  sums[kPositiveSquared] += positive * positive;
  sums[kNegativeSquared] += negative * negative;
  // 0 times infinity is 0.
  sums[kProduct] += positive == 0 || negative == 0 ? sum_t{0} : positive * negative;
}

// 0 times infinity is 0: a sum with no gradient contributes none.
template <typename stat_t>
JUMPSTART_INLINE stat_t times_slack(stat_t grad, stat_t slack) {
  return grad == 0 && slack - slack != 0 && slack == slack ? stat_t{0} : grad * slack;
}

// Gradient of the maximum (or the minimum) from that of its slack sums; 0 at the kink of the hinge.
template <typename stat_t>
JUMPSTART_INLINE stat_t slack_gradient(const Slack<stat_t>& slack, bool of_minimum, const stat_t* grad_sums) {
  const stat_t own = of_minimum ? slack.negative : slack.positive;
  const stat_t other = of_minimum ? slack.positive : slack.negative;
  if (own == 0) return 0;
  const stat_t by_slack = grad_sums[of_minimum ? kNegative : kPositive] +
                          2 * times_slack(grad_sums[of_minimum ? kNegativeSquared : kPositiveSquared], own) +
                          times_slack(grad_sums[kProduct], other);
  return of_minimum ? by_slack : -by_slack;
}

// What the gradient of each slack sum is of its weight, from those of a penalty: its gradient, whether it is
// a square root, and then its value. The gradient of a square root is 0 at 0.
JUMPSTART_INLINE double penalty_factor(double grad, bool is_root, double value) {
  if (!is_root) return grad;
  return value == 0 ? 0 : grad / (2 * value);
}

}  // namespace jumpstart
