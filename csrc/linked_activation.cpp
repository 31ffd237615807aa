// The steps of the operator of linked activations that all devices share.

#include "linked_activation.h"

#include <string>

#include "slack.h"

namespace jumpstart {
namespace {

constexpr std::string_view kNoStatistics = "none";  // in place of a kind of extrema

LinkedKind linked_kind_of(std::string_view name) {
  std::string allowed;
  for (int kind = 0; kind < kLinkedActivations; ++kind) {
    if (kLinkedNames[kind] == name) return static_cast<LinkedKind>(kind);
    allowed.append(allowed.empty() ? "'" : ", '").append(kLinkedNames[kind]).append("'");
  }
  TORCH_CHECK_VALUE(false, "activation must be one of ", allowed, ", got '", name, "'");
}

// In the dtype of statistics; undefined if there are none.
at::Tensor slopes_of(const at::Tensor& weight, at::ScalarType dtype) {
  if (!weight.defined()) return weight;
  return weight.to(dtype).contiguous();
}

void check_weight(const at::Tensor& weight, const at::Tensor& x, const LinkedOptions& options) {
  const auto name = kLinkedNames[options.kind];
  const int64_t units = x.size(options.statistics.unit_dim);
  if (!has_weight(options.kind)) {
    TORCH_CHECK_VALUE(!weight.defined(), "weight must be None for '", name, "'");
    return;
  }
  TORCH_CHECK_VALUE(weight.defined(), "weight must be of shape [2, ", units, "] for '", name, "'");
  TORCH_CHECK_VALUE(weight.dim() == 2 && weight.size(0) == 2 && weight.size(1) == units &&
                        weight.scalar_type() == x.scalar_type() && weight.device() == x.device(),
                    "weight must have shape [2, ", units, "], and the dtype and device of x, ",
                    x.scalar_type(), " ", x.device(), ", got shape ", weight.sizes(), " ",
                    weight.scalar_type(), " ", weight.device());
}

}  // namespace

bool is_from_sign(LinkedKind kind) {
  bool from_sign = false;
  with_linked_activation(kind, [&](const auto& activation) { from_sign = activation.from_sign; });
  return from_sign;
}

bool has_weight(LinkedKind kind) {
  bool found = false;
  with_linked_activation(kind, [&](const auto& activation) { found = activation.has_weight; });
  return found;
}

LinkedOptions make_linked_options(std::string_view activation, int64_t unit_dim, bool position_points,
                                  double margin, std::string_view extrema_kind) {
  const bool with_statistics = extrema_kind != kNoStatistics;
  return {linked_kind_of(activation), with_statistics,
          make_options(StatisticsAlone::name, 0, unit_dim, position_points, margin,
                       with_statistics ? extrema_kind : kExtremaNames[kLimited])};
}

PreparedLinkedForward prepare_linked_forward(const at::Tensor& x, const at::Tensor& weight,
                                             const LinkedOptions& options) {
  const int64_t unit_dim = options.statistics.unit_dim;
  const auto stat = x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  scalar_of(x.scalar_type());  // throws for others
  check_weight(weight, x, options);
  const bool channels_last = runs_channels_last(x, unit_dim);
  const auto format = memory_format(static_cast<size_t>(x.dim()), channels_last);
  PreparedLinkedForward f{
      make_layout(x.sizes(), unit_dim, channels_last), x.contiguous(format), slopes_of(weight, stat), {}};
  if (options.with_statistics) {
    f.result = allocate_result(x, f.layout, options.statistics.position_points, /*with_mask=*/false);
  } else {
    f.result.slack_sums = at::empty({0}, x.options().dtype(stat));
    f.result.extrema = at::empty({2, 0}, x.options().dtype(stat));
    f.result.indices = at::empty({2, 0}, x.options().dtype(at::kLong));
  }
  const bool from_sign = is_from_sign(options.kind);
  f.result.mask =
      at::empty({from_sign ? f.layout.matrix_rows() : 0, from_sign ? 2 * f.layout.mask_columns() : 0},
                x.options().dtype(at::kByte));
  c10::DimVector size(x.sizes());
  size[static_cast<size_t>(unit_dim)] *= 2;
  f.result.output = at::empty(size, x.options().memory_format(format));
  return f;
}

PreparedLinkedBackward prepare_linked_backward(const Gradients& gradients, const LinkedSaved& saved,
                                               const LinkedOptions& options) {
  check_devices(gradients, saved.extrema);
  const int64_t unit_dim = options.statistics.unit_dim;
  const auto size = C10_AS_INTARRAYREF_SLOW(saved.size);
  const auto format = memory_format(size.size(), saved.channels_last);
  const auto like = saved.extrema.options();
  PreparedLinkedBackward b{{make_layout(size, unit_dim, saved.channels_last), {}, {}, {}}, {}, {}};
  b.common.grad_x = at::empty(size, like.dtype(saved.dtype).memory_format(format));
  if (saved.with_grad_weight) b.common.bias_sums = at::empty({2, b.common.layout.units}, like);
  if (b.common.is_done()) {
    if (saved.with_grad_weight) b.common.bias_sums.zero_();
    return b;
  }
  if (gradients.output.defined()) {
    c10::DimVector wanted(size);
    wanted[static_cast<size_t>(unit_dim)] *= 2;
    TORCH_CHECK_VALUE(gradients.output.sizes() == wanted && gradients.output.scalar_type() == saved.dtype,
                      "grad_output must have the shape and dtype of the output, ", at::IntArrayRef(wanted),
                      " ", saved.dtype, ", got ", gradients.output.sizes(), " ",
                      gradients.output.scalar_type());
    b.common.gradients.output = gradients.output.contiguous(format);
  }
  if (gradients.slack_sums.defined()) b.common.gradients.slack_sums = gradients.slack_sums.contiguous();
  if (gradients.extrema.defined()) b.common.gradients.extrema = gradients.extrema.contiguous();
  if (saved.x.defined()) b.x = saved.x.contiguous(format);
  b.slopes = slopes_of(saved.weight, like.dtype().toScalarType());
  return b;
}

LinkedInputGradients PreparedLinkedBackward::finish() const {
  auto [grad_x, grad_weight] = common.finish();
  return {std::move(grad_x), std::move(grad_weight)};
}

}  // namespace jumpstart
