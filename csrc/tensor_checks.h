// What the CUDA binding demands of a tensor; every refusal is a Python exception of one sentence.
//
// A tensor is any object with torch's data_ptr(), shape, dtype and device: no torch headers, so one
// binding serves every version of torch.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>

#include "array_checks.h"
#include "latino/image_types.h"

namespace latino::binding {

#if defined(CUDA_CPU_SHIM)  // the tests run the same binding on host memory
inline constexpr const char* kDeviceType = "cpu";
#else
inline constexpr const char* kDeviceType = "cuda";
#endif

constexpr std::int64_t kMaxEntries = (std::int64_t{1} << 31) - 1;

struct Tensor {
  std::string name;
  std::uintptr_t address = 0;
  Sizes sizes;
  std::string dtype;
  std::int64_t bytes = 0;
  std::int64_t device = -1;

  std::int64_t size(std::size_t axis) const { return sizes[axis]; }
};

inline std::string text_of(const py::handle& object) { return std::string(py::str(object)); }

inline std::int64_t entries_of(const Tensor& tensor) {
  std::int64_t count = 1;
  for (const py::ssize_t size : tensor.sizes) count *= size;
  return count;
}

inline Tensor tensor_of(const py::handle& object, const std::string& name) {
  if (!py::hasattr(object, "data_ptr") || !py::hasattr(object, "is_contiguous")) {
    throw py::type_error(name + ": expected a torch tensor, got " +
                         text_of(py::type::handle_of(object).attr("__name__")) +
                         "; convert it with torch.as_tensor");
  }
  Tensor tensor;
  tensor.name = name;
  const py::object device = object.attr("device");
  if (text_of(device.attr("type")) != kDeviceType) {
    refuse(name, std::string("a tensor on a ") + kDeviceType + " device", text_of(device),
           std::string("move it with .to('") + kDeviceType + "')");
  }
  tensor.device = device.attr("index").is_none() ? 0 : device.attr("index").cast<std::int64_t>();
  tensor.sizes = object.attr("shape").cast<py::tuple>().cast<Sizes>();
  tensor.dtype = text_of(object.attr("dtype"));
  const std::int64_t count = entries_of(tensor);
  if (count > kMaxEntries) {
    refuse(name, "at most 2^31 - 1 entries", std::to_string(count), "split the batch");
  }
  const bool lazy = object.attr("is_conj")().cast<bool>() || object.attr("is_neg")().cast<bool>();
  if (lazy || !object.attr("is_contiguous")().cast<bool>()) {
    refuse(name, "a contiguous tensor", lazy ? "a lazy view" : "strides", "call .contiguous()");
  }
  tensor.address = object.attr("data_ptr")().cast<std::uintptr_t>();
  tensor.bytes = count * object.attr("element_size")().cast<std::int64_t>();
  return tensor;
}

[[noreturn]] inline void refuse_type(const Tensor& tensor, const std::string& expected) {
  throw py::type_error(tensor.name + ": expected " + expected + ", got " + tensor.dtype +
                       "; convert it first");
}

inline void check_type(const Tensor& tensor, const std::string& expected) {
  if (tensor.dtype != "torch." + expected) refuse_type(tensor, "torch." + expected);
}

inline void check_sizes(const Tensor& tensor, const Sizes& expected) {
  if (tensor.sizes != expected) {
    refuse(tensor.name, "shape " + text_of(expected), text_of(tensor.sizes), "match the shapes");
  }
}

// An image may be kept in 16 bits; everything else is float32.
inline int image_type(const Tensor& tensor) {
  if (tensor.dtype == "torch.float32") return kFloat32;
  if (tensor.dtype == "torch.float16") return kFloat16;
  if (tensor.dtype == "torch.bfloat16") return kBFloat16;
  refuse_type(tensor, "torch.float32, torch.float16 or torch.bfloat16");
}

inline void check_device(const Tensor& tensor, const Tensor& other) {
  if (tensor.device == other.device) return;
  refuse(tensor.name, "the device of " + other.name, "another device", "move one of them");
}

// An output may be the very array of an image that is read at the same place, if `may_be_same`.
inline void check_apart(const Tensor& out, const Tensor& other, bool may_be_same = false) {
  const bool same = out.address == other.address && out.bytes == other.bytes &&
                    out.dtype == other.dtype;
  const bool apart = out.address + out.bytes <= other.address ||
                     other.address + other.bytes <= out.address;
  if (apart || (same && may_be_same)) return;
  refuse(out.name, "memory apart from " + other.name, "an overlap", "give a tensor of its own");
}

}  // namespace latino::binding
