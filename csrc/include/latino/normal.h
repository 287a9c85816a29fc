// Box-Muller in float32 from Philox words: own polynomials, no branch, no division, no libm call
// but sqrtf, so that a loop over quads vectorises and every instruction set yields the same bits.
//
// With k = r >> 9, u = (k + 0.5) 2^-23 = (2k + 1) 2^-24 lies in (0, 1) and is exact in float32
// (r >> 8 would need 25 bits). Compile without contraction to fused multiply-adds: it changes bits.
//
// Against the same recipe in float64, over all 2^23 arguments: radius within 3.5e-7 (9.8e-8
// relative), cosine and sine within 7.1e-8, hence a normal within 1e-6. The worst one seen is
// 7.4e-7, beyond 4.8 standard deviations; exact functions rounded to float32 reach 6.2e-7 there.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "latino/host_device.h"
#include "latino/philox.h"

namespace latino {

LATINO_HD inline std::uint32_t bits_of(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

LATINO_HD inline float float_of(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// sqrt(-2 ln u). u = 2^e m with m in [sqrt(1/2), sqrt(2)), f = m - 1 (exact),
// ln u = e ln 2 + f - f^2/2 + f^3 P(f); P is a minimax fit, relative error of the sum 6e-9.
LATINO_HD inline float normal_radius(std::uint32_t word) {
  constexpr std::uint32_t kSqrtHalf = 0x3F3504F3u;
  const float u = (static_cast<float>(static_cast<std::int32_t>(word >> 9)) + 0.5f) *
                  1.1920928955078125e-7f;
  const std::uint32_t shifted = bits_of(u) - kSqrtHalf;
  const float e = static_cast<float>(static_cast<std::int32_t>(shifted) >> 23);
  const float f = float_of((shifted & 0x7FFFFFu) + kSqrtHalf) - 1.0f;
  float p = -0.0785961673f;
  p = p * f + 0.1288165003f;
  p = p * f - 0.1312875450f;
  p = p * f + 0.1418119222f;
  p = p * f - 0.1662455350f;
  p = p * f + 0.2000228614f;
  p = p * f - 0.2500081062f;
  p = p * f + 0.3333331645f;
  const float f2 = f * f;
  // ln 2 in two parts: e * 0.693145751953125 is exact, the rest is 1.42860677e-6.
  const float tail = (f2 * f * p + e * 1.42860677e-6f) - 0.5f * f2;
  return std::sqrt(-2.0f * (e * 0.693145752f + (f + tail)));
}

struct UnitVector {
  float cosine, sine;
};

// (cos 2 pi u, sin 2 pi u). The argument is reduced in integers: u = quadrant / 4 + f, |f| <= 1/8.
LATINO_HD inline UnitVector unit_vector(std::uint32_t word) {
  const std::int32_t odd = static_cast<std::int32_t>((word >> 9) << 1 | 1u);  // 2^24 u
  const std::int32_t quadrant = (odd + (1 << 21)) >> 22;                      // 0..4
  const float f = static_cast<float>(odd - (quadrant << 22)) * 5.9604644775390625e-8f;
  const float s = f * f;
  // The first coefficients are the rounding errors of 2 pi and of 2 pi^2 in float32.
  const float odd_part =
      -1.74845553e-7f + s * (-41.3416634f + s * (81.5919800f + s * -75.3696518f));
  const float even_part =
      -5.80743175e-7f + s * (64.9393616f + s * (-85.4474564f + s * 59.3625603f));
  const float sine = f * 6.28318548f + f * odd_part;
  const float cosine = 1.0f - (s * 19.7392082f - s * even_part);
  const std::uint32_t q = static_cast<std::uint32_t>(quadrant);
  const bool swapped = (q & 1u) != 0;
  const std::uint32_t cosine_sign = ((q + 1u) & 2u) << 30, sine_sign = (q & 2u) << 30;
  return {float_of(bits_of(swapped ? sine : cosine) ^ cosine_sign),
          float_of(bits_of(swapped ? cosine : sine) ^ sine_sign)};
}

// The four normals of a quad: lanes 0, 1 are rows 2j, 2j + 1 of column w; lanes 2, 3 those of
// column w + ceil(W/2).
struct Normals {
  float lane0, lane1, lane2, lane3;
};

LATINO_HD inline Normals quad_normals(Words r) {
  const float left_radius = normal_radius(r.x), right_radius = normal_radius(r.z);
  const UnitVector left = unit_vector(r.y), right = unit_vector(r.w);
  return {left_radius * left.cosine, left_radius * left.sine, right_radius * right.cosine,
          right_radius * right.sine};
}

}  // namespace latino
