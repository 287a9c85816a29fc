// latino_engine._cuda: the memory-safety checks and every m.def of the CUDA path.
//
// Tensors are torch tensors, streams are integer handles. A function checks type, layout, shape,
// device and overlap of everything it is given, then only queues launches on the stream.
#include <cuda_runtime.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

#include "cuda/geometry.h"
#include "cuda/launch.h"
#include "cuda/launchers.h"
#include "tensor_call.h"

namespace latino::binding {
namespace {

constexpr int kInterfaceVersion = 4;  // latino_engine.ops.cuda_extension asks for exactly this one

cudaStream_t stream_of(std::uintptr_t handle) { return reinterpret_cast<cudaStream_t>(handle); }

[[noreturn]] void refuse_sides(const cuda::Shape& shape) {
  refuse("x", "sides of has_fourier_kernels",
         std::to_string(shape.height) + " x " + std::to_string(shape.width), "use torch.fft");
}

void fourier_prox_noise(const py::object& x, const py::object& x_t, const py::object& power,
                        const py::object& back_projected, const py::tuple& steps,
                        const py::tuple& noise, const py::object& spectrum, const py::object& out,
                        std::uintptr_t stream) {
  Call call(x, "x");
  const cuda::Shape& shape = call.shape();
  if (!cuda::has_fourier_kernels(shape.height, shape.width)) refuse_sides(shape);
  const int half = shape.width / 2;
  cuda::FourierRows rows{call.image(x, "x"), call.image(x_t, "x_t"), {}, nullptr,
                         call.steps(steps), call.noise(noise), shape};
  cuda::FourierColumns columns{
      nullptr, call.planes<float>(power, "power", shape.height, half + 1, shape.channels),
      call.planes<float2>(back_projected, "back_projected", shape.height, half + 1,
                          shape.channels),
      rows.steps, shape};
  rows.spectrum = columns.spectrum = call.spectrum(spectrum, shape.channels, half);
  rows.out = call.output(out);
  cuda::launch_fourier_prox_noise(rows, columns, stream_of(stream));
}

cuda::AliasColumns alias_arguments(Call& call, const py::object& h, const py::object& folded_power,
                                   const py::object& back_projected, int factor,
                                   const cuda::Steps& steps) {
  const cuda::Shape& s = call.shape();
  if (factor < 1 || s.height % factor != 0 || s.width % factor != 0) {
    refuse("factor", "a divisor of both sides", std::to_string(factor), "crop the image");
  }
  return {nullptr,
          call.planes<float2>(h, "h", s.height, s.width, s.channels),
          call.planes<float>(folded_power, "folded_power", s.height / factor, s.width / factor,
                             s.channels),
          call.planes<float2>(back_projected, "back_projected", s.height, s.width, s.channels),
          steps, s, factor};
}

void alias_prox_noise(const py::object& x, const py::object& x_t, const py::object& h,
                      const py::object& folded_power, const py::object& back_projected, int factor,
                      const py::tuple& steps, const py::tuple& noise, const py::object& spectrum,
                      const py::object& out, std::uintptr_t stream) {
  Call call(x, "x");
  const cuda::Shape& shape = call.shape();
  if (!cuda::has_alias_kernels(shape.height, shape.width, factor)) refuse_sides(shape);
  cuda::FourierRows rows{call.image(x, "x"), call.image(x_t, "x_t"), {}, nullptr,
                         call.steps(steps), call.noise(noise), shape};
  cuda::AliasColumns columns =
      alias_arguments(call, h, folded_power, back_projected, factor, rows.steps);
  rows.spectrum = columns.spectrum = call.spectrum(spectrum, shape.channels, shape.width / 2);
  rows.out = call.output(out);
  cuda::launch_alias_prox_noise(rows, columns, stream_of(stream));
}

cuda::KSpace kspace_arguments(Call& call, const py::object& mask, const py::object& y,
                              const py::tuple& steps) {
  const cuda::Shape& s = call.shape();
  cuda::KSpace p{};
  p.mask = call.planes<float>(mask, "mask", s.height, s.width, 1);
  p.y = call.planes<float>(y, "y", s.height, s.width, 2);
  if (p.y.channel_stride == 0) refuse("y", "2 channels (re, im)", "1", "store both parts");
  p.steps = call.steps(steps);
  p.shape = s;
  return p;
}

void fourier_mask_prox_noise(const py::object& x, const py::object& x_t, const py::object& mask,
                             const py::object& y, const py::tuple& steps, const py::tuple& noise,
                             const py::object& spectrum, const py::object& out,
                             std::uintptr_t stream) {
  Call call(x, "x");
  const cuda::Shape& shape = call.shape();
  if (!cuda::has_fourier_kernels(shape.height, shape.width)) refuse_sides(shape);
  if (shape.channels != 2) {
    refuse("x", "2 channels (re, im)", std::to_string(shape.channels), "store both parts");
  }
  cuda::KSpace p = kspace_arguments(call, mask, y, steps);
  p.x = call.image(x, "x");
  p.x_t = call.image(x_t, "x_t");
  p.noise = call.noise(noise);
  p.spectrum = call.spectrum(spectrum, 1, shape.width);
  p.out = call.output(out);
  cuda::launch_fourier_mask_prox_noise(p, stream_of(stream));
}

void gaussian_noise(const py::tuple& steps, const py::tuple& noise, const py::object& out,
                    std::uintptr_t stream) {
  Call call(out, "out");
  cuda::Quads p{};
  p.steps = call.steps(steps);
  p.noise = call.noise(noise);
  p.shape = call.shape();
  p.out = call.output(out);
  cuda::launch_gaussian_noise(p, stream_of(stream));
}

void langevin_noise(const py::object& z, const py::tuple& steps, const py::tuple& noise,
                    const py::object& out, std::uintptr_t stream) {
  Call call(z, "z");
  cuda::Quads p{};
  p.x = call.image(z, "z");
  p.steps = call.steps(steps);
  p.noise = call.noise(noise);
  p.shape = call.shape();
  p.out = call.output(out);
  cuda::launch_langevin_noise(p, stream_of(stream));
}

void masked_prox_noise(const py::object& x, const py::object& x_t, const py::object& mask,
                       const py::object& y, const py::tuple& steps, const py::tuple& noise,
                       const py::object& out, std::uintptr_t stream) {
  Call call(x, "x");
  cuda::Quads p{};
  p.shape = call.shape();
  p.x = call.image(x, "x");
  p.x_t = call.image(x_t, "x_t");
  p.mask = call.planes<float>(mask, "mask", p.shape.height, p.shape.width, p.shape.channels);
  p.y = call.planes<float>(y, "y", p.shape.height, p.shape.width, p.shape.channels);
  p.steps = call.steps(steps);
  p.noise = call.noise(noise);
  p.out = call.output(out);
  cuda::launch_masked_prox_noise(p, stream_of(stream));
}

void reverse_step(const py::object& x0_hat, const py::object& x_t, const py::tuple& steps,
                  const py::tuple& noise, const py::object& out, std::uintptr_t stream) {
  Call call(x0_hat, "x0_hat");
  if (x_t.is_none()) throw py::type_error("x_t: expected a torch tensor, got None; give the state");
  cuda::Quads p{};
  p.shape = call.shape();
  p.x = call.image(x0_hat, "x0_hat");
  p.x_t = call.image(x_t, "x_t");
  p.steps = call.steps(steps);
  p.noise = call.noise(noise);
  p.out = call.output(out);
  cuda::launch_reverse_step(p, stream_of(stream));
}

void combine_anchors(const py::object& x, const py::object& x_t, const py::tuple& steps,
                     const py::object& out, std::uintptr_t stream) {
  Call call(x, "x");
  cuda::Anchors p{call.image(x, "x"), call.image(x_t, "x_t"), nullptr, call.steps(steps),
                  call.shape()};
  const cuda::Output result = call.output(out);
  if (result.type != kFloat32) refuse("out", "float32", "16 bits", "give a float32 tensor");
  p.out = static_cast<float*>(result.data);
  cuda::launch_combine_anchors(p, stream_of(stream));
}

// The image stands for the sizes only.
void fourier_combine(const py::object& image, const py::object& spectrum, const py::object& power,
                     const py::object& back_projected, const py::tuple& steps,
                     std::uintptr_t stream) {
  Call call(image, "image");
  const cuda::Shape& s = call.shape();
  const int columns = s.width / 2 + 1;
  cuda::FourierColumns p{
      nullptr, call.planes<float>(power, "power", s.height, columns, s.channels),
      call.planes<float2>(back_projected, "back_projected", s.height, columns, s.channels),
      call.steps(steps), s};
  p.spectrum = call.spectrum(spectrum, s.channels, columns);
  cuda::launch_fourier_combine(p, stream_of(stream));
}

void alias_combine(const py::object& image, const py::object& spectrum, const py::object& h,
                   const py::object& folded_power, const py::object& back_projected, int factor,
                   const py::tuple& steps, std::uintptr_t stream) {
  Call call(image, "image");
  cuda::AliasColumns p =
      alias_arguments(call, h, folded_power, back_projected, factor, call.steps(steps));
  p.spectrum = call.spectrum(spectrum, p.shape.channels, p.shape.width);
  cuda::launch_alias_combine(p, stream_of(stream));
}

void kspace_combine(const py::object& image, const py::object& spectrum, const py::object& mask,
                    const py::object& y, const py::tuple& steps, std::uintptr_t stream) {
  Call call(image, "image");
  cuda::KSpace p = kspace_arguments(call, mask, y, steps);
  p.spectrum = call.spectrum(spectrum, 1, p.shape.width);
  cuda::launch_kspace_combine(p, stream_of(stream));
}

#if defined(LATINO_DRIVER_LAUNCH)
// loader(kernel name) -> CUfunction on the current device, as an integer.
void set_function_loader(py::object loader) {
  // Never destroyed: the interpreter is gone before static objects are.
  static auto* kept = new py::object;
  *kept = std::move(loader);
  cuda::function_loader() = [](const std::string& name) {
    return (*kept)(name).cast<std::uintptr_t>();
  };
}
#endif

void record_launches(bool recording) {
  cuda::launch_log().recording = recording;
  cuda::launch_log().records.clear();
}

py::list launches() {
  py::list result;
  for (const cuda::LaunchRecord& record : cuda::launch_log().records) {
    const dim3 grid = record.shape.grid, block = record.shape.block;
    result.append(py::make_tuple(record.kernel, py::make_tuple(grid.x, grid.y),
                                 py::make_tuple(block.x, block.y), record.shape.shared_bytes,
                                 record.traffic.images, record.traffic.constants));
  }
  return result;
}

}  // namespace

void define_cuda(py::module_& m) {
  using py::arg;
  m.doc() = "CUDA kernels of latino_engine on contiguous torch tensors.";
  m.attr("INTERFACE_VERSION") = kInterfaceVersion;
  m.attr("DEVICE_TYPE") = kDeviceType;
#if defined(LATINO_OLDEST_ARCHITECTURE)  // e.g. 80: of the PTX in the module
  m.attr("OLDEST_ARCHITECTURE") = LATINO_OLDEST_ARCHITECTURE;
#endif
#if defined(LATINO_DRIVER_LAUNCH)
  m.attr("LAUNCHES_BY_NAME") = true;
  m.def("set_function_loader", &set_function_loader, arg("loader"));
#else
  m.attr("LAUNCHES_BY_NAME") = false;
#endif
  m.def("has_fourier_kernels", &cuda::has_fourier_kernels, arg("height"), arg("width"));
  m.def("has_alias_kernels", &cuda::has_alias_kernels, arg("height"), arg("width"), arg("factor"));
  m.def("record_launches", &record_launches, arg("recording"));
  m.def("launches", &launches);
  m.def("fourier_prox_noise", &fourier_prox_noise, arg("x"), arg("x_t"), arg("power"),
        arg("back_projected"), arg("steps"), arg("noise"), arg("spectrum"), arg("out"),
        arg("stream"));
  m.def("alias_prox_noise", &alias_prox_noise, arg("x"), arg("x_t"), arg("h"), arg("folded_power"),
        arg("back_projected"), arg("factor"), arg("steps"), arg("noise"), arg("spectrum"),
        arg("out"), arg("stream"));
  m.def("fourier_mask_prox_noise", &fourier_mask_prox_noise, arg("x"), arg("x_t"), arg("mask"),
        arg("y"), arg("steps"), arg("noise"), arg("spectrum"), arg("out"), arg("stream"));
  m.def("gaussian_noise", &gaussian_noise, arg("steps"), arg("noise"), arg("out"), arg("stream"));
  m.def("langevin_noise", &langevin_noise, arg("z"), arg("steps"), arg("noise"), arg("out"),
        arg("stream"));
  m.def("masked_prox_noise", &masked_prox_noise, arg("x"), arg("x_t"), arg("mask"), arg("y"),
        arg("steps"), arg("noise"), arg("out"), arg("stream"));
  m.def("reverse_step", &reverse_step, arg("x0_hat"), arg("x_t"), arg("steps"), arg("noise"),
        arg("out"), arg("stream"));
  m.def("combine_anchors", &combine_anchors, arg("x"), arg("x_t"), arg("steps"), arg("out"),
        arg("stream"));
  m.def("fourier_combine", &fourier_combine, arg("image"), arg("spectrum"), arg("power"),
        arg("back_projected"), arg("steps"), arg("stream"));
  m.def("alias_combine", &alias_combine, arg("image"), arg("spectrum"), arg("h"),
        arg("folded_power"), arg("back_projected"), arg("factor"), arg("steps"), arg("stream"));
  m.def("kspace_combine", &kspace_combine, arg("image"), arg("spectrum"), arg("mask"), arg("y"),
        arg("steps"), arg("stream"));
}

}  // namespace latino::binding

#if !defined(CUDA_CPU_SHIM)
PYBIND11_MODULE(_cuda, m) { latino::binding::define_cuda(m); }
#endif
