// The data step of a mask in k-space, complex images as two channels (re, im).
//
// k-space is centred and orthonormal, F = fftshift fft2(ifftshift x) / sqrt(H W). For even sides
// that is (-1)^(k + l) fft2(x) / sqrt(H W) at centred place (k + H/2, l + W/2), so that neither a
// shift nor a scaling passes over memory: y is read where it lies and takes the sign.
#pragma once

#include "cuda/fourier_columns.cuh"
#include "cuda/fourier_rows.cuh"
#include "latino/pointwise.h"

namespace latino::cuda {

struct KSpaceRow {
  std::int64_t index, pair;
  int row;
};

__device__ __forceinline__ KSpaceRow kspace_row(const Shape& shape, int per_block) {
  const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * per_block + threadIdx.y;
  return {index, index / shape.height, static_cast<int>(index % shape.height)};
}

// spectrum = row transforms of x_weight x + (1 - x_weight) x_t, in natural order.
template <int kWidth>
__global__ void __launch_bounds__(kWidth / 8 * rows_per_block(kWidth))
    kspace_rows_forward(KSpace p) {
  constexpr int kThreads = kWidth / 8;
  float2* shared = dynamic_shared<float2>() + threadIdx.y * row_slots(kWidth);
  const int t = threadIdx.x;
  const KSpaceRow row = kspace_row(p.shape, rows_per_block(kWidth));
  const std::int64_t plane = static_cast<std::int64_t>(p.shape.height) * kWidth;
  const std::int64_t offset = row.pair * 2 * plane + row.row * kWidth + t;
  float2 v[8];
  with_type(p.x, [&](const auto* x) {
#pragma unroll
    for (int m = 0; m < 8; ++m) {
      const auto* pixel = x + offset + m * kThreads;
      v[m] = make_float2(to_float(pixel[0]), to_float(pixel[plane]));
    }
  });
  if (p.x_t.data != nullptr) {
    const float weight = read_step<StepRow>(p.steps, row.pair).x_weight;
    with_type(p.x_t, [&](const auto* x_t) {
#pragma unroll
      for (int m = 0; m < 8; ++m) {
        const auto* pixel = x_t + offset + m * kThreads;
        v[m] = make_float2(anchor(weight, v[m].x, to_float(pixel[0])),
                           anchor(weight, v[m].y, to_float(pixel[plane])));
      }
    });
  }
  fft<kWidth, -1, true>(v, shared, t, RowSlot{});
  float2* spectrum = p.spectrum + row.index * kWidth + t;
#pragma unroll
  for (int m = 0; m < 8; ++m) spectrum[m * kThreads] = v[m];
}

// Columns in place: transform, (gamma m Y + V) / (gamma m + 1), inverse transform.
template <int kHeight>
__global__ void __launch_bounds__(kHeight / 8 * columns_per_block(kHeight))
    kspace_columns(KSpace p) {
  constexpr int kThreads = kHeight / 8, kColumns = columns_per_block(kHeight);
  float2* shared = dynamic_shared<float2>();
  const int width = p.shape.width, tiles = width / kColumns, tile = blockIdx.x % tiles;
  const int t = threadIdx.y, l = tile * kColumns + threadIdx.x;
  const std::int64_t pair = blockIdx.x / tiles;
  float2* column = p.spectrum + pair * kHeight * width + l;
  const int centred = l ^ (width / 2);  // (l + W/2) mod W for a power of two
  const float* mask = plane_of(p.mask, pair, 0) + centred;
  const float* y_re = plane_of(p.y, pair, 0) + centred;
  const float* y_im = plane_of(p.y, pair, 1) + centred;
  const float gamma = read_step<StepRow>(p.steps, pair).gamma;
  const float size = static_cast<float>(kHeight) * static_cast<float>(width);
  const float root = sqrtf(size), scale = 1.0f / size;
  float2 v[8];
#pragma unroll
  for (int m = 0; m < 8; ++m) v[m] = column[(t + m * kThreads) * width];
  const ColumnSlot<kColumns> slot{static_cast<int>(threadIdx.x)};
  fft<kHeight, -1, true>(v, shared, t, slot);
#pragma unroll
  for (int m = 0; m < 8; ++m) {
    const int k = t + m * kThreads, at = (k ^ (kHeight / 2)) * width;
    const float weight = gamma * __ldg(mask + at), unit = (k + l) % 2 == 0 ? root : -root;
    v[m] = scaled(scale, make_float2(masked_prox(v[m].x, weight, unit * __ldg(y_re + at)),
                                     masked_prox(v[m].y, weight, unit * __ldg(y_im + at))));
  }
  fft<kHeight, 1, false>(v, shared, t, slot);
#pragma unroll
  for (int m = 0; m < 8; ++m) column[(t + m * kThreads) * width] = v[m];
}

// z + scale eps in one row of both channels. A quad covers two rows, so that its Philox call is
// made twice, once for each of them: cheaper than another exchange.
template <int kWidth>
__device__ __forceinline__ void add_kspace_noise(float2 (&z)[8], const KSpace& p,
                                                 const KSpaceRow& row, const StepRow& step) {
  constexpr int kThreads = kWidth / 8, kHalf = kWidth / 2;
  if (step.scale == 0.0f) return;
  const bool even = row.row % 2 == 0;
#pragma unroll
  for (int m = 0; m < 4; ++m) {
    const int w = threadIdx.x + m * kThreads;
    const auto quad = static_cast<std::uint32_t>(row.row / 2 * kHalf + w);
    const Normals re = normals_of(p.noise, row.pair, 0, quad, step.noise_step);
    const Normals im = normals_of(p.noise, row.pair, 1, quad, step.noise_step);
    z[m].x = add_noise(z[m].x, step.scale, even ? re.lane0 : re.lane1);
    z[m].y = add_noise(z[m].y, step.scale, even ? im.lane0 : im.lane1);
    z[m + 4].x = add_noise(z[m + 4].x, step.scale, even ? re.lane2 : re.lane3);
    z[m + 4].y = add_noise(z[m + 4].y, step.scale, even ? im.lane2 : im.lane3);
  }
}

template <int kWidth>
__global__ void __launch_bounds__(kWidth / 8 * rows_per_block(kWidth))
    kspace_rows_inverse(KSpace p) {
  constexpr int kThreads = kWidth / 8;
  float2* shared = dynamic_shared<float2>() + threadIdx.y * row_slots(kWidth);
  const int t = threadIdx.x;
  const KSpaceRow row = kspace_row(p.shape, rows_per_block(kWidth));
  const float2* spectrum = p.spectrum + row.index * kWidth + t;
  float2 v[8];
#pragma unroll
  for (int m = 0; m < 8; ++m) v[m] = spectrum[m * kThreads];
  fft<kWidth, 1, true>(v, shared, t, RowSlot{});
  const StepRow step = read_step<StepRow>(p.steps, row.pair);
  add_kspace_noise<kWidth>(v, p, row, step);
  const std::int64_t plane = static_cast<std::int64_t>(p.shape.height) * kWidth;
  with_type(p.out, [&](auto* out) {
#pragma unroll
    for (int m = 0; m < 8; ++m) {
      auto* pixel = out + row.pair * 2 * plane + row.row * kWidth + t + m * kThreads;
      store(pixel, v[m].x);
      store(pixel + plane, v[m].y);
    }
  });
  finish_step(p.steps);
}

}  // namespace latino::cuda
