// Columns of a Fourier data step, in place: transform, (gamma conj(h) Y + V) / (gamma |h|^2 + 1),
// inverse transform.
#pragma once

#include "cuda/fft.cuh"
#include "cuda/geometry.h"
#include "cuda/step.cuh"

namespace latino::cuda {

// The packed column P = F0 + i FN at row k, given g = P(-k): F0 = (P + conj g) / 2 and
// i FN = (P - conj g) / 2; weighted by w0 and wn.
__device__ __forceinline__ float2 weigh_packed(float2 f, float2 g, float w0, float wn) {
  const float2 dc = make_float2(0.5f * (f.x + g.x), 0.5f * (f.y - g.y));
  const float2 nyquist = make_float2(0.5f * (f.x - g.x), 0.5f * (f.y + g.y));
  return make_float2(w0 * dc.x + wn * nyquist.x, w0 * dc.y + wn * nyquist.y);
}

template <int kHeight>
__global__ void __launch_bounds__(kHeight / 8 * columns_per_block(kHeight))
    fourier_columns(FourierColumns p) {
  constexpr int kThreads = kHeight / 8, kColumns = columns_per_block(kHeight);
  float2* shared = dynamic_shared<float2>();
  const int half = p.shape.width / 2, tiles = half / kColumns, tile = blockIdx.x % tiles;
  const int t = threadIdx.y, c = tile * kColumns + threadIdx.x;
  const std::int64_t plane = blockIdx.x / tiles, pair = plane / p.shape.channels;
  const int channel = static_cast<int>(plane % p.shape.channels);
  float2* column = p.spectrum + plane * kHeight * half + c;
  const float2* back = plane_of(p.back_projected, pair, channel);
  const float* power = plane_of(p.power, pair, channel);
  const float gamma = read_step<StepRow>(p.steps, pair).gamma;
  const float scale = 1.0f / (static_cast<float>(kHeight) * static_cast<float>(p.shape.width));
  float2 v[8];
#pragma unroll
  for (int m = 0; m < 8; ++m) v[m] = column[(t + m * kThreads) * half];
  const ColumnSlot<kColumns> slot{static_cast<int>(threadIdx.x)};
  fft<kHeight, -1, true>(v, shared, t, slot);
#pragma unroll
  for (int m = 0; m < 8; ++m) {
    const int row = (t + m * kThreads) * (half + 1);
    const float2 b = __ldg(back + row + c);
    v[m] = make_float2(v[m].x + gamma * b.x, v[m].y + gamma * b.y);
    if (c == 0) {  // + i times the Nyquist column
      const float2 n = __ldg(back + row + half);
      v[m] = make_float2(v[m].x - gamma * n.y, v[m].y + gamma * n.x);
    }
  }
  if (tile == 0) {
    if (c == 0) {
#pragma unroll
      for (int m = 0; m < 8; ++m) shared[slot(t + m * kThreads)] = v[m];
    }
    __syncthreads();  // SYNC columns-packed: P(-k) is there
  }
#pragma unroll
  for (int m = 0; m < 8; ++m) {
    const int k = t + m * kThreads, row = k * (half + 1);
    const float weight = scale / (gamma * __ldg(power + row + c) + 1.0f);
    if (c == 0) {
      const float nyquist = scale / (gamma * __ldg(power + row + half) + 1.0f);
      v[m] = weigh_packed(v[m], shared[slot((kHeight - k) % kHeight)], weight, nyquist);
    } else {
      v[m] = scaled(weight, v[m]);
    }
  }
  fft<kHeight, 1, false>(v, shared, t, slot);
#pragma unroll
  for (int m = 0; m < 8; ++m) column[(t + m * kThreads) * half] = v[m];
}

}  // namespace latino::cuda
