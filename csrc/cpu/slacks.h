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

template <typename stat_t, bool indexed>
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
    const auto rest = static_cast<size_t>(e.count - k);
    if (rest) {
      stat_t maxima[kSlackLanes], minima[kSlackLanes];
      int64_t max_indices[kSlackLanes] = {}, min_indices[kSlackLanes] = {};
      for (int i = 0; i < kSlackLanes; ++i) maxima[i] = margin_, minima[i] = -margin_;
      std::memcpy(maxima, e.maxima + k, rest * sizeof(stat_t));
      std::memcpy(minima, e.minima + k, rest * sizeof(stat_t));
      std::memcpy(max_indices, e.max_indices + k, rest * sizeof(int64_t));
      std::memcpy(min_indices, e.min_indices + k, rest * sizeof(int64_t));
      lanes(maxima, minima, max_indices, min_indices);
      std::memcpy(e.maxima + k, maxima, rest * sizeof(stat_t));
      std::memcpy(e.minima + k, minima, rest * sizeof(stat_t));
      std::memcpy(e.max_indices + k, max_indices, rest * sizeof(int64_t));
      std::memcpy(e.min_indices + k, min_indices, rest * sizeof(int64_t));
    }
    bool any = kind_ == kIndexed;
    for (int i = 0; i < kSlackLanes; ++i) {
      any |= have_slack_[i] != 0;
      for (int sum = 0; sum < kSlackSums; ++sum) sums[sum] += sums_.sums[sum][i];
    }
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

  JUMPSTART_INLINE void set(int64_t* indices, SlackIndices has_slack) {
    have_slack_ |= has_slack;
    if (kind_ == kIndexed) has_slack = SlackIndices{} - 1;
    const SlackIndices found = indexed ? SlackLanes<int64_t>::load(indices) : SlackIndices{} + kWanted;
    SlackLanes<int64_t>::store(indices, has_slack ? found : SlackIndices{} - 1);
  }

  const stat_t margin_;
  const ExtremaKind kind_;
  LaneSums sums_;
  SlackIndices have_slack_ = {};
};

template <typename stat_t, bool indexed>
bool sum_slacks(const Extrema<stat_t>& e, ExtremaKind kind, double* sums) {
  return SlackSummation<stat_t, indexed>(e.margin, kind).run(e, sums);
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
