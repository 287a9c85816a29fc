// Stands in for the toolkit's header: the same .cu files, unmodified, compile with a C++17 compiler
// and run on the CPU, thread by thread (fibers.h).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "fibers.h"

#define CUDA_CPU_SHIM 1
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define LATINO_SHARED_MEMORY ::cucpu::scheduler.shared_memory()

struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }

// ---- barriers, shuffles, atomics ---------------------------------------------------------------

#define __syncthreads() ::cucpu::scheduler.wait_for_block(__LINE__)
inline void __syncwarp(unsigned mask = ~0u) { cucpu::scheduler.wait_for_warp(mask, 0, -1); }

// A lane may read inside its own `width`-wide segment of the warp.
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int offset, int width = 32) {
  const int lane = cucpu::scheduler.lane(), source = lane ^ offset;
  const int end = (lane & ~(width - 1)) + width;
  return cucpu::shuffle(mask, value, source >= end ? lane : source);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  return cucpu::scheduler.wait_for_warp(mask, predicate != 0, -1).ballot;
}
template <class T>
T atomicAdd(T* address, T value) {  // fibers never preempt each other
  const T before = *address;
  *address = before + value;
  return before;
}
inline void __threadfence() {}

// ---- device functions --------------------------------------------------------------------------

template <class T>
T __ldg(const T* address) {
  return *address;
}
inline float __fmaf_rn(float a, float b, float c) { return a * b + c; }
inline void sincospif(float x, float* sine, float* cosine) {
  const double angle = M_PI * static_cast<double>(x);
  *sine = static_cast<float>(std::sin(angle));
  *cosine = static_cast<float>(std::cos(angle));
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }

// ---- the little of the runtime that launchers use ----------------------------------------------

using cudaStream_t = void*;
using cudaError_t = int;
enum : int { cudaSuccess = 0 };

inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t) { return "no error"; }

template <class Parameters>
cudaError_t cudaLaunchKernel(void (*kernel)(Parameters), dim3 grid, dim3 block, void** arguments,
                             std::size_t shared_bytes, cudaStream_t) {
  struct Call {
    void (*kernel)(Parameters);
    const Parameters* parameters;
  } call{kernel, static_cast<const Parameters*>(arguments[0])};
  const auto body = [](void* pointer) {
    const auto* c = static_cast<const Call*>(pointer);
    c->kernel(*c->parameters);
  };
  cucpu::scheduler.launch(grid, block, shared_bytes, body, &call);
  return cudaSuccess;
}
