// Two real rows as one complex transform, lanes along the row. Included by target_loops.h.
//
// The first pass (radix 16) stores transposed, so that every later one works on whole registers.

// A row in the L1 cache, real and imaginary parts apart. Entry `side` is a second entry 0.
struct RowBuffer {
  static constexpr int kSize = fft::kMaxSide + 16;
  alignas(64) float re[kSize];
  alignas(64) float im[kSize];
};

template <int kCount, bool kInverse>
LATINO_INLINE void first_pass(const fft::Plan& plan, const float* re, const float* im,
                              RowBuffer& out) {
  const int count = plan.side / 16;
  const float* twiddles = plan.first_twiddles.data();
  for (int p = 0; p < count; p += kCount) {
    Complex<kCount> x[16];
#pragma GCC unroll 16
    for (int j = 0; j < 16; ++j) {
      x[j] = {load<kCount>(re + p + j * count), load<kCount>(im + p + j * count)};
    }
    butterfly<16, kInverse>(x);
    Lanes<kCount> part[16];
#pragma GCC unroll 16
    for (int j = 1; j < 16; ++j) {
      const float* w = twiddles + p + j * count;
      x[j] = turn<kInverse>(x[j], load<kCount>(w), load<kCount>(w + plan.side));
    }
#pragma GCC unroll 16
    for (int j = 0; j < 16; ++j) part[j] = x[j].re;
    store_transposed<kCount>(part, out.re + 16 * p);
#pragma GCC unroll 16
    for (int j = 0; j < 16; ++j) part[j] = x[j].im;
    store_transposed<kCount>(part, out.im + 16 * p);
  }
}

// Stockham: `stride` transforms side by side, a multiple of 16.
template <int kRadix, bool kInverse>
LATINO_INLINE void later_pass(const fft::Pass& pass, int stride, const RowBuffer& in,
                              RowBuffer& out) {
  const int count = pass.points / kRadix;
  for (int p = 0; p < count; ++p) {
    const float* w = pass.twiddles.data() + 2 * (kRadix - 1) * p;
    for (int q = 0; q < stride; q += kLanes) {
      Complex<kLanes> x[kRadix];
#pragma GCC unroll 16
      for (int j = 0; j < kRadix; ++j) {
        const int at = q + stride * (p + count * j);
        x[j] = {load<kLanes>(in.re + at), load<kLanes>(in.im + at)};
      }
      butterfly<kRadix, kInverse>(x);
      if (count > 1) {
#pragma GCC unroll 16
        for (int j = 1; j < kRadix; ++j) {
          x[j] = turn<kInverse>(x[j], w[2 * j - 2], w[2 * j - 1]);
        }
      }
#pragma GCC unroll 16
      for (int j = 0; j < kRadix; ++j) {
        const int at = q + stride * (kRadix * p + j);
        store<kLanes>(out.re + at, x[j].re);
        store<kLanes>(out.im + at, x[j].im);
      }
    }
  }
}

// The transform of the row (re, im), which may be in `buffers[1]`; returns where it lies.
template <bool kInverse>
RowBuffer* transform_row(const fft::Plan& plan, const float* re, const float* im,
                         RowBuffer (&buffers)[2]) {
  const int count = plan.side / 16;
  if (count >= kLanes) {
    first_pass<kLanes, kInverse>(plan, re, im, buffers[0]);
  } else if (kLanes > 8 && count >= 8) {
    first_pass<kNarrow, kInverse>(plan, re, im, buffers[0]);
  } else if (count >= 4) {
    first_pass<4, kInverse>(plan, re, im, buffers[0]);
  } else {
    first_pass<1, kInverse>(plan, re, im, buffers[0]);
  }
  RowBuffer *in = &buffers[0], *out = &buffers[1];
  int stride = 16;
  for (const fft::Pass& pass : plan.row_passes) {
    switch (pass.radix) {
      case 2: later_pass<2, kInverse>(pass, stride, *in, *out); break;
      case 4: later_pass<4, kInverse>(pass, stride, *in, *out); break;
      case 8: later_pass<8, kInverse>(pass, stride, *in, *out); break;
      default: later_pass<16, kInverse>(pass, stride, *in, *out); break;
    }
    stride *= pass.radix;
    std::swap(in, out);
  }
  return in;
}

template <int kCount>
LATINO_INLINE void combine_rows(const float* x, const float* x_t, float weight, int count,
                                float* out) {
  const float other = 1.0f - weight;
  for (int i = 0; i < count; i += kCount) {
    store<kCount>(out + i, weight * load<kCount>(x + i) + other * load<kCount>(x_t + i));
  }
}

