// Columns of a super-resolution data step, in place: transform, the Woodbury identity in the alias
// domain, inverse transform.
//
//   b = V + gamma conj(h) tile(Y),  X = b - gamma conj(h) tile(fold(h b) / (1 + gamma fold(|h|^2)))
//
// fold is the mean over s x s aliases. The rows of an alias class, k + i H/s, lie in one thread.
// Its columns, l + j W/s, do not all lie in the half-spectrum: column W - l stands for l, with
// F(k, W - l) = conj F(-k, l). So a block takes the classes of l and of W/s - l together, s columns
// of the half-spectrum, and adds q(k) over the columns of the class and conj q(-k) over those of
// the mirrored class. Class 0 is its own mirror, as is W/(2s): these two, s/2 packed columns each,
// share a block.
#pragma once

#include "cuda/fourier_columns.cuh"

namespace latino::cuda {

// Where a thread's column stands: its place in the half-spectrum and in the classes of the block.
template <int kColumns, int kFactor>
struct AliasClass {
  static constexpr int kClasses = kColumns / kFactor;  // pairs of mirrored classes in a block
  static constexpr int kHalf = kFactor / 2;            // columns of one class

  int slot, mirrored, column;

  __device__ __forceinline__ AliasClass(int thread, int tile, int width) {
    const int place = thread / kClasses, j = place % kHalf, period = width / kFactor;
    slot = thread % kClasses;
    mirrored = place / kHalf;
    const int l = tile * kClasses + slot;
    const int first = mirrored == 0 ? l : l == 0 ? period / 2 : period - l;
    column = first + j * period;
  }

