// The CUDA binding on the CPU: csrc/bindings_cuda.cpp and the .cu files, unmodified, on the shim.
#include <cuda_runtime.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstdint>

#include "latino/image_types.h"
#include "latino/philox.h"

namespace latino::binding {
void define_cuda(pybind11::module_& m);
}

void define_faults(pybind11::module_& m);

PYBIND11_MODULE(cuda_on_cpu, m) {
  namespace py = pybind11;
  latino::binding::define_cuda(m);
  define_faults(m);
  m.def(
      "set_order",
      [](int order, std::uint64_t seed) {
        cucpu::options = {static_cast<cucpu::Order>(order), seed};
      },
      py::arg("order"), py::arg("seed"), "0 forward, 1 reverse, 2 random");
  m.def("stats", [] {
    return py::make_tuple(cucpu::stats.blocks, cucpu::stats.switches, cucpu::stats.barriers);
  });
  m.def("philox4x32", [](std::array<std::uint32_t, 4> c, std::array<std::uint32_t, 2> key) {
    const latino::Words r = latino::philox4x32({c[0], c[1], c[2], c[3]}, {key[0], key[1]});
    return py::make_tuple(r.x, r.y, r.z, r.w);
  });
  m.def("float16_bits", [](float x) { return latino::from_float<latino::Float16>(x).bits; });
  m.def("bfloat16_bits", [](float x) { return latino::from_float<latino::BFloat16>(x).bits; });
  m.def("float16_value", [](std::uint16_t bits) {
    return latino::to_float(latino::Float16{bits});
  });
}
