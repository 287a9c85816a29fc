// Pointwise operations with noise in one pass, for any size. A thread owns quads: kVector
// neighbouring columns w and w + ceil(W/2) of rows 2j and 2j + 1, hence four runs of pixels.
#pragma once

#include "cuda/geometry.h"
#include "cuda/step.cuh"
#include "latino/pointwise.h"

namespace latino::cuda {

enum class QuadOp { kGaussianNoise, kLangevinNoise, kMaskedProxNoise, kReverseStep };

// kVector entries in one access; the caller sees to the alignment.
template <int kVector, class T>
struct alignas(kVector * sizeof(T)) Run {
  T values[kVector];
};

template <int kVector, class T>
__device__ __forceinline__ void load_values(float (&run)[kVector], const T* data) {
  const auto loaded = *reinterpret_cast<const Run<kVector, T>*>(data);
#pragma unroll
  for (int i = 0; i < kVector; ++i) run[i] = to_float(loaded.values[i]);
}

template <int kVector, class T>
__device__ __forceinline__ void store_values(T* data, const float (&run)[kVector]) {
  Run<kVector, T> stored;
#pragma unroll
  for (int i = 0; i < kVector; ++i) stored.values[i] = from_float<T>(run[i]);
  *reinterpret_cast<Run<kVector, T>*>(data) = stored;
}

template <int kVector>
__device__ __forceinline__ void load_run(float (&run)[kVector], Image image, std::int64_t offset) {
  with_type(image, [&](const auto* data) { load_values(run, data + offset); });
}

template <int kVector>
__device__ __forceinline__ void store_run(Output image, std::int64_t offset,
                                          const float (&run)[kVector]) {
  with_type(image, [&](auto* data) { store_values(data + offset, run); });
}

struct Place {
  std::int64_t pair;
  int channel;
  std::int64_t in_plane, in_image;  // offsets of a run
};

// One run: out = op(inputs, eps).
template <QuadOp kOp, int kVector>
__device__ __forceinline__ void finish_run(const Quads& p, const Place& place, const StepRow& step,
                                           const ReverseRow& reverse,
                                           const float (&eps)[kVector]) {
  float result[kVector], x_t[kVector], weight[kVector], y[kVector];
  if constexpr (kOp != QuadOp::kGaussianNoise) load_run(result, p.x, place.in_image);
  if constexpr (kOp == QuadOp::kReverseStep) load_run(x_t, p.x_t, place.in_image);
  if constexpr (kOp == QuadOp::kMaskedProxNoise) {
    const Image mask{plane_of(p.mask, place.pair, place.channel), kFloat32};
    const Image seen{plane_of(p.y, place.pair, place.channel), kFloat32};
    load_run(weight, mask, place.in_plane);
    load_run(y, seen, place.in_plane);
    if (p.x_t.data != nullptr) {
      load_run(x_t, p.x_t, place.in_image);
#pragma unroll
      for (int i = 0; i < kVector; ++i) result[i] = anchor(step.x_weight, result[i], x_t[i]);
    }
  }
#pragma unroll
  for (int i = 0; i < kVector; ++i) {
    if constexpr (kOp == QuadOp::kGaussianNoise) {
      result[i] = eps[i];
    } else if constexpr (kOp == QuadOp::kReverseStep) {
      const ReverseStep scalars{reverse.sigma_next, reverse.kept, reverse.renewed};
      result[i] = latino::reverse_step(result[i], x_t[i], scalars, eps[i]);
    } else {
      if constexpr (kOp == QuadOp::kMaskedProxNoise) {
        result[i] = masked_prox(result[i], step.gamma * weight[i], y[i]);
      }
      result[i] = add_noise(result[i], step.scale, eps[i]);
    }
  }
  store_run(p.out, place.in_image, result);
}

// Grid: x over the quads of a plane, y over planes.
template <QuadOp kOp, int kVector>
__device__ __forceinline__ void walk_quads(const Quads& p) {
  const int height = p.shape.height, width = p.shape.width, half = (width + 1) / 2;
  const int across = half / kVector, count = (height + 1) / 2 * across;
  const int first = blockIdx.x * kQuadThreads + threadIdx.x;
  const std::int64_t num_planes = p.shape.pairs * p.shape.channels;
  for (std::int64_t plane = blockIdx.y; plane < num_planes && first < count; plane += gridDim.y) {
    const std::int64_t pair = plane / p.shape.channels;
    const int channel = static_cast<int>(plane % p.shape.channels);
    StepRow step{};
    ReverseRow reverse{};
    if constexpr (kOp == QuadOp::kReverseStep) {
      reverse = read_step<ReverseRow>(p.steps, pair);
    } else {
      step = read_step<StepRow>(p.steps, pair);
    }
    const std::uint32_t noise_step =
        kOp == QuadOp::kReverseStep ? reverse.noise_step : step.noise_step;
    const int j = first / across, w = first % across * kVector;
    float eps[4][kVector];
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      const auto quad = static_cast<std::uint32_t>(j * half + w + i);
      const Normals n = normals_of(p.noise, pair, channel, quad, noise_step);
      eps[0][i] = n.lane0;
      eps[1][i] = n.lane1;
      eps[2][i] = n.lane2;
      eps[3][i] = n.lane3;
    }
#pragma unroll
    for (int lane = 0; lane < 4; ++lane) {
      const int row = 2 * j + lane % 2, column = w + lane / 2 * half;
      if (row >= height || column >= width) continue;
      const std::int64_t in_plane = static_cast<std::int64_t>(row) * width + column;
      const std::int64_t in_image = plane * height * width + in_plane;
      finish_run<kOp, kVector>(p, {pair, channel, in_plane, in_image}, step, reverse, eps[lane]);
    }
  }
  finish_step(p.steps);
}

// out = eps
template <int kVector>
__global__ void __launch_bounds__(kQuadThreads) gaussian_noise(Quads p) {
  walk_quads<QuadOp::kGaussianNoise, kVector>(p);
}

// out = x + scale eps
template <int kVector>
__global__ void __launch_bounds__(kQuadThreads) langevin_noise(Quads p) {
  walk_quads<QuadOp::kLangevinNoise, kVector>(p);
}

// out = (gamma m y + v) / (gamma m + 1) + scale eps, v = x_weight x + (1 - x_weight) x_t
template <int kVector>
__global__ void __launch_bounds__(kQuadThreads) masked_prox_noise(Quads p) {
  walk_quads<QuadOp::kMaskedProxNoise, kVector>(p);
}

// out = x + sigma_next (kept (x_t - x) + renewed eps)
template <int kVector>
__global__ void __launch_bounds__(kQuadThreads) reverse_step(Quads p) {
  walk_quads<QuadOp::kReverseStep, kVector>(p);
}

}  // namespace latino::cuda
