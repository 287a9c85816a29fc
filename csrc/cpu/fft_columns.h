// Columns of a Fourier data step in place, one block of columns at a time, lanes across them.
// Included by target_loops.h.
//
// Forward passes take a block of n rows apart into R blocks of n / R, which are then finished one
// by one while they lie in the L1 cache: transform, data step, inverse transform.

template <int kCount>
LATINO_INLINE Complex<kCount> load_row(const float* rows, std::int64_t row) {
  const float* at = rows + 2 * kCount * row;
  return {load<kCount>(at), load<kCount>(at + kCount)};
}

template <int kCount>
LATINO_INLINE void store_row(float* rows, std::int64_t row, Complex<kCount> value) {
  float* at = rows + 2 * kCount * row;
  store<kCount>(at, value.re);
  store<kCount>(at + kCount, value.im);
}

template <int kCount, int kRadix, bool kInverse>
LATINO_INLINE void column_pass(const fft::Pass& pass, float* rows) {
  const int count = pass.points / kRadix;
  for (int p = 0; p < count; ++p) {
    const float* w = pass.twiddles.data() + 2 * (kRadix - 1) * p;
    Complex<kCount> x[kRadix];
#pragma GCC unroll 16
    for (int j = 0; j < kRadix; ++j) x[j] = load_row<kCount>(rows, p + j * count);
    if (kInverse) {
#pragma GCC unroll 16
      for (int j = 1; j < kRadix; ++j) x[j] = turn<true>(x[j], w[2 * j - 2], w[2 * j - 1]);
    }
    butterfly<kRadix, kInverse>(x);
    if (!kInverse) {
#pragma GCC unroll 16
      for (int j = 1; j < kRadix; ++j) x[j] = turn<false>(x[j], w[2 * j - 2], w[2 * j - 1]);
    }
#pragma GCC unroll 16
    for (int j = 0; j < kRadix; ++j) store_row<kCount>(rows, p + j * count, x[j]);
  }
}

template <int kCount, bool kInverse>
void column_pass(const fft::Pass& pass, float* rows) {
  switch (pass.radix) {
    case 2: return column_pass<kCount, 2, kInverse>(pass, rows);
    case 4: return column_pass<kCount, 4, kInverse>(pass, rows);
    case 8: return column_pass<kCount, 8, kInverse>(pass, rows);
    default: return column_pass<kCount, 16, kInverse>(pass, rows);
  }
}

// (gamma conj(h) Y + V) / (gamma |h|^2 + 1) of spectral row k, from 2 V, with the scale of both
// inverse transforms.
template <int kCount>
LATINO_INLINE Complex<kCount> data_step(const FourierColumns& step, int column, int k,
                                        Complex<kCount> twice) {
  const std::int64_t at = std::int64_t{k} * step.pitch + column;
  const Lanes<kCount> weight =
      step.half_scale / (step.gamma * load<kCount>(step.power + at) + 1.0f);
  const Complex<kCount> back = load_interleaved<kCount>(step.back_projected + 2 * at);
  return {(step.twice_gamma * back.re + twice.re) * weight,
          (step.twice_gamma * back.im + twice.im) * weight};
}

// h V of spectral row k, from 2 V, with the same scale.
template <int kCount>
LATINO_INLINE Complex<kCount> data_step(const ProductColumns& step, int column, int k,
                                        Complex<kCount> twice) {
  const std::int64_t at = std::int64_t{k} * step.pitch + column;
  const Complex<kCount> h = load_interleaved<kCount>(step.h + 2 * at);
  const Lanes<kCount> re = step.scale * h.re, im = step.imaginary_scale * h.im;
  return {twice.re * re - twice.im * im, twice.re * im + twice.im * re};
}

// +1 and -1 in turn, from `first` on: what the shifts of a centred transform leave behind, whose
// sides are multiples of 4.
template <int kCount>
LATINO_INLINE Lanes<kCount> alternating(float first) {
  alignas(64) float signs[kCount];
  for (int i = 0; i < kCount; ++i) signs[i] = i % 2 == 0 ? first : -first;
  return load<kCount>(signs);
}

// (gamma m Y + V) / (gamma m + 1) of a k-space whose DC lies in the middle, in units of V.
template <int kCount>
LATINO_INLINE Complex<kCount> data_step(const KspaceColumns& step, int column, int k,
                                        Complex<kCount> value) {
  const std::int64_t at = step.centred(k, column);
  const Lanes<kCount> mask = load<kCount>(step.mask + at), weight = step.gamma * mask;
  const Lanes<kCount> scale = step.inverse_scale / (weight + 1.0f);
  const Lanes<kCount> pull = weight * alternating<kCount>(k % 2 == 0 ? step.root : -step.root);
  const Lanes<kCount> re = kept_lanes<kCount>(mask, load<kCount>(step.y_re + at));
  const Lanes<kCount> im = kept_lanes<kCount>(mask, load<kCount>(step.y_im + at));
  return {(pull * re + value.re) * scale, (pull * im + value.im) * scale};
}

