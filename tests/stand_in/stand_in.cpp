// A GPU made of the host's memory, for a torch without CUDA. Tensors on it are on "cuda:0" as far as PyTorch
// can tell; each operator under the dispatch key CUDA runs the CPU's kernel on their memory. What a GPU
// refuses is an error: tensors of two devices in one operator, a CPU generator, and, where asked for, waiting
// for the device.

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/NativeFunctions.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/native/Resize.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/extension.h>
#include <torch/library.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace {

using at::Tensor;
using c10::IValue;
using torch::jit::Stack;

const c10::Device kDevice(at::kCUDA, 0);

thread_local c10::StreamId stream_of_thread = 0;
c10::StreamId streams = 0;
std::atomic<bool> waiting_is_an_error{false};

// What has been captured, to run again; null while nothing is captured.
struct Graph {
  std::vector<std::function<void()>> steps;
};
std::shared_ptr<Graph> captured;

void waits(const std::string& what) {
  TORCH_CHECK(!captured, "stand-in: not permitted while a stream is capturing: ", what);
  TORCH_CHECK(!waiting_is_an_error, "stand-in: called a synchronizing operation: ", what);
}

// Streams have numbers, and everything runs at once.
struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return at::kCUDA; }
  c10::Device exchangeDevice(c10::Device) const override { return kDevice; }
  c10::Device getDevice() const override { return kDevice; }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::Stream stream(c10::StreamId id) const { return c10::Stream(c10::Stream::UNSAFE, kDevice, id); }
  c10::Stream getStream(c10::Device) const override { return stream(stream_of_thread); }
  c10::Stream getDefaultStream(c10::Device) const override { return stream(0); }
  c10::Stream getNewStream(c10::Device, int) const override { return stream(++streams); }
  c10::Stream exchangeStream(c10::Stream other) const override {
    return stream(std::exchange(stream_of_thread, other.id()));
  }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  void record(void** event, const c10::Stream&, c10::DeviceIndex, c10::EventFlag) const override {
    *event = const_cast<Guard*>(this);
  }
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void destroyEvent(void*, c10::DeviceIndex) const noexcept override {}
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override {}
  void synchronizeDevice(c10::DeviceIndex) const override {}
  void synchronizeEvent(void*) const override {}
  void recordDataPtrOnStream(const c10::DataPtr&, const c10::Stream&) const override {}
};
C10_REGISTER_GUARD_IMPL(CUDA, Guard)

// New memory is full of NaN.
struct Allocator final : c10::Allocator {
  at::DataPtr allocate(size_t bytes) override {
    auto host = std::make_unique<at::DataPtr>(c10::GetCPUAllocator()->allocate(bytes));
    void* const data = host->get();
    if (bytes) std::memset(data, 0xFF, std::min(bytes, size_t{1} << 24));
    return {data, host.release(), [](void* host) { delete static_cast<at::DataPtr*>(host); }, kDevice};
  }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }
};
Allocator allocator;

// The same memory as a tensor of the other device, without autograd.
Tensor as_on(c10::Device device, const Tensor& x) {
  const c10::Storage& memory = x.storage();
  c10::DataPtr data(
      const_cast<void*>(memory.data()), new c10::Storage(memory),
      [](void* kept) { delete static_cast<c10::Storage*>(kept); }, device);
  c10::Allocator* const grows = device.is_cuda() ? &allocator : c10::GetCPUAllocator();
  c10::Storage storage(c10::Storage::use_byte_size_t(), memory.nbytes(), std::move(data), grows, true);
  const auto key = device.is_cuda() ? c10::DispatchKey::CUDA : c10::DispatchKey::CPU;
  auto result =
      at::detail::make_tensor<c10::TensorImpl>(std::move(storage), c10::DispatchKeySet(key), x.dtype());
  auto* const impl = result.unsafeGetTensorImpl();
  impl->set_sizes_and_strides(x.sizes(), x.strides(), x.storage_offset());
  if (x.is_neg()) result._set_neg(true);
  if (x.unsafeGetTensorImpl()->is_wrapped_number()) impl->set_wrapped_number(true);
  return result;
}

struct Generator : at::CPUGeneratorImpl {
  Generator() { move(kDevice); }
  void move(c10::Device device) { device_ = device; }
};

const at::Generator& default_generator() {
  static const at::Generator generator = at::make_generator<Generator>();
  return generator;
}

// A generator in the hands of a kernel for the CPU.
struct Lent {
  explicit Lent(const at::Generator& generator) : lent(generator) { move(at::kCPU); }
  ~Lent() { move(kDevice); }
  void move(c10::Device device) { static_cast<Generator*>(lent.unsafeGetGeneratorImpl())->move(device); }
  at::Generator lent;
};

bool is_one_of(const std::string& name, std::initializer_list<const char*> names) {
  return std::any_of(names.begin(), names.end(), [&](const char* other) { return name == other; });
}

