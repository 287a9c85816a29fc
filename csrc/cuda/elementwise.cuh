// Entry by entry, for sizes whose transforms torch.fft makes.
#pragma once

#include "cuda/fft.cuh"
#include "cuda/geometry.h"
#include "cuda/step.cuh"
#include "latino/pointwise.h"

namespace latino::cuda {

__device__ __forceinline__ std::int64_t first_element() {
  return static_cast<std::int64_t>(blockIdx.x) * kElementThreads + threadIdx.x;
}

__device__ __forceinline__ std::int64_t element_stride() {
  return static_cast<std::int64_t>(gridDim.x) * kElementThreads;
}

// out = x_weight x + (1 - x_weight) x_t
__global__ void __launch_bounds__(kElementThreads) combine_anchors(Anchors p) {
  const std::int64_t per_pair =
      static_cast<std::int64_t>(p.shape.channels) * p.shape.height * p.shape.width;
  const std::int64_t size = p.shape.pairs * per_pair;
  for (std::int64_t i = first_element(); i < size; i += element_stride()) {
    float value = 0.0f, x_t = 0.0f;
    with_type(p.x, [&](const auto* data) { value = to_float(data[i]); });
    if (p.x_t.data != nullptr) {
      with_type(p.x_t, [&](const auto* data) { x_t = to_float(data[i]); });
      value = anchor(read_step<StepRow>(p.steps, i / per_pair).x_weight, value, x_t);
    }
    p.out[i] = value;
  }
}

// (gamma conj(h) Y + V) / (gamma |h|^2 + 1) on half-spectra (P, C, H, W/2 + 1), in place.
__global__ void __launch_bounds__(kElementThreads) fourier_combine(FourierColumns p) {
  const std::int64_t plane_size =
      static_cast<std::int64_t>(p.shape.height) * (p.shape.width / 2 + 1);
  const std::int64_t size = p.shape.pairs * p.shape.channels * plane_size;
  for (std::int64_t i = first_element(); i < size; i += element_stride()) {
    const std::int64_t plane = i / plane_size, at = i % plane_size;
    const std::int64_t pair = plane / p.shape.channels;
    const int channel = static_cast<int>(plane % p.shape.channels);
    const float gamma = read_step<StepRow>(p.steps, pair).gamma;
    const float2 b = __ldg(plane_of(p.back_projected, pair, channel) + at);
    const float weight = 1.0f / (gamma * __ldg(plane_of(p.power, pair, channel) + at) + 1.0f);
    const float2 v = p.spectrum[i];
    p.spectrum[i] = make_float2(weight * (v.x + gamma * b.x), weight * (v.y + gamma * b.y));
  }
}

// The Woodbury identity on full spectra (P, C, H, W), in place; a thread owns one class of aliases.
__global__ void __launch_bounds__(kElementThreads) alias_combine(AliasColumns p) {
  const int s = p.factor, width = p.shape.width;
  const int kept_h = p.shape.height / s, kept_w = width / s;
  const std::int64_t plane_size = static_cast<std::int64_t>(p.shape.height) * width;
  const std::int64_t kept_size = static_cast<std::int64_t>(kept_h) * kept_w;
  const std::int64_t count = p.shape.pairs * p.shape.channels * kept_size;
  for (std::int64_t i = first_element(); i < count; i += element_stride()) {
    const std::int64_t plane = i / kept_size, kept = i % kept_size;
    const std::int64_t pair = plane / p.shape.channels;
    const int channel = static_cast<int>(plane % p.shape.channels);
    const float2* h = plane_of(p.h, pair, channel);
    const float2* back = plane_of(p.back_projected, pair, channel);
    float2* spectrum = p.spectrum + plane * plane_size;
    const std::int64_t first = kept / kept_w * width + kept % kept_w;
    const float gamma = read_step<StepRow>(p.steps, pair).gamma;
    float2 sum = make_float2(0.0f, 0.0f);
    for (int alias = 0; alias < s * s; ++alias) {
      const std::int64_t at =
          first + static_cast<std::int64_t>(alias / s) * kept_h * width + alias % s * kept_w;
      spectrum[at] = add(spectrum[at], scaled(gamma, __ldg(back + at)));
      sum = add(sum, product(__ldg(h + at), spectrum[at]));
    }
    const float power = __ldg(plane_of(p.folded_power, pair, channel) + kept);
    const float2 inner =
        scaled(gamma / (static_cast<float>(s * s) * (1.0f + gamma * power)), sum);
    for (int alias = 0; alias < s * s; ++alias) {
      const std::int64_t at =
          first + static_cast<std::int64_t>(alias / s) * kept_h * width + alias % s * kept_w;
      spectrum[at] = subtract(spectrum[at], product(conjugate(__ldg(h + at)), inner));
    }
  }
}

// (gamma m y + V) / (gamma m + 1) on centred orthonormal k-space (P, H, W), in place.
__global__ void __launch_bounds__(kElementThreads) kspace_combine(KSpace p) {
  const std::int64_t plane_size = static_cast<std::int64_t>(p.shape.height) * p.shape.width;
  for (std::int64_t i = first_element(); i < p.shape.pairs * plane_size; i += element_stride()) {
    const std::int64_t pair = i / plane_size, at = i % plane_size;
    const float gamma = read_step<StepRow>(p.steps, pair).gamma;
    const float weight = gamma * __ldg(plane_of(p.mask, pair, 0) + at);
    const float2 v = p.spectrum[i];
    p.spectrum[i] = make_float2(masked_prox(v.x, weight, __ldg(plane_of(p.y, pair, 0) + at)),
                                masked_prox(v.y, weight, __ldg(plane_of(p.y, pair, 1) + at)));
  }
}

}  // namespace latino::cuda
