// Forward and backward on the CPU: threads, and the kernels of the instruction set in use.

#include "jumpstart_activation.h"

#include "cpu/instruction_sets.h"
#include "cpu/run.h"

namespace jumpstart {
namespace {

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

}  // namespace

ForwardResult forward_cpu(const at::Tensor& x, const at::Tensor& bias, const Options& options) {
  PreparedForward prepared = prepare_forward(x, bias, options, /*overwrites_copy=*/false);
  if (prepared.is_done()) return prepared.finish();
  const at::Tensor added = exact_bias(prepared);
  Forward f = forward_of(prepared, added, options);
  f.stream = f.output && streams(f.output, f.layout, prepared.x.element_size());
  run_forward(f, options.activation, x.scalar_type(), prepared.result, options);
  return prepared.finish();
}

ForwardResult forward_inplace_cpu(const at::Tensor& x, const at::Tensor& bias, const Options& options) {
  PreparedForward prepared = prepare_inplace(x, bias, options);
  if (prepared.is_done()) return prepared.finish();
  const at::Tensor added = exact_bias(prepared);
  const Forward f = forward_of(prepared, added, options);
  // Two passes, since the element of an extremum is found by its value, which must not be overwritten yet.
  run_forward(f, kStatisticsAlone, x.scalar_type(), prepared.result, options);
  const auto run = kernels().of[options.activation].inplace[f.bias != nullptr][index_of(x.scalar_type())];
  for_rows(f.layout, [&](int64_t begin, int64_t end) { run(f, begin, end); });
  return prepared.finish();
}

InputGradients backward_cpu(const Gradients& gradients, const Saved& saved, const Options& options) {
  const PreparedBackward prepared = prepare_backward(gradients, saved, options);
  const at::Tensor& grad_x = prepared.grad_x;
  if (prepared.is_done()) return prepared.finish();
  const at::Tensor& by_output = prepared.gradients.output;
  if (by_output.defined()) {
    const bool with_sums = prepared.bias_sums.defined();
    const Backward b{by_output.const_data_ptr(),
                     saved.mask.const_data_ptr<uint8_t>(),
                     grad_x.mutable_data_ptr(),
                     prepared.layout,
                     streams(grad_x.const_data_ptr(), prepared.layout, grad_x.element_size()),
                     options.parameter,
                     nullptr,
                     0};
    const auto run = kernels().of[options.activation].backward[with_sums][index_of(saved.dtype)];
    const auto run_sums = [&](auto* sums, int64_t chunk_rows, int64_t begin, int64_t end) {
      Backward of_chunks = b;
      of_chunks.bias_sums = sums;
      of_chunks.chunk_rows = chunk_rows;
      run(of_chunks, begin, end);
    };
    if (!with_sums) {
      for_rows(b.layout, [&](int64_t begin, int64_t end) { run(b, begin, end); });
    } else if (saved.dtype == at::kDouble) {
      sum_units<double>(b.layout, prepared.bias_sums, run_sums);
    } else {
      sum_units<float>(b.layout, prepared.bias_sums, run_sums);
    }
  } else {
    grad_x.zero_();
    if (prepared.bias_sums.defined()) prepared.bias_sums.zero_();
  }
  if (prepared.gradients.any_of_sums() || prepared.gradients.extrema.defined()) {
    add_extrema(prepared, {saved.extrema, saved.indices}, options);
  }
  return prepared.finish();
}

}  // namespace jumpstart