  // The thread column of entry j of the pair's class `which`.
  __device__ __forceinline__ int thread_of(int which, int j) const {
    return (which * kHalf + j) * kClasses + slot;
  }
};

// The mean over row aliases of h b, rows t + m H/8 for m < 8/s; v = b. For the packed column half
// the sum of both of its spectra: it is its own mirror and will be counted twice.
template <int kHeight, int kFactor, class Slot>
__device__ __forceinline__ void fold_rows(float2 (&folded)[8 / kFactor], const float2 (&v)[8],
                                          const float2* h, int width, bool packed, int t,
                                          const float2* shared, Slot slot) {
  constexpr int kThreads = kHeight / 8, kKept = 8 / kFactor;
#pragma unroll
  for (int m = 0; m < kKept; ++m) folded[m] = make_float2(0.0f, 0.0f);
#pragma unroll
  for (int m = 0; m < 8; ++m) {
    const int k = t + m * kThreads;
    const float2 weight = __ldg(h + static_cast<std::int64_t>(k) * width);
    float2 term;
    if (packed) {
      const float2 f = v[m], g = shared[slot((kHeight - k) % kHeight)];
      const float2 nyquist = __ldg(h + static_cast<std::int64_t>(k) * width + width / 2);
      const float2 b0 = make_float2(0.5f * (f.x + g.x), 0.5f * (f.y - g.y));
      const float2 bn = make_float2(0.5f * (f.y + g.y), 0.5f * (g.x - f.x));
      term = scaled(0.5f, add(product(weight, b0), product(nyquist, bn)));
    } else {
      term = product(weight, v[m]);
    }
    folded[m % kKept] = add(folded[m % kKept], term);
  }
#pragma unroll
  for (int m = 0; m < kKept; ++m) {
    folded[m] = scaled(1.0f / static_cast<float>(kFactor * kFactor), folded[m]);
  }
}

template <int kHeight, int kFactor>
__global__ void __launch_bounds__(kHeight / 8 * alias_columns_per_block(kHeight, kFactor))
    alias_columns(AliasColumns p) {
  constexpr int kThreads = kHeight / 8, kColumns = alias_columns_per_block(kHeight, kFactor);
  constexpr int kKept = 8 / kFactor, kRows = kHeight / kFactor;
  using Class = AliasClass<kColumns, kFactor>;
  float2* shared = dynamic_shared<float2>();
  const int width = p.shape.width, half = width / 2;
  const int tiles = half / kColumns, tile = blockIdx.x % tiles;
  const std::int64_t plane = blockIdx.x / tiles, pair = plane / p.shape.channels;
  const int channel = static_cast<int>(plane % p.shape.channels);
  const int t = threadIdx.y, x = threadIdx.x;
  const Class place(x, tile, width);
  const bool packed = place.column == 0;
  float2* column = p.spectrum + plane * kHeight * half + place.column;
  const float2* h = plane_of(p.h, pair, channel) + place.column;
  const float2* back = plane_of(p.back_projected, pair, channel) + place.column;
  const float gamma = read_step<StepRow>(p.steps, pair).gamma;
  float2 v[8];
#pragma unroll
  for (int m = 0; m < 8; ++m) v[m] = column[(t + m * kThreads) * half];
  const ColumnSlot<kColumns> slot{x};
  fft<kHeight, -1, true>(v, shared, t, slot);
#pragma unroll
  for (int m = 0; m < 8; ++m) {
    const int row = (t + m * kThreads) * width;
    const float2 b = __ldg(back + row);
    v[m] = make_float2(v[m].x + gamma * b.x, v[m].y + gamma * b.y);
    if (packed) {  // + i times the Nyquist column
      const float2 n = __ldg(back + row + half);
      v[m] = make_float2(v[m].x - gamma * n.y, v[m].y + gamma * n.x);
    }
  }
  if (tile == 0) {
    if (packed) {
#pragma unroll
      for (int m = 0; m < 8; ++m) shared[slot(t + m * kThreads)] = v[m];
    }
    __syncthreads();  // SYNC alias-packed: P(-k) is there
  }
  float2 folded[kKept];
  fold_rows<kHeight, kFactor>(folded, v, h, width, packed, t, shared, slot);
  if (tile == 0) __syncthreads();  // SYNC alias-read: the slots of P may be overwritten
#pragma unroll
  for (int m = 0; m < kKept; ++m) shared[slot(t + m * kThreads)] = folded[m];
  __syncthreads();  // SYNC alias-fold: the folded columns of the block are there
  const int opposite = tile == 0 && place.slot == 0 ? place.mirrored : 1 - place.mirrored;
  const float* folded_power = plane_of(p.folded_power, pair, channel);
  const float scale = 1.0f / (static_cast<float>(kHeight) * static_cast<float>(width));
#pragma unroll
  for (int m = 0; m < kKept; ++m) {
    const int k = t + m * kThreads, mirror = (kRows - k) % kRows;
    float2 sum = make_float2(0.0f, 0.0f);
#pragma unroll
    for (int j = 0; j < Class::kHalf; ++j) {
      const ColumnSlot<kColumns> own{place.thread_of(place.mirrored, j)};
      const ColumnSlot<kColumns> other{place.thread_of(opposite, j)};
      sum = add(sum, add(shared[own(k)], conjugate(shared[other(mirror)])));
    }
    const float power = __ldg(folded_power + k * (width / kFactor) +
                              place.column % (width / kFactor));
    folded[m] = scaled(gamma / (1.0f + gamma * power), sum);
  }
#pragma unroll
  for (int m = 0; m < 8; ++m) {
    const int row = (t + m * kThreads) * width;
    float2 weight = conjugate(__ldg(h + row));
    if (packed) {  // conj(h0) + i conj(hn)
      const float2 n = __ldg(h + row + half);
      weight = make_float2(weight.x + n.y, weight.y + n.x);
    }
    v[m] = scaled(scale, subtract(v[m], product(weight, folded[m % kKept])));
  }
  fft<kHeight, 1, false>(v, shared, t, slot);
#pragma unroll
  for (int m = 0; m < 8; ++m) column[(t + m * kThreads) * half] = v[m];
}

}  // namespace latino::cuda
