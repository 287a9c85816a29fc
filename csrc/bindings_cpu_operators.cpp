// The operators' own calls of latino_engine._cpu, checked like those of bindings_cpu.cpp.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <string>

#include "array_checks.h"
#include "bindings_cpu.h"
#include "cpu/kernels.h"
#include "cpu/loops.h"
#include "cpu_arguments.h"

namespace latino::binding {
namespace {

// out = irfft2(h rfft2(x)), conj(h) where conjugate.
void convolve(const py::array& x, const py::array& h, bool conjugate, const py::array& out,
              int num_threads, const std::string& target) {
  const Sizes sizes = sizes_of(out);
  const cpu::Shape shape = image_shape(sizes);
  check_own_sides(shape, "out");
  const float* image = input(x, "x", sizes);
  const cpu::ProductData data{broadcast<Complex>(h, "h", half_spectrum(sizes)), conjugate,
                              nullptr};
  float* result = output(out, "out", sizes);
  check_apart(out, "out", x, "x");
  check_apart(out, "out", h, "h", false);
  check_threads(num_threads);
  const cpu::Loops& loops = loops_of(target);
  const py::gil_scoped_release unlocked;
  cpu::convolve(shape, image, data, result, loops, num_threads);
}

// spectrum (P, C, H, W/2 + 1) = h rfft2(x).
void convolved_spectrum(const py::array& x, const py::array& h, bool conjugate,
                        const py::array& spectrum, int num_threads, const std::string& target) {
  const Sizes sizes = sizes_of(x);
  const cpu::Shape shape = image_shape(sizes);
  check_own_sides(shape, "x");
  const Sizes half = half_spectrum(sizes);
  const float* image = input(x, "x", sizes);
  const cpu::ProductData data{broadcast<Complex>(h, "h", half), conjugate,
                              output<Complex>(spectrum, "spectrum", half)};
  check_apart(spectrum, "spectrum", x, "x", false);
  check_apart(spectrum, "spectrum", h, "h", false);
  check_threads(num_threads);
  const cpu::Loops& loops = loops_of(target);
  const py::gil_scoped_release unlocked;
  cpu::convolved_spectrum(shape, image, data, loops, num_threads);
}

void keep_observed(const py::array& x, const py::array& mask, const py::array& out,
                   int num_threads) {
  const Sizes sizes = sizes_of(out);
  const cpu::Shape shape = image_shape(sizes);
  const float* image = input(x, "x", sizes);
  const cpu::Broadcast seen = broadcast(mask, "mask", sizes);
  float* result = output(out, "out", sizes);
  check_apart(out, "out", x, "x");
  check_apart(out, "out", mask, "mask", false);
  check_threads(num_threads);
  const py::gil_scoped_release unlocked;
  cpu::keep_observed(shape, image, seen, result, num_threads);
}

// Images of one channel or two, and their k-space of two.
cpu::Shape kspace_shape(const py::array& image, const std::string& name) {
  const Sizes sizes = sizes_of(image);
  if (sizes.size() != 4 || (sizes[1] != 1 && sizes[1] != 2)) {
    refuse(name, "(P, 1|2, H, W)", text_of(sizes), "give real parts, or both parts");
  }
  const cpu::Shape shape = image_shape(sizes);
  check_own_sides(shape, name);
  return shape;
}

Sizes kspace_sizes(const cpu::Shape& shape) {
  return {shape.pairs, 2, shape.height, shape.width};
}

cpu::Broadcast kspace_mask(const py::array& mask, const cpu::Shape& shape) {
  return broadcast(mask, "mask", {shape.pairs, 1, shape.height, shape.width});
}

void kspace_forward(const py::array& x, const py::array& mask, const py::array& out,
                    int num_threads, const std::string& target) {
  const cpu::Shape shape = kspace_shape(x, "x");
  const float* image = input(x, "x", sizes_of(x));
  const cpu::Broadcast seen = kspace_mask(mask, shape);
  float* result = output(out, "out", kspace_sizes(shape));
  check_apart(out, "out", x, "x", false);
  check_apart(out, "out", mask, "mask", false);
  check_threads(num_threads);
  const cpu::Loops& loops = loops_of(target);
  const py::gil_scoped_release unlocked;
  cpu::kspace_forward(shape, image, seen, result, loops, num_threads);
}

void kspace_adjoint(const py::array& y, const py::array& mask, const py::array& out,
                    int num_threads, const std::string& target) {
  const cpu::Shape shape = kspace_shape(out, "out");
  const float* measured = input(y, "y", kspace_sizes(shape));
  const cpu::Broadcast seen = kspace_mask(mask, shape);
  float* result = output(out, "out", sizes_of(out));
  check_apart(out, "out", y, "y", false);
  check_apart(out, "out", mask, "mask", false);
  check_threads(num_threads);
  const cpu::Loops& loops = loops_of(target);
  const py::gil_scoped_release unlocked;
  cpu::kspace_adjoint(shape, measured, seen, result, loops, num_threads);
}

void kspace_prox_noise(const py::array& x, const OptionalArray& x_t, const py::array& x_weight,
                       const py::array& mask, const py::array& y, const py::array& gamma,
                       const py::array& scale, std::uint64_t seed, const py::array& image_ids,
                       const py::array& sample_ids, std::uint32_t step, const py::array& out,
                       int num_threads, const std::string& target) {
  const cpu::Shape shape = kspace_shape(out, "out");
  const Sizes sizes = sizes_of(out);
  if (shape.channels != 2) refuse("out", "(P, 2, H, W)", text_of(sizes), "give both parts");
  const Identity identity(seed, image_ids, sample_ids, step, sizes);
  const cpu::InnerStep inner = inner_step(x, x_t, x_weight, scale, out,
                                          {{&mask, "mask"}, {&y, "y"}, {&gamma, "gamma"}});
  const cpu::MaskedData data{kspace_mask(mask, shape), broadcast(y, "y", sizes),
                             per_pair(gamma, "gamma", sizes[0])};
  if (y.shape(1) != 2) refuse("y", "(P|1, 2, H, W)", text_of(sizes_of(y)), "give both parts");
  check_threads(num_threads);
  const cpu::Loops& loops = loops_of(target);
  const py::gil_scoped_release unlocked;
  cpu::kspace_prox_noise(identity.get(), shape, inner, data, loops, num_threads);
}

}  // namespace

void define_operator_calls(py::module_& m) {
  using py::arg;
  m.def("convolve", &convolve, arg("x"), arg("h"), arg("conjugate"), arg("out"),
        arg("num_threads"), arg("target") = "");
  m.def("convolved_spectrum", &convolved_spectrum, arg("x"), arg("h"), arg("conjugate"),
        arg("spectrum"), arg("num_threads"), arg("target") = "");
  m.def("keep_observed", &keep_observed, arg("x"), arg("mask"), arg("out"), arg("num_threads"));
  m.def("kspace_forward", &kspace_forward, arg("x"), arg("mask"), arg("out"), arg("num_threads"),
        arg("target") = "");
  m.def("kspace_adjoint", &kspace_adjoint, arg("y"), arg("mask"), arg("out"), arg("num_threads"),
        arg("target") = "");
  m.def("kspace_prox_noise", &kspace_prox_noise, arg("x"), arg("x_t"), arg("x_weight"),
        arg("mask"), arg("y"), arg("gamma"), arg("scale"), arg("seed"), arg("image_ids"),
        arg("sample_ids"), arg("step"), arg("out"), arg("num_threads"), arg("target") = "");
}

}  // namespace latino::binding
