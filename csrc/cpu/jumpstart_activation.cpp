// Forward and backward on the CPU: threads, and the kernels of the instruction set in use.

#include "jumpstart_activation.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <c10/util/SmallVector.h>

#include <algorithm>
#include <array>
#include <type_traits>
#include <utility>
#include <vector>

#include "blocks.h"
#include "cpu/instruction_sets.h"
#include "cpu/kernels.h"
#include "cpu/statistics.h"
#include "slack.h"

namespace jumpstart {
namespace {

constexpr int64_t kGrain = 32768;  // elements per thread, at least

// Whether a tensor is too large for the caches and aligned for stores that bypass them, which saves reading
// the memory that is overwritten. That pays even if it is read next, once a thread's part exceeds its cache.
bool streams(const void* output, const Layout& layout, size_t element_size) {
  constexpr int64_t kBytesPerThread = int64_t{4} << 20, kMostBytes = int64_t{32} << 20, kAlignment = 64;
  const int64_t bytes = std::min(kMostBytes, at::get_num_threads() * kBytesPerThread);
  const int64_t row = layout.matrix_columns() * static_cast<int64_t>(element_size);
  return layout.matrix_rows() * row >= bytes && row % kAlignment == 0 &&
         reinterpret_cast<uintptr_t>(output) % kAlignment == 0;
}

size_t index_of(at::ScalarType dtype) { return static_cast<size_t>(scalar_of(dtype)); }

template <typename scalar_t>
using stat_of = std::conditional_t<std::is_same<scalar_t, double>::value, double, float>;

// Slack sums of the units or the points: in chunks whose sums are added in order, so that the result does not
// depend on the threads. Then the indices that they lack.
template <typename stat_t, typename Find>
void finish_axis(int64_t begin, int64_t end, bool parallel, const Options& options, KnownPlaces known,
                 const Find& find, const Statistics<stat_t>& statistics, stat_t* to) {
  constexpr int64_t kChunk = 4096, kSearches = 32;
  const auto margin = static_cast<stat_t>(options.margin);
  const auto sum = kernels().slack(stat_t{}).sum[known != KnownPlaces::none];
  const int64_t chunks = (end - begin + kChunk - 1) / kChunk;
  const auto for_range = [&](int64_t count, int64_t grain, const auto& run) {
    parallel ? at::parallel_for(0, count, grain, run) : run(0, count);
  };
  struct ChunkSums {
    std::array<double, kSlackSums> sums{};
    bool any = false;  // with slack, or whose index is asked for
  };
  c10::SmallVector<ChunkSums, 4> found(static_cast<size_t>(chunks));
  for_range(chunks, 1, [&](int64_t from, int64_t until) {
    for (int64_t chunk = from; chunk < until; ++chunk) {
      const int64_t first = begin + chunk * kChunk;
      ChunkSums& of_chunk = found[static_cast<size_t>(chunk)];
      const auto extrema = extrema_of(statistics, first, std::min(first + kChunk, end), margin);
      of_chunk.any = sum(extrema, options.extrema_kind, of_chunk.sums.data());
    }
  });
  std::array<double, kSlackSums> total{};
  bool any = false;
  for (const ChunkSums& of_chunk : found) {
    any |= of_chunk.any;
    for (size_t i = 0; i < total.size(); ++i) total[i] += of_chunk.sums[i];
  }
  for (size_t i = 0; i < total.size(); ++i) to[i] = static_cast<stat_t>(total[i]);
  if (!any || known == KnownPlaces::elements) return;
  const auto extrema = extrema_of(statistics, begin, end, margin);
  for_range(extrema.count, kSearches, [&](int64_t from, int64_t until) {
    for (int64_t k = from; k < until; ++k) {
      int64_t &max_index = extrema.max_indices[k], &min_index = extrema.min_indices[k];
      if (max_index != -1) max_index = find(k, extrema.maxima[k], true, max_index);
      if (min_index != -1) min_index = find(k, extrema.minima[k], false, min_index);
    }
  });
}

template <typename scalar_t>
void forward_dense(const Forward& f, ActivationKind activation, const ForwardResult& result,
                   const Options& options) {
  using stat_t = stat_of<scalar_t>;
  const int64_t numel = f.layout.matrix_rows() * f.layout.matrix_columns();
  const int64_t threads = std::min<int64_t>(at::get_num_threads(), numel / kGrain);
  const Statistics<stat_t> statistics{
      f.layout.units, result.extrema.size(1), result.extrema.mutable_data_ptr<stat_t>(),
      result.indices.mutable_data_ptr<int64_t>(), result.slack_sums.mutable_data_ptr<stat_t>()};
  at::DataPtr memory;
  Tasks<stat_t> tasks(f.layout, f.position_points, threads, statistics, [&](size_t bytes) {
    memory = take_block(bytes);
    return memory.mutable_get();
  });
  auto& partials = tasks.partials();
  const size_t scalar = index_of(c10::CppTypeToScalarType<scalar_t>::value);
  const auto run = kernels().of[activation].forward[f.bias != nullptr][scalar];
  at::parallel_for(0, static_cast<int64_t>(partials.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) run(f, &partials[static_cast<size_t>(t)]);
  });
  merge(partials, f, statistics);
  const Finder<scalar_t, stat_t> finder(f, partials, kernels().search[scalar]);
  const bool parallel = threads > 1;
  finish_axis(
      0, statistics.units, parallel, options, KnownPlaces::none,
      [&](int64_t k, stat_t value, bool maximum, int64_t) { return finder.of_unit(k, value, maximum); },
      statistics, statistics.sums);
  const KnownPlaces known = known_places(f.layout, f.position_points);
  finish_axis(
      statistics.units, statistics.count, parallel, options, known,
      [&](int64_t k, stat_t value, bool maximum, int64_t from) {
        return finder.of_point(k, value, maximum, from);
      },
      statistics, statistics.sums + kSlackSums);
  if (known == KnownPlaces::elements && f.layout.channels_last) finder.to_logical(statistics);
}

// In the type of statistics, in which the kernels add it; undefined if there is none.
at::Tensor exact_bias(const PreparedForward& prepared) {
  if (!prepared.bias.defined()) return prepared.bias;
  return prepared.bias.to(prepared.result.extrema.scalar_type());
}

// `bias`: of prepared, in the type of statistics.
Forward forward_of(const PreparedForward& prepared, const at::Tensor& bias, const Options& options) {
  Forward f{};
  f.x = prepared.x.const_data_ptr();
  f.bias = bias.defined() ? bias.const_data_ptr() : nullptr;
  if (prepared.target.defined()) {
    f.output = prepared.target.mutable_data_ptr();
    f.mask = prepared.result.mask.mutable_data_ptr<uint8_t>();
  }
  f.layout = prepared.layout;
  f.position_points = options.position_points;
  f.parameter = options.parameter;
  f.limited = options.extrema_kind == kLimited;
  f.margin = options.margin;
  return f;
}

void run_forward(const Forward& f, ActivationKind activation, const PreparedForward& prepared,
                 const Options& options) {
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, prepared.x.scalar_type(), "jumpstart_activation",
                                  [&] { forward_dense<scalar_t>(f, activation, prepared.result, options); });
}