// Twice the spectra of the two real rows whose complex transform F is given, k in [0, side/2):
// 2 A(k) = F(k) + conj F(-k), 2 B(k) = (F(k) - conj F(-k)) / i. Entry 0 takes the Nyquist entry,
// which is real like itself, as its imaginary part.
template <int kCount>
LATINO_INLINE void store_spectra(RowBuffer& f, int side, const Spectrum& spectrum, int pair) {
  f.re[side] = f.re[0];
  f.im[side] = f.im[0];
  for (int k = 0; k < side / 2; k += kCount) {
    float* out = spectrum.block(k / kCount) + 4 * kCount * pair;
    const int mirror = side - k - kCount + 1;
    const Lanes<kCount> re = load<kCount>(f.re + k), im = load<kCount>(f.im + k);
    const Lanes<kCount> mirror_re = reversed<kCount>(load<kCount>(f.re + mirror));
    const Lanes<kCount> mirror_im = reversed<kCount>(load<kCount>(f.im + mirror));
    store<kCount>(out, re + mirror_re);
    store<kCount>(out + kCount, im - mirror_im);
    store<kCount>(out + 2 * kCount, im + mirror_im);
    store<kCount>(out + 3 * kCount, mirror_re - re);
  }
  float* first = spectrum.block(0) + 4 * kCount * pair;
  first[kCount] = 2.0f * f.re[side / 2];
  first[3 * kCount] = 2.0f * f.im[side / 2];
}

// The reverse: F(k) = A(k) + i B(k), F(-k) = conj A(k) + i conj B(k).
template <int kCount>
LATINO_INLINE void load_spectra(const Spectrum& spectrum, int pair, int side, RowBuffer& f) {
  for (int k = 0; k < side / 2; k += kCount) {
    const float* in = spectrum.block(k / kCount) + 4 * kCount * pair;
    const Lanes<kCount> a_re = load<kCount>(in), a_im = load<kCount>(in + kCount);
    const Lanes<kCount> b_re = load<kCount>(in + 2 * kCount), b_im = load<kCount>(in + 3 * kCount);
    const int mirror = side - k - kCount + 1;
    store<kCount>(f.re + k, a_re - b_im);
    store<kCount>(f.im + k, a_im + b_re);
    store<kCount>(f.re + mirror, reversed<kCount>(a_re + b_im));
    store<kCount>(f.im + mirror, reversed<kCount>(b_re - a_im));
  }
  const float* first = spectrum.block(0) + 4 * kCount * pair;
  f.re[0] = first[0];
  f.im[0] = first[2 * kCount];
  f.re[side / 2] = first[kCount];
  f.im[side / 2] = first[3 * kCount];
}

// Rows 2 pair and 2 pair + 1 of a plane for the pairs [begin, end).
void forward_rows(const PlaneRows& plane, const Spectrum& spectrum, int begin, int end) {
  const int side = plane.plan->side;
  RowBuffer buffers[2];
  for (int pair = begin; pair < end; ++pair) {
    const std::int64_t at = std::int64_t{2} * pair * side;
    const float *re = plane.x + at, *im = re + side;
    if (plane.x_t != nullptr) {
      const float* x_t = plane.x_t + at;
      combine_rows<kLanes>(re, x_t, plane.x_weight, side, buffers[1].re);
      combine_rows<kLanes>(im, x_t + side, plane.x_weight, side, buffers[1].im);
      re = buffers[1].re;
      im = buffers[1].im;
    }
    RowBuffer& f = *transform_row<false>(*plane.plan, re, im, buffers);
    if (kLanes > 8 && side / 2 < kLanes) {
      store_spectra<kNarrow>(f, side, spectrum, pair);
    } else {
      store_spectra<kLanes>(f, side, spectrum, pair);
    }
  }
}

void add_noise(const float* z, float scale, const float* eps, int count, float* out) {
  int i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    store<kLanes>(out + i, load<kLanes>(z + i) + scale * load<kLanes>(eps + i));
  }
  for (; i < count; ++i) out[i] = z[i] + scale * eps[i];
}

void inverse_rows(const PlaneRows& plane, const Spectrum& spectrum, int begin, int end) {
  const int side = plane.plan->side, half = side / 2;
  RowBuffer buffers[2];
  Tile tile;
  for (int pair = begin; pair < end; ++pair) {
    if (kLanes > 8 && half < kLanes) {
      load_spectra<kNarrow>(spectrum, pair, side, buffers[1]);
    } else {
      load_spectra<kLanes>(spectrum, pair, side, buffers[1]);
    }
    const RowBuffer& z = *transform_row<true>(*plane.plan, buffers[1].re, buffers[1].im, buffers);
    float* out = plane.out + std::int64_t{2} * pair * side;
    if (plane.scale == 0.0f) {
      std::memcpy(out, z.re, static_cast<std::size_t>(side) * sizeof(float));
      std::memcpy(out + side, z.im, static_cast<std::size_t>(side) * sizeof(float));
      continue;
    }
    Words counter = plane.counter;
    for (int w = 0; w < half; w += kTileQuads) {
      const int count = half - w < kTileQuads ? half - w : kTileQuads;
      counter.x = static_cast<std::uint32_t>(pair * half + w);
      fill_tile(counter, plane.key, count, tile);
      add_noise(z.re + w, plane.scale, tile.lane[0], count, out + w);
      add_noise(z.im + w, plane.scale, tile.lane[1], count, out + side + w);
      add_noise(z.re + half + w, plane.scale, tile.lane[2], count, out + half + w);
      add_noise(z.im + half + w, plane.scale, tile.lane[3], count, out + side + half + w);
    }
  }
}
