#include "cpu/rows.h"

#include <cstdint>
#include <cstring>
#include <utility>

#include "cpu/clones.h"
#include "cpu/loops.h"
#include "latino/fft_plan.h"
#include "latino/normal.h"
#include "latino/philox.h"
#include "latino/pointwise.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // g++'s own intrinsics: GCC bug 105593
#endif

#define LATINO_TARGET plain
#define LATINO_LANES 4
#include "cpu/target_loops.h"
#undef LATINO_TARGET
#undef LATINO_LANES

// Not LATINO_CLONES: g++ takes vectors apart before it makes clones. The width is a macro of our
// own because g++ does not define __AVX2__ behind the pragma.
#if defined(LATINO_HAS_CLONES)
#pragma GCC push_options
#pragma GCC target("avx2")
#define LATINO_TARGET avx2
#define LATINO_LANES 8
#include "cpu/target_loops.h"
#undef LATINO_TARGET
#undef LATINO_LANES
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx512f,avx512vl,avx512bw,avx512dq")
#define LATINO_TARGET avx512
#define LATINO_LANES 16
#include "cpu/target_loops.h"
#undef LATINO_TARGET
#undef LATINO_LANES
#pragma GCC pop_options
#endif

namespace latino::cpu {

int usable_targets(const Loops* (&tables)[kMaxTargets]) {
  int count = 0;
#if defined(LATINO_HAS_CLONES)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq")) {
    tables[count++] = &avx512::kLoops;
  }
  if (__builtin_cpu_supports("avx2")) tables[count++] = &avx2::kLoops;
#endif
  tables[count++] = &plain::kLoops;
  return count;
}

// ivdep below: entry i of `out` depends on no other entry, even where `out` is an input.

LATINO_CLONES void combine_row(const float* x, const float* x_t, float weight, std::int64_t count,
                               float* out) {
  const float other = 1.0f - weight;
#pragma GCC ivdep
  for (std::int64_t i = 0; i < count; ++i) out[i] = weight * x[i] + other * x_t[i];
}

LATINO_CLONES void fourier_combine_row(const float* power, const float* back_projected,
                                       float gamma, std::int64_t count, float* spectrum) {
#pragma GCC ivdep
  for (std::int64_t i = 0; i < count; ++i) {
    const float weight = 1.0f / (gamma * power[i] + 1.0f);
    spectrum[2 * i] = (gamma * back_projected[2 * i] + spectrum[2 * i]) * weight;
    spectrum[2 * i + 1] = (gamma * back_projected[2 * i + 1] + spectrum[2 * i + 1]) * weight;
  }
}

LATINO_CLONES void langevin_row(const float* z, float scale, const float* eps, std::int64_t count,
                                float* out) {
#pragma GCC ivdep
  for (std::int64_t i = 0; i < count; ++i) out[i] = latino::add_noise(z[i], scale, eps[i]);
}

LATINO_CLONES void reverse_row(const float* x0_hat, const float* x_t, const ReverseStep& step,
                               const float* eps, std::int64_t count, float* out) {
  const ReverseStep scalars = step;  // a copy that `out` cannot overlap
#pragma GCC ivdep
  for (std::int64_t i = 0; i < count; ++i) {
    out[i] = latino::reverse_step(x0_hat[i], x_t[i], scalars, eps[i]);
  }
}

LATINO_CLONES void masked_prox_row(const float* v, const float* mask, const float* y, float gamma,
                                   std::int64_t count, float* out) {
#pragma GCC ivdep
  for (std::int64_t i = 0; i < count; ++i) {
    const float seen = mask[i] > 0.0f ? y[i] : 0.0f;
    out[i] = latino::masked_prox(v[i], gamma * mask[i], seen);
  }
}

LATINO_CLONES void keep_row(const float* x, const float* mask, std::int64_t count, float* out) {
#pragma GCC ivdep
  for (std::int64_t i = 0; i < count; ++i) out[i] = mask[i] > 0.0f ? x[i] : 0.0f;
}

LATINO_CLONES void masked_prox_noise_row(const float* v, const float* mask, const float* y,
                                         float gamma, float scale, const float* eps,
                                         std::int64_t count, float* out) {
#pragma GCC ivdep
  for (std::int64_t i = 0; i < count; ++i) {
    out[i] = latino::add_noise(latino::masked_prox(v[i], gamma * mask[i], y[i]), scale, eps[i]);
  }
}

LATINO_CLONES void interleave_row(const AnchorParts& parts, std::int64_t count, float* image) {
  const float *re = parts.re, *im = parts.im, *re_t = parts.re_t, *im_t = parts.im_t;
  const float weight = parts.weight, other = 1.0f - weight;
  if (re_t == nullptr) {
#pragma GCC ivdep
    for (std::int64_t i = 0; i < count; ++i) image[2 * i] = re[i], image[2 * i + 1] = im[i];
    return;
  }
#pragma GCC ivdep
  for (std::int64_t i = 0; i < count; ++i) {
    image[2 * i] = weight * re[i] + other * re_t[i];
    image[2 * i + 1] = weight * im[i] + other * im_t[i];
  }
}

LATINO_CLONES void parts_row(const float* image, std::int64_t count, float* re, float* im) {
#pragma GCC ivdep
  for (std::int64_t i = 0; i < count; ++i) re[i] = image[2 * i], im[i] = image[2 * i + 1];
}

LATINO_CLONES void kspace_combine_row(const float* mask, const float* y_re, const float* y_im,
                                      float gamma, float root, std::int64_t count,
                                      float* spectrum) {
#pragma GCC ivdep
  for (std::int64_t i = 0; i < count; ++i) {
    const float weight = gamma * mask[i];
    spectrum[2 * i] = latino::masked_prox(spectrum[2 * i], weight, root * y_re[i]);
    spectrum[2 * i + 1] = latino::masked_prox(spectrum[2 * i + 1], weight, root * y_im[i]);
  }
}

LATINO_CLONES void part_with_noise_row(const float* part, float scale, const float* eps,
                                       std::int64_t count, float* out) {
#pragma GCC ivdep
  for (std::int64_t i = 0; i < count; ++i) {
    out[i] = latino::add_noise(part[2 * i], scale, eps[i]);
  }
}

LATINO_CLONES void running_moments_row(const MomentArrays& arrays, float number,
                                       std::int64_t begin, std::int64_t end) {
  const float *mean = arrays.mean, *m2 = arrays.m2, *x = arrays.x;
  float *mean_out = arrays.mean_out, *m2_out = arrays.m2_out;
#pragma GCC ivdep
  for (std::int64_t i = begin; i < end; ++i) {
    const Moments moments = latino::running_moments(mean[i], m2[i], number, x[i]);
    mean_out[i] = moments.mean;
    m2_out[i] = moments.m2;
  }
}

}  // namespace latino::cpu
