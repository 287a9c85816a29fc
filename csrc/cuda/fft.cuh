// Complex FFT of 64 to 2048 points in registers and shared memory.
//
// Stockham, radix 8 (the last pass 2, 4 or 8): thread t of N/8 holds v[m] = x[t + m N/8] before and
// X[t + m N/8] after. Natural order at both ends, so that loads, the data step and stores fuse with
// it. One exchange through shared memory between two passes.
#pragma once

#include <cuda_runtime.h>

namespace latino::cuda {

constexpr int kPointsPerThread = 8;

// The build forbids contraction, because the noise must have the same bits everywhere; products
// of complex numbers ask for it by name.
__device__ __forceinline__ float fused(float a, float b, float c) { return __fmaf_rn(a, b, c); }

__device__ __forceinline__ float2 add(float2 a, float2 b) {
  return make_float2(a.x + b.x, a.y + b.y);
}
__device__ __forceinline__ float2 subtract(float2 a, float2 b) {
  return make_float2(a.x - b.x, a.y - b.y);
}
__device__ __forceinline__ float2 conjugate(float2 a) { return make_float2(a.x, -a.y); }
__device__ __forceinline__ float2 scaled(float s, float2 a) {
  return make_float2(s * a.x, s * a.y);
}
__device__ __forceinline__ float2 product(float2 a, float2 b) {
  return make_float2(fused(a.x, b.x, -(a.y * b.y)), fused(a.x, b.y, a.y * b.x));
}

// sign * i * a
template <int kSign>
__device__ __forceinline__ float2 quarter_turn(float2 a) {
  return kSign < 0 ? make_float2(a.y, -a.x) : make_float2(-a.y, a.x);
}

// The transform of kRadix points v[0], v[kStride], v[2 kStride], ...
template <int kRadix, int kStride, int kSign>
struct Butterfly;

template <int kStride, int kSign>
struct Butterfly<2, kStride, kSign> {
  static __device__ __forceinline__ void run(float2* v) {
    const float2 a = v[0];
    v[0] = add(a, v[kStride]);
    v[kStride] = subtract(a, v[kStride]);
  }
};

template <int kStride, int kSign>
struct Butterfly<4, kStride, kSign> {
  static __device__ __forceinline__ void run(float2* v) {
    const float2 a0 = add(v[0], v[2 * kStride]), a1 = subtract(v[0], v[2 * kStride]);
    const float2 a2 = add(v[kStride], v[3 * kStride]);
    const float2 a3 = quarter_turn<kSign>(subtract(v[kStride], v[3 * kStride]));
    v[0] = add(a0, a2);
    v[kStride] = add(a1, a3);
    v[2 * kStride] = subtract(a0, a2);
    v[3 * kStride] = subtract(a1, a3);
  }
};

template <int kStride, int kSign>
struct Butterfly<8, kStride, kSign> {
  static __device__ __forceinline__ void run(float2* v) {
    constexpr float kHalfRoot = 0.70710678118654752f;
    Butterfly<4, 2 * kStride, kSign>::run(v);
    Butterfly<4, 2 * kStride, kSign>::run(v + kStride);
    const float2 o0 = v[kStride];
    const float2 o1 = product(v[3 * kStride], make_float2(kHalfRoot, kSign * kHalfRoot));
    const float2 o2 = quarter_turn<kSign>(v[5 * kStride]);
    const float2 o3 = product(v[7 * kStride], make_float2(-kHalfRoot, kSign * kHalfRoot));
    const float2 e0 = v[0], e1 = v[2 * kStride], e2 = v[4 * kStride], e3 = v[6 * kStride];
    v[0] = add(e0, o0);
    v[kStride] = add(e1, o1);
    v[2 * kStride] = add(e2, o2);
    v[3 * kStride] = add(e3, o3);
    v[4 * kStride] = subtract(e0, o0);
    v[5 * kStride] = subtract(e1, o1);
    v[6 * kStride] = subtract(e2, o2);
    v[7 * kStride] = subtract(e3, o3);
  }
};

// Multiplies the inputs of one butterfly by exp(sign 2 pi i r position / length), r = 1, 2, ...
template <int kRadix, int kGroups, int kSign>
__device__ __forceinline__ void twiddle(float2* v, int position, int length) {
  float2 w[kPointsPerThread];
  sincospif(static_cast<float>(kSign * 2 * position) / static_cast<float>(length), &w[1].y,
            &w[1].x);
#pragma unroll
  for (int r = 2; r < kRadix; ++r) w[r] = product(w[r / 2], w[r - r / 2]);
#pragma unroll
  for (int r = 1; r < kRadix; ++r) v[r * kGroups] = product(v[r * kGroups], w[r]);
}

// The passes from the one whose butterflies lie kDone points apart. kFresh: nobody has read the
// shared memory yet, so that the first exchange may write at once.
template <int kSize, int kDone, int kSign, bool kFresh, class Slot>
__device__ __forceinline__ void fft_passes(float2 (&v)[kPointsPerThread], float2* shared, int t,
                                           Slot slot) {
  constexpr int kRadix = kSize / kDone >= 8 ? 8 : kSize / kDone;
  constexpr int kGroups = kPointsPerThread / kRadix, kThreads = kSize / kPointsPerThread;
  if constexpr (kDone > 1) {
#pragma unroll
    for (int i = 0; i < kGroups; ++i) {
      twiddle<kRadix, kGroups, kSign>(v + i, (t + i * kThreads) % kDone, kDone * kRadix);
    }
  }
#pragma unroll
  for (int i = 0; i < kGroups; ++i) Butterfly<kRadix, kGroups, kSign>::run(v + i);
  if constexpr (kDone * kRadix < kSize) {
    if constexpr (!kFresh) __syncthreads();  // SYNC fft-before: earlier readers are done
#pragma unroll
    for (int i = 0; i < kGroups; ++i) {
      const int j = t + i * kThreads, base = (j / kDone) * kDone * kRadix + j % kDone;
#pragma unroll
      for (int r = 0; r < kRadix; ++r) shared[slot(base + r * kDone)] = v[i + r * kGroups];
    }
    __syncthreads();  // SYNC fft-after: everything is written
#pragma unroll
    for (int m = 0; m < kPointsPerThread; ++m) v[m] = shared[slot(t + m * kThreads)];
    fft_passes<kSize, kDone * kRadix, kSign, false>(v, shared, t, slot);
  }
}

// Unnormalised; kSign -1 forward, +1 inverse. Afterwards a thread may overwrite, without a barrier,
// the slots t + m N/8 that it alone read in the last exchange.
template <int kSize, int kSign, bool kFresh, class Slot>
__device__ __forceinline__ void fft(float2 (&v)[kPointsPerThread], float2* shared, int t,
                                    Slot slot) {
  fft_passes<kSize, 1, kSign, kFresh>(v, shared, t, slot);
}

// Where point n of a transform lies in shared memory. The exclusive-or spreads the strided accesses
// of an exchange over the banks: 2.00 wavefronts for each 8-byte access of a warp, the least there
// is, without padding. Rows: one transform after another.
struct RowSlot {
  __device__ __forceinline__ int operator()(int n) const { return n ^ (n >> 3 & 15); }
};

// Columns: kColumns transforms interleaved.
template <int kColumns>
struct ColumnSlot {
  int column;
  __device__ __forceinline__ int operator()(int n) const {
    return (n ^ (n >> 3 & (16 / kColumns - 1))) * kColumns + column;
  }
};

}  // namespace latino::cuda
