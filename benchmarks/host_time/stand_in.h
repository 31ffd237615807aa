// What the sources of the stand-in share.

#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <string>

extern "C" int64_t* stand_in_counter(const char* name);

namespace stand_in {

// Keeps the error for cudaGetLastError, and what was wrong for cudaGetErrorString.
cudaError_t fail(cudaError_t error, const std::string& what = "");

int64_t now();  // nanoseconds

// The current device of the calling thread, which has a context from then on.
int use_device();
// Of a default stream the current one.
int device_of(cudaStream_t stream);
// An error unless the stream is of the current device, as what runs on it must be; copies need not.
cudaError_t check_device_of(cudaStream_t stream, const char* what);
void count_launch();

// Whether the calling thread may do what CUDA allows no thread while it captures.
cudaError_t check_no_capture(const char* what);

// Notes work on a stream. An error if it captures, and has failed to, or if the graph would lack it.
cudaError_t add_work(cudaStream_t stream, const char* what);

}  // namespace stand_in

// Functions of CUDA: one that does something and succeeds, and one that may fail.
#define DO(name, parameters, ...) TRY(name, parameters, (__VA_ARGS__, cudaSuccess))
#define TRY(name, parameters, ...)                            \
  cudaError_t name parameters {                               \
    static int64_t* const calls = stand_in_counter(__func__); \
    ++*calls;                                                 \
    return __VA_ARGS__;                                       \
  }
