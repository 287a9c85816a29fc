// Short vectors of floats, one SIMD register of the target each. Included once per target by
// target_loops.h, inside its namespace: no include guard, no include.
//
// No result depends on the width: lanes are independent, and moving them changes no bits.

#if defined(__GNUC__)
#define LATINO_INLINE inline __attribute__((always_inline))
#else
#define LATINO_INLINE inline
#endif

constexpr int kLanes = LATINO_LANES;
constexpr int kNarrow = kLanes > 8 ? 8 : kLanes;  // no more than any half-spectrum has columns

#if defined(__GNUC__)
template <int kCount>
struct LanesOf {
  typedef float type __attribute__((vector_size(4 * kCount)));
};
#else
template <int kCount>
struct FloatArray {
  float values[kCount];
  float operator[](int i) const { return values[i]; }
  float& operator[](int i) { return values[i]; }
};
template <int kCount>
struct LanesOf {
  using type = FloatArray<kCount>;
};
#define LATINO_LANEWISE(op)                                                               \
  template <int kCount>                                                                   \
  FloatArray<kCount> operator op(const FloatArray<kCount>& a,                             \
                                 const FloatArray<kCount>& b) {                           \
    FloatArray<kCount> r;                                                                 \
    for (int i = 0; i < kCount; ++i) r[i] = a[i] op b[i];                                 \
    return r;                                                                             \
  }                                                                                       \
  template <int kCount>                                                                   \
  FloatArray<kCount> operator op(const FloatArray<kCount>& a, float b) {                  \
    FloatArray<kCount> r;                                                                 \
    for (int i = 0; i < kCount; ++i) r[i] = a[i] op b;                                    \
    return r;                                                                             \
  }                                                                                       \
  template <int kCount>                                                                   \
  FloatArray<kCount> operator op(float a, const FloatArray<kCount>& b) {                  \
    FloatArray<kCount> r;                                                                 \
    for (int i = 0; i < kCount; ++i) r[i] = a op b[i];                                    \
    return r;                                                                             \
  }
LATINO_LANEWISE(+)
LATINO_LANEWISE(-)
LATINO_LANEWISE(*)
LATINO_LANEWISE(/)
#undef LATINO_LANEWISE
template <int kCount>
FloatArray<kCount> operator-(const FloatArray<kCount>& a) {
  return 0.0f - a;
}
#endif

template <>
struct LanesOf<1> {
  using type = float;
};

template <int kCount>
using Lanes = typename LanesOf<kCount>::type;

template <int kCount>
LATINO_INLINE Lanes<kCount> load(const float* from) {
  Lanes<kCount> lanes;
  std::memcpy(&lanes, from, sizeof lanes);
  return lanes;
}

template <int kCount>
LATINO_INLINE void store(float* to, Lanes<kCount> lanes) {
  std::memcpy(to, &lanes, sizeof lanes);
}

template <int kCount>
struct Complex {
  Lanes<kCount> re, im;
};

// `count` interleaved complex numbers.
template <int kCount>
LATINO_INLINE Complex<kCount> load_interleaved(const float* from) {
#if LATINO_LANES >= 16
  if constexpr (kCount == 16) {
    const __m512 low = load<16>(from), high = load<16>(from + 16);
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28,
                                           30);
    const __m512i odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29,
                                          31);
    return {_mm512_permutex2var_ps(low, even, high), _mm512_permutex2var_ps(low, odd, high)};
  }
#endif
#if LATINO_LANES >= 8
  if constexpr (kCount == 8) {
    const __m256 low = load<8>(from), high = load<8>(from + 8);
    const __m256 even = _mm256_shuffle_ps(low, high, 0x88);
    const __m256 odd = _mm256_shuffle_ps(low, high, 0xDD);
    return {_mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(even), 0xD8)),
            _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(odd), 0xD8))};
  }
#endif
  if constexpr (kCount == 1) {
    return {from[0], from[1]};
  } else {
    Complex<kCount> result;
    for (int i = 0; i < kCount; ++i) {
      result.re[i] = from[2 * i];
      result.im[i] = from[2 * i + 1];
    }
    return result;
  }
}

// The reverse.
template <int kCount>
LATINO_INLINE void store_interleaved(float* to, Complex<kCount> value) {
#if LATINO_LANES >= 16
  if constexpr (kCount == 16) {
    const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const __m512i high = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30,
                                           15, 31);
    store<16>(to, _mm512_permutex2var_ps(value.re, low, value.im));
    store<16>(to + 16, _mm512_permutex2var_ps(value.re, high, value.im));
    return;
  }
#endif
#if LATINO_LANES >= 8
  if constexpr (kCount == 8) {
    const __m256 low = _mm256_unpacklo_ps(value.re, value.im);
    const __m256 high = _mm256_unpackhi_ps(value.re, value.im);
    store<8>(to, _mm256_permute2f128_ps(low, high, 0x20));
    store<8>(to + 8, _mm256_permute2f128_ps(low, high, 0x31));
    return;
  }
#endif
  for (int i = 0; i < kCount; ++i) {
    to[2 * i] = value.re[i];
    to[2 * i + 1] = value.im[i];
  }
}

// `value` where the mask is positive, else 0, whatever stands there.
template <int kCount>
LATINO_INLINE Lanes<kCount> kept_lanes(Lanes<kCount> mask, Lanes<kCount> value) {
#if defined(__GNUC__)
  return mask > 0.0f ? value : Lanes<kCount>{};
#else
  for (int i = 0; i < kCount; ++i) value[i] = mask[i] > 0.0f ? value[i] : 0.0f;
  return value;
#endif
}

