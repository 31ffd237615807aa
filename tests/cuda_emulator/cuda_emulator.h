// As much of CUDA as the kernels of csrc/cuda use, on the CPU: so that they run where no GPU is.
//
// A block's threads are fibers of one thread, in an order drawn anew for each block, as is the order of the
// blocks. At a barrier or a warp's exchange all must meet in the same line of the source; where they do not,
// the launch ends with an error, as it does at an access outside of memory.
//
// The blocks of a cluster run one after the other, each until all of its threads wait for the others. They
// have the same shared memory, so what a block keeps there is lost when the cluster meets.

#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>

#define JUMPSTART_DEVICE inline
#define __global__
#define __shared__ static
#define __grid_constant__
#define __launch_bounds__(...)

struct CUstream_st;
using cudaStream_t = CUstream_st*;

namespace cuda_emulator {

struct Index {
  unsigned x;
};

// Runs calls to the kernels. Null, or what went wrong: a fault of theirs or an exception.
const char* guarded(const std::function<void()>& call);

// The order of threads and blocks.
void seed(unsigned value);

// Of the launch that comes after those that have a limit already, runs so many blocks at either end.
void limit(int64_t first, int64_t last);

// While it lives, launches do nothing.
class WithoutLaunches {
 public:
  WithoutLaunches();
  ~WithoutLaunches();
  WithoutLaunches(const WithoutLaunches&) = delete;
  WithoutLaunches& operator=(const WithoutLaunches&) = delete;
};

// Runs `kernel` by every thread of every block, of which so many are a cluster.
void run(int64_t blocks, int threads, const std::function<void()>& kernel, int64_t cluster = 1);

// Until all threads of the block are here.
void meet_block(int line);
// The same; whether any of them brought something.
bool meet_block_or(bool brought, int line);
// Until all threads of the cluster are here.
void meet_cluster(int line);
// Until all lanes of the warp are here; what each of them brought.
const uint64_t* meet_warp(unsigned lanes, uint64_t value, int line);
int own_lane();

template <typename T>
uint64_t to_bits(T value) {
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  return bits;
}
template <typename T>
T from_bits(uint64_t bits) {
  T value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace cuda_emulator

extern cuda_emulator::Index threadIdx, blockIdx, gridDim;

namespace jumpstart {
namespace cuda {

template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), int64_t blocks, int threads, cudaStream_t,
            const Arguments&... arguments) {
  cuda_emulator::run(blocks, threads, [&] { kernel(arguments...); });
}
template <typename... Parameters, typename... Arguments>
void launch_cluster(void (*kernel)(Parameters...), int64_t blocks, int threads, cudaStream_t,
                    const Arguments&... arguments) {
  cuda_emulator::run(blocks, threads, [&] { kernel(arguments...); }, blocks);
}
template <typename Kernel>
int most_cluster_blocks_of(Kernel*, int) {
  return 16;
}

inline void meet_cluster(int line = __builtin_LINE()) { cuda_emulator::meet_cluster(line); }

}  // namespace cuda
}  // namespace jumpstart

inline void __syncthreads(int line = __builtin_LINE()) { cuda_emulator::meet_block(line); }
inline int __syncthreads_or(int predicate, int line = __builtin_LINE()) {
  return cuda_emulator::meet_block_or(predicate, line);
}
inline int __syncthreads_and(int predicate, int line = __builtin_LINE()) {
  return !cuda_emulator::meet_block_or(!predicate, line);
}
inline void __threadfence() {}

inline int __ffs(int value) { return __builtin_ffs(value); }

