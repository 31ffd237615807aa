// A stand-in for CUDA's runtime, for GPUs with the limits of an H200 (devices.cpp) whose memory is the host's
// and whose kernels do nothing: what remains of a call is the host's work. All functions count their calls.
// runtime.py links this with a stub for each other function that the real library exports.

#include <cuda_runtime_api.h>
#include <sys/mman.h>
#include <time.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <iterator>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "limits.h"
#include "stand_in.h"

namespace {

using stand_in::fail;

struct Counter {
  std::string name;
  int64_t calls;
};

struct Memory {
  size_t bytes;
  cudaMemoryType type;
  int device;  // the current one when it was allocated
};

struct Configuration {
  dim3 grid, block;
  size_t shared;
  cudaStream_t stream;
};

// What a kernel has been allowed on a device.
struct Allowed {
  int shared = 0;
  bool any_cluster = false;  // of up to 16 blocks instead of 8
};

std::mutex mutex;
std::map<uintptr_t, Memory> memory;
std::map<std::pair<const void*, int>, Allowed> allowed;
int64_t launch_nanoseconds = 0;
thread_local cudaError_t last_error = cudaSuccess;
thread_local std::string last_what;
thread_local std::vector<Configuration> configurations;

// Constructed at the first call: libraries register their kernels before this one is initialized.
std::deque<Counter>& counters() {
  static auto* all = new std::deque<Counter>();
  return *all;
}

cudaError_t allocate(void** result, size_t bytes, cudaMemoryType type) {
  if (const cudaError_t error = stand_in::check_no_capture("an allocation")) return error;
  constexpr int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  void* const found = mmap(nullptr, bytes + !bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
  if (found == MAP_FAILED) return fail(cudaErrorMemoryAllocation);
  const std::lock_guard<std::mutex> lock(mutex);
  memory[reinterpret_cast<uintptr_t>(found)] = {bytes + !bytes, type, stand_in::use_device()};
  *result = found;
  return cudaSuccess;
}

cudaError_t release(void* address) {
  if (const cudaError_t error = stand_in::check_no_capture("a deallocation")) return error;
  if (!address) return cudaSuccess;
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = memory.find(reinterpret_cast<uintptr_t>(address));
  if (found == memory.end()) return fail(cudaErrorInvalidValue);
  munmap(address, found->second.bytes);
  memory.erase(found);
  return cudaSuccess;
}

void describe(cudaPointerAttributes& result, const void* pointer) {
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  const std::lock_guard<std::mutex> lock(mutex);
  const auto behind = memory.upper_bound(address);
  result = {};
  result.device = cudaInvalidDeviceId;
  if (behind == memory.begin()) return;
  const auto& [start, block] = *std::prev(behind);
  if (address >= start + block.bytes) return;
  result.type = block.type;
  result.device = block.device;
  result.devicePointer = result.hostPointer = const_cast<void*>(pointer);
}

Allowed allowed_for(const void* kernel) {
  const std::lock_guard<std::mutex> lock(mutex);
  return allowed[{kernel, stand_in::use_device()}];
}

void allow(const void* kernel, cudaFuncAttribute attribute, int value) {
  const std::lock_guard<std::mutex> lock(mutex);
  Allowed& here = allowed[{kernel, stand_in::use_device()}];
  if (attribute == cudaFuncAttributeNonPortableClusterSizeAllowed) here.any_cluster = value;
  if (attribute == cudaFuncAttributeMaxDynamicSharedMemorySize) here.shared = value;
}

// The blocks of a cluster: 1 if none is asked for, 0 if it cannot be launched.
unsigned cluster_of(const cudaLaunchConfig_t& config, const void* kernel) {
  for (unsigned i = 0; i < config.numAttrs; ++i) {
    const auto& [x, y, z] = config.attrs[i].val.clusterDim;
    if (config.attrs[i].id != cudaLaunchAttributeClusterDimension) continue;
    const dim3 grid = config.gridDim;
    const bool divides = x && y && z && grid.x % x == 0 && grid.y % y == 0 && grid.z % z == 0;
    return divides && x * y * z <= (allowed_for(kernel).any_cluster ? 16 : 8) ? x * y * z : 0;
  }
  return 1;
}

cudaError_t copy(void* to, const void* from, size_t bytes, cudaStream_t stream) {
  const cudaError_t error = stand_in::add_work(stream, "a copy");
  return error ? error : (memmove(to, from, bytes), cudaSuccess);
}
// Between memory of two devices, of which it is told.
cudaError_t copy_between(void* to, int device, const void* from, int other, size_t bytes,
                         cudaStream_t stream) {
  cudaPointerAttributes target, source;
  describe(target, to), describe(source, from);
  if (target.device == device && source.device == other) return copy(to, from, bytes, stream);
  return fail(cudaErrorInvalidValue, "a copy of memory that is not on the device that it is said to be on");
}
cudaError_t fill(void* to, int value, size_t bytes, cudaStream_t stream) {
  if (const cudaError_t error = stand_in::check_device_of(stream, "a fill")) return error;
  const cudaError_t error = stand_in::add_work(stream, "a fill");
  return error ? error : (memset(to, value, bytes), cudaSuccess);
}

cudaError_t launch(const void* kernel, dim3 grid, dim3 block, size_t shared, cudaStream_t stream) {
  if (const cudaError_t error = stand_in::check_device_of(stream, "a kernel")) return error;
  if (const cudaError_t error = stand_in::add_work(stream, "a kernel")) return error;
  if (!is_within(block, kMostThreads, kMostThreads, kMostDepth) ||
      block.x * block.y * block.z > kMostThreads ||
      !is_within(grid, kMostBlocks, kMostBlocksAcross, kMostBlocksAcross)) {
    return fail(cudaErrorInvalidConfiguration);
  }
  if (shared > kShared && shared > static_cast<size_t>(allowed_for(kernel).shared)) {
    return fail(cudaErrorInvalidValue);
  }
  stand_in::count_launch();
  if (launch_nanoseconds) {
    const int64_t end = stand_in::now() + launch_nanoseconds;
    while (stand_in::now() < end) {
    }
  }
  return cudaSuccess;
}

cudaError_t launch(const cudaLaunchConfig_t& config, const void* kernel) {
  if (!cluster_of(config, kernel)) return fail(cudaErrorInvalidClusterSize);
  return launch(kernel, config.gridDim, config.blockDim, config.dynamicSmemBytes, config.stream);
}

cudaError_t pop(dim3* grid, dim3* block, size_t* shared, void* stream) {
  if (configurations.empty()) return fail(cudaErrorMissingConfiguration);
  const Configuration last = configurations.back();
  configurations.pop_back();
  *grid = last.grid, *block = last.block, *shared = last.shared;
  *static_cast<cudaStream_t*>(stream) = last.stream;
  return cudaSuccess;
}

}  // namespace

namespace stand_in {

cudaError_t fail(cudaError_t error, const std::string& what) {
  last_what = what;
  return last_error = error;
}

int64_t now() {
  timespec time{};
  clock_gettime(CLOCK_MONOTONIC, &time);
  return int64_t{1000000000} * time.tv_sec + time.tv_nsec;
}

}  // namespace stand_in

extern "C" {

// For runtime.py.
int64_t* stand_in_counter(const char* name) {
  const std::lock_guard<std::mutex> lock(mutex);
  counters().push_back({name, 0});
  return &counters().back().calls;
}
// Null behind the last.
const char* stand_in_name(int64_t index) {
  const auto& all = counters();
  return index < static_cast<int64_t>(all.size()) ? all[static_cast<size_t>(index)].name.c_str() : nullptr;
}
int64_t stand_in_calls(int64_t index) { return counters()[static_cast<size_t>(index)].calls; }
void stand_in_set_launch_time(int64_t nanoseconds) { launch_nanoseconds = nanoseconds; }

// Errors.
const char* cudaGetErrorName(cudaError_t) { return "an error of the stand-in for CUDA's runtime"; }
const char* cudaGetErrorString(cudaError_t error) {
  if (!last_what.empty()) return last_what.c_str();
  const bool configuration = error == cudaErrorInvalidConfiguration || error == cudaErrorInvalidClusterSize;
  return configuration ? "a GPU does not launch this configuration" : cudaGetErrorName(error);
}
TRY(cudaPeekAtLastError, (), last_error)
TRY(cudaGetLastError, (), std::exchange(last_error, cudaSuccess))

// Memory.
TRY(cudaMalloc, (void** result, size_t bytes), allocate(result, bytes, cudaMemoryTypeDevice))
TRY(cudaHostAlloc, (void** result, size_t bytes, unsigned), allocate(result, bytes, cudaMemoryTypeHost))
TRY(cudaMallocHost, (void** result, size_t bytes), allocate(result, bytes, cudaMemoryTypeHost))
TRY(cudaFree, (void* address), release(address))
TRY(cudaFreeHost, (void* address), release(address))
TRY(cudaMemcpy, (void* to, const void* from, size_t bytes, cudaMemcpyKind), copy(to, from, bytes, nullptr))
TRY(cudaMemcpyAsync, (void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t stream),
    copy(to, from, bytes, stream))
TRY(cudaMemcpyPeerAsync,
    (void* to, int device, const void* from, int other, size_t bytes, cudaStream_t stream),
    copy_between(to, device, from, other, bytes, stream))
TRY(cudaMemset, (void* to, int value, size_t bytes), fill(to, value, bytes, nullptr))
TRY(cudaMemsetAsync, (void* to, int value, size_t bytes, cudaStream_t stream), fill(to, value, bytes, stream))
DO(cudaPointerGetAttributes, (cudaPointerAttributes * result, const void* pointer),
   describe(*result, pointer))

// Kernels.
void** __cudaRegisterFatBinary(void*) { return reinterpret_cast<void**>(new int64_t(0)); }
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void** binary) { delete reinterpret_cast<int64_t*>(binary); }
DO(__cudaGetKernel, (cudaKernel_t * kernel, const void* function),
   *kernel = reinterpret_cast<cudaKernel_t>(const_cast<void*>(function)))
unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, CUstream_st* stream) {
  return configurations.push_back({grid, block, shared, stream}), 0;
}
cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
  return pop(grid, block, shared, stream);
}
TRY(__cudaLaunchKernel,
    (cudaKernel_t kernel, dim3 grid, dim3 block, void**, size_t shared, cudaStream_t stream),
    launch(kernel, grid, block, shared, stream))
