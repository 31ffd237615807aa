// The devices of the stand-in, and what the driver says of them: as many GPUs of one kind as
// HOST_TIME_DEVICES asks for. None reaches another's memory.

#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "limits.h"
#include "stand_in.h"

namespace {

using stand_in::fail;

constexpr int kMostDevices = 8;

struct Device {
  std::atomic<bool> has_context{false};  // as from its first use on
  std::atomic<int64_t> launches{0};
};

std::array<Device, kMostDevices> devices;
thread_local int current = 0;

// Asked for before this library is initialized.
int count_devices() {
  const char* const asked = getenv("HOST_TIME_DEVICES");
  return asked ? std::clamp(atoi(asked), 1, kMostDevices) : 1;
}
int device_count() {
  static const int count = count_devices();
  return count;
}

bool exists(int device) { return device >= 0 && device < device_count(); }

cudaError_t set_device(int device) {
  if (!exists(device)) return fail(cudaErrorInvalidDevice);
  current = device;
  devices[static_cast<size_t>(device)].has_context = true;
  return cudaSuccess;
}

template <typename Run>
cudaError_t if_exists(int device, const Run& run) {
  return exists(device) ? (run(), cudaSuccess) : fail(cudaErrorInvalidDevice);
}

int do_nothing() { return 0; }

}  // namespace

namespace stand_in {

int use_device() {
  std::atomic<bool>& has_context = devices[static_cast<size_t>(current)].has_context;
  if (!has_context.load(std::memory_order_relaxed)) has_context = true;
  return current;
}

int device_of(cudaStream_t stream) {
  const bool is_default = !stream || stream == cudaStreamLegacy || stream == cudaStreamPerThread;
  return is_default ? current : *reinterpret_cast<int*>(stream);
}

cudaError_t check_device_of(cudaStream_t stream, const char* what) {
  const int device = device_of(stream);
  if (device == use_device()) return cudaSuccess;
  return fail(cudaErrorInvalidResourceHandle, std::string(what) + " on a stream of device " +
                                                  std::to_string(device) + " while device " +
                                                  std::to_string(current) + " is the current one");
}

void count_launch() {
  devices[static_cast<size_t>(current)].launches.fetch_add(1, std::memory_order_relaxed);
}

}  // namespace stand_in

extern "C" {

// For runtime.py.
int64_t stand_in_launches(int device) {
  return exists(device) ? devices[static_cast<size_t>(device)].launches.load() : -1;
}

DO(cudaGetDeviceCount, (int* count), *count = device_count())
DO(cudaGetDevice, (int* device), *device = current)
TRY(cudaSetDevice, (int device), set_device(device))
DO(cudaDriverGetVersion, (int* version), *version = 13000)
DO(cudaRuntimeGetVersion, (int* version), *version = 13000)
DO(cudaMemGetInfo, (size_t* free, size_t* total), stand_in::use_device(), *free = *total = kBytes)
DO(cudaDeviceGetStreamPriorityRange, (int* least, int* greatest), *least = 0, *greatest = -5)
TRY(cudaDeviceGetPCIBusId, (char* text, int size, int device),
    if_exists(device, [&] { snprintf(text, static_cast<size_t>(size), "0000:%02x:00.0", device); }))
DO(cudaDeviceCanAccessPeer, (int* can, int, int), *can = 0)
TRY(cudaGetDeviceProperties, (cudaDeviceProp * properties, int device),
    if_exists(device, [&] { describe(*properties), properties->pciBusID = device; }))
TRY(cudaDeviceGetAttribute, (int* value, cudaDeviceAttr attribute, int device),
    if_exists(device, [&] { *value = value_of(attribute); }))

// Of the driver, all other functions of which succeed and do nothing.
TRY(cuDevicePrimaryCtxGetState, (int device, unsigned* flags, int* active),
    if_exists(device, [&] { *flags = 0, *active = devices[static_cast<size_t>(device)].has_context; }))
cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned, unsigned long long,
                                             cudaDriverEntryPointQueryResult* result) {
  const bool context = !strcmp(name, "cuDevicePrimaryCtxGetState");
  *function =
      context ? reinterpret_cast<void*>(cuDevicePrimaryCtxGetState) : reinterpret_cast<void*>(do_nothing);
  if (result) *result = cudaDriverEntryPointSuccess;
  return cudaSuccess;
}

}  // extern "C"
