// What the stand-in says of its GPU.

#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstring>

constexpr size_t kBytes = size_t{139} << 30;
constexpr int kMultiprocessors = 132, kThreads = 2048, kL2 = 50 << 20;
constexpr int kShared = 49152, kMostShared = 232448;  // bytes of a block
constexpr int kMostThreads = 1024, kMostDepth = 64, kMostBlocks = 0x7fffffff, kMostBlocksAcross = 65535;

inline void describe(cudaDeviceProp& p) {
  p = {};
  strcpy(p.name, "Stand-in");
  p.major = 9;
  p.multiProcessorCount = kMultiprocessors;
  p.totalGlobalMem = kBytes;
  p.warpSize = 32;
  p.maxThreadsPerBlock = p.maxThreadsDim[0] = p.maxThreadsDim[1] = kMostThreads;
  p.maxThreadsDim[2] = kMostDepth;
  p.maxThreadsPerMultiProcessor = kThreads;
  p.maxGridSize[0] = kMostBlocks;
  p.maxGridSize[1] = p.maxGridSize[2] = kMostBlocksAcross;
  p.sharedMemPerBlock = kShared;
  p.sharedMemPerBlockOptin = kMostShared;
  p.sharedMemPerMultiprocessor = 233472;
  p.regsPerBlock = p.regsPerMultiprocessor = 65536;
  p.l2CacheSize = kL2;
  p.textureAlignment = 512;
}

inline int value_of(cudaDeviceAttr attribute) {
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount: return kMultiprocessors;
    case cudaDevAttrComputeCapabilityMajor: return 9;
    case cudaDevAttrWarpSize: return 32;
    case cudaDevAttrMaxThreadsPerBlock: return kMostThreads;
    case cudaDevAttrMaxThreadsPerMultiProcessor: return kThreads;
    case cudaDevAttrMaxSharedMemoryPerBlock: return kShared;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: return kMostShared;
    case cudaDevAttrL2CacheSize: return kL2;
    case cudaDevAttrClusterLaunch: return 1;
    default: return 0;
  }
}

inline bool is_within(dim3 size, unsigned x, unsigned y, unsigned z) {
  return size.x && size.y && size.z && size.x <= x && size.y <= y && size.z <= z;
}
