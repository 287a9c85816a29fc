// Factors and twiddles of complex transforms of 2^4 to 2^11 points, computed in double.
//
// A forward pass of radix R over n points is a butterfly over the points p + j n/R and then a
// product with w^(p j), w = exp(-2 pi i / n). Rows use it out of place (Stockham: natural order at
// both ends), columns in place: spectral row `order[position]` then stands at `position`, which
// costs nothing because the inverse passes undo it.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <vector>

namespace latino::fft {

constexpr int kMinSide = 16, kMaxSide = 2048;
constexpr int kFirstRadix = 16;  // of a row: what it leaves behind fills whole SIMD registers

inline bool is_own_side(std::int64_t side) {
  return side >= kMinSide && side <= kMaxSide && (side & (side - 1)) == 0;
}

// One pass over `points` points. `twiddles` holds (re, im) of w^(p j) for p in [0, points / radix)
// and j in [1, radix).
struct Pass {
  int radix, points;
  std::vector<float> twiddles;
};

struct Plan {
  int side;
  // The first pass of a row: re w^(p j) at [j * side / 16 + p], im after all of them.
  std::vector<float> first_twiddles;
  std::vector<Pass> row_passes;     // after the first
  std::vector<Pass> column_passes;  // the last of radix 8 or 16, without twiddles
  std::vector<int> order, positions;     // each the inverse of the other
};

struct Twiddle {
  double re, im;
};

inline Twiddle twiddle(std::int64_t exponent, int points) {
  const double angle = -2.0 * 3.14159265358979323846 *
                       static_cast<double>(exponent % points) / static_cast<double>(points);
  return {std::cos(angle), std::sin(angle)};
}

inline Pass make_pass(int radix, int points) {
  Pass pass{radix, points, {}};
  for (int p = 0; p < points / radix; ++p) {
    for (int j = 1; j < radix; ++j) {
      const Twiddle w = twiddle(std::int64_t{p} * j, points);
      pass.twiddles.push_back(static_cast<float>(w.re));
      pass.twiddles.push_back(static_cast<float>(w.im));
    }
  }
  return pass;
}

inline std::vector<Pass> make_passes(int points, const std::vector<int>& radices) {
  std::vector<Pass> passes;
  for (const int radix : radices) {
    passes.push_back(make_pass(radix, points));
    points /= radix;
  }
  return passes;
}

inline std::vector<int> row_radices(int side) {  // after the first
  switch (side / kFirstRadix) {
    case 1: return {};
    case 32: return {4, 8};
    case 64: return {8, 8};
    case 128: return {8, 16};
    default: return {side / kFirstRadix};
  }
}

inline std::vector<int> column_radices(int side) {
  switch (side) {
    case 16: return {16};
    case 512: return {8, 8, 8};
    case 1024: return {8, 8, 16};
    case 2048: return {8, 16, 16};
    default: return {side / 16, 16};
  }
}

inline Plan make_plan(int side) {
  Plan plan{side, {}, make_passes(side / kFirstRadix, row_radices(side)),
            make_passes(side, column_radices(side)), std::vector<int>(side),
            std::vector<int>(side)};
  const int count = side / kFirstRadix;
  plan.first_twiddles.resize(2 * static_cast<std::size_t>(side));
  for (int j = 0; j < kFirstRadix; ++j) {
    for (int p = 0; p < count; ++p) {
      const Twiddle w = twiddle(std::int64_t{p} * j, side);
      plan.first_twiddles[j * count + p] = static_cast<float>(w.re);
      plan.first_twiddles[side + j * count + p] = static_cast<float>(w.im);
    }
  }
  for (int position = 0; position < side; ++position) {
    int rest = position, weight = 1;
    for (const Pass& pass : plan.column_passes) {
      const int block = pass.points / pass.radix;
      plan.order[position] += weight * (rest / block);
      rest %= block;
      weight *= pass.radix;
    }
    plan.positions[plan.order[position]] = position;
  }
  return plan;
}

// The plan of an own side, made once.
inline const Plan& plan_of(std::int64_t side) {
  static const std::array<Plan, 8> plans = [] {
    std::array<Plan, 8> made;
    for (int i = 0; i < 8; ++i) made[i] = make_plan(kMinSide << i);
    return made;
  }();
  int index = 0;
  while ((std::int64_t{kMinSide} << index) < side) ++index;
  return plans[index];
}

}  // namespace latino::fft
