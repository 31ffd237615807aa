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
  if (x.is_contiguous()) return empty_beside(x, x.sizes(), x.scalar_type());
  if (x.is_contiguous(last)) return empty_beside(x, x.sizes(), x.scalar_type(), last);
  return at::empty_like(x);
}

at::Tensor empty_beside(const at::Tensor& other, at::IntArrayRef size, at::ScalarType dtype,
                        at::MemoryFormat format) {
#ifdef JUMPSTART_CUDA_VERSION
  if (other.is_cuda()) return empty_cuda(size, dtype, format);
#endif
  return at::empty(size, other.options().dtype(dtype).memory_format(format));
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
