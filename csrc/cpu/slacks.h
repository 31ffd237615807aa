// Sums of slack and their gradients; the counterpart of ops/slack.py.

#pragma once

#include <cstdint>
#include <cstring>

#include "cpu/kernels.h"
#include "slack.h"

namespace jumpstart {
namespace JUMPSTART_ISA {

// In the compiler's vector extension: as many lanes with all instruction sets, so that sums are the same.
constexpr int64_t kSlackLanes = 4;

template <typename T>
struct SlackLanes {
  typedef T Values __attribute__((vector_size(kSlackLanes * sizeof(T))));

  static Values load(const T* from) {
    Values v;
    std::memcpy(&v, from, sizeof v);
    return v;
  }
  static void store(T* to, Values v) { std::memcpy(to, &v, sizeof v); }
};
using SlackDoubles = SlackLanes<double>::Values;
using SlackIndices = SlackLanes<int64_t>::Values;

template <typename Values>
JUMPSTART_INLINE Values hinge_of(Values distance) {
  return distance <= 0 ? Values{} : distance;
}

// Sums by lane.
struct LaneSums {
  SlackDoubles sums[kSlackSums] = {};

  template <typename Values>
  JUMPSTART_INLINE void add(Values positive, Values negative) {
    const SlackDoubles high = __builtin_convertvector(positive, SlackDoubles);
    const SlackDoubles low = __builtin_convertvector(negative, SlackDoubles);
    sums[kPositive] += high;
    sums[kNegative] += low;
    sums[kPositiveSquared] += high * high;
    sums[kNegativeSquared] += low * low;
    sums[kProduct] += (high == 0) | (low == 0) ? SlackDoubles{} : high * low;  // 0 times infinity is 0
  }
};

template <typename stat_t, bool places_known>
class SlackSummation {
  using Lanes = SlackLanes<stat_t>;
  using Values = typename Lanes::Values;

 public:
  SlackSummation(stat_t margin, ExtremaKind kind) : margin_(margin), kind_(kind) {}

  bool run(const Extrema<stat_t>& e, double* sums) {
    int64_t k = 0;
    for (; k + kSlackLanes <= e.count; k += kSlackLanes) {
      lanes(e.maxima + k, e.minima + k, e.max_indices + k, e.min_indices + k);
    }
    double rest[kSlackSums] = {};
    for (; k < e.count; ++k) one(e.maxima[k], e.minima[k], e.max_indices[k], e.min_indices[k], rest);
    bool any = kind_ == kIndexed || rest[kPositive] != 0 || rest[kNegative] != 0;
    for (int i = 0; i < kSlackLanes; ++i) {
      any |= have_slack_[i] != 0;
      for (int sum = 0; sum < kSlackSums; ++sum) sums[sum] += sums_.sums[sum][i];
    }
    for (int sum = 0; sum < kSlackSums; ++sum) sums[sum] += rest[sum];
    return any;
  }

 private:
  JUMPSTART_INLINE void lanes(stat_t* maxima, stat_t* minima, int64_t* max_indices, int64_t* min_indices) {
    const Values largest = Lanes::load(maxima), smallest = Lanes::load(minima);
    const Values positive = hinge_of(margin_ - largest), negative = hinge_of(margin_ + smallest);
    sums_.add(positive, negative);
    set(max_indices, __builtin_convertvector(positive != 0, SlackIndices));
    set(min_indices, __builtin_convertvector(negative != 0, SlackIndices));
    if (kind_ != kLimited) return;
    const Values margin = margin_ - Values{};
    Lanes::store(maxima, largest >= margin ? margin : largest);
    Lanes::store(minima, smallest <= -margin ? -margin : smallest);
  }

  void one(stat_t& maximum, stat_t& minimum, int64_t& max_index, int64_t& min_index, double* sums) const {
    const Slack<stat_t> slack = slack_of(maximum, minimum, margin_);
    add_slack(slack, sums);
    const auto set_index = [&](int64_t& index, bool has_slack) {
      index = !has_slack && kind_ != kIndexed ? -1 : places_known ? index : kWanted;
    };
    set_index(max_index, slack.positive != 0);
    set_index(min_index, slack.negative != 0);
    if (kind_ != kLimited) return;
    maximum = limit_maximum(maximum, margin_);
    minimum = limit_minimum(minimum, margin_);
  }

  JUMPSTART_INLINE void set(int64_t* indices, SlackIndices has_slack) {
    have_slack_ |= has_slack;
    if (kind_ == kIndexed) has_slack = SlackIndices{} - 1;
    const SlackIndices found = places_known ? SlackLanes<int64_t>::load(indices) : SlackIndices{} + kWanted;
    SlackLanes<int64_t>::store(indices, has_slack ? found : SlackIndices{} - 1);
  }

  const stat_t margin_;
  const ExtremaKind kind_;
  LaneSums sums_;
  SlackIndices have_slack_ = {};
};

template <typename stat_t, bool places_known>
bool sum_slacks(const Extrema<stat_t>& e, ExtremaKind kind, double* sums) {
  return SlackSummation<stat_t, places_known>(e.margin, kind).run(e, sums);
}

template <typename stat_t, bool of_minimum>
void slack_gradients(const stat_t* maxima, const stat_t* minima, int64_t count, stat_t margin,
                     const stat_t* grad_sums, stat_t* to) {
  using Lanes = SlackLanes<stat_t>;
  using Values = typename Lanes::Values;
  const stat_t grad = grad_sums[of_minimum ? kNegative : kPositive], grad_product = grad_sums[kProduct],
               grad_squared = grad_sums[of_minimum ? kNegativeSquared : kPositiveSquared];
  const auto times = [](stat_t by, Values slack) {  // as times_slack
    const Values product = by * slack;
    if (by != 0) return product;
    return (slack - slack != 0) & (slack == slack) ? Values{} : product;
  };
  int64_t k = 0;
  for (; k + kSlackLanes <= count; k += kSlackLanes) {
    const Values positive = hinge_of(margin - Lanes::load(maxima + k));
    const Values negative = hinge_of(margin + Lanes::load(minima + k));
    const Values own = of_minimum ? negative : positive, other = of_minimum ? positive : negative;
    const Values by_slack = grad + 2 * times(grad_squared, own) + times(grad_product, other);
    const Values of_extremum = of_minimum ? by_slack : -by_slack;
    Lanes::store(to + k, own == 0 ? Values{} : of_extremum);
  }
  for (; k < count; ++k) {
    to[k] = slack_gradient(slack_of(maxima[k], minima[k], margin), of_minimum, grad_sums);
  }
}

template <typename stat_t>
constexpr SlackKernels<stat_t> slack_kernels() {
  return {{sum_slacks<stat_t, false>, sum_slacks<stat_t, true>},
          {slack_gradients<stat_t, false>, slack_gradients<stat_t, true>}};
}

}  // namespace JUMPSTART_ISA
}  // namespace jumpstart
