// The steps of the operator that all devices share.

#include "jumpstart_activation.h"

#include <limits>
#include <string>

#include "blocks.h"
#include "slack.h"
#include "together.h"

namespace jumpstart {
namespace {

ActivationKind activation_of(std::string_view name) {
  std::string allowed;
  for (int kind = 0; kind <= kActivations; ++kind) {
    if (kActivationNames[kind] == name) return static_cast<ActivationKind>(kind);
  }
  for (const std::string_view one : kActivationNames) {
    allowed.append(allowed.empty() ? "'" : ", '").append(one).append("'");
  }
  TORCH_CHECK_VALUE(false, "activation must be one of ", allowed, ", got '", name, "'");
}

ExtremaKind extrema_kind_of(std::string_view name) {
  for (int kind = 0; kind < kExtremaKinds; ++kind) {
    if (kExtremaNames[kind] == name) return static_cast<ExtremaKind>(kind);
  }
  TORCH_CHECK_VALUE(false, "extrema_kind must be one of 'limited', 'exact', 'indexed', got '", name, "'");
}

// For the kernels; undefined if there is none.
at::Tensor dense_bias(const at::Tensor& bias, const at::Tensor& x, int64_t unit_dim) {
  if (!bias.defined()) return bias;
  TORCH_CHECK_VALUE(goes_with(bias, x, unit_dim), "bias must have one value for each of the ",
                    x.size(unit_dim), " units of x, and its dtype and device, ", x.scalar_type(), " ",
                    x.device(), ", got shape ", bias.sizes(), " ", bias.scalar_type(), " ", bias.device());
  return bias.contiguous();
}

}  // namespace

void check_devices(const Gradients& gradients, const at::Tensor& saved) {
  const at::Tensor none;
  const at::Tensor& of_penalty = gradients.penalty ? gradients.penalty->grad : none;
  for (const at::Tensor* gradient :
       {&gradients.output, &gradients.slack_sums, &gradients.extrema, &of_penalty}) {
    TORCH_CHECK_VALUE(!gradient->defined() || gradient->device() == saved.device(),
                      "gradients must be on the device of the forward, ", saved.device(), ", got one on ",
                      gradient->device());
  }
}

ForwardResult allocate_result(const at::Tensor& x, const Layout& layout, bool position_points, bool with_mask,
                              Memory memory) {
  const int64_t points = layout.samples * (position_points ? layout.rows * layout.inner : 1);
  const int64_t count = layout.units + points;
  const auto stat = x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  ForwardResult result;
  const auto parts = {Part{result.mask,
                           at::kByte,
                           {with_mask ? layout.matrix_rows() : 0, with_mask ? layout.mask_columns() : 0}},
                      Part{result.slack_sums, stat, {2, kSlackSums}}, Part{result.extrema, stat, {2, count}},
                      Part{result.indices, at::kLong, {2, count}}};
  if (memory == Memory::separate || !allocate_together(x, parts)) {
    for (const Part& part : parts) {
      part.tensor = x.is_cpu() ? empty_block(part.size, part.dtype) : empty_beside(x, part.size, part.dtype);
    }
  }
  if (x.numel() == 0) {
    result.slack_sums.zero_();
    result.extrema.select(0, 0).fill_(-std::numeric_limits<double>::infinity());
    result.extrema.select(0, 1).fill_(std::numeric_limits<double>::infinity());
    result.indices.fill_(-1);
  }
  return result;
}

Options make_options(std::string_view activation, double parameter, int64_t unit_dim, bool position_points,
                     double margin, std::string_view extrema_kind) {
  return {activation_of(activation), parameter, unit_dim,
          position_points,           margin,    extrema_kind_of(extrema_kind)};
}

Scalar scalar_of(at::ScalarType dtype) {
  switch (dtype) {
    case at::kFloat: return Scalar::float32;
    case at::kDouble: return Scalar::float64;
    case at::kHalf: return Scalar::float16;
    case at::kBFloat16: return Scalar::bfloat16;
    default: TORCH_CHECK_TYPE(false, "x must be float32, float64, float16 or bfloat16, got ", dtype);
  }
}

bool goes_with(const at::Tensor& bias, const at::Tensor& x, int64_t unit_dim) {
  return bias.layout() == at::kStrided && bias.dim() == 1 && bias.size(0) == x.size(unit_dim) &&
         bias.scalar_type() == x.scalar_type() && bias.device() == x.device();
}

PreparedForward prepare_forward(const at::Tensor& x, const at::Tensor& bias, const Options& options,
                                bool overwrites_copy, Memory memory) {
  const bool channels_last = runs_channels_last(x, options.unit_dim);
  const bool with_output = options.activation != kStatisticsAlone;
  const auto format = memory_format(static_cast<size_t>(x.dim()), channels_last);
  PreparedForward f{make_layout(x.sizes(), options.unit_dim, channels_last),
                    x.contiguous(format),
                    dense_bias(bias, x, options.unit_dim),
                    {},
                    {}};
  f.result = allocate_result(x, f.layout, options.position_points, with_output, memory);
  f.result.output = with_output ? empty_output(x) : at::empty({0}, x.options());
  if (!with_output) return f;
  if (f.result.output.is_contiguous(format)) {
    f.target = f.result.output;
  } else {
    f.target = overwrites_copy ? f.x : at::empty_like(f.x);
  }
  return f;
}

PreparedForward prepare_inplace(const at::Tensor& x, const at::Tensor& bias, const Options& options,
                                Memory memory) {
  TORCH_CHECK_VALUE(options.activation != kStatisticsAlone, "activation must not be '", StatisticsAlone::name,
                    "' in place: it has no output");
  const Layout layout = make_layout(x.sizes(), options.unit_dim, runs_channels_last(x, options.unit_dim));
  PreparedForward f{layout, x, dense_bias(bias, x, options.unit_dim), x,
                    allocate_result(x, layout, options.position_points, true, memory)};
  f.result.output = x;
  return f;
}

ForwardResult PreparedForward::finish() {
  if (target.defined() && !target.is_same(result.output)) result.output.copy_(target);
  return std::move(result);
}

PreparedBackward prepare_backward(const Gradients& gradients, const Saved& saved, const Options& options) {
  check_devices(gradients, saved.extrema);
  const auto size = C10_AS_INTARRAYREF_SLOW(saved.size);
  const auto format = memory_format(size.size(), saved.channels_last);
  PreparedBackward b{make_layout(size, options.unit_dim, saved.channels_last), {}, {}, {}};
  b.grad_x = empty_beside(saved.extrema, size, saved.dtype, format);
  if (saved.with_grad_bias)
    b.bias_sums = empty_beside(saved.extrema, {b.layout.units}, saved.extrema.scalar_type());
  if (b.is_done()) {
    if (saved.with_grad_bias) b.bias_sums.zero_();
    return b;
  }
  if (gradients.output.defined()) {
    TORCH_CHECK_VALUE(options.activation != kStatisticsAlone, "grad_output must be None for activation '",
                      StatisticsAlone::name, "', which has no output");
    TORCH_CHECK_VALUE(gradients.output.sizes() == size && gradients.output.scalar_type() == saved.dtype,
                      "grad_output must have the shape and dtype of the output, ", size, " ", saved.dtype,
                      ", got ", gradients.output.sizes(), " ", gradients.output.scalar_type());
    b.gradients.output = gradients.output.contiguous(format);
  }
  if (gradients.slack_sums.defined()) b.gradients.slack_sums = gradients.slack_sums.contiguous();
  if (gradients.extrema.defined()) b.gradients.extrema = gradients.extrema.contiguous();
  b.gradients.penalty = gradients.penalty;
  return b;
}

InputGradients PreparedBackward::finish() const {
  const bool as_it_is = !bias_sums.defined() || bias_sums.scalar_type() == grad_x.scalar_type();
  return {grad_x, as_it_is ? bias_sums : bias_sums.to(grad_x.scalar_type())};
}

}  // namespace jumpstart
