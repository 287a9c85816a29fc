// Rows of a Fourier data step: both anchors combined in the load, the noise added in the store.
// Two real rows make one complex transform.
#pragma once

#include "cuda/fft.cuh"
#include "cuda/geometry.h"
#include "cuda/step.cuh"
#include "latino/pointwise.h"

namespace latino::cuda {

// Which two rows this thread works on. Blocks have no tail: the pairs of rows of a plane, 32 or
// more, are a multiple of those of a block.
struct RowPair {
  std::int64_t index, pair;
  int channel, j;  // rows 2j and 2j + 1 of the plane
};

__device__ __forceinline__ RowPair row_pair(const Shape& shape, int per_block) {
  const int half_height = shape.height / 2;
  const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * per_block + threadIdx.y;
  const std::int64_t plane = index / half_height;
  return {index, plane / shape.channels, static_cast<int>(plane % shape.channels),
          static_cast<int>(index % half_height)};
}

// spectrum = row transforms of x_weight x + (1 - x_weight) x_t.
template <int kWidth>
__global__ void __launch_bounds__(kWidth / 8 * rows_per_block(kWidth))
    fourier_rows_forward(FourierRows p) {
  constexpr int kThreads = kWidth / 8;
  float2* shared = dynamic_shared<float2>() + threadIdx.y * row_slots(kWidth);
  const int t = threadIdx.x;
  const RowPair rows = row_pair(p.shape, rows_per_block(kWidth));
  const std::int64_t offset = rows.index * 2 * kWidth + t;
  float2 v[8];
  with_type(p.x, [&](const auto* x) {
#pragma unroll
    for (int m = 0; m < 8; ++m) {
      const auto* pixel = x + offset + m * kThreads;
      v[m] = make_float2(to_float(pixel[0]), to_float(pixel[kWidth]));
    }
  });
  if (p.x_t.data != nullptr) {
    const float weight = read_step<StepRow>(p.steps, rows.pair).x_weight;
    with_type(p.x_t, [&](const auto* x_t) {
#pragma unroll
      for (int m = 0; m < 8; ++m) {
        const auto* pixel = x_t + offset + m * kThreads;
        v[m] = make_float2(anchor(weight, v[m].x, to_float(pixel[0])),
                           anchor(weight, v[m].y, to_float(pixel[kWidth])));
      }
    });
  }
  const RowSlot slot;
  fft<kWidth, -1, true>(v, shared, t, slot);
  // Separate the two rows: with F the transform of a + i b, A(k) = (F(k) + conj F(-k)) / 2 and
  // B(k) = (F(k) - conj F(-k)) / 2i.
#pragma unroll
  for (int m = 4; m < 8; ++m) shared[slot(t + m * kThreads)] = v[m];
  __syncthreads();  // SYNC rows-unpack: the upper half of the spectrum is there
  float2* top = p.spectrum + rows.index * kWidth;
  float2* bottom = top + kWidth / 2;
#pragma unroll
  for (int m = 0; m < 4; ++m) {
    const int k = t + m * kThreads;
    const float2 f = v[m];
    if (k == 0) {  // thread 0 itself holds the Nyquist frequency, v[4]
      top[k] = make_float2(f.x, v[4].x);
      bottom[k] = make_float2(f.y, v[4].y);
    } else {
      const float2 g = shared[slot(kWidth - k)];
      top[k] = make_float2(0.5f * (f.x + g.x), 0.5f * (f.y - g.y));
      bottom[k] = make_float2(0.5f * (f.y + g.y), 0.5f * (g.x - f.x));
    }
  }
}

// z + scale eps for the four pixels of each quad of a thread. Kept apart from the stores, which
// exist once for each type of image.
template <int kWidth>
__device__ __forceinline__ void add_row_noise(float2 (&z)[8], const FourierRows& p,
                                              const RowPair& rows, const StepRow& step) {
  constexpr int kThreads = kWidth / 8, kHalf = kWidth / 2;
  if (step.scale == 0.0f) return;
#pragma unroll
  for (int m = 0; m < 4; ++m) {
    const auto quad = static_cast<std::uint32_t>(rows.j * kHalf + threadIdx.x + m * kThreads);
    const Normals eps = normals_of(p.noise, rows.pair, rows.channel, quad, step.noise_step);
    z[m].x = add_noise(z[m].x, step.scale, eps.lane0);
    z[m].y = add_noise(z[m].y, step.scale, eps.lane1);
    z[m + 4].x = add_noise(z[m + 4].x, step.scale, eps.lane2);
    z[m + 4].y = add_noise(z[m + 4].y, step.scale, eps.lane3);
  }
}

// out = inverse row transforms + scale eps; the last launch of a step.
template <int kWidth>
__global__ void __launch_bounds__(kWidth / 8 * rows_per_block(kWidth))
    fourier_rows_inverse(FourierRows p) {
  constexpr int kThreads = kWidth / 8, kHalf = kWidth / 2;
  float2* shared = dynamic_shared<float2>() + threadIdx.y * row_slots(kWidth);
  const int t = threadIdx.x;
  const RowPair rows = row_pair(p.shape, rows_per_block(kWidth));
  const float2* top = p.spectrum + rows.index * kWidth;
  const float2* bottom = top + kHalf;
  float2 v[8];
#pragma unroll
  for (int m = 0; m < 8; ++m) {  // F(k) = A(k) + i B(k), the upper half from A(-k) = conj A(k)
    const int k = t + m * kThreads, q = m < 4 ? k : (kWidth - k) % kHalf;
    const float2 a = top[q], b = bottom[q];
    if (q == 0) {
      v[m] = m < 4 ? make_float2(a.x, b.x) : make_float2(a.y, b.y);
    } else {
      v[m] = m < 4 ? make_float2(a.x - b.y, a.y + b.x) : make_float2(a.x + b.y, b.x - a.y);
    }
  }
  const RowSlot slot;
  fft<kWidth, 1, true>(v, shared, t, slot);
  const StepRow step = read_step<StepRow>(p.steps, rows.pair);
  add_row_noise<kWidth>(v, p, rows, step);
  with_type(p.out, [&](auto* out) {
#pragma unroll
    for (int m = 0; m < 8; ++m) {
      auto* pixel = out + rows.index * 2 * kWidth + t + m * kThreads;
      store(pixel, v[m].x);
      store(pixel + kWidth, v[m].y);
    }
  });
  finish_step(p.steps);
}

}  // namespace latino::cuda
