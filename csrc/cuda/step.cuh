// What the kernels share: images in and out, the row of the current step, and noise.
#pragma once

#include <cuda_runtime.h>

#include "cuda/parameters.h"
#include "latino/normal.h"

namespace latino::cuda {

template <class T>
__device__ __forceinline__ T* dynamic_shared() {
#if defined(LATINO_SHARED_MEMORY)  // a compiler without `extern __shared__` says where it is
  return reinterpret_cast<T*>(LATINO_SHARED_MEMORY);
#else
  extern __shared__ __align__(16) unsigned char shared_bytes[];
  return reinterpret_cast<T*>(shared_bytes);
#endif
}

// Calls visit(pointer to float, Float16 or BFloat16). The branch stands outside the visitor's
// loops, so that their loads can all be under way at once.
template <class Visit>
__device__ __forceinline__ void with_type(Image image, Visit visit) {
  switch (image.type) {
    case kFloat16: return visit(static_cast<const Float16*>(image.data));
    case kBFloat16: return visit(static_cast<const BFloat16*>(image.data));
    default: return visit(static_cast<const float*>(image.data));
  }
}

template <class Visit>
__device__ __forceinline__ void with_type(Output image, Visit visit) {
  switch (image.type) {
    case kFloat16: return visit(static_cast<Float16*>(image.data));
    case kBFloat16: return visit(static_cast<BFloat16*>(image.data));
    default: return visit(static_cast<float*>(image.data));
  }
}

template <class T>
__device__ __forceinline__ void store(T* pixel, float value) {
  *pixel = from_float<T>(value);
}

// The pair's row of the current step. Past the end of the table it is the last row, and the third
// word of the counter says so: no memory outside the table is read.
template <class Row>
__device__ __forceinline__ Row read_step(const Steps& steps, std::int64_t pair) {
  std::uint32_t step = *static_cast<volatile std::uint32_t*>(steps.counter);
  if (step >= static_cast<std::uint32_t>(steps.num_steps)) {
    step = static_cast<std::uint32_t>(steps.num_steps) - 1;
    steps.counter[2] = 1;
  }
  const std::int64_t row =
      static_cast<std::int64_t>(step) * steps.num_pairs + (steps.num_pairs == 1 ? 0 : pair);
  return static_cast<const Row*>(steps.rows)[row];
}

// Moves the counter on when every block of the launch has arrived here. All threads must come.
__device__ __forceinline__ void finish_step(const Steps& steps) {
  __syncthreads();  // SYNC finish: all threads of the block have read their row
  if (threadIdx.x + threadIdx.y != 0) return;
  __threadfence();
  const unsigned num_blocks = gridDim.x * gridDim.y;
  if (atomicAdd(steps.counter + 1, 1u) == num_blocks - 1) {
    steps.counter[1] = 0;
    steps.counter[0] += 1;
  }
}

// The four normals of a quad; image and channel are below 2^22 and 1024, checked on the host.
__device__ __forceinline__ Normals normals_of(const Noise& noise, std::int64_t pair, int channel,
                                              std::uint32_t quad, std::uint32_t noise_step) {
  const auto image = static_cast<std::uint32_t>(noise.image_ids[pair]);
  const auto sample = static_cast<std::uint32_t>(noise.sample_ids[pair]);
  const Words counter{quad, static_cast<std::uint32_t>(channel) + 1024u * image, sample,
                      noise_step};
  const PhiloxKey key = noise.key_at == nullptr ? noise.key : *noise.key_at;
  return quad_normals(philox4x32(counter, key));
}

// w x + (1 - w) x_t, the two quadratic anchors as one.
__device__ __forceinline__ float anchor(float x_weight, float x, float x_t) {
  return x_weight * x + (1.0f - x_weight) * x_t;
}

template <class T>
__device__ __forceinline__ const T* plane_of(const Planes<T>& planes, std::int64_t pair,
                                             int channel) {
  return planes.data + pair * planes.pair_stride + channel * planes.channel_stride;
}

}  // namespace latino::cuda
