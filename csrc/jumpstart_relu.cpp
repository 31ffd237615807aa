// What the operator's forward does alike on every device.

#include "jumpstart_relu.h"

#include <limits>
#include <utility>

namespace jumpstart {

Scalar scalar_of(at::ScalarType dtype) {
  switch (dtype) {
    case at::kFloat: return Scalar::float32;
    case at::kDouble: return Scalar::float64;
    case at::kHalf: return Scalar::float16;
    case at::kBFloat16: return Scalar::bfloat16;
    default: TORCH_CHECK_TYPE(false, "x must be float32, float64, float16 or bfloat16, got ", dtype);
  }
}

at::Tensor allocate_mask(const at::Tensor& x, const Layout& layout) {
  return at::empty({layout.matrix_rows(), layout.mask_columns()}, x.options().dtype(at::kByte));
}

InplaceOutputs allocate_outputs(const at::Tensor& x, const Layout& layout, bool position_points,
                                bool with_mask) {
  at::Tensor mask = with_mask ? allocate_mask(x, layout) : at::empty({0, 0}, x.options().dtype(at::kByte));
  const auto stat = x.options().dtype(x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat);
  const int64_t points = layout.samples * (position_points ? layout.rows * layout.inner : 1);
  const int64_t count = layout.units + points;
  at::Tensor slack_sums = at::empty({2, 5}, stat), extrema = at::empty({2, count}, stat);
  at::Tensor indices = at::empty({2, count}, x.options().dtype(at::kLong));
  if (x.numel() == 0) {
    slack_sums.zero_();
    extrema.select(0, 0).fill_(-std::numeric_limits<double>::infinity());
    extrema.select(0, 1).fill_(std::numeric_limits<double>::infinity());
    indices.fill_(-1);
  }
  return {std::move(mask), std::move(slack_sums), std::move(extrema), std::move(indices)};
}

}  // namespace jumpstart