// Calls run(begin, end) on ranges of matrix rows, in parallel.
template <typename Run>
void for_rows(const Layout& layout, const Run& run) {
  const int64_t grain = std::max<int64_t>(1, kGrain / layout.matrix_columns());
  at::parallel_for(0, layout.matrix_rows(), grain, run);
}

// The backward with sums for the bias, [units]: first over chunks of rows, or planes, which depend on the
// shape alone and not on the threads, then over these in order.
template <typename stat_t, typename Run>
void sum_bias(Backward& b, const at::Tensor& sums, const Run& run) {
  constexpr int64_t kMostChunks = 64, kMostRows = 512, kColumns = 256;
  const Layout& layout = b.layout;
  const int64_t rows = layout.matrix_rows(), units = layout.units;
  const bool planes = layout.inner > 1;
  const int64_t wanted = std::clamp<int64_t>(rows * layout.matrix_columns() / kGrain, 1, kMostChunks);
  b.chunk_rows = planes ? units : std::min(kMostRows, (rows + wanted - 1) / wanted);
  const int64_t chunks = (rows + b.chunk_rows - 1) / b.chunk_rows;
  auto* to = sums.mutable_data_ptr<stat_t>();
  at::DataPtr memory;
  if (chunks > 1) memory = take_block(static_cast<size_t>(chunks * units) * sizeof(stat_t));
  auto* const partial = chunks > 1 ? static_cast<stat_t*>(memory.mutable_get()) : to;
  b.bias_sums = partial;
  if (planes) {
    for_rows(layout, run);
  } else {
    const int64_t grain = std::max<int64_t>(1, kGrain / (b.chunk_rows * units));
    at::parallel_for(0, chunks, grain, [&](int64_t begin, int64_t end) {
      run(begin * b.chunk_rows, std::min(end * b.chunk_rows, rows));
    });
  }
  if (chunks == 1) return;
  const int64_t blocks = (units + kColumns - 1) / kColumns;
  at::parallel_for(0, blocks, std::max<int64_t>(1, kGrain / (chunks * kColumns)),
                   [&](int64_t first, int64_t last) {
                     std::array<double, kColumns> total;
                     for (int64_t block = first; block < last; ++block) {
                       const int64_t column = block * kColumns, count = std::min(kColumns, units - column);
                       total.fill(0);
                       for (int64_t chunk = 0; chunk < chunks; ++chunk) {
                         const stat_t* of_chunk = partial + chunk * units + column;
                         for (int64_t c = 0; c < count; ++c) total[static_cast<size_t>(c)] += of_chunk[c];
                       }
                       for (int64_t c = 0; c < count; ++c)
                         to[column + c] = static_cast<stat_t>(total[static_cast<size_t>(c)]);
                     }
                   });
}

