// Columns of a super-resolution data step in place, by the Woodbury identity in the alias domain:
//
//   b = V + gamma conj(h) tile(Y),  X = b - gamma conj(h) tile(fold(h b) / (1 + gamma fold(|h|^2)))
//
// fold is the mean over the s x s aliases. `alias_forward` leaves b in a block and adds up h b over
// the aliases of its rows; `alias_fold` adds up the columns; `alias_inverse` takes the block back.
// All carry the factor of two of the row transforms. Included by target_loops.h.

template <int kCount>
LATINO_INLINE Complex<kCount> product(Complex<kCount> a, Complex<kCount> b) {
  return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}

// The packed column P = V0 + i VN taken apart: V0 stays in lane 0, VN goes to step.nyquist.
template <int kCount>
void unpack_column(const AliasColumns& step, float* rows) {
  const int side = step.plan->side;
  float packed[2 * fft::kMaxSide];
  for (int k = 0; k < side; ++k) {
    const float* at = rows + std::int64_t{2} * kCount * step.plan->positions[k];
    packed[k] = at[0];
    packed[side + k] = at[kCount];
  }
  for (int k = 0; k < side; ++k) {
    const int mirror = (side - k) & (side - 1);
    const float re = packed[k], im = packed[side + k];
    const float mirror_re = packed[mirror], mirror_im = packed[side + mirror];
    float* at = rows + std::int64_t{2} * kCount * step.plan->positions[k];
    at[0] = 0.5f * (re + mirror_re);
    at[kCount] = 0.5f * (im - mirror_im);
    step.nyquist[k] = 0.5f * (im + mirror_im);
    step.nyquist[side + k] = 0.5f * (mirror_re - re);
  }
}

// b of the Nyquist column, and its part of the fold.
LATINO_INLINE void forward_nyquist(const AliasColumns& step) {
  const int side = step.plan->side, half = step.width / 2, kept = side / step.factor;
  for (int row = 0; row < kept; ++row) {
    Complex<1> sum{0.0f, 0.0f};
    for (int k = row; k < side; k += kept) {
      const std::int64_t at = std::int64_t{2} * (std::int64_t{k} * step.width + half);
      const float *h = step.h + at, *back = step.back_projected + at;
      const Complex<1> b{step.nyquist[k] + step.twice_gamma * back[0],
                         step.nyquist[side + k] + step.twice_gamma * back[1]};
      step.nyquist[k] = b.re;
      step.nyquist[side + k] = b.im;
      sum = add(sum, product(Complex<1>{h[0], h[1]}, b));
    }
    step.fold_re(row)[half] = sum.re;
    step.fold_im(row)[half] = sum.im;
  }
}

template <int kCount>
LATINO_INLINE void alias_forward_block(const AliasColumns& step, int block, float* rows) {
  const int side = step.plan->side, kept = side / step.factor, column = block * kCount;
  transform_columns<kCount, Sweep::kForward>(step, 0, column, 0, rows);
  if (block == 0) unpack_column<kCount>(step, rows);
  for (int row = 0; row < kept; ++row) {
    Complex<kCount> sum{};
    for (int k = row; k < side; k += kept) {
      const int position = step.plan->positions[k];
      const std::int64_t at = std::int64_t{2} * (std::int64_t{k} * step.width + column);
      const Complex<kCount> h = load_interleaved<kCount>(step.h + at);
      const Complex<kCount> back = load_interleaved<kCount>(step.back_projected + at);
      Complex<kCount> b = load_row<kCount>(rows, position);
      b = {b.re + step.twice_gamma * back.re, b.im + step.twice_gamma * back.im};
      store_row<kCount>(rows, position, b);
      sum = add(sum, product(h, b));
    }
    store<kCount>(step.fold_re(row) + column, sum.re);
    store<kCount>(step.fold_im(row) + column, sum.im);
  }
  if (block == 0) forward_nyquist(step);
}

// gamma fold(h b) / (1 + gamma fold(|h|^2)) for rows [begin, end) of the folded spectrum. Column c
// stands for itself and, conjugate and at row -k, for column W - c; so the Nyquist column comes in
// once, as the mirror of itself.
void alias_fold(const AliasColumns& step, int begin, int end) {
  const int rows = step.plan->side / step.factor, period = step.width / step.factor;
  const float mean = 1.0f / static_cast<float>(step.factor * step.factor);
  for (int row = begin; row < end; ++row) {
    const int mirror_row = (rows - row) & (rows - 1);
    for (int l = 0; l < period; l += kLanes) {
      Complex<kLanes> sum{};
      for (int first = 0; first < step.width / 2; first += period) {
        const int mirror = first + period - l - kLanes + 1;
        sum.re = sum.re + load<kLanes>(step.fold_re(row) + first + l);
        sum.im = sum.im + load<kLanes>(step.fold_im(row) + first + l);
        sum.re = sum.re + reversed<kLanes>(load<kLanes>(step.fold_re(mirror_row) + mirror));
        sum.im = sum.im - reversed<kLanes>(load<kLanes>(step.fold_im(mirror_row) + mirror));
      }
      const std::int64_t at = std::int64_t{row} * period + l;
      const Lanes<kLanes> weight =
          (mean * step.gamma) / (step.gamma * load<kLanes>(step.folded_power + at) + 1.0f);
      store<kLanes>(step.inner + at, sum.re * weight);
      store<kLanes>(step.inner + at + std::int64_t{rows} * period, sum.im * weight);
    }
  }
}

template <int kCount>
LATINO_INLINE Complex<kCount> alias_solution(const AliasColumns& step, Complex<kCount> b,
                                             Complex<kCount> h, Complex<kCount> inner) {
  return {(b.re - (h.re * inner.re + h.im * inner.im)) * step.half_scale,
          (b.im - (h.re * inner.im - h.im * inner.re)) * step.half_scale};
}

template <int kCount>
LATINO_INLINE void alias_inverse_block(const AliasColumns& step, int block, float* rows) {
  const int side = step.plan->side, kept = side / step.factor, period = step.width / step.factor;
  const int column = block * kCount, half = step.width / 2;
  const std::int64_t imaginary = std::int64_t{kept} * period;
  for (int k = 0; k < side; ++k) {
    const int position = step.plan->positions[k];
    const float* h = step.h + std::int64_t{2} * k * step.width;
    const float* inner = step.inner + std::int64_t{k & (kept - 1)} * period;
    const float* at = inner + (column & (period - 1));
    const Complex<kCount> q{load<kCount>(at), load<kCount>(at + imaginary)};
    const Complex<kCount> b = load_row<kCount>(rows, position);
    store_row<kCount>(rows, position,
                      alias_solution(step, b, load_interleaved<kCount>(h + 2 * column), q));
    if (block == 0) {  // + i times the Nyquist column, of the alias class of column 0
      const Complex<1> last = alias_solution(
          step, Complex<1>{step.nyquist[k], step.nyquist[side + k]},
          Complex<1>{h[2 * half], h[2 * half + 1]}, Complex<1>{inner[0], inner[imaginary]});
      float* packed = rows + std::int64_t{2} * kCount * position;
      packed[0] -= last.im;
      packed[kCount] += last.re;
    }
  }
  transform_columns<kCount, Sweep::kInverse>(step, 0, column, 0, rows);
}

void alias_forward(const AliasColumns& step, const Spectrum& spectrum, int block) {
  alias_forward_block<kLanes>(step, block, spectrum.block(block));
}

void alias_inverse(const AliasColumns& step, const Spectrum& spectrum, int block) {
  alias_inverse_block<kLanes>(step, block, spectrum.block(block));
}
