// Philox4x32-10: ten rounds of a keyed bijection of 128-bit counters.
//
// Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).
#pragma once

#include <cstdint>

#include "latino/host_device.h"

namespace latino {

struct Words {
  std::uint32_t x, y, z, w;
};

struct PhiloxKey {
  std::uint32_t low, high;
};

// One round. The 64-bit products are written so that g++ sees a widening 32-bit multiply.
LATINO_HD inline Words philox_round(Words c, std::uint32_t key_low, std::uint32_t key_high) {
  const std::uint64_t product0 = std::uint64_t{0xD2511F53u} * c.x;
  const std::uint64_t product1 = std::uint64_t{0xCD9E8D57u} * c.z;
  return {static_cast<std::uint32_t>(product1 >> 32) ^ c.y ^ key_low,
          static_cast<std::uint32_t>(product1),
          static_cast<std::uint32_t>(product0 >> 32) ^ c.w ^ key_high,
          static_cast<std::uint32_t>(product0)};
}

LATINO_HD inline Words philox4x32(Words counter, PhiloxKey key) {
  constexpr std::uint32_t kWeylLow = 0x9E3779B9u, kWeylHigh = 0xBB67AE85u;
  Words c = counter;
  // Written out: a loop in here would keep g++ from vectorising the loop over quads around it.
  c = philox_round(c, key.low, key.high);
  c = philox_round(c, key.low + kWeylLow, key.high + kWeylHigh);
  c = philox_round(c, key.low + 2 * kWeylLow, key.high + 2 * kWeylHigh);
  c = philox_round(c, key.low + 3 * kWeylLow, key.high + 3 * kWeylHigh);
  c = philox_round(c, key.low + 4 * kWeylLow, key.high + 4 * kWeylHigh);
  c = philox_round(c, key.low + 5 * kWeylLow, key.high + 5 * kWeylHigh);
  c = philox_round(c, key.low + 6 * kWeylLow, key.high + 6 * kWeylHigh);
  c = philox_round(c, key.low + 7 * kWeylLow, key.high + 7 * kWeylHigh);
  c = philox_round(c, key.low + 8 * kWeylLow, key.high + 8 * kWeylHigh);
  return philox_round(c, key.low + 9 * kWeylLow, key.high + 9 * kWeylHigh);
}

}  // namespace latino
