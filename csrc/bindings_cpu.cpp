// latino_engine._cpu: the memory-safety checks and every m.def of the sampler's operations; those of
// the operators' own calls are in bindings_cpu_operators.cpp.
//
// Arrays are numpy arrays (a CPU tensor's .numpy() shares its memory). Each function checks type,
// layout, shape and overlap, then releases the interpreter's lock around the work.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "array_checks.h"
#include "bindings_cpu.h"
#include "cpu/kernels.h"
#include "cpu/loops.h"
#include "cpu/workspace.h"
#include "cpu_arguments.h"
#include "latino/fft_plan.h"

namespace latino::binding {
namespace {

constexpr int kInterfaceVersion = 6;  // latino_engine.ops.cpu_extension asks for exactly this one
py::tuple philox_words(std::array<std::uint32_t, 4> counter, std::array<std::uint32_t, 2> key) {
  const Words r = philox4x32({counter[0], counter[1], counter[2], counter[3]}, {key[0], key[1]});
  return py::make_tuple(r.x, r.y, r.z, r.w);
}

py::array_t<std::uint32_t> philox_integers(std::uint64_t seed, const py::array& image_ids,
                                           const py::array& sample_ids, std::uint32_t step,
                                           const Sizes& sizes) {
  for (const py::ssize_t size : sizes) {
    if (size < 0) refuse("shape", "sizes from 0", text_of(sizes), "give four sizes");
  }
  const cpu::Shape shape = image_shape(sizes);
  const Identity identity(seed, image_ids, sample_ids, step, sizes);
  py::array_t<std::uint32_t> words(Sizes{4, sizes[0], sizes[1], shape.quads_per_plane()});
  cpu::philox_integers(identity.get(), shape, words.mutable_data());
  return words;
}

void gaussian_noise(std::uint64_t seed, const py::array& image_ids, const py::array& sample_ids,
                    std::uint32_t step, const py::array& out, int num_threads) {
  const Sizes sizes = sizes_of(out);
  const cpu::Shape shape = image_shape(sizes);
  const Identity identity(seed, image_ids, sample_ids, step, sizes);
  float* result = output(out, "out", sizes);
  check_threads(num_threads);
  const py::gil_scoped_release unlocked;
  cpu::gaussian_noise(identity.get(), shape, result, num_threads);
}

void langevin_noise(const py::array& z, const py::array& scale, std::uint64_t seed,
                    const py::array& image_ids, const py::array& sample_ids, std::uint32_t step,
                    const py::array& out, int num_threads) {
  const Sizes sizes = sizes_of(out);
  const cpu::Shape shape = image_shape(sizes);
  const Identity identity(seed, image_ids, sample_ids, step, sizes);
  const float* state = input(z, "z", sizes);
  const cpu::PerPair scales = per_pair(scale, "scale", shape.pairs);
  float* result = output(out, "out", sizes);
  check_apart(out, "out", z, "z");
  check_apart(out, "out", scale, "scale", false);
  check_threads(num_threads);
  const py::gil_scoped_release unlocked;
  cpu::langevin_noise(identity.get(), shape, state, scales, result, num_threads);
}

void reverse_step(const py::array& x0_hat, const py::array& x_t, float sigma_next, float kept,
                  float renewed, std::uint64_t seed, const py::array& image_ids,
                  const py::array& sample_ids, std::uint32_t step, const py::array& out,
                  int num_threads) {
  const Sizes sizes = sizes_of(out);
  const cpu::Shape shape = image_shape(sizes);
  const Identity identity(seed, image_ids, sample_ids, step, sizes);
  const float* estimate = input(x0_hat, "x0_hat", sizes);
  const float* state = input(x_t, "x_t", sizes);
  float* result = output(out, "out", sizes);
  check_apart(out, "out", x0_hat, "x0_hat");
  check_apart(out, "out", x_t, "x_t");
  check_threads(num_threads);
  const py::gil_scoped_release unlocked;
  const ReverseStep scalars{sigma_next, kept, renewed};
  cpu::reverse_step(identity.get(), shape, estimate, state, scalars, result, num_threads);
}

cpu::MaskedProx masked_prox_arguments(const py::array& v, const py::array& mask,
                                      const py::array& y, const py::array& gamma,
                                      const py::array& out) {
  const Sizes sizes = sizes_of(out);
  check_apart(out, "out", v, "v");
  check_apart(out, "out", mask, "mask");
  check_apart(out, "out", y, "y");
  check_apart(out, "out", gamma, "gamma", false);
  return {input(v, "v", sizes), broadcast(mask, "mask", sizes), broadcast(y, "y", sizes),
          per_pair(gamma, "gamma", sizes[0])};
}

void masked_prox(const py::array& v, const py::array& mask, const py::array& y,
                 const py::array& gamma, const py::array& out, int num_threads) {
  const cpu::Shape shape = image_shape(sizes_of(out));
  const cpu::MaskedProx prox = masked_prox_arguments(v, mask, y, gamma, out);
  float* result = output(out, "out", sizes_of(out));
  check_threads(num_threads);
  const py::gil_scoped_release unlocked;
  cpu::masked_prox(shape, prox, result, num_threads);
}

void masked_prox_noise(const py::array& x, const OptionalArray& x_t, const py::array& x_weight,
                       const py::array& mask, const py::array& y, const py::array& gamma,
                       const py::array& scale, std::uint64_t seed, const py::array& image_ids,
                       const py::array& sample_ids, std::uint32_t step, const py::array& out,
                       int num_threads) {
  const Sizes sizes = sizes_of(out);
  const cpu::Shape shape = image_shape(sizes);
  const Identity identity(seed, image_ids, sample_ids, step, sizes);
  const cpu::InnerStep inner = inner_step(x, x_t, x_weight, scale, out, {{&gamma, "gamma"}});
  check_apart(out, "out", mask, "mask");
  check_apart(out, "out", y, "y");
  const cpu::MaskedData data{broadcast(mask, "mask", sizes), broadcast(y, "y", sizes),
                             per_pair(gamma, "gamma", sizes[0])};
  check_threads(num_threads);
  const py::gil_scoped_release unlocked;
  cpu::masked_prox_noise(identity.get(), shape, inner, data, num_threads);
}

std::vector<std::string> targets() {
  const cpu::Loops* tables[cpu::kMaxTargets];
  const int count = cpu::usable_targets(tables);
  std::vector<std::string> names;
  for (int i = 0; i < count; ++i) names.emplace_back(tables[i]->name);
  return names;
}

void fourier_prox_noise(const py::array& x, const OptionalArray& x_t, const py::array& x_weight,
                        const py::array& power, const py::array& back_projected,
                        const py::array& gamma, const py::array& scale, std::uint64_t seed,
                        const py::array& image_ids, const py::array& sample_ids,
                        std::uint32_t step, const py::array& out, int num_threads,
                        const std::string& target) {
  const Sizes sizes = sizes_of(out);
  const cpu::Shape shape = image_shape(sizes);
  check_own_sides(shape, "out");
  const Identity identity(seed, image_ids, sample_ids, step, sizes);
  const cpu::InnerStep inner = inner_step(
      x, x_t, x_weight, scale, out,
      {{&power, "power"}, {&back_projected, "back_projected"}, {&gamma, "gamma"}});
  const Sizes half = half_spectrum(sizes);
  const cpu::FourierData data{broadcast(power, "power", half),
                              broadcast<Complex>(back_projected, "back_projected", half),
                              per_pair(gamma, "gamma", sizes[0])};
  check_threads(num_threads);
  const cpu::Loops& loops = loops_of(target);
  const py::gil_scoped_release unlocked;
  cpu::fourier_prox_noise(identity.get(), shape, inner, data, loops, num_threads);
}

void alias_prox_noise(const py::array& x, const OptionalArray& x_t, const py::array& x_weight,
                      const py::array& h, const py::array& folded_power,
                      const py::array& back_projected, const py::array& gamma,
                      const py::array& scale, int factor, std::uint64_t seed,
                      const py::array& image_ids, const py::array& sample_ids, std::uint32_t step,
                      const py::array& out, int num_threads, const std::string& target) {
  const Sizes sizes = sizes_of(out);
  const cpu::Shape shape = image_shape(sizes);
  if (!cpu::has_own_alias_loops(shape.height, shape.width, factor)) {
    refuse("factor", "a power of two and sides to match, see has_alias_loops",
           std::to_string(factor) + " for " + text_of(sizes), "use torch.fft");
  }
  const Identity identity(seed, image_ids, sample_ids, step, sizes);
  const cpu::InnerStep inner = inner_step(x, x_t, x_weight, scale, out,
                                          {{&h, "h"},
                                           {&folded_power, "folded_power"},
                                           {&back_projected, "back_projected"},
                                           {&gamma, "gamma"}});
  const Sizes kept{sizes[0], sizes[1], sizes[2] / factor, sizes[3] / factor};
  const cpu::AliasData data{broadcast<Complex>(h, "h", sizes),
                            broadcast(folded_power, "folded_power", kept),
                            broadcast<Complex>(back_projected, "back_projected", sizes),
                            per_pair(gamma, "gamma", sizes[0]), factor};
  check_threads(num_threads);
  const cpu::Loops& loops = loops_of(target);
  const py::gil_scoped_release unlocked;
  cpu::alias_prox_noise(identity.get(), shape, inner, data, loops, num_threads);
}

// The shape of complex images (P, H, W) that travel as (P, 2, H, W).
cpu::Shape complex_shape(const py::array& image, const std::string& name) {
  const Sizes sizes = sizes_of(image);
  if (sizes.size() != 3) refuse(name, "(P, H, W)", text_of(sizes), "give three axes");
  return image_shape({sizes[0], 2, sizes[1], sizes[2]});
}

Sizes real_sizes(const cpu::Shape& shape) {
  return {shape.pairs, shape.channels, shape.height, shape.width};
}

// image (P, H, W) = ifftshift(x_weight x + (1 - x_weight) x_t).
void kspace_pack(const py::array& x, const OptionalArray& x_t, const py::array& x_weight,
                 const py::array& image, int num_threads) {
  const cpu::Shape shape = complex_shape(image, "image");
  const Sizes sizes = real_sizes(shape);
  const float* start = input(x, "x", sizes);
  const float* state = x_t ? input(*x_t, "x_t", sizes) : nullptr;
  const cpu::PerPair weight = per_pair(x_weight, "x_weight", shape.pairs);
  float* result = output<Complex>(image, "image", sizes_of(image));
  check_apart(image, "image", x, "x", false);
  if (x_t) check_apart(image, "image", *x_t, "x_t", false);
  check_apart(image, "image", x_weight, "x_weight", false);
  check_threads(num_threads);
  const py::gil_scoped_release unlocked;
  cpu::kspace_pack(shape, {start, state, weight, {}, nullptr}, result, num_threads);
}

// spectrum (P, H, W), in place; mask (P|1, 1, H, W) and y (P|1, 2, H, W) centred.
void kspace_combine(const py::array& spectrum, const py::array& mask, const py::array& y,
                    const py::array& gamma, int num_threads) {
  const cpu::Shape shape = complex_shape(spectrum, "spectrum");
  Sizes sizes = real_sizes(shape);
  if (y.ndim() == 4 && y.shape(1) != 2) refuse("y", "2 channels (re, im)", "another number",
                                               "store both parts");
  const cpu::Broadcast seen = broadcast(y, "y", sizes);
  sizes[1] = 1;
  const cpu::MaskedData data{broadcast(mask, "mask", sizes), seen,
                             per_pair(gamma, "gamma", shape.pairs)};
  float* values = output<Complex>(spectrum, "spectrum", sizes_of(spectrum));
  check_apart(spectrum, "spectrum", mask, "mask", false);
  check_apart(spectrum, "spectrum", y, "y", false);
  check_apart(spectrum, "spectrum", gamma, "gamma", false);
  check_threads(num_threads);
  const py::gil_scoped_release unlocked;
  cpu::kspace_combine(shape, data, values, num_threads);
}

// out (P, 2, H, W) = fftshift(image) + scale eps.
void kspace_unpack(const py::array& image, const py::array& scale, std::uint64_t seed,
                   const py::array& image_ids, const py::array& sample_ids, std::uint32_t step,
                   const py::array& out, int num_threads) {
  const cpu::Shape shape = complex_shape(image, "image");
  const Sizes sizes = real_sizes(shape);
  const Identity identity(seed, image_ids, sample_ids, step, sizes);
  const float* values = input<Complex>(image, "image", sizes_of(image));
  const cpu::PerPair scales = per_pair(scale, "scale", shape.pairs);
  float* result = output(out, "out", sizes);
  check_apart(out, "out", image, "image", false);
  check_apart(out, "out", scale, "scale", false);
  check_threads(num_threads);
  const py::gil_scoped_release unlocked;
  cpu::kspace_unpack(identity.get(), shape, values, scales, result, num_threads);
}

// spectrum (P, C, H, width/2 + 1), in place.
void fourier_combine(const py::array& spectrum, const py::array& power,
                     const py::array& back_projected, const py::array& gamma, int num_threads) {
  const Sizes half = sizes_of(spectrum);
  if (half.size() != 4 || half[3] < 1) {
    refuse("spectrum", "(P, C, H, W/2 + 1)", text_of(half), "give the half-spectrum of an image");
  }
  float* values = output<Complex>(spectrum, "spectrum", half);
  const cpu::Shape shape = image_shape({half[0], half[1], half[2], 2 * (half[3] - 1)});
  const cpu::FourierData data{broadcast(power, "power", half),
                              broadcast<Complex>(back_projected, "back_projected", half),
                              per_pair(gamma, "gamma", half[0])};
  check_apart(spectrum, "spectrum", power, "power", false);
  check_apart(spectrum, "spectrum", back_projected, "back_projected", false);
  check_apart(spectrum, "spectrum", gamma, "gamma", false);
  check_threads(num_threads);
  const py::gil_scoped_release unlocked;
  cpu::fourier_combine(shape, data, values, num_threads);
}

void running_moments(const py::array& mean, const py::array& m2, double count, const py::array& x,
                     const py::array& mean_out, const py::array& m2_out, int num_threads) {
  const Sizes sizes = sizes_of(x);
  if (!(count >= 1)) refuse("count", "a count from 1", std::to_string(count), "count the value");
  const cpu::MomentArrays arrays{input(mean, "mean", sizes), input(m2, "m2", sizes),
                                 input(x, "x", sizes), output(mean_out, "mean_out", sizes),
                                 output(m2_out, "m2_out", sizes)};
  check_apart(mean_out, "mean_out", m2_out, "m2_out", false);
  for (const auto& [other, name] : {std::pair{&mean, "mean"}, {&m2, "m2"}, {&x, "x"}}) {
    check_apart(mean_out, "mean_out", *other, name);
    check_apart(m2_out, "m2_out", *other, name);
  }
  check_threads(num_threads);
  const py::gil_scoped_release unlocked;
  cpu::running_moments(x.size(), static_cast<float>(count), arrays, num_threads);
}

}  // namespace

PYBIND11_MODULE(_cpu, m) {
  using py::arg;
  m.doc() = "Native CPU kernels of latino_engine on contiguous float32 numpy arrays.";
  m.attr("INTERFACE_VERSION") = kInterfaceVersion;
  m.def("philox4x32", &philox_words, arg("counter"), arg("key"));
  m.def("philox_integers", &philox_integers, arg("seed"), arg("image_ids"), arg("sample_ids"),
        arg("step"), arg("shape"));
  m.def("gaussian_noise", &gaussian_noise, arg("seed"), arg("image_ids"), arg("sample_ids"),
        arg("step"), arg("out"), arg("num_threads"));
  m.def("langevin_noise", &langevin_noise, arg("z"), arg("scale"), arg("seed"), arg("image_ids"),
        arg("sample_ids"), arg("step"), arg("out"), arg("num_threads"));
  m.def("reverse_step", &reverse_step, arg("x0_hat"), arg("x_t"), arg("sigma_next"), arg("kept"),
        arg("renewed"), arg("seed"), arg("image_ids"), arg("sample_ids"), arg("step"), arg("out"),
        arg("num_threads"));
  m.def("masked_prox", &masked_prox, arg("v"), arg("mask"), arg("y"), arg("gamma"), arg("out"),
        arg("num_threads"));
  m.def("masked_prox_noise", &masked_prox_noise, arg("x"), arg("x_t"), arg("x_weight"),
        arg("mask"), arg("y"), arg("gamma"), arg("scale"), arg("seed"), arg("image_ids"),
        arg("sample_ids"), arg("step"), arg("out"), arg("num_threads"));
  m.def("fourier_prox_noise", &fourier_prox_noise, arg("x"), arg("x_t"), arg("x_weight"),
        arg("power"), arg("back_projected"), arg("gamma"), arg("scale"), arg("seed"),
        arg("image_ids"), arg("sample_ids"), arg("step"), arg("out"), arg("num_threads"),
        arg("target") = "");
  m.def("alias_prox_noise", &alias_prox_noise, arg("x"), arg("x_t"), arg("x_weight"), arg("h"),
        arg("folded_power"), arg("back_projected"), arg("gamma"), arg("scale"), arg("factor"),
        arg("seed"), arg("image_ids"), arg("sample_ids"), arg("step"), arg("out"),
        arg("num_threads"), arg("target") = "");
  m.def("fourier_combine", &fourier_combine, arg("spectrum"), arg("power"), arg("back_projected"),
        arg("gamma"), arg("num_threads"));
  m.def("kspace_pack", &kspace_pack, arg("x"), arg("x_t"), arg("x_weight"), arg("image"),
        arg("num_threads"));
  m.def("kspace_combine", &kspace_combine, arg("spectrum"), arg("mask"), arg("y"), arg("gamma"),
        arg("num_threads"));
  m.def("kspace_unpack", &kspace_unpack, arg("image"), arg("scale"), arg("seed"),
        arg("image_ids"), arg("sample_ids"), arg("step"), arg("out"), arg("num_threads"));
  m.def("has_fourier_loops",
        [](std::int64_t height, std::int64_t width) {
          return fft::is_own_side(height) && fft::is_own_side(width);
        },
        arg("height"), arg("width"));
  m.def("has_alias_loops", &cpu::has_own_alias_loops, arg("height"), arg("width"), arg("factor"));
  m.def("targets", &targets);
  m.def("workspace_allocations", [] { return cpu::Workspace::shared().allocations(); });
  m.def("running_moments", &running_moments, arg("mean"), arg("m2"), arg("count"), arg("x"),
        arg("mean_out"), arg("m2_out"), arg("num_threads"));
  define_operator_calls(m);
}

}  // namespace latino::binding
