// What the bindings demand of a numpy array; every refusal is a Python exception of one sentence.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <complex>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace latino::binding {

namespace py = pybind11;

using Sizes = std::vector<py::ssize_t>;

inline std::string text_of(const Sizes& sizes) {
  std::string text = "(";
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    text += (i ? ", " : "") + std::to_string(sizes[i]);
  }
  return text + (sizes.size() == 1 ? ",)" : ")");
}

inline Sizes sizes_of(const py::array& array) {
  return Sizes(array.shape(), array.shape() + array.ndim());
}

[[noreturn]] inline void refuse(const std::string& name, const std::string& expected,
                                const std::string& got, const std::string& remedy) {
  throw py::value_error(name + ": expected " + expected + ", got " + got + "; " + remedy);
}

// A C-contiguous, aligned array of T in native byte order.
template <class T>
void check_layout(const py::array& array, const std::string& name) {
  const py::dtype expected = py::dtype::of<T>();
  if (!array.dtype().equal(expected)) {
    throw py::type_error(name + ": expected " + std::string(py::str(expected)) + ", got " +
                         std::string(py::str(array.dtype())) + "; convert it first");
  }
  const auto address = reinterpret_cast<std::uintptr_t>(array.data());
  if (!(array.flags() & py::array::c_style) || address % alignof(T) != 0) {
    refuse(name, "a contiguous array", "strides", "make a contiguous copy");
  }
}

inline void check_sizes(const py::array& array, const std::string& name, const Sizes& expected) {
  if (sizes_of(array) != expected) {
    refuse(name, "shape " + text_of(expected), text_of(sizes_of(array)), "match the shapes");
  }
}

// An input of the given shape: float32, or complex64 as pairs of floats.
template <class T = float>
const float* input(const py::array& array, const std::string& name, const Sizes& sizes) {
  check_layout<T>(array, name);
  check_sizes(array, name, sizes);
  return static_cast<const float*>(array.data());
}

// A writeable output of the given shape, types as above.
template <class T = float>
float* output(const py::array& array, const std::string& name, const Sizes& sizes) {
  check_layout<T>(array, name);
  check_sizes(array, name, sizes);
  if (!array.writeable()) refuse(name, "a writeable array", "a read-only one", "copy it");
  return static_cast<float*>(const_cast<void*>(array.data()));
}

// An output may be an input itself (same start, same size); any other overlap is refused.
inline void check_apart(const py::array& out, const std::string& out_name, const py::array& other,
                        const std::string& other_name, bool may_be_same = true) {
  const auto* begin = static_cast<const char*>(out.data());
  const auto* other_begin = static_cast<const char*>(other.data());
  const bool same = begin == other_begin && out.nbytes() == other.nbytes();
  const bool apart = begin + out.nbytes() <= other_begin || other_begin + other.nbytes() <= begin;
  if (apart || (same && may_be_same)) return;
  refuse(out_name, "memory apart from " + other_name, "an overlap", "give an array of its own");
}

inline void check_threads(int num_threads) {
  if (num_threads >= 1 && num_threads <= 4096) return;
  refuse("num_threads", "1 to 4096", std::to_string(num_threads), "give torch.get_num_threads()");
}

// (P,) int64 ids below `limit`, as the 32-bit words that Philox takes.
inline std::vector<std::uint32_t> ids_of(const py::array& array, const std::string& name,
                                         py::ssize_t pairs, std::int64_t limit) {
  check_layout<std::int64_t>(array, name);
  check_sizes(array, name, {pairs});
  const auto* values = static_cast<const std::int64_t*>(array.data());
  std::vector<std::uint32_t> ids(static_cast<std::size_t>(pairs));
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (values[i] < 0 || values[i] >= limit) {
      refuse(name, "values in [0, " + std::to_string(limit) + ")", std::to_string(values[i]),
             "renumber them");
    }
    ids[i] = static_cast<std::uint32_t>(values[i]);
  }
  return ids;
}

}  // namespace latino::binding
