// Loops of the operators' own calls: half-spectra that are wanted themselves, and complex images.
// Included by target_loops.h.

// conj(h) V or h V of the block, in the layout of torch's rfft2. From 2 V: the scale holds 1/2.
template <int kCount>
LATINO_INLINE void spectrum_block(const ProductColumns& step, int block, float* rows) {
  const int side = step.plan->side, column = block * kCount;
  float packed[2 * fft::kMaxSide];
  transform_columns<kCount, Sweep::kForward>(step, 0, column, 0, rows);
  for (int k = 0; k < side; ++k) {
    const Complex<kCount> value = load_row<kCount>(rows, step.plan->positions[k]);
    if (block == 0) {
      packed[k] = value.re[0];
      packed[side + k] = value.im[0];
    }
    store_interleaved<kCount>(step.out + 2 * (std::int64_t{k} * step.pitch + column),
                              data_step<kCount>(step, column, k, value));
  }
  if (block != 0) return;
  const int last_column = static_cast<int>(step.pitch) - 1;
  for (int k = 0; k < side; ++k) {
    const int mirror = (side - k) & (side - 1);
    const float re = packed[k], im = packed[side + k];
    const float mirror_re = packed[mirror], mirror_im = packed[side + mirror];
    const Complex<1> first =
        data_step<1>(step, 0, k, Complex<1>{0.5f * (re + mirror_re), 0.5f * (im - mirror_im)});
    const Complex<1> last = data_step<1>(
        step, last_column, k, Complex<1>{0.5f * (im + mirror_im), 0.5f * (mirror_re - re)});
    float* row = step.out + 2 * std::int64_t{k} * step.pitch;
    row[0] = first.re, row[1] = first.im;
    row[2 * last_column] = last.re, row[2 * last_column + 1] = last.im;
  }
}

void spectrum_columns(const ProductColumns& step, const Spectrum& spectrum, int block) {
  if (kLanes > 8 && step.pitch - 1 < kLanes) {
    return spectrum_block<kNarrow>(step, block, spectrum.block(block));
  }
  spectrum_block<kLanes>(step, block, spectrum.block(block));
}

template <int kCount>
LATINO_INLINE void store_complex_row(const RowBuffer& f, int side, const Spectrum& spectrum,
                                     int row) {
  for (int k = 0; k < side; k += kCount) {
    float* out = spectrum.block(k / kCount) + 2 * kCount * row;
    store<kCount>(out, load<kCount>(f.re + k));
    store<kCount>(out + kCount, load<kCount>(f.im + k));
  }
}

template <int kCount>
LATINO_INLINE void load_complex_row(const Spectrum& spectrum, int row, int side, RowBuffer& f) {
  for (int k = 0; k < side; k += kCount) {
    const float* in = spectrum.block(k / kCount) + 2 * kCount * row;
    store<kCount>(f.re + k, load<kCount>(in));
    store<kCount>(f.im + k, load<kCount>(in + kCount));
  }
}

// Half a row must be whole registers: the halves change places in k-space.
inline bool narrow_kspace(int width) { return kLanes > 8 && width / 2 < kLanes; }

// Rows 2 pair and 2 pair + 1 of an image.
void complex_forward_rows(const ComplexRows& image, const Spectrum& spectrum, int begin, int end) {
  alignas(64) static constexpr float zeros[fft::kMaxSide] = {};
  const int side = image.plan->side;
  RowBuffer buffers[2];
  for (int row = 2 * begin; row < 2 * end; ++row) {
    const std::int64_t at = std::int64_t{row} * side;
    const float* re = image.re + at;
    const float* im = image.im == nullptr ? zeros : image.im + at;
    if (image.re_t != nullptr) {
      combine_rows<kLanes>(re, image.re_t + at, image.x_weight, side, buffers[1].re);
      combine_rows<kLanes>(im, image.im_t + at, image.x_weight, side, buffers[1].im);
      re = buffers[1].re;
      im = buffers[1].im;
    }
    const RowBuffer& f = *transform_row<false>(*image.plan, re, im, buffers);
    if (narrow_kspace(side)) {
      store_complex_row<kNarrow>(f, side, spectrum, row);
    } else {
      store_complex_row<kLanes>(f, side, spectrum, row);
    }
  }
}

