// Forward and backward of the linked activations on the CPU.

#include "linked_activation.h"

#include "cpu/instruction_sets.h"
#include "cpu/run.h"

namespace jumpstart {

ForwardResult linked_forward_cpu(const at::Tensor& x, const at::Tensor& weight,
                                 const LinkedOptions& options) {
  PreparedLinkedForward prepared = prepare_linked_forward(x, weight, options);
  if (prepared.is_done()) return std::move(prepared.result);
  const ForwardResult& result = prepared.result;
  LinkedForward linked{prepared.x.const_data_ptr(),
                       prepared.slopes.defined() ? prepared.slopes.const_data_ptr() : nullptr,
                       result.output.mutable_data_ptr(),
                       result.mask.numel() ? result.mask.mutable_data_ptr<uint8_t>() : nullptr,
                       prepared.layout,
                       streams(result.output.const_data_ptr(), prepared.layout, x.element_size()),
                       kernels().linked[options.kind].forward[index_of(x.scalar_type())]};
  if (!options.with_statistics) {
    for_rows(linked.layout, [&](int64_t begin, int64_t end) { linked.run(linked, begin, end); });
    return std::move(prepared.result);
  }
  Forward f{};
  f.x = linked.x;
  f.layout = linked.layout;
  f.position_points = options.statistics.position_points;
  f.limited = options.statistics.extrema_kind == kLimited;
  f.margin = options.statistics.margin;
  f.linked = &linked;
  run_forward(f, kStatisticsAlone, x.scalar_type(), result, options.statistics);
  return std::move(prepared.result);
}

LinkedInputGradients linked_backward_cpu(const Gradients& gradients, const LinkedSaved& saved,
                                         const LinkedOptions& options) {
  const PreparedLinkedBackward prepared = prepare_linked_backward(gradients, saved, options);
  const auto& [layout, dense, grad_x, slope_sums] = prepared.common;
  if (prepared.common.is_done()) return prepared.finish();
  if (dense.output.defined()) {
    const LinkedBackward b{dense.output.const_data_ptr(),
                           prepared.x.defined() ? prepared.x.const_data_ptr() : nullptr,
                           saved.mask.numel() ? saved.mask.const_data_ptr<uint8_t>() : nullptr,
                           prepared.slopes.defined() ? prepared.slopes.const_data_ptr() : nullptr,
                           grad_x.mutable_data_ptr(),
                           layout,
                           streams(grad_x.const_data_ptr(), layout, grad_x.element_size()),
                           nullptr,
                           0};
    const auto run = kernels().linked[options.kind].backward[index_of(saved.dtype)];
    const auto run_sums = [&](auto* sums, int64_t chunk_rows, int64_t begin, int64_t end) {
      LinkedBackward of_chunks = b;
      of_chunks.slope_sums = sums;
      of_chunks.chunk_rows = chunk_rows;
      run(of_chunks, begin, end);
    };
    if (!slope_sums.defined()) {
      for_rows(layout, [&](int64_t begin, int64_t end) { run(b, begin, end); });
    } else if (saved.dtype == at::kDouble) {
      sum_units<double>(layout, slope_sums, run_sums);
    } else {
      sum_units<float>(layout, slope_sums, run_sums);
    }
  } else {
    grad_x.zero_();
    if (slope_sums.defined()) slope_sums.zero_();
  }
  if (dense.slack_sums.defined() || dense.extrema.defined()) {
    PreparedBackward of_extrema = prepared.common;
    of_extrema.bias_sums = at::Tensor();  // no gradient of x itself counts for slopes
    add_extrema(of_extrema, {saved.extrema, saved.indices}, options.statistics);
  }
  return prepared.finish();
}

}  // namespace jumpstart