// `change` each tensor of a value, also those in a list.
IValue with_tensors(const IValue& value, const std::function<Tensor(const Tensor&)>& change) {
  if (value.isTensor()) return change(value.toTensor());
  if (value.isTensorList()) {
    c10::List<Tensor> list;
    for (const Tensor& x : value.toTensorVector()) list.push_back(change(x));
    return list;
  }
  if (value.isList() && *value.toList().elementType() == *c10::OptionalType::ofTensor()) {
    c10::List<std::optional<Tensor>> list;
    for (const IValue& x : value.toListRef()) {
      list.push_back(x.isTensor() ? std::optional<Tensor>(change(x.toTensor())) : std::nullopt);
    }
    return list;
  }
  return value;
}

// What a GPU refuses, and what it waits for.
void check(const std::string& name, const Stack& arguments) {
  const bool indexes = is_one_of(name, {"aten::index", "aten::index_put_", "aten::_index_put_impl_"});
  bool on_gpu = false;
  std::vector<Tensor> on_cpu;
  for (const IValue& argument : arguments) {
    with_tensors(argument, [&](const Tensor& x) {
      if (!x.defined() || x.unsafeGetTensorImpl()->is_wrapped_number()) return x;
      on_gpu |= x.is_cuda();
      if (!x.is_cuda()) on_cpu.push_back(x);
      if (indexes && x.scalar_type() == at::kBool && argument.isList()) waits(name + " with a mask");
      return x;
    });
  }
  for (const Tensor& x : on_cpu) {
    if (indexes && at::isIntegralType(x.scalar_type(), /*includeBool=*/true)) {
      waits(name + " with indices on the CPU");
    } else {
      const bool is_number = x.dim() == 0 && name.rfind("aten::", 0) == 0;
      TORCH_CHECK(is_number || !on_gpu, "stand-in: Expected all tensors to be on the same device: ", name,
                  " got one of size ", x.sizes(), " on the CPU");
    }
  }
  if (is_one_of(name, {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::_unique2",
                       "aten::unique_dim", "aten::unique_consecutive", "aten::equal", "aten::bincount"})) {
    waits(name);
  }
}

void run_on_cpu(const c10::OperatorHandle& op, Stack& stack) {
  std::deque<Lent> lent;
  for (const IValue& value : stack) {
    if (value.isGenerator()) lent.emplace_back(value.toGenerator());
  }
  op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), &stack);
}

// Results of a captured operator go where they went when it was captured.
void capture(const c10::OperatorHandle& op, const Stack& arguments, const Stack& results) {
  captured->steps.push_back([op, arguments, results] {
    const c10::impl::ExcludeDispatchKeyGuard below(c10::autograd_dispatch_keyset_with_ADInplaceOrView);
    Stack again = arguments;
    run_on_cpu(op, again);
    for (size_t i = 0; i < again.size(); ++i) {
      std::vector<Tensor> from, to;
      with_tensors(again[i], [&](const Tensor& x) { return from.push_back(x), x; });
      with_tensors(results[i], [&](const Tensor& x) { return to.push_back(x), x; });
      for (size_t j = 0; j < to.size(); ++j) {
        if (to[j].defined() && !to[j].is_same(from[j])) to[j].copy_(from[j]);
      }
    }
  });
}

void run(const c10::OperatorHandle& op, Stack* stack) {
  const auto& schema = op.schema();
  const size_t count = schema.arguments().size();
  const Stack given(stack->end() - static_cast<int64_t>(count), stack->end());
  torch::jit::drop(*stack, count);
  check(schema.name(), given);
  std::vector<std::pair<Tensor, Tensor>> lent;  // a tensor, and its memory as the CPU's
  Stack arguments;
  for (size_t i = 0; i < count; ++i) {
    IValue argument = with_tensors(given[i], [&](const Tensor& x) {
      return x.defined() && x.is_cuda() ? lent.emplace_back(x, as_on(at::kCPU, x)).second : x;
    });
    if (argument.isDevice()) argument = c10::Device(at::kCPU);
    if (argument.isGenerator()) {
      const auto device = argument.toGenerator().device();
      TORCH_CHECK(device.is_cuda(), "stand-in: Expected a 'cuda' generator, found '", device, "'");
    } else if (schema.arguments()[i].name() == "generator") {
      argument = default_generator();
    }
    arguments.push_back(std::move(argument));
  }
  Stack results = arguments;
  run_on_cpu(op, results);
  for (auto& [x, on_cpu] : lent) {
    if (x.sizes() == on_cpu.sizes()) continue;
    x.resize_(on_cpu.sizes());  // an out argument
    as_on(at::kCPU, x).copy_(on_cpu);
  }
  for (const IValue& result : results) {
    stack->push_back(with_tensors(result, [&](const Tensor& x) {
      if (!x.defined() || x.is_cuda()) return x;
      for (const auto& [owner, on_cpu] : lent) {
        if (on_cpu.is_same(x)) return owner;  // overwritten
      }
      return as_on(kDevice, x);
    }));
  }
  if (captured) capture(op, arguments, results);
}