// The lanes in the opposite order.
template <int kCount>
LATINO_INLINE Lanes<kCount> reversed(Lanes<kCount> lanes) {
#if LATINO_LANES >= 16
  if constexpr (kCount == 16) {
    const __m512i order = _mm512_setr_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    return _mm512_permutexvar_ps(order, lanes);
  }
#endif
#if LATINO_LANES >= 8
  if constexpr (kCount == 8) {
    return _mm256_permutevar8x32_ps(lanes, _mm256_setr_epi32(7, 6, 5, 4, 3, 2, 1, 0));
  }
#endif
  Lanes<kCount> result;
  for (int i = 0; i < kCount; ++i) result[i] = lanes[kCount - 1 - i];
  return result;
}

#if LATINO_LANES >= 16
LATINO_INLINE void transpose(Lanes<16> (&v)[16]) {
  __m512 t[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; i += 4) {
    const __m512d a = _mm512_castps_pd(_mm512_unpacklo_ps(v[i], v[i + 1]));
    const __m512d b = _mm512_castps_pd(_mm512_unpackhi_ps(v[i], v[i + 1]));
    const __m512d c = _mm512_castps_pd(_mm512_unpacklo_ps(v[i + 2], v[i + 3]));
    const __m512d d = _mm512_castps_pd(_mm512_unpackhi_ps(v[i + 2], v[i + 3]));
    t[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c));
    t[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
    t[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(b, d));
    t[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(b, d));
  }
#pragma GCC unroll 16
  for (int i = 0; i < 4; ++i) {
    const __m512 a = _mm512_shuffle_f32x4(t[i], t[4 + i], 0x88);
    const __m512 b = _mm512_shuffle_f32x4(t[8 + i], t[12 + i], 0x88);
    const __m512 c = _mm512_shuffle_f32x4(t[i], t[4 + i], 0xDD);
    const __m512 d = _mm512_shuffle_f32x4(t[8 + i], t[12 + i], 0xDD);
    v[i] = _mm512_shuffle_f32x4(a, b, 0x88);
    v[8 + i] = _mm512_shuffle_f32x4(a, b, 0xDD);
    v[4 + i] = _mm512_shuffle_f32x4(c, d, 0x88);
    v[12 + i] = _mm512_shuffle_f32x4(c, d, 0xDD);
  }
}
#endif

#if LATINO_LANES >= 8
LATINO_INLINE void transpose(Lanes<8> (&v)[8]) {
  __m256 t[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; i += 4) {
    const __m256d a = _mm256_castps_pd(_mm256_unpacklo_ps(v[i], v[i + 1]));
    const __m256d b = _mm256_castps_pd(_mm256_unpackhi_ps(v[i], v[i + 1]));
    const __m256d c = _mm256_castps_pd(_mm256_unpacklo_ps(v[i + 2], v[i + 3]));
    const __m256d d = _mm256_castps_pd(_mm256_unpackhi_ps(v[i + 2], v[i + 3]));
    t[i] = _mm256_castpd_ps(_mm256_unpacklo_pd(a, c));
    t[i + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(a, c));
    t[i + 2] = _mm256_castpd_ps(_mm256_unpacklo_pd(b, d));
    t[i + 3] = _mm256_castpd_ps(_mm256_unpackhi_pd(b, d));
  }
#pragma GCC unroll 8
  for (int i = 0; i < 4; ++i) {
    v[i] = _mm256_permute2f128_ps(t[i], t[4 + i], 0x20);
    v[4 + i] = _mm256_permute2f128_ps(t[i], t[4 + i], 0x31);
  }
}
#endif

#if defined(__SSE2__)
LATINO_INLINE void transpose(Lanes<4> (&v)[4]) {
  const __m128 a = _mm_unpacklo_ps(v[0], v[1]), b = _mm_unpackhi_ps(v[0], v[1]);
  const __m128 c = _mm_unpacklo_ps(v[2], v[3]), d = _mm_unpackhi_ps(v[2], v[3]);
  v[0] = _mm_movelh_ps(a, c);
  v[1] = _mm_movehl_ps(c, a);
  v[2] = _mm_movelh_ps(b, d);
  v[3] = _mm_movehl_ps(d, b);
}
#else
LATINO_INLINE void transpose(Lanes<4> (&v)[4]) {
  for (int i = 0; i < 4; ++i) {
    for (int j = 0; j < i; ++j) {
      const float kept = v[i][j];
      v[i][j] = v[j][i];
      v[j][i] = kept;
    }
  }
}
#endif

LATINO_INLINE void transpose(Lanes<1> (&)[1]) {}

// Lane p of v[j] to out[16 p + j].
template <int kCount>
LATINO_INLINE void store_transposed(const Lanes<kCount> (&v)[16], float* out) {
#pragma GCC unroll 16
  for (int first = 0; first < 16; first += kCount) {
    Lanes<kCount> square[kCount];
#pragma GCC unroll 16
    for (int j = 0; j < kCount; ++j) square[j] = v[first + j];
    transpose(square);
#pragma GCC unroll 16
    for (int p = 0; p < kCount; ++p) store<kCount>(out + 16 * p + first, square[p]);
  }
}