template <typename scalar_t>
void add_extrema(const PreparedBackward& b, const Saved& saved, const Options& options) {
  using stat_t = stat_of<scalar_t>;
  const Layout& layout = b.layout;
  const int64_t count = saved.extrema.size(1), plane = layout.rows * layout.units;
  const auto margin = static_cast<stat_t>(options.margin);
  const auto data = [](const at::Tensor& grad) {
    return grad.defined() ? grad.const_data_ptr<stat_t>() : nullptr;
  };
  const auto* values = saved.extrema.const_data_ptr<stat_t>();
  const auto* places = saved.indices.const_data_ptr<int64_t>();
  const auto *sums = data(b.gradients.slack_sums), *direct = data(b.gradients.extrema);
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

ForwardResult forward_cpu(const at::Tensor& x, const at::Tensor& bias, const Options& options) {
  PreparedForward prepared = prepare_forward(x, bias, options, /*overwrites_copy=*/false);
  if (prepared.is_done()) return prepared.finish();
  const at::Tensor added = exact_bias(prepared);
  Forward f = forward_of(prepared, added, options);
  f.stream = f.output && streams(f.output, f.layout, prepared.x.element_size());
  run_forward(f, options.activation, prepared, options);
  return prepared.finish();
}

ForwardResult forward_inplace_cpu(const at::Tensor& x, const at::Tensor& bias, const Options& options) {
  PreparedForward prepared = prepare_inplace(x, bias, options);
  if (prepared.is_done()) return prepared.finish();
  const at::Tensor added = exact_bias(prepared);
  const Forward f = forward_of(prepared, added, options);
  // Two passes, since the element of an extremum is found by its value, which must not be overwritten yet.
  run_forward(f, kStatisticsAlone, prepared, options);
  const auto run = kernels().of[options.activation].inplace[f.bias != nullptr][index_of(x.scalar_type())];
  for_rows(f.layout, [&](int64_t begin, int64_t end) { run(f, begin, end); });
  return prepared.finish();
}

InputGradients backward_cpu(const Gradients& gradients, const Saved& saved, const Options& options) {
  const PreparedBackward prepared = prepare_backward(gradients, saved, options);
  const at::Tensor& grad_x = prepared.grad_x;
  if (prepared.is_done()) return prepared.finish();
  const auto& [by_output, by_sums, by_extrema] = prepared.gradients;
  if (by_output.defined()) {
    const bool with_sums = prepared.bias_sums.defined();
    Backward b{by_output.const_data_ptr(),
               saved.mask.const_data_ptr<uint8_t>(),
               grad_x.mutable_data_ptr(),
               prepared.layout,
               streams(grad_x.const_data_ptr(), prepared.layout, grad_x.element_size()),
               options.parameter,
               nullptr,
               0};
    const auto run = kernels().of[options.activation].backward[with_sums][index_of(saved.dtype)];
    const auto run_rows = [&](int64_t begin, int64_t end) { run(b, begin, end); };
    if (!with_sums) {
      for_rows(b.layout, run_rows);
    } else if (saved.dtype == at::kDouble) {
      sum_bias<double>(b, prepared.bias_sums, run_rows);
    } else {
      sum_bias<float>(b, prepared.bias_sums, run_rows);
    }
  } else {
    grad_x.zero_();
    if (prepared.bias_sums.defined()) prepared.bias_sums.zero_();
  }
  if (by_sums.defined() || by_extrema.defined()) {
    AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, saved.dtype, "jumpstart_activation_backward",
                                    [&] { add_extrema<scalar_t>(prepared, saved, options); });
  }
  return prepared.finish();
}

}  // namespace jumpstart
