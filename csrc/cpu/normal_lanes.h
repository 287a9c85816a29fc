// A tile of normals with explicit SIMD, of the same bits as latino/normal.h. Included by
// target_loops.h; other targets than AVX2 and AVX-512 leave that header's loop to the compiler.

#if LATINO_LANES >= 8

typedef std::uint64_t Wide __attribute__((vector_size(4 * kLanes)));  // a word in each low half
typedef std::uint32_t Bits __attribute__((vector_size(4 * kLanes)));
typedef std::int32_t Integers __attribute__((vector_size(4 * kLanes)));

LATINO_INLINE Wide widening_product(Wide a, Wide b) {  // of the low halves
#if LATINO_LANES == 16
  return (Wide)_mm512_mul_epu32((__m512i)a, (__m512i)b);
#else
  return (Wide)_mm256_mul_epu32((__m256i)a, (__m256i)b);
#endif
}

LATINO_INLINE Lanes<kLanes> square_root(Lanes<kLanes> x) {
#if LATINO_LANES == 16
  return _mm512_sqrt_ps(x);
#else
  return _mm256_sqrt_ps(x);
#endif
}

LATINO_INLINE Lanes<kLanes> to_float(Integers i) {
#if LATINO_LANES == 16
  return _mm512_cvtepi32_ps((__m512i)i);
#else
  return _mm256_cvtepi32_ps((__m256i)i);
#endif
}

struct WideWords {
  Wide x, y, z, w;  // the high halves are of no meaning
};

LATINO_INLINE WideWords philox_lanes(WideWords c, PhiloxKey key) {
  const Wide multiplier0 = Wide{} + 0xD2511F53u, multiplier1 = Wide{} + 0xCD9E8D57u;
  std::uint32_t low = key.low, high = key.high;
#pragma GCC unroll 10
  for (int round = 0; round < 10; ++round) {
    const Wide product0 = widening_product(c.x, multiplier0);
    const Wide product1 = widening_product(c.z, multiplier1);
    c = {(product1 >> 32) ^ c.y ^ std::uint64_t{low}, product1,
         (product0 >> 32) ^ c.w ^ std::uint64_t{high}, product0};
    low += 0x9E3779B9u;
    high += 0xBB67AE85u;
  }
  return c;
}

// The words of even and of odd quads in turn, shifted: r >> 9.
LATINO_INLINE Bits shifted_words(Wide even, Wide odd) {
  const Wide low_half = Wide{} + 0xFFFFFFFFu;
  return (Bits)((even & low_half) | (odd << 32)) >> 9;
}

LATINO_INLINE Lanes<kLanes> radius_lanes(Bits k) {
  constexpr std::uint32_t kSqrtHalfBits = 0x3F3504F3u;
  const Lanes<kLanes> u = (to_float((Integers)k) + 0.5f) * 1.1920928955078125e-7f;
  const Bits shifted = (Bits)u - kSqrtHalfBits;
  const Lanes<kLanes> e = to_float((Integers)shifted >> 23);
  const Lanes<kLanes> f = (Lanes<kLanes>)((shifted & 0x7FFFFFu) + kSqrtHalfBits) - 1.0f;
  Lanes<kLanes> p = -0.0785961673f * f + 0.1288165003f;
  p = p * f - 0.1312875450f;
  p = p * f + 0.1418119222f;
  p = p * f - 0.1662455350f;
  p = p * f + 0.2000228614f;
  p = p * f - 0.2500081062f;
  p = p * f + 0.3333331645f;
  const Lanes<kLanes> f2 = f * f;
  const Lanes<kLanes> tail = (f2 * f * p + e * 1.42860677e-6f) - 0.5f * f2;
  return square_root(-2.0f * (e * 0.693145752f + (f + tail)));
}

LATINO_INLINE Complex<kLanes> unit_lanes(Bits k) {  // (cos, sin)
  const Integers odd = (Integers)(k << 1 | 1u);
  const Integers quadrant = (odd + (1 << 21)) >> 22;
  const Lanes<kLanes> f = to_float(odd - (quadrant << 22)) * 5.9604644775390625e-8f;
  const Lanes<kLanes> s = f * f;
  const Lanes<kLanes> odd_part =
      -1.74845553e-7f + s * (-41.3416634f + s * (81.5919800f + s * -75.3696518f));
  const Lanes<kLanes> even_part =
      -5.80743175e-7f + s * (64.9393616f + s * (-85.4474564f + s * 59.3625603f));
  const Bits sine = (Bits)(f * 6.28318548f + f * odd_part);
  const Bits cosine = (Bits)(1.0f - (s * 19.7392082f - s * even_part));
  const Bits q = (Bits)quadrant, swapped = 0u - (q & 1u);
  const Bits changed = (sine ^ cosine) & swapped;
  return {(Lanes<kLanes>)(cosine ^ changed ^ ((q + 1u) & 2u) << 30),
          (Lanes<kLanes>)(sine ^ changed ^ (q & 2u) << 30)};
}

void fill_tile(Words first, PhiloxKey key, int count, Tile& tile) {
  Wide even_quads;
  for (int i = 0; i < kLanes / 2; ++i) even_quads[i] = std::uint64_t{first.x} + 2 * i;
  const Wide y = Wide{} + first.y, z = Wide{} + first.z, w = Wide{} + first.w;
  for (int i = 0; i < count; i += kLanes) {  // a tile has room for whole registers
    const WideWords even = philox_lanes({even_quads, y, z, w}, key);
    const WideWords odd = philox_lanes({even_quads + 1, y, z, w}, key);
    const Lanes<kLanes> left = radius_lanes(shifted_words(even.x, odd.x));
    const Complex<kLanes> left_unit = unit_lanes(shifted_words(even.y, odd.y));
    store<kLanes>(tile.lane[0] + i, left * left_unit.re);
    store<kLanes>(tile.lane[1] + i, left * left_unit.im);
    const Lanes<kLanes> right = radius_lanes(shifted_words(even.z, odd.z));
    const Complex<kLanes> right_unit = unit_lanes(shifted_words(even.w, odd.w));
    store<kLanes>(tile.lane[2] + i, right * right_unit.re);
    store<kLanes>(tile.lane[3] + i, right * right_unit.im);
    even_quads += kLanes;
  }
}

#else

void fill_tile(Words first, PhiloxKey key, int count, Tile& tile) {
  for (int i = 0; i < count; ++i) {
    const Words counter{first.x + static_cast<std::uint32_t>(i), first.y, first.z, first.w};
    const Normals normals = quad_normals(philox4x32(counter, key));
    tile.lane[0][i] = normals.lane0;
    tile.lane[1][i] = normals.lane1;
    tile.lane[2][i] = normals.lane2;
    tile.lane[3][i] = normals.lane3;
  }
}

#endif
