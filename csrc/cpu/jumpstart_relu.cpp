// Forward and backward on the CPU: memory, threads, and the kernels of the processor at hand.

#include "jumpstart_relu.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "cpu/instruction_sets.h"
#include "cpu/kernels.h"
#include "cpu/statistics.h"

namespace jumpstart {
namespace {

constexpr int64_t kGrain = 32768;  // elements that are worth a thread

// Whether a tensor is too large for the caches to keep, and every vector of it lies where it can be stored
// past them: that saves reading what is overwritten.
bool streams(const void* output, const Layout& layout, size_t element_size) {
  constexpr int64_t kBytes = int64_t{32} << 20, kAlignment = 64;
  const int64_t row = layout.matrix_columns() * static_cast<int64_t>(element_size);
  return layout.matrix_rows() * row >= kBytes && row % kAlignment == 0 &&
         reinterpret_cast<uintptr_t>(output) % kAlignment == 0;
}

size_t index_of(at::ScalarType dtype) { return static_cast<size_t>(scalar_of(dtype)); }

template <typename scalar_t>
using stat_of = std::conditional_t<std::is_same<scalar_t, double>::value, double, float>;

// The slack of an axis, units or points: in chunks whose sums are added in order, whoever did them.
template <typename stat_t, typename Find>
void finish_axis(int64_t begin, int64_t end, bool parallel, stat_t margin, bool all_indices, const Find& find,
                 const Statistics<stat_t>& statistics, stat_t* to) {
  constexpr int64_t kChunk = 4096;
  Sums total{};
  const auto run = [&](int64_t chunk) {
    const int64_t first = begin + chunk * kChunk;
    return finish(first, std::min(first + kChunk, end), margin, all_indices, find, statistics);
  };
  const auto add = [&](const Sums& sums) {
    for (size_t i = 0; i < sums.size(); ++i) total[i] += sums[i];
  };
  const int64_t chunks = (end - begin + kChunk - 1) / kChunk;
  if (parallel && chunks > 1) {
    std::vector<Sums> sums(static_cast<size_t>(chunks));
    at::parallel_for(0, chunks, 1, [&](int64_t from, int64_t until) {
      for (int64_t chunk = from; chunk < until; ++chunk) sums[static_cast<size_t>(chunk)] = run(chunk);
    });
    for (const Sums& some : sums) add(some);
  } else {
    for (int64_t chunk = 0; chunk < chunks; ++chunk) add(run(chunk));
  }
  for (size_t i = 0; i < total.size(); ++i) to[i] = static_cast<stat_t>(total[i]);
}

template <typename scalar_t>
void forward_dense(const Forward& f, double margin_, bool all_indices, const at::Tensor& slack_sums,
                   const at::Tensor& extrema, const at::Tensor& indices) {
  using stat_t = stat_of<scalar_t>;
  const int64_t numel = f.layout.matrix_rows() * f.layout.matrix_columns();
  const int64_t threads = std::min<int64_t>(at::get_num_threads(), numel / kGrain);
  const Statistics<stat_t> statistics{f.layout.units, extrema.size(1), extrema.mutable_data_ptr<stat_t>(),
                                      indices.mutable_data_ptr<int64_t>(),
                                      slack_sums.mutable_data_ptr<stat_t>()};
  Tasks<stat_t> tasks(f.layout, f.position_points, threads, statistics);
  auto& partials = tasks.partials();
  const auto run = kernels().forward[index_of(c10::CppTypeToScalarType<scalar_t>::value)];
  at::parallel_for(0, static_cast<int64_t>(partials.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) run(f, &partials[static_cast<size_t>(t)]);
  });
  merge(partials, f, statistics);
  const Finder<scalar_t, stat_t> finder(f, partials);
  const auto margin = static_cast<stat_t>(margin_);
  const int64_t units = statistics.units;
  const bool parallel = threads > 1;
  finish_axis(
      0, units, parallel, margin, all_indices,
      [&](int64_t k, stat_t value, bool maximum) { return finder.of_unit(k, value, maximum); }, statistics,
      statistics.sums);
  finish_axis(
      units, statistics.count, parallel, margin, all_indices,
      [&](int64_t k, stat_t value, bool) { return finder.of_point(k - units, value); }, statistics,
      statistics.sums + 5);
}

// Gradient of one extremum from that of its slack sums; 0 · ∞ is 0, for a sum that is not in the loss.
template <typename stat_t>
stat_t slack_gradient(const stat_t* grad, stat_t own, stat_t other, int side) {
  const auto times = [](stat_t g, stat_t s) { return g == 0 && std::isinf(s) ? stat_t{0} : g * s; };
  if (own == 0) return 0;
  const stat_t sum = grad[side] + 2 * times(grad[2 + side], own) + times(grad[4], other);
  return side == 0 ? -sum : sum;
}

template <typename scalar_t>
void add_extrema(const Layout& layout, double margin_, const at::Tensor& grad_slack_sums,
                 const at::Tensor& grad_extrema, const at::Tensor& extrema, const at::Tensor& indices,
                 const at::Tensor& grad_x) {
  using stat_t = stat_of<scalar_t>;
  const int64_t count = extrema.size(1), plane = layout.rows * layout.units;
  const auto margin = static_cast<stat_t>(margin_);
  const auto* values = extrema.const_data_ptr<stat_t>();
  const auto* places = indices.const_data_ptr<int64_t>();
  const auto* sums = grad_slack_sums.defined() ? grad_slack_sums.const_data_ptr<stat_t>() : nullptr;
  const auto* direct = grad_extrema.defined() ? grad_extrema.const_data_ptr<stat_t>() : nullptr;
  auto* grad = grad_x.mutable_data_ptr<scalar_t>();
  const auto slack = [](stat_t s) { return s > 0 || s != s ? s : stat_t{0}; };
  std::vector<std::pair<int64_t, stat_t>> late;  // for 16-bit gradients, which are rounded once
  const auto add_side = [&](int64_t begin, int64_t end, int side) {
    const auto* axis = sums ? sums + (begin == 0 ? 0 : 5) : nullptr;
    for (int64_t k = begin; k < end; ++k) {
      int64_t place = places[side * count + k];
      if (place < 0) continue;
      stat_t g = direct ? direct[side * count + k] : stat_t{0};
      if (axis) {
        const stat_t positive = slack(margin - values[k]), negative = slack(margin + values[count + k]);
        g += slack_gradient(axis, side ? negative : positive, side ? positive : negative, side);
      }
      if (layout.channels_last) {
        const int64_t sample = place / plane, unit = place % plane / layout.rows;
        place = (sample * layout.rows + place % layout.rows) * layout.units + unit;
      }
      if (sizeof(scalar_t) == 2) {
        late.emplace_back(place, g);
      } else {
        grad[place] += g;
      }
    }
  };
  for (int side = 0; side < 2; ++side) add_side(0, layout.units, side);
  for (int side = 0; side < 2; ++side) add_side(layout.units, count, side);
  std::stable_sort(late.begin(), late.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  for (size_t i = 0; i < late.size();) {
    const int64_t place = late[i].first;
    stat_t sum = grad[place];
    for (; i < late.size() && late[i].first == place; ++i) sum += late[i].second;
    grad[place] = static_cast<scalar_t>(sum);
  }
}

}  // namespace

Outputs forward_cpu(const at::Tensor& x, int64_t unit_dim, bool position_points, double margin,
                    bool apply_relu, bool all_indices) {
  const bool channels_last = runs_channels_last(x, unit_dim);
  const Layout layout = make_layout(x.sizes(), unit_dim, channels_last);
  // Where the kernels do not know the order of F.relu's strides, they run a contiguous copy.
  at::Tensor output = apply_relu ? empty_output(x) : at::empty({0}, x.options());
  const auto format = memory_format(static_cast<size_t>(x.dim()), channels_last);
  const at::Tensor dense = x.contiguous(format);
  const bool direct = apply_relu && output.is_contiguous(format);
  const at::Tensor target = apply_relu && !direct ? at::empty_like(dense) : output;
  at::Tensor mask, slack_sums, extrema, indices;
  std::tie(mask, slack_sums, extrema, indices) = allocate_outputs(x, layout, position_points, apply_relu);
  if (x.numel() == 0) return {output, mask, slack_sums, extrema, indices};
  Forward f{dense.const_data_ptr(),
            apply_relu ? target.mutable_data_ptr() : nullptr,
            apply_relu ? mask.mutable_data_ptr<uint8_t>() : nullptr,
            layout,
            position_points,
            false};
  f.stream = apply_relu && streams(f.output, layout, target.element_size());
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "jumpstart_relu", [&] {
    forward_dense<scalar_t>(f, margin, all_indices, slack_sums, extrema, indices);
  });
  if (apply_relu && !direct) output.copy_(target);
  return {output, mask, slack_sums, extrema, indices};
}

