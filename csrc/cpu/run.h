// How the operators' kernels are run on the CPU: threads, statistics, sums over units, extrema's gradients.

#pragma once

#include <ATen/Parallel.h>

#include <algorithm>
#include <array>
#include <type_traits>

#include "blocks.h"
#include "cpu/kernels.h"
#include "jumpstart_activation.h"

namespace jumpstart {

constexpr int64_t kGrain = 32768;  // elements per thread, at least

// Whether a tensor is too large for the caches and aligned for stores that bypass them, which saves reading
// the memory that is overwritten. That pays even if it is read next, once a thread's part exceeds its cache.
bool streams(const void* output, const Layout& layout, size_t element_size);

inline size_t index_of(at::ScalarType dtype) { return static_cast<size_t>(scalar_of(dtype)); }

template <typename scalar_t>
using stat_of = std::conditional_t<std::is_same<scalar_t, double>::value, double, float>;

// Runs a forward's kernels, and fills in the statistics of its result.
void run_forward(const Forward& f, ActivationKind activation, at::ScalarType dtype,
                 const ForwardResult& result, const Options& options);

// Adds the gradients of extrema to that of x, and to the sums of each unit if they are defined.
void add_extrema(const PreparedBackward& b, const SavedExtrema& saved, const Options& options);

// Calls run(begin, end) on ranges of matrix rows, in parallel.
template <typename Run>
void for_rows(const Layout& layout, const Run& run) {
  const int64_t grain = std::max<int64_t>(1, kGrain / layout.matrix_columns());
  at::parallel_for(0, layout.matrix_rows(), grain, run);
}

// A backward with sums over each unit, such as the gradient of a bias, [units] or [some, units]: first over
// chunks of rows, or planes, which depend on the shape alone and not on the threads, then over these in
// order. Calls run(partial sums [chunks, some, units], rows of a chunk, begin, end) on ranges of whole
// chunks.
template <typename stat_t, typename Run>
void sum_units(const Layout& layout, const at::Tensor& sums, const Run& run) {
  constexpr int64_t kMostChunks = 64, kMostRows = 512, kColumns = 256;
  const int64_t rows = layout.matrix_rows(), units = sums.numel();
  const bool planes = layout.inner > 1;
  const int64_t wanted = std::clamp<int64_t>(rows * layout.matrix_columns() / kGrain, 1, kMostChunks);
  const int64_t chunk_rows = planes ? layout.units : std::min(kMostRows, (rows + wanted - 1) / wanted);
  const int64_t chunks = (rows + chunk_rows - 1) / chunk_rows;
  auto* to = sums.mutable_data_ptr<stat_t>();
  at::DataPtr memory;
  if (chunks > 1) memory = take_block(static_cast<size_t>(chunks * units) * sizeof(stat_t));
  auto* const partial = chunks > 1 ? static_cast<stat_t*>(memory.mutable_get()) : to;
  if (planes) {
    for_rows(layout, [&](int64_t begin, int64_t end) { run(partial, chunk_rows, begin, end); });
  } else {
    const int64_t grain = std::max<int64_t>(1, kGrain / (chunk_rows * layout.units));
    at::parallel_for(0, chunks, grain, [&](int64_t begin, int64_t end) {
      run(partial, chunk_rows, begin * chunk_rows, std::min(end * chunk_rows, rows));
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

}  // namespace jumpstart