TRY(cudaLaunchKernel, (const void* kernel, dim3 grid, dim3 block, void**, size_t shared, cudaStream_t stream),
    launch(kernel, grid, block, shared, stream))
TRY(cudaLaunchKernelExC, (const cudaLaunchConfig_t* config, const void* kernel, void**),
    launch(*config, kernel))
TRY(cudaFuncSetAttribute, (const void* kernel, cudaFuncAttribute attribute, int value),
    value > kMostShared ? fail(cudaErrorInvalidValue) : (allow(kernel, attribute, value), cudaSuccess))
DO(cudaFuncGetAttributes, (cudaFuncAttributes * attributes, const void*), *attributes = {},
   attributes->maxThreadsPerBlock = kMostThreads, attributes->binaryVersion = attributes->ptxVersion = 90,
   attributes->maxDynamicSharedSizeBytes = kShared)
DO(cudaOccupancyMaxActiveBlocksPerMultiprocessor, (int* blocks, const void*, int threads, size_t),
   *blocks = kThreads / threads)
DO(cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags,
   (int* blocks, const void*, int threads, size_t, unsigned), *blocks = kThreads / threads)
TRY(cudaOccupancyMaxActiveClusters, (int* clusters, const void* kernel, const cudaLaunchConfig_t* config),
    cluster_of(*config, kernel)
        ? (*clusters = kMultiprocessors / static_cast<int>(cluster_of(*config, kernel)), cudaSuccess)
        : fail(cudaErrorInvalidClusterSize))

}  // extern "C"
