// Images as float32, float16 or bfloat16 in memory; arithmetic is always float32.
//
// The 16-bit types are their bits alone: <cuda_fp16.h> exists neither for g++ nor for NVRTC.
#pragma once

#include <cstdint>

#include "latino/host_device.h"
#include "latino/normal.h"  // bits_of, float_of

namespace latino {

enum ImageType : int { kFloat32 = 0, kFloat16 = 1, kBFloat16 = 2 };

struct Float16 {
  std::uint16_t bits;
};

struct BFloat16 {
  std::uint16_t bits;
};

LATINO_HD inline float to_float(float value) { return value; }

LATINO_HD inline float to_float(BFloat16 value) {
  return float_of(static_cast<std::uint32_t>(value.bits) << 16);
}

LATINO_HD inline float to_float(Float16 value) {
#if defined(__CUDA_ARCH__)
  float result;
  asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(value.bits));
  return result;
#else
  const std::uint32_t sign = (value.bits & 0x8000u) << 16, magnitude = value.bits & 0x7FFFu;
  if (magnitude >= 0x7C00u) {  // infinity and NaN
    return float_of(sign | 0x7F800000u | (magnitude & 0x3FFu) << 13);
  }
  // The exponent is rebiased by a product, which also normalises subnormal numbers; it is exact.
  const float scaled = float_of(magnitude << 13) * 5.192296858534828e33f;  // 2^112
  return float_of(bits_of(scaled) | sign);
#endif
}

// To the nearest, ties to even.
template <class T>
LATINO_HD T from_float(float value);

template <>
LATINO_HD inline float from_float<float>(float value) {
  return value;
}

template <>
LATINO_HD inline BFloat16 from_float<BFloat16>(float value) {
  const std::uint32_t bits = bits_of(value);
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) {  // rounding could turn a NaN into an infinity
    return {static_cast<std::uint16_t>(bits >> 16 | 0x40u)};
  }
  return {static_cast<std::uint16_t>((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16)};
}

template <>
LATINO_HD inline Float16 from_float<Float16>(float value) {
#if defined(__CUDA_ARCH__)
  Float16 result;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
  return result;
#else
  const std::uint32_t bits = bits_of(value), magnitude = bits & 0x7FFFFFFFu;
  const std::uint32_t sign = bits >> 16 & 0x8000u;
  std::uint32_t half;
  if (magnitude > 0x7F800000u) {
    half = 0x7E00u;  // NaN
  } else if (magnitude >= 0x47800000u) {
    half = 0x7C00u;  // from 65536 on infinity; 65520 and more round to it below
  } else if (magnitude < 0x38800000u) {
    // Subnormal: adding 1/2 puts the last place of a float16 at that of the float32 sum.
    half = bits_of(float_of(magnitude) + 0.5f) - 0x3F000000u;
  } else {
    half = (magnitude - 0x38000000u + 0xFFFu + (magnitude >> 13 & 1u)) >> 13;
  }
  return {static_cast<std::uint16_t>(sign | half)};
#endif
}

}  // namespace latino
