// What the calls of the native CPU path have in common: shapes, scalars, ids, anchors, loops.
#pragma once

#include <complex>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "array_checks.h"
#include "cpu/kernels.h"
#include "cpu/loops.h"
#include "latino/fft_plan.h"

namespace latino::binding {

constexpr std::int64_t kImageLimit = std::int64_t{1} << 22;
constexpr std::int64_t kSampleLimit = std::int64_t{1} << 32;
constexpr py::ssize_t kMaxChannels = 1024;

inline cpu::Shape image_shape(const Sizes& sizes) {
  if (sizes.size() != 4) refuse("out", "(P, C, H, W)", text_of(sizes), "give four axes");
  if (sizes[1] > kMaxChannels) {
    refuse("out", "at most 1024 channels", std::to_string(sizes[1]), "split the channels");
  }
  const cpu::Shape shape{sizes[0], sizes[1], sizes[2], sizes[3]};
  if (shape.quads_per_plane() >= kSampleLimit) {
    refuse("out", "fewer than 2^32 quads per plane", text_of(sizes), "split the image");
  }
  return shape;
}

inline PhiloxKey key_of(std::uint64_t seed) {
  return {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)};
}

// (P|1,) floats, one for each pair or one for all.
inline cpu::PerPair per_pair(const py::array& array, const std::string& name, std::int64_t pairs) {
  const bool shared = array.ndim() == 1 && array.shape(0) == 1;
  return {input(array, name, {shared ? 1 : static_cast<py::ssize_t>(pairs)}), shared ? 0 : 1};
}

// (P|1, C|1, H, W) floats, or complex numbers with strides in floats.
template <class T = float>
cpu::Broadcast broadcast(const py::array& array, const std::string& name, const Sizes& full) {
  if (array.ndim() != 4) refuse(name, "four axes", text_of(sizes_of(array)), "add leading axes");
  const bool one_pair = array.shape(0) == 1, one_channel = array.shape(1) == 1;
  const Sizes sizes{one_pair ? 1 : full[0], one_channel ? 1 : full[1], full[2], full[3]};
  const float* data = input<T>(array, name, sizes);
  const std::int64_t plane = full[2] * full[3] * std::int64_t{sizeof(T) / sizeof(float)};
  return {data, one_pair ? 0 : sizes[1] * plane, one_channel ? 0 : plane};
}

// The ids, copied and checked; the kernels read them without the interpreter's lock.
class Identity {
 public:
  Identity(std::uint64_t seed, const py::array& image_ids, const py::array& sample_ids,
           std::uint32_t step, const Sizes& sizes)
      : images_(ids_of(image_ids, "image_ids", sizes.empty() ? 0 : sizes[0], kImageLimit)),
        samples_(ids_of(sample_ids, "sample_ids", sizes.empty() ? 0 : sizes[0], kSampleLimit)),
        identity_{key_of(seed), images_.data(), samples_.data(), step} {}
  Identity(const Identity&) = delete;
  Identity& operator=(const Identity&) = delete;
  const cpu::NoiseIdentity& get() const { return identity_; }

 private:
  std::vector<std::uint32_t> images_, samples_;
  cpu::NoiseIdentity identity_;
};

using Complex = std::complex<float>;
using OptionalArray = std::optional<py::array>;

// The arguments that every inner step has, and the promise that `out` overlaps none of `constants`.
inline cpu::InnerStep inner_step(
    const py::array& x, const OptionalArray& x_t, const py::array& x_weight,
    const py::array& scale, const py::array& out,
    const std::vector<std::pair<const py::array*, const char*>>& constants) {
  const Sizes sizes = sizes_of(out);
  const cpu::InnerStep step{input(x, "x", sizes), x_t ? input(*x_t, "x_t", sizes) : nullptr,
                            per_pair(x_weight, "x_weight", sizes[0]),
                            per_pair(scale, "scale", sizes[0]), output(out, "out", sizes)};
  check_apart(out, "out", x, "x");
  if (x_t) check_apart(out, "out", *x_t, "x_t");
  check_apart(out, "out", x_weight, "x_weight", false);
  check_apart(out, "out", scale, "scale", false);
  for (const auto& [array, name] : constants) check_apart(out, "out", *array, name, false);
  return step;
}

// The loops of this name; "" for the best.
inline const cpu::Loops& loops_of(const std::string& target) {
  if (target.empty()) return cpu::best_loops();
  const cpu::Loops* tables[cpu::kMaxTargets];
  const int count = cpu::usable_targets(tables);
  for (int i = 0; i < count; ++i) {
    if (target == tables[i]->name) return *tables[i];
  }
  refuse("target", "one of targets()", target, "leave it out for the best");
}

inline Sizes half_spectrum(const Sizes& sizes) {
  return {sizes[0], sizes[1], sizes[2], sizes[3] / 2 + 1};
}

// A size with transforms of our own.
inline void check_own_sides(const cpu::Shape& shape, const std::string& name) {
  if (fft::is_own_side(shape.height) && fft::is_own_side(shape.width)) return;
  refuse(name, "sides of a power of two from 16 to 2048",
         std::to_string(shape.height) + " x " + std::to_string(shape.width), "use torch.fft");
}

}  // namespace latino::binding
