// Transforms of 2, 4, 8 and 16 points in registers. Included by target_loops.h like lanes.h.

template <int kCount>
LATINO_INLINE Complex<kCount> add(Complex<kCount> a, Complex<kCount> b) {
  return {a.re + b.re, a.im + b.im};
}

template <int kCount>
LATINO_INLINE Complex<kCount> subtract(Complex<kCount> a, Complex<kCount> b) {
  return {a.re - b.re, a.im - b.im};
}

// a w, or a conj(w) in an inverse transform; w as lanes or as one number for all of them.
template <bool kInverse, int kCount, class Weight>
LATINO_INLINE Complex<kCount> turn(Complex<kCount> a, Weight re, Weight im) {
  if constexpr (kInverse) return {a.re * re + a.im * im, a.im * re - a.re * im};
  return {a.re * re - a.im * im, a.im * re + a.re * im};
}

// a exp(-+ i pi / 2)
template <bool kInverse, int kCount>
LATINO_INLINE Complex<kCount> quarter(Complex<kCount> a) {
  if constexpr (kInverse) return {-a.im, a.re};
  return {a.im, -a.re};
}

constexpr float kSqrtHalf = 0.70710678118654752f;

// a exp(-+ i pi / 4)
template <bool kInverse, int kCount>
LATINO_INLINE Complex<kCount> eighth(Complex<kCount> a) {
  if constexpr (kInverse) return {(a.re - a.im) * kSqrtHalf, (a.re + a.im) * kSqrtHalf};
  return {(a.re + a.im) * kSqrtHalf, (a.im - a.re) * kSqrtHalf};
}

// a exp(-+ 3 i pi / 4)
template <bool kInverse, int kCount>
LATINO_INLINE Complex<kCount> three_eighths(Complex<kCount> a) {
  if constexpr (kInverse) return {(a.re + a.im) * -kSqrtHalf, (a.re - a.im) * kSqrtHalf};
  return {(a.im - a.re) * kSqrtHalf, (a.re + a.im) * -kSqrtHalf};
}

template <int kCount>
LATINO_INLINE void butterfly2(Complex<kCount>& a, Complex<kCount>& b) {
  const Complex<kCount> sum = add(a, b);
  b = subtract(a, b);
  a = sum;
}

template <bool kInverse, int kCount>
LATINO_INLINE void butterfly4(Complex<kCount>& a, Complex<kCount>& b, Complex<kCount>& c,
                              Complex<kCount>& d) {
  const Complex<kCount> s = add(a, c), t = subtract(a, c), u = add(b, d), v = subtract(b, d);
  a = add(s, u);
  c = subtract(s, u);
  if constexpr (kInverse) {  // t +- i v; the quarter turn is in the signs
    b = {t.re - v.im, t.im + v.re};
    d = {t.re + v.im, t.im - v.re};
  } else {
    b = {t.re + v.im, t.im - v.re};
    d = {t.re - v.im, t.im + v.re};
  }
}

// In place, natural order at both ends; + i in the exponent and no scale where kInverse.
template <int kRadix, bool kInverse, int kCount>
LATINO_INLINE void butterfly(Complex<kCount> (&x)[kRadix]) {
  if constexpr (kRadix == 2) {
    butterfly2(x[0], x[1]);
  } else if constexpr (kRadix == 4) {
    butterfly4<kInverse>(x[0], x[1], x[2], x[3]);
  } else if constexpr (kRadix == 8) {
    butterfly4<kInverse>(x[0], x[2], x[4], x[6]);
    butterfly4<kInverse>(x[1], x[3], x[5], x[7]);
    const Complex<kCount> odd[4] = {x[1], eighth<kInverse>(x[3]), quarter<kInverse>(x[5]),
                                    three_eighths<kInverse>(x[7])};
    const Complex<kCount> even[4] = {x[0], x[2], x[4], x[6]};
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) {
      x[k] = add(even[k], odd[k]);
      x[k + 4] = subtract(even[k], odd[k]);
    }
  } else {
    static_assert(kRadix == 16, "radix 2, 4, 8 or 16");
    constexpr float kCos = 0.92387953251128674f, kSin = 0.38268343236508977f;  // of pi / 8
#pragma GCC unroll 4
    for (int n = 0; n < 4; ++n) butterfly4<kInverse>(x[n], x[n + 4], x[n + 8], x[n + 12]);
    x[5] = turn<kInverse>(x[5], kCos, -kSin);
    x[9] = eighth<kInverse>(x[9]);
    x[13] = turn<kInverse>(x[13], kSin, -kCos);
    x[6] = eighth<kInverse>(x[6]);
    x[10] = quarter<kInverse>(x[10]);
    x[14] = three_eighths<kInverse>(x[14]);
    x[7] = turn<kInverse>(x[7], kSin, -kCos);
    x[11] = three_eighths<kInverse>(x[11]);
    x[15] = turn<kInverse>(x[15], -kCos, kSin);
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) {
      butterfly4<kInverse>(x[4 * k], x[4 * k + 1], x[4 * k + 2], x[4 * k + 3]);
    }
    // Entry 4 k + j holds frequency k + 4 j: transpose the names.
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) {
#pragma GCC unroll 4
      for (int j = 0; j < k; ++j) {
        const Complex<kCount> kept = x[4 * k + j];
        x[4 * k + j] = x[4 * j + k];
        x[4 * j + k] = kept;
      }
    }
  }
}