// m V, orthonormal and centred.
template <int kCount>
LATINO_INLINE void store_kspace(const KspaceColumns& step, int column, const float* rows) {
  for (int k = 0; k < step.plan->side; ++k) {
    const std::int64_t at = step.centred(k, column);
    const float unit = 1.0f / step.root;
    const Lanes<kCount> sign = alternating<kCount>(k % 2 == 0 ? unit : -unit);
    const Lanes<kCount> mask = load<kCount>(step.mask + at);
    const Complex<kCount> value = load_row<kCount>(rows, step.plan->positions[k]);
    store<kCount>(step.out_re + at, kept_lanes<kCount>(mask, sign * value.re));
    store<kCount>(step.out_im + at, kept_lanes<kCount>(mask, sign * value.im));
  }
}

// The reverse: m Y with the scale of the inverse transform.
template <int kCount>
LATINO_INLINE void load_kspace(const KspaceColumns& step, int column, float* rows) {
  for (int k = 0; k < step.plan->side; ++k) {
    const std::int64_t at = step.centred(k, column);
    const float unit = 1.0f / step.root;
    const Lanes<kCount> sign = alternating<kCount>(k % 2 == 0 ? unit : -unit);
    const Lanes<kCount> mask = load<kCount>(step.mask + at);
    const Complex<kCount> value{sign * kept_lanes<kCount>(mask, load<kCount>(step.y_re + at)),
                                sign * kept_lanes<kCount>(mask, load<kCount>(step.y_im + at))};
    store_row<kCount>(rows, step.plan->positions[k], value);
  }
}

template <int kCount>
LATINO_INLINE void kspace_block(const KspaceColumns& step, int block, float* rows) {
  const int column = block * kCount;
  if (step.sweep == KspaceColumns::Sweep::kToKspace) {
    transform_columns<kCount, Sweep::kForward>(step, 0, column, 0, rows);
    store_kspace<kCount>(step, column, rows);
  } else if (step.sweep == KspaceColumns::Sweep::kFromKspace) {
    load_kspace<kCount>(step, column, rows);
    transform_columns<kCount, Sweep::kInverse>(step, 0, column, 0, rows);
  } else {
    transform_columns<kCount, Sweep::kBoth>(step, 0, column, 0, rows);
  }
}

// One block: forward and out, in and inverse, or both with the data step between them.
void kspace_columns(const KspaceColumns& step, const Spectrum& spectrum, int block) {
  if (narrow_kspace(step.width)) {
    return kspace_block<kNarrow>(step, block, spectrum.block(block));
  }
  kspace_block<kLanes>(step, block, spectrum.block(block));
}

void complex_inverse_rows(const ComplexRows& image, const Spectrum& spectrum, int begin, int end) {
  const int side = image.plan->side, half = side / 2;
  RowBuffer upper[2], lower[2];
  Tile tile;
  for (int pair = begin; pair < end; ++pair) {
    const RowBuffer* z[2];
    for (int r = 0; r < 2; ++r) {
      RowBuffer(&buffers)[2] = r == 0 ? upper : lower;
      if (narrow_kspace(side)) {
        load_complex_row<kNarrow>(spectrum, 2 * pair + r, side, buffers[1]);
      } else {
        load_complex_row<kLanes>(spectrum, 2 * pair + r, side, buffers[1]);
      }
      z[r] = transform_row<true>(*image.plan, buffers[1].re, buffers[1].im, buffers);
    }
    for (int part = 0; part < 2; ++part) {
      float* plane = part == 0 ? image.out_re : image.out_im;
      if (plane == nullptr) continue;
      const float* first = part == 0 ? z[0]->re : z[0]->im;
      const float* second = part == 0 ? z[1]->re : z[1]->im;
      float* out = plane + std::int64_t{2} * pair * side;
      if (image.scale == 0.0f) {
        std::memcpy(out, first, static_cast<std::size_t>(side) * sizeof(float));
        std::memcpy(out + side, second, static_cast<std::size_t>(side) * sizeof(float));
        continue;
      }
      Words counter = part == 0 ? image.counter_re : image.counter_im;
      for (int w = 0; w < half; w += kTileQuads) {
        const int count = half - w < kTileQuads ? half - w : kTileQuads;
        counter.x = static_cast<std::uint32_t>(pair * half + w);
        fill_tile(counter, image.key, count, tile);
        add_noise(first + w, image.scale, tile.lane[0], count, out + w);
        add_noise(second + w, image.scale, tile.lane[1], count, out + side + w);
        add_noise(first + half + w, image.scale, tile.lane[2], count, out + half + w);
        add_noise(second + half + w, image.scale, tile.lane[3], count, out + side + half + w);
      }
    }
  }
}
