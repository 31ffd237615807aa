// CUDA's language, or, without a CUDA compiler, an emulator of it (tests/cuda_emulator).

#pragma once

#ifdef __CUDACC__

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#define JUMPSTART_DEVICE __device__ __forceinline__

namespace jumpstart {
namespace cuda {

template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), int64_t blocks, int threads, cudaStream_t stream,
            const Arguments&... arguments) {
  kernel<<<static_cast<unsigned>(blocks), static_cast<unsigned>(threads), 0, stream>>>(arguments...);
}

// A launch whose blocks are one cluster, so that their threads may meet.
class ClusterLaunch {
 public:
  ClusterLaunch(unsigned blocks, int threads, cudaStream_t stream) {
    cluster_.id = cudaLaunchAttributeClusterDimension;
    cluster_.val.clusterDim = {blocks, 1, 1};
    config_.gridDim = dim3(blocks);
    config_.blockDim = dim3(static_cast<unsigned>(threads));
    config_.stream = stream;
    config_.attrs = &cluster_;
    config_.numAttrs = 1;
  }
  ClusterLaunch(const ClusterLaunch&) = delete;
  ClusterLaunch& operator=(const ClusterLaunch&) = delete;

  const cudaLaunchConfig_t* config() const { return &config_; }

 private:
  cudaLaunchAttribute cluster_{};
  cudaLaunchConfig_t config_{};
};

template <typename... Parameters, typename... Arguments>
void launch_cluster(void (*kernel)(Parameters...), int64_t blocks, int threads, cudaStream_t stream,
                    const Arguments&... arguments) {
  if (blocks == 1) return launch(kernel, blocks, threads, stream, arguments...);
  constexpr int64_t portable = 8;
  if (blocks > portable) cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
  const ClusterLaunch cluster(static_cast<unsigned>(blocks), threads, stream);
  cudaLaunchKernelEx(cluster.config(), kernel, arguments...);
}

// The most blocks of a cluster on the current device, a power of two; 1 if it or the code has none.
template <typename Kernel>
int most_cluster_blocks_of(Kernel* kernel, int threads) {
  int device = 0, supported = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&supported, cudaDevAttrClusterLaunch, device);
  if (!supported) return 1;
  cudaFuncAttributes code{};
  if (cudaFuncGetAttributes(&code, kernel) != cudaSuccess ||
      cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1) != cudaSuccess) {
    cudaGetLastError();  // or the next launch would report it
    return 1;
  }
  if (code.ptxVersion < 90) return 1;  // made for earlier devices, it has no barrier of the cluster
  for (int blocks = 16; blocks > 1; blocks /= 2) {
    const ClusterLaunch cluster(static_cast<unsigned>(blocks), threads, nullptr);
    int at_once = 0;
    if (cudaOccupancyMaxActiveClusters(&at_once, kernel, cluster.config()) != cudaSuccess) {
      cudaGetLastError();
    } else if (at_once > 0) {
      return blocks;
    }
  }
  return 1;
}

// Until all threads of the cluster are here; what they wrote to global memory is then visible to all.
JUMPSTART_DEVICE void meet_cluster() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release;\n\tbarrier.cluster.wait.acquire;" ::: "memory");
#else
  __syncthreads();  // a cluster is one block
#endif
}

}  // namespace cuda
}  // namespace jumpstart

#else

#include "cuda_emulator.h"

#endif
