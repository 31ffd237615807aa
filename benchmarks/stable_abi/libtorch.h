// What the host code of csrc uses of libtorch, on its stable ABI: included in place of libtorch's headers.
// Functions are C functions that libtorch exports; types are of headers that need no library.

#pragma once

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_aten.h>
#include <torch/csrc/stable/library.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <array>
#include <cstdlib>
#include <memory>
#include <ostream>
#include <utility>
#include <vector>

// The ABI has no types of errors: Python sees RuntimeError.
#define TORCH_CHECK_VALUE STD_TORCH_CHECK
#define TORCH_CHECK_TYPE STD_TORCH_CHECK
#define C10_AS_INTARRAYREF_SLOW(sizes) at::IntArrayRef(sizes)

#define JUMPSTART_DTYPE(name, type, ...) \
  case c10::ScalarType::name: {          \
    using scalar_t = type;               \
    __VA_ARGS__();                       \
    break;                               \
  }
#define AT_DISPATCH_FLOATING_TYPES_AND2(half, bfloat16, dtype, name, ...) \
  switch (dtype) {                                                        \
    JUMPSTART_DTYPE(Float, float, __VA_ARGS__)                            \
    JUMPSTART_DTYPE(Double, double, __VA_ARGS__)                          \
    JUMPSTART_DTYPE(Half, c10::Half, __VA_ARGS__)                         \
    JUMPSTART_DTYPE(BFloat16, c10::BFloat16, __VA_ARGS__)                 \
    default: STD_TORCH_CHECK(false, name, " does not support ", dtype);   \
  }

namespace c10 {

using SymIntArrayRef = HeaderOnlyArrayRef<int64_t>;  // the ABI passes numbers only
using SymDimVector = std::vector<int64_t>;
template <typename T, size_t>
using SmallVector = std::vector<T>;

inline std::ostream& operator<<(std::ostream& out, HeaderOnlyArrayRef<int64_t> sizes) {
  for (size_t i = 0; i < sizes.size(); ++i) out << (i ? ", " : "[") << sizes[i];
  return out << ']';
}

}  // namespace c10

namespace at {

using c10::DeviceType;
using c10::MemoryFormat;
using c10::ScalarType;
using IntArrayRef = c10::HeaderOnlyArrayRef<int64_t>;
namespace stable = torch::stable::detail;

constexpr auto kFloat = ScalarType::Float, kDouble = ScalarType::Double, kHalf = ScalarType::Half;
constexpr auto kBFloat16 = ScalarType::BFloat16, kByte = ScalarType::Byte, kLong = ScalarType::Long;
constexpr auto kStrided = c10::Layout::Strided;
constexpr auto kMeta = DeviceType::Meta;

inline void check(AOTITorchError error) { TORCH_ERROR_CODE_CHECK(error); }

// Memory of our own, aligned like PyTorch's.
struct Free {
  void operator()(void* memory) const { std::free(memory); }
};
struct DataPtr : std::unique_ptr<void, Free> {
  using std::unique_ptr<void, Free>::unique_ptr;
  void* mutable_get() const { return get(); }
};

struct Device {
  int32_t type, index;
  bool operator==(const Device& other) const { return type == other.type && index == other.index; }
};
inline std::ostream& operator<<(std::ostream& out, Device device) {
  return out << "device " << device.type << ':' << device.index;
}

struct TensorOptions {
  ScalarType of_dtype;
  Device of_device;
  MemoryFormat format = MemoryFormat::Contiguous;

