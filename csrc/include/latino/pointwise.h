// The sampler's pointwise formulas, one entry at a time, in the order of operations of the torch
// reference so that float32 results agree with it.
#pragma once

#include "latino/host_device.h"

namespace latino {

// argmin_x gamma/2 (m (x - y))^2 + (x - v)^2 / 2 for m in {0, 1}; weight = gamma m.
LATINO_HD inline float masked_prox(float v, float weight, float y) {
  return (weight * y + v) / (weight + 1.0f);
}

LATINO_HD inline float add_noise(float z, float scale, float eps) { return z + scale * eps; }

// The scalars of a reverse diffusion step: kept = sqrt(1 - zeta) / sigma_n, renewed = sqrt(zeta).
struct ReverseStep {
  float sigma_next, kept, renewed;
};

LATINO_HD inline float reverse_step(float x0, float x_t, const ReverseStep& step, float eps) {
  return x0 + step.sigma_next * (step.kept * (x_t - x0) + step.renewed * eps);
}

// Welford: mean and sum of squared deviations after the count-th value x, count from 1.
struct Moments {
  float mean, m2;
};

LATINO_HD inline Moments running_moments(float mean, float m2, float count, float x) {
  const float delta = x - mean;
  const float updated = mean + delta / count;
  return {updated, m2 + delta * (x - updated)};
}

}  // namespace latino