InplaceOutputs forward_inplace_cpu(at::Tensor x, int64_t unit_dim, bool position_points, double margin) {
  // Twice over x, since what holds an extremum is found by its value, which must still be there.
  auto [none, no_mask, slack_sums, extrema, indices] =
      forward_cpu(x, unit_dim, position_points, margin, /*apply_relu=*/false, /*all_indices=*/false);
  const Layout layout = make_layout(x.sizes(), unit_dim, runs_channels_last(x, unit_dim));
  const at::Tensor mask = allocate_mask(x, layout);
  if (x.numel() > 0) {
    const Forward f{x.const_data_ptr(),
                    x.mutable_data_ptr(),
                    mask.mutable_data_ptr<uint8_t>(),
                    layout,
                    position_points,
                    false};
    const auto run = kernels().relu[index_of(x.scalar_type())];
    const int64_t grain = std::max<int64_t>(1, kGrain / layout.matrix_columns());
    at::parallel_for(0, layout.matrix_rows(), grain, [&](int64_t begin, int64_t end) { run(f, begin, end); });
  }
  return {mask, slack_sums, extrema, indices};
}

at::Tensor backward_cpu(const std::optional<at::Tensor>& grad_output,
                        const std::optional<at::Tensor>& grad_slack_sums,
                        const std::optional<at::Tensor>& grad_extrema, const at::Tensor& mask,
                        const at::Tensor& extrema, const at::Tensor& indices, at::IntArrayRef size,
                        bool channels_last, at::ScalarType dtype, int64_t unit_dim, double margin) {
  const auto format = memory_format(size.size(), channels_last);
  const Layout layout = make_layout(size, unit_dim, channels_last);
  at::Tensor grad_x = at::empty(size, extrema.options().dtype(dtype).memory_format(format));
  if (grad_x.numel() == 0) return grad_x;
  if (grad_output.has_value()) {
    TORCH_CHECK_VALUE(grad_output->sizes() == size && grad_output->scalar_type() == dtype,
                      "grad_output must have the shape and dtype of the output, ", size, " ", dtype, ", got ",
                      grad_output->sizes(), " ", grad_output->scalar_type());
    const at::Tensor grad = grad_output->contiguous(format);
    const Backward b{grad.const_data_ptr(), mask.const_data_ptr<uint8_t>(), grad_x.mutable_data_ptr(), layout,
                     streams(grad_x.const_data_ptr(), layout, grad_x.element_size())};
    const auto run = kernels().backward[index_of(dtype)];
    const int64_t grain = std::max<int64_t>(1, kGrain / layout.matrix_columns());
    at::parallel_for(0, layout.matrix_rows(), grain, [&](int64_t begin, int64_t end) { run(b, begin, end); });
  } else {
    grad_x.zero_();
  }
  if (grad_slack_sums.has_value() || grad_extrema.has_value()) {
    const auto dense = [](const std::optional<at::Tensor>& grad) {
      return grad.has_value() ? grad->expect_contiguous() : c10::MaybeOwned<at::Tensor>::owned(at::Tensor());
    };
    const auto sums = dense(grad_slack_sums), values = dense(grad_extrema);
    AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, dtype, "jumpstart_relu_backward", [&] {
      add_extrema<scalar_t>(layout, margin, *sums, *values, extrema, indices, grad_x);
    });
  }
  return grad_x;
}

}  // namespace jumpstart
