// Runs a forward: its tasks, the merge of what they found, and the places of extrema.

#include <ATen/Dispatch.h>
#include <c10/util/SmallVector.h>

#include <array>
#include <utility>
#include <vector>

#include "cpu/instruction_sets.h"
#include "cpu/run.h"
#include "cpu/statistics.h"
#include "slack.h"

namespace jumpstart {
namespace {

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

}  // namespace

bool streams(const void* output, const Layout& layout, size_t element_size) {
  constexpr int64_t kBytesPerThread = int64_t{4} << 20, kMostBytes = int64_t{32} << 20, kAlignment = 64;
  const int64_t bytes = std::min(kMostBytes, at::get_num_threads() * kBytesPerThread);
  const int64_t row = layout.matrix_columns() * static_cast<int64_t>(element_size);
  return layout.matrix_rows() * row >= bytes && row % kAlignment == 0 &&
         reinterpret_cast<uintptr_t>(output) % kAlignment == 0;
}

void run_forward(const Forward& f, ActivationKind activation, at::ScalarType dtype,
                 const ForwardResult& result, const Options& options) {
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, dtype, "jumpstart_activation",
                                  [&] { forward_dense<scalar_t>(f, activation, result, options); });
}

}  // namespace jumpstart