Tensor empty(at::IntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
             std::optional<at::Device>, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  return at::detail::empty_generic(size, &allocator, c10::DispatchKeySet(c10::DispatchKey::CUDA),
                                   c10::dtype_or_default(dtype), format);
}

Tensor empty_strided(at::IntArrayRef size, at::IntArrayRef stride, std::optional<at::ScalarType> dtype,
                     std::optional<at::Layout>, std::optional<at::Device>, std::optional<bool>) {
  return at::detail::empty_strided_generic(
      size, stride, &allocator, c10::DispatchKeySet(c10::DispatchKey::CUDA), c10::dtype_or_default(dtype));
}

Tensor& copy(Tensor& self, const Tensor& source, bool) {
  if (!self.is_cuda()) waits("a copy to the CPU");
  if (!source.is_cuda() && !source.unsafeGetTensorImpl()->is_wrapped_number()) waits("a copy from the CPU");
  const Tensor to = self.is_cuda() ? as_on(at::kCPU, self) : self;
  const Tensor from = source.is_cuda() ? as_on(at::kCPU, source) : source;
  const auto run_copy = [to, from] {
    const c10::impl::ExcludeDispatchKeyGuard below(c10::autograd_dispatch_keyset_with_ADInplaceOrView);
    to.copy_(from);
  };
  run_copy();
  if (captured) captured->steps.push_back(run_copy);
  return self;
}

const Tensor& resize(const Tensor& self, at::IntArrayRef size, std::optional<at::MemoryFormat> format) {
  at::native::resize_impl_cpu_(self.unsafeGetTensorImpl(), size, std::nullopt);
  if (format) self.unsafeGetTensorImpl()->empty_tensor_restride(*format);
  return self;
}

// PyTorch looks for this name.
struct CUDAHooks : at::CUDAHooksInterface {
  explicit CUDAHooks(at::CUDAHooksArgs) {}
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  bool isPinnedPtr(const void*) const override { return false; }
  c10::Allocator* getPinnedMemoryAllocator() const override { return c10::GetCPUAllocator(); }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex) const override { return default_generator(); }
  at::Generator getNewGenerator(c10::DeviceIndex) const override { return at::make_generator<Generator>(); }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
};

}  // namespace

namespace at {
using ::CUDAHooks;
REGISTER_CUDA_HOOKS(CUDAHooks);
}  // namespace at

TORCH_LIBRARY_IMPL(_, CUDA, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&run>()); }

// Views, memory, and what would choose among kernels of a GPU.
TORCH_LIBRARY_IMPL(aten, CUDA, m) {
  m.impl("empty.memory_format", empty);
  m.impl("empty_strided", empty_strided);
  m.impl("copy_", copy);
  m.impl("resize_", resize);
  m.impl("record_stream", [](Tensor&, at::Stream) {});
  m.impl("as_strided", TORCH_FN(at::native::as_strided_tensorimpl));
  m.impl("view", TORCH_FN(at::native::view));
  m.impl("_reshape_alias", TORCH_FN(at::native::_reshape_alias));
  m.impl("unfold", TORCH_FN(at::native::unfold));
  m.impl("set_.source_Storage", TORCH_FN(at::native::set_));
  m.impl("set_.source_Storage_storage_offset", TORCH_FN(at::native::set_storage_cpu_));
  m.impl("set_.source_Tensor", TORCH_FN(at::native::set_tensor_));
  for (const char* name : {"convolution", "convolution_backward"}) {
    m.impl(name, torch::CppFunction::makeFromBoxedFunction<&run>());
  }
}

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  c10::SetAllocator(at::kCUDA, &allocator, 200);
  pybind11::class_<Graph, std::shared_ptr<Graph>>(m, "Graph")
      .def(
          "replay",
          [](const Graph& graph) {
            for (const auto& step : graph.steps) step();
          },
          pybind11::call_guard<pybind11::gil_scoped_release>());
  m.def("begin_capture", [] { captured = std::make_shared<Graph>(); });
  m.def("end_capture", [] { return std::exchange(captured, nullptr); });
  m.def("is_capturing", [] { return captured != nullptr; });
  m.def("capture", [](pybind11::function function) {
    const auto kept = std::make_shared<pybind11::function>(std::move(function));
    captured->steps.push_back([kept] {
      const pybind11::gil_scoped_acquire interpreter;
      (*kept)();
    });
  });
  m.def("forbid_waiting", [](bool forbidden) { waiting_is_an_error = forbidden; });
  m.def("stream", [] { return stream_of_thread; });
  m.def("set_stream", [](c10::StreamId stream) { return std::exchange(stream_of_thread, stream); });
  m.def("new_stream", [] { return ++streams; });
  m.def("on_cpu", [](const Tensor& x) { return as_on(at::kCPU, x); });
  m.def("default_generator", [] { return default_generator(); });
}