template <int kCount, int kRadix, class Step>
LATINO_INLINE void leaf(const Step& step, int column, int position, float* rows) {
  const int first = step.plan->order[position], stride = step.plan->side / kRadix;
  Complex<kCount> x[kRadix];
#pragma GCC unroll 16
  for (int j = 0; j < kRadix; ++j) x[j] = load_row<kCount>(rows, j);
  butterfly<kRadix, false>(x);
#pragma GCC unroll 16
  for (int j = 0; j < kRadix; ++j) x[j] = data_step<kCount>(step, column, first + j * stride, x[j]);
  butterfly<kRadix, true>(x);
#pragma GCC unroll 16
  for (int j = 0; j < kRadix; ++j) store_row<kCount>(rows, j, x[j]);
}

enum class Sweep { kForward, kInverse, kBoth };

// The passes from `depth` on over the block of rows at `position`; both ways with the data step
// between them.
template <int kCount, Sweep kSweep, class Step>
void transform_columns(const Step& step, std::size_t depth, int column, int position,
                       float* rows) {
  const fft::Pass& pass = step.plan->column_passes[depth];
  if (depth + 1 == step.plan->column_passes.size()) {
    if constexpr (kSweep == Sweep::kBoth) {
      if (pass.radix == 8) return leaf<kCount, 8>(step, column, position, rows);
      return leaf<kCount, 16>(step, column, position, rows);
    } else {
      return column_pass<kCount, kSweep == Sweep::kInverse>(pass, rows);
    }
  }
  if constexpr (kSweep != Sweep::kInverse) column_pass<kCount, false>(pass, rows);
  const int size = pass.points / pass.radix;
  for (int j = 0; j < pass.radix; ++j) {
    transform_columns<kCount, kSweep>(step, depth + 1, column, position + j * size,
                                      rows + std::int64_t{2} * kCount * j * size);
  }
  if constexpr (kSweep != Sweep::kForward) column_pass<kCount, true>(pass, rows);
}

// Column 0 of the block: P = F0 + i FN at row k; F0 = (P + conj P(-k)) / 2 and FN likewise, each
// with its own data step. `packed` holds 2 P in the order of k, re then im.
template <int kCount, class Step>
void packed_data_step(const Step& step, const float* packed, float* rows) {
  const int side = step.plan->side, last_column = static_cast<int>(step.pitch) - 1;
  const float* imaginary = packed + side;
  for (int position = 0; position < side; ++position) {
    const int k = step.plan->order[position], mirror = (side - k) & (side - 1);
    const float re = packed[k], im = imaginary[k];
    const float mirror_re = packed[mirror], mirror_im = imaginary[mirror];
    const Complex<1> first =
        data_step<1>(step, 0, k, Complex<1>{0.5f * (re + mirror_re), 0.5f * (im - mirror_im)});
    const Complex<1> last = data_step<1>(
        step, last_column, k, Complex<1>{0.5f * (im + mirror_im), 0.5f * (mirror_re - re)});
    float* at = rows + std::int64_t{2} * kCount * position;
    at[0] = first.re - last.im;
    at[kCount] = first.im + last.re;
  }
}

template <int kCount, class Step>
LATINO_INLINE void packed_columns(const Step& step, float* rows) {
  const int side = step.plan->side;
  float packed[2 * fft::kMaxSide];
  transform_columns<kCount, Sweep::kForward>(step, 0, 0, 0, rows);
  for (int position = 0; position < side; ++position) {
    const int k = step.plan->order[position];
    const Complex<kCount> value = load_row<kCount>(rows, position);
    packed[k] = value.re[0];
    packed[side + k] = value.im[0];
    store_row<kCount>(rows, position, data_step<kCount>(step, 0, k, value));
  }
  packed_data_step<kCount>(step, packed, rows);
  transform_columns<kCount, Sweep::kInverse>(step, 0, 0, 0, rows);
}

template <int kCount, class Step>
LATINO_INLINE void column_block(const Step& step, int block, float* rows) {
  if (block == 0) return packed_columns<kCount>(step, rows);
  transform_columns<kCount, Sweep::kBoth>(step, 0, block * kCount, 0, rows);
}

// The block's columns: transform, data step, inverse transform.
template <class Step>
LATINO_INLINE void half_spectrum_columns(const Step& step, const Spectrum& spectrum, int block) {
  if (kLanes > 8 && step.pitch - 1 < kLanes) {
    return column_block<kNarrow>(step, block, spectrum.block(block));
  }
  column_block<kLanes>(step, block, spectrum.block(block));
}

void fourier_columns(const FourierColumns& step, const Spectrum& spectrum, int block) {
  half_spectrum_columns(step, spectrum, block);
}

void product_columns(const ProductColumns& step, const Spectrum& spectrum, int block) {
  half_spectrum_columns(step, spectrum, block);
}