  TensorOptions dtype(ScalarType other) const { return {other, of_device, format}; }
  TensorOptions memory_format(MemoryFormat other) const { return {of_dtype, of_device, other}; }
  TensorOptions device(DeviceType type) const {
    return {of_dtype, {stable::to<int32_t>(stable::from(type)), 0}, format};
  }
};

// Dimensions from the innermost on, of sizes stored in a format.
inline std::vector<size_t> memory_order(size_t dim, MemoryFormat format) {
  const bool channels_last = format != MemoryFormat::Contiguous;
  std::vector<size_t> order;
  if (channels_last) order.push_back(1);
  for (size_t d = dim; d-- > 0;) {
    if (d != 1 || !channels_last) order.push_back(d);
  }
  return order;
}

// Owns a handle; null if undefined.
class Tensor {
 public:
  Tensor() = default;
  explicit Tensor(AtenTensorHandle handle) : handle_(handle) {}
  Tensor(const Tensor& other) {
    if (other.handle_) check(aoti_torch_new_tensor_handle(other.handle_, &handle_));
  }
  Tensor(Tensor&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Tensor& operator=(Tensor other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  ~Tensor() {
    if (handle_) aoti_torch_delete_tensor_object(handle_);
  }

  // For the caller to delete; of an undefined tensor if there is none.
  AtenTensorHandle release() {
    if (!handle_) check(aoti_torch_new_uninitialized_tensor(&handle_));
    return std::exchange(handle_, nullptr);
  }

  bool defined() const { return handle_ != nullptr; }
  int64_t dim() const { return get<int64_t>(aoti_torch_get_dim); }
  int64_t numel() const { return get<int64_t>(aoti_torch_get_numel); }
  IntArrayRef sizes() const { return {get<int64_t*>(aoti_torch_get_sizes), static_cast<size_t>(dim())}; }
  IntArrayRef strides() const { return {get<int64_t*>(aoti_torch_get_strides), static_cast<size_t>(dim())}; }
  int64_t size(int64_t d) const { return sizes()[static_cast<size_t>(d)]; }
  ScalarType scalar_type() const {
    return stable::to<ScalarType>(stable::from(get<int32_t>(aoti_torch_get_dtype)));
  }
  size_t element_size() const { return aoti_torch_dtype_element_size(get<int32_t>(aoti_torch_get_dtype)); }
  c10::Layout layout() const {
    return stable::to<c10::Layout>(stable::from(get<int32_t>(aoti_torch_get_layout)));
  }
  Device device() const {
    return {get<int32_t>(aoti_torch_get_device_type), get<int32_t>(aoti_torch_get_device_index)};
  }
  bool is_cpu() const { return get<int32_t>(aoti_torch_get_device_type) == aoti_torch_device_type_cpu(); }
  TensorOptions options() const { return {scalar_type(), device()}; }

  const void* const_data_ptr() const { return get<const void*>(torch_get_const_data_ptr); }
  void* mutable_data_ptr() const { return get<void*>(torch_get_mutable_data_ptr); }
  template <typename T>
  const T* const_data_ptr() const {
    return static_cast<const T*>(const_data_ptr());
  }
  template <typename T>
  T* mutable_data_ptr() const {
    return static_cast<T*>(mutable_data_ptr());
  }
  // The ABI cannot tell whether two handles are of one tensor.
  bool is_same(const Tensor& other) const { return const_data_ptr() == other.const_data_ptr(); }

  bool is_contiguous(MemoryFormat format = MemoryFormat::Contiguous) const {
    if (format == MemoryFormat::Contiguous) return get<bool>(aoti_torch_is_contiguous);
    if (dim() != (format == MemoryFormat::ChannelsLast ? 4 : 5)) return false;
    int64_t expected = 1;
    for (const size_t d : memory_order(sizes().size(), format)) {
      if (sizes()[d] != 1 && strides()[d] != expected) return false;
      expected *= sizes()[d];
    }
    return true;
  }
  Tensor contiguous(MemoryFormat format = MemoryFormat::Contiguous) const {
    return is_contiguous(format) ? *this : call("aten::contiguous", "", stable::from(format));
  }
  Tensor to(ScalarType dtype) const {
    return scalar_type() == dtype ? *this
                                  : call("aten::to", "dtype", stable::from(dtype), stable::from(false),
                                         stable::from(false), stable::from(std::nullopt));
  }
  Tensor select(int64_t d, int64_t index) const {
    return call("aten::select", "int", stable::from(d), stable::from(index));
  }
  void zero_() const { check(aoti_torch_zero_(handle_)); }
  void fill_(double value) const { check(aoti_torch_aten_fill__Scalar(handle_, value)); }
  void copy_(const Tensor& other) const { check(aoti_torch_copy_(handle_, other.handle_, 0)); }

  // An operator of PyTorch with one result; the arguments after this tensor.
  template <typename... Arguments>
  Tensor call(const char* name, const char* overload, Arguments... arguments) const {
    std::array<StableIValue, 1 + sizeof...(arguments)> stack{stable::from(Tensor(*this).release()),
                                                             arguments...};
    check(torch_call_dispatcher(name, overload, stack.data(), TORCH_ABI_VERSION));
    return Tensor(stable::to<AtenTensorHandle>(stack[0]));
  }

 private:
  template <typename T>
  T get(AOTITorchError (*getter)(AtenTensorHandle, T*)) const {
    T value{};
    check(getter(handle_, &value));
    return value;
  }

  AtenTensorHandle handle_ = nullptr;
};

inline Tensor empty(IntArrayRef size, const TensorOptions& options) {
  std::array<int64_t, 8> strides;
  std::vector<int64_t> more(size.size() > strides.size() ? size.size() : 0);
  int64_t *const of_size = more.empty() ? strides.data() : more.data(), stride = 1;
  const auto add = [&](size_t d) {
    of_size[d] = stride;
    stride *= size[d] > 1 ? size[d] : 1;
  };
  if (options.format == MemoryFormat::Contiguous) {
    for (size_t d = size.size(); d-- > 0;) add(d);
  } else {
    for (const size_t d : memory_order(size.size(), options.format)) add(d);
  }
  AtenTensorHandle handle = nullptr;
  check(aoti_torch_empty_strided(static_cast<int64_t>(size.size()), size.data(), of_size,
                                 stable::to<int32_t>(stable::from(options.of_dtype)), options.of_device.type,
                                 options.of_device.index, &handle));
  return Tensor(handle);
}

// In the order of the strides of x.
inline Tensor empty_like(const Tensor& x) {
  const auto none = std::nullopt;
  return x.call("aten::empty_like", "", stable::from(none), stable::from(none), stable::from(none),
                stable::from(none), stable::from(none));
}
inline Tensor empty_like(const Tensor& x, const TensorOptions& options) {
  const auto device = stable::to<torch::stable::Device>(
      stable::from(static_cast<uint64_t>(static_cast<uint32_t>(options.of_device.type)) << 32));
  const auto none = std::nullopt;
  return x.call("aten::empty_like", "", stable::from(none), stable::from(none),
                stable::from(std::make_optional(device)), stable::from(none), stable::from(none));
}

template <typename Run>
void parallel_for(int64_t begin, int64_t end, int64_t grain, const Run& run) {
  const auto call = [](int64_t first, int64_t last, void* of_run) {
    (*static_cast<const Run*>(of_run))(first, last);
  };
  check(torch_parallel_for(begin, end, grain, call, const_cast<Run*>(&run)));
}

inline int64_t get_num_threads() {
  uint32_t threads = 1;
  check(torch_get_num_threads(&threads));
  return threads;
}

// Not in the ABI, like ATEN_CPU_CAPABILITY: asked of the processor.
inline const char* get_cpu_capability() {
  return __builtin_cpu_supports("avx512bw") ? "AVX512" : __builtin_cpu_supports("avx2") ? "AVX2" : "DEFAULT";
}

}  // namespace at
