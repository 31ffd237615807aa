#include "jumpstart_activation.h"

namespace jumpstart {

at::MemoryFormat memory_format(size_t dim, bool channels_last) {
  if (!channels_last) return at::MemoryFormat::Contiguous;
  return dim == 4 ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::ChannelsLast3d;
}

static bool is_channels_last(const at::Tensor& x, int64_t unit_dim) {
  if (unit_dim != 1 || (x.dim() != 4 && x.dim() != 5) || x.is_contiguous()) return false;
  return x.is_contiguous(memory_format(static_cast<size_t>(x.dim()), true));
}

bool is_dense(const at::Tensor& x, int64_t unit_dim) {
  return x.is_contiguous() || is_channels_last(x, unit_dim);
}

bool runs_channels_last(const at::Tensor& x, int64_t unit_dim) {
  if (x.is_contiguous()) return false;
  if (is_channels_last(x, unit_dim)) return true;
  // Not dense: empty_like gives the dense strides that F.relu would give, in the order of those of x.
  return is_channels_last(at::empty_like(x, x.options().device(at::kMeta)), unit_dim);
}

at::Tensor empty_output(const at::Tensor& x) {
  const auto last = at::MemoryFormat::ChannelsLast;
  if (x.is_contiguous()) return at::empty(x.sizes(), x.options());
  if (x.is_contiguous(last)) return at::empty(x.sizes(), x.options().memory_format(last));
  return at::empty_like(x);
}

Layout make_layout(at::IntArrayRef size, int64_t unit_dim, bool channels_last) {
  const auto product = [&](int64_t from, int64_t to) {
    int64_t total = 1;
    for (int64_t d = from; d < to; ++d) total *= size[static_cast<size_t>(d)];
    return total;
  };
  const auto dim = static_cast<int64_t>(size.size());
  const int64_t samples = unit_dim > 0 ? size[0] : 1;
  const int64_t before = product(1, unit_dim), after = product(unit_dim + 1, dim);
  if (channels_last) return {samples, after, size[1], 1, true};
  return {samples, before, size[static_cast<size_t>(unit_dim)], after, false};
}

}  // namespace jumpstart