template <typename T>
T __shfl_xor_sync(unsigned lanes, T value, int offset, int line = __builtin_LINE()) {
  const uint64_t* all = cuda_emulator::meet_warp(lanes, cuda_emulator::to_bits(value), line);
  return cuda_emulator::from_bits<T>(all[cuda_emulator::own_lane() ^ offset]);
}
inline int __reduce_max_sync(unsigned lanes, int value, int line = __builtin_LINE()) {
  const uint64_t* all = cuda_emulator::meet_warp(lanes, cuda_emulator::to_bits(value), line);
  for (int i = 0; i < 32; ++i) {
    const int other = cuda_emulator::from_bits<int>(all[i]);
    value = other > value ? other : value;
  }
  return value;
}
inline unsigned __reduce_or_sync(unsigned lanes, unsigned value, int line = __builtin_LINE()) {
  const uint64_t* all = cuda_emulator::meet_warp(lanes, value, line);
  for (int i = 0; i < 32; ++i) value |= static_cast<unsigned>(all[i]);
  return value;
}
inline int __any_sync(unsigned lanes, int predicate, int line = __builtin_LINE()) {
  const uint64_t* all = cuda_emulator::meet_warp(lanes, predicate != 0, line);
  for (int i = 0; i < 32; ++i) {
    if (all[i]) return 1;
  }
  return 0;
}
inline int __all_sync(unsigned lanes, int predicate, int line = __builtin_LINE()) {
  return !__any_sync(lanes, !predicate, line);
}

inline int atomicAdd(int* address, int value) {
  const int old = *address;
  *address += value;
  return old;
}
template <typename T>
T __ldcg(const T* address) {
  return *address;
}

struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

// The 16-bit floats, their pairs, and what is done with these value by value.

struct __half {
  uint16_t bits;
};
struct __nv_bfloat16 {
  uint16_t bits;
};
struct __half2 {
  __half x, y;
};
struct __nv_bfloat162 {
  __nv_bfloat16 x, y;
};

float __half2float(__half value);
__half __float2half_rn(float value);
__nv_bfloat16 __float2bfloat16_rn(float value);

namespace cuda_emulator {

inline float to_float(__half value) { return __half2float(value); }
inline float to_float(__nv_bfloat16 value) {
  return from_bits<float>(static_cast<uint64_t>(value.bits) << 16);
}

template <typename Pair, typename Choose>
Pair choose(Pair a, Pair b, const Choose& first) {
  const auto one = [&](auto u, auto v) {
    const float x = to_float(u), y = to_float(v);
    if (x != x || y != y) return decltype(u){0x7fff};
    return first(x, y) ? u : v;
  };
  return {one(a.x, b.x), one(a.y, b.y)};
}
template <typename Pair, typename Compare>
unsigned compare(Pair a, Pair b, const Compare& is) {
  return (is(to_float(a.x), to_float(b.x)) ? 0xffffu : 0u) |
         (is(to_float(a.y), to_float(b.y)) ? 0xffff0000u : 0u);
}

}  // namespace cuda_emulator

template <typename Pair>
Pair __hmax2_nan(Pair a, Pair b) {
  return cuda_emulator::choose(a, b, [](float x, float y) { return x > y || (x == y && !std::signbit(x)); });
}
template <typename Pair>
Pair __hmin2_nan(Pair a, Pair b) {
  return cuda_emulator::choose(a, b, [](float x, float y) { return x < y || (x == y && std::signbit(x)); });
}
inline __half2 __hadd2_rn(__half2 a, __half2 b) {
  const auto sum = [](__half x, __half y) { return __float2half_rn(__half2float(x) + __half2float(y)); };
  return {sum(a.x, b.x), sum(a.y, b.y)};
}
inline __nv_bfloat162 __hadd2_rn(__nv_bfloat162 a, __nv_bfloat162 b) {
  const auto sum = [](__nv_bfloat16 x, __nv_bfloat16 y) {
    return __float2bfloat16_rn(cuda_emulator::to_float(x) + cuda_emulator::to_float(y));
  };
  return {sum(a.x, b.x), sum(a.y, b.y)};
}
template <typename Pair>
unsigned __heq2_mask(Pair a, Pair b) {
  return cuda_emulator::compare(a, b, [](float x, float y) { return x == y; });
}
template <typename Pair>
unsigned __hgt2_mask(Pair a, Pair b) {
  return cuda_emulator::compare(a, b, [](float x, float y) { return x > y; });
}
template <typename Pair>
unsigned __hgtu2_mask(Pair a, Pair b) {
  return cuda_emulator::compare(a, b, [](float x, float y) { return !(x <= y); });
}
template <typename Pair>
unsigned __hneu2_mask(Pair a, Pair b) {
  return cuda_emulator::compare(a, b, [](float x, float y) { return !(x == y); });
}
