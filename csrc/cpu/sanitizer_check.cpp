// A program for tests/ops: runs the inner steps of every size and instruction set on
// arrays of exactly the size they must have, so that AddressSanitizer sees every stray access.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <utility>

#include "cpu/kernels.h"
#include "cpu/loops.h"
#include "latino/fft_plan.h"

namespace latino::cpu {
namespace {

using Array = std::unique_ptr<float[]>;

Array filled(std::int64_t count, float value) {
  Array array(new float[static_cast<std::size_t>(count)]);
  for (std::int64_t i = 0; i < count; ++i) array[i] = value + 1e-3f * static_cast<float>(i % 97);
  return array;
}

bool is_finite(const Array& array, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) {
    if (!std::isfinite(array[i])) return false;
  }
  return true;
}

// The operators' own calls; false if a result is not finite.
bool check_operators(std::int64_t height, std::int64_t width, const Loops& loops) {
  const Shape shape{1, 1, height, width}, complex_shape{1, 2, height, width};
  const std::int64_t size = height * width, half = height * (width / 2 + 1);
  const Array x = filled(2 * size, 0.5f), h = filled(2 * half, 0.2f), mask = filled(size, 0.1f);
  const Array spectrum = filled(2 * half, 0.0f), out = filled(size, 0.0f);
  const Array both = filled(2 * size, 0.0f), scalars = filled(3, 0.25f);
  const std::uint32_t id = 1;
  const NoiseIdentity identity{{1, 2}, &id, &id, 3};
  convolve(shape, x.get(), {{h.get(), 0, 0}, false, nullptr}, out.get(), loops, 2);
  convolved_spectrum(shape, x.get(), {{h.get(), 0, 0}, true, spectrum.get()}, loops, 2);
  if (!is_finite(out, size) || !is_finite(spectrum, 2 * half)) return false;
  const Broadcast seen{mask.get(), 0, 0};
  for (const Shape& images : {shape, complex_shape}) {
    kspace_forward(images, x.get(), seen, both.get(), loops, 2);
    if (!is_finite(both, 2 * size)) return false;
    kspace_adjoint(images, x.get(), seen, both.get(), loops, 2);
    if (!is_finite(both, images.channels * size)) return false;
  }
  const InnerStep step{x.get(), x.get(), {&scalars[0], 0}, {&scalars[1], 0}, both.get()};
  const MaskedData data{seen, {x.get(), 0, size}, {&scalars[2], 0}};
  kspace_prox_noise(identity, complex_shape, step, data, loops, 2);
  keep_observed(shape, x.get(), seen, out.get(), 2);
  return is_finite(both, 2 * size) && is_finite(out, size);
}

// Both inner steps where there are own loops for them; false if a result is not finite.
bool check(std::int64_t height, std::int64_t width, const Loops& loops) {
  const Shape shape{1, 1, height, width};
  const std::int64_t size = shape.num_elements(), half = height * (width / 2 + 1);
  const Array x = filled(size, 0.5f), x_t = filled(size, -0.5f), scalars = filled(3, 0.25f);
  const Array power = filled(half, 0.1f), back = filled(2 * half, 0.2f), out = filled(size, 0.0f);
  const std::uint32_t id = 1;
  const NoiseIdentity identity{{1, 2}, &id, &id, 3};
  const InnerStep step{x.get(), x_t.get(), {&scalars[0], 0}, {&scalars[1], 0}, out.get()};
  const PerPair gamma{&scalars[2], 0};
  fourier_prox_noise(identity, shape, step, {{power.get(), 0, 0}, {back.get(), 0, 0}, gamma},
                     loops, 2);
  if (!is_finite(out, size)) return false;
  if (!check_operators(height, width, loops)) return false;
  const Array h = filled(2 * size, 0.3f), full = filled(2 * size, 0.4f);
  for (int factor = 2; has_own_alias_loops(height, width, factor); factor *= 2) {
    const Array folded = filled(size / factor / factor, 0.1f);
    const AliasData data{{h.get(), 0, 0}, {folded.get(), 0, 0}, {full.get(), 0, 0}, gamma, factor};
    alias_prox_noise(identity, shape, step, data, loops, 2);
    if (!is_finite(out, size)) return false;
  }
  return true;
}

int run() {
  const Loops* tables[kMaxTargets];
  const int count = usable_targets(tables);
  int checked = 0;
  for (int target = 0; target < count; ++target) {
    for (int height = fft::kMinSide; height <= fft::kMaxSide; height *= 2) {
      for (int width = fft::kMinSide; width <= fft::kMaxSide; width *= 2) {
        if (height * width > 1 << 16) continue;  // the sides matter, not their product
        if (!check(height, width, *tables[target])) {
          std::printf("%d x %d, %s: not finite\n", height, width, tables[target]->name);
          return 1;
        }
        ++checked;
      }
    }
  }
  std::printf("%d sizes clean\n", checked);
  return 0;
}

}  // namespace
}  // namespace latino::cpu

int main() { return latino::cpu::run(); }
