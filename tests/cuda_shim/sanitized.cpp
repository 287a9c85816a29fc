// The launchers on buffers of exactly their size, for AddressSanitizer and UBSan. With an argument
// the output is one float short, which the sanitizer must notice.
#include <cstdint>
#include <cstdio>
#include <vector>

#include "cuda/launchers.h"

namespace {

using latino::cuda::Planes;

struct Buffers {
  std::vector<float> x, x_t, out, spectrum, mask, power;
  std::vector<float> back, full;  // complex
  std::vector<latino::StepRow> rows = {{0.4f, 2.0f, 0.3f, 7}, {0.4f, 2.0f, 0.3f, 8}};
  std::vector<std::uint32_t> counter = {0, 0, 0};
  std::vector<std::int64_t> ids;
};

float2* complex_of(std::vector<float>& values) { return reinterpret_cast<float2*>(values.data()); }

void run(int height, int width, int factor, bool too_short) {
  const latino::cuda::Shape shape{2, 2, height, width};
  const std::size_t plane = std::size_t(height) * width, size = 4 * plane;
  const std::size_t half = std::size_t(height) * (width / 2 + 1);
  Buffers b;
  b.x.assign(size, 1.0f);
  b.x_t.assign(size, 2.0f);
  b.out.assign(size - (too_short ? 1 : 0), 0.0f);
  b.spectrum.assign(size, 0.0f);
  b.mask.assign(2 * plane, 1.0f);
  b.power.assign(half, 1.0f);
  b.back.assign(2 * half, 0.5f);
  b.full.assign(2 * plane, 0.5f);
  b.ids.assign(2, 1);
  const latino::cuda::Image x{b.x.data(), latino::kFloat32}, x_t{b.x_t.data(), latino::kFloat32};
  const latino::cuda::Output out{b.out.data(), latino::kFloat32};
  const latino::cuda::Steps steps{b.rows.data(), b.counter.data(), 2, 1};
  const latino::cuda::Noise noise{{1, 2}, nullptr, b.ids.data(), b.ids.data()};
  const Planes<float> mask{b.mask.data(), 0, 0}, y{b.mask.data(), 0, std::int64_t(plane)};
  const Planes<float2> full{complex_of(b.full), 0, 0};
  float2* spectrum = complex_of(b.spectrum);
  const latino::cuda::FourierRows rows{x, x_t, out, spectrum, steps, noise, shape};
  const Planes<float> power{b.power.data(), 0, 0};
  latino::cuda::launch_fourier_prox_noise(
      rows, {spectrum, power, {complex_of(b.back), 0, 0}, steps, shape}, nullptr);
  latino::cuda::launch_alias_prox_noise(
      rows, {spectrum, full, mask, full, steps, shape, factor}, nullptr);
  latino::cuda::launch_fourier_mask_prox_noise(
      {x, x_t, out, spectrum, mask, y, steps, noise, shape}, nullptr);
  latino::cuda::launch_masked_prox_noise({x, x_t, mask, y, out, steps, noise, shape}, nullptr);
  std::printf("%d x %d: %g\n", height, width, static_cast<double>(b.out[size / 2]));
}

void run_pointwise(int height, int width) {
  const latino::cuda::Shape shape{1, 3, height, width};
  const std::size_t size = 3 * std::size_t(height) * width;
  std::vector<float> x(size, 1.0f), x_t(size, 2.0f), out(size);
  const std::vector<latino::StepRow> rows(1);
  std::vector<std::uint32_t> counter(3);
  const std::vector<std::int64_t> ids(1);
  const latino::cuda::Image image{x.data(), latino::kFloat32}, state{x_t.data(), latino::kFloat32};
  const latino::cuda::Quads quads{image, state, {}, {}, {out.data(), latino::kFloat32},
                                  {rows.data(), counter.data(), 1, 1},
                                  {{1, 2}, nullptr, ids.data(), ids.data()}, shape};
  latino::cuda::launch_gaussian_noise(quads, nullptr);
  latino::cuda::launch_langevin_noise(quads, nullptr);
  latino::cuda::launch_reverse_step(quads, nullptr);
}

// What stands between the transforms of a library, for sizes without own kernels.
void run_combines(int height, int width, int factor) {
  const latino::cuda::Shape shape{2, 2, height, width};
  const std::size_t plane = std::size_t(height) * width, size = 4 * plane;
  const std::size_t half = std::size_t(height) * (width / 2 + 1);
  const std::size_t kept = plane / factor / factor;
  std::vector<float> x(size, 1.0f), x_t(size, 2.0f), v(size), mask(plane, 1.0f), y(2 * plane, 1.0f);
  std::vector<float> halves(2 * 4 * half), fulls(2 * size), planes(2 * 2 * plane);
  std::vector<float> power(half, 1.0f), back(2 * half, 0.5f), h(2 * plane, 0.5f);
  std::vector<float> folded(kept, 1.0f);
  const std::vector<latino::StepRow> rows = {{0.4f, 2.0f, 0.3f, 7}};
  std::vector<std::uint32_t> counter(3);
  const latino::cuda::Steps steps{rows.data(), counter.data(), 1, 1};
  const latino::cuda::Image image{x.data(), latino::kFloat32}, state{x_t.data(), latino::kFloat32};
  latino::cuda::launch_combine_anchors({image, state, v.data(), steps, shape}, nullptr);
  latino::cuda::launch_fourier_combine({complex_of(halves),
                                        {power.data(), 0, 0},
                                        {complex_of(back), 0, 0},
                                        steps,
                                        shape},
                                       nullptr);
  const Planes<float2> spectrum{complex_of(h), 0, 0};
  latino::cuda::launch_alias_combine({complex_of(fulls), spectrum, {folded.data(), 0, 0}, spectrum,
                                      steps, shape, factor},
                                     nullptr);
  latino::cuda::launch_kspace_combine({image, state, {}, complex_of(planes), {mask.data(), 0, 0},
                                       {y.data(), 0, std::int64_t(plane)}, steps, {}, shape},
                                      nullptr);
}

}  // namespace

int main(int argc, char**) {
  run(64, 128, 2, argc > 1);
  run(256, 64, 4, false);
  run(128, 256, 8, false);
  for (const int side : {1, 5, 8, 17}) run_pointwise(side, 3 * side);
  run_combines(9, 15, 3);
  run_combines(6, 10, 2);
  run_combines(1, 1, 1);
}
