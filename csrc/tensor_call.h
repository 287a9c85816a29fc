// One call of the CUDA binding: tensors in, the parameters of a kernel out.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <deque>
#include <string>
#include <utility>

#include "cuda/parameters.h"
#include "tensor_checks.h"

namespace latino::binding {

// Everything one call is given: what it writes, what it reads, and the checks between them.
class Call {
 public:
  Call(const py::handle& main, const std::string& name) : main_(tensor_of(main, name)) {
    const Sizes& sizes = main_.sizes;
    if (sizes.size() != 4) refuse(name, "(P, C, H, W)", text_of(sizes), "give four axes");
    for (const py::ssize_t size : sizes) {
      if (size < 1) refuse(name, "sizes from 1", text_of(sizes), "skip what is empty");
    }
    if (sizes[1] > 1024) {
      refuse(name, "at most 1024 channels", std::to_string(sizes[1]), "split the channels");
    }
    shape_ = {sizes[0], static_cast<int>(sizes[1]), static_cast<int>(sizes[2]),
              static_cast<int>(sizes[3])};
  }

  const cuda::Shape& shape() const { return shape_; }

  cuda::Image image(const py::handle& object, const std::string& name) {
    if (object.is_none()) return {nullptr, kFloat32};
    Tensor tensor = tensor_of(object, name);
    check_sizes(tensor, main_.sizes);
    const int type = image_type(tensor);
    return {pointer<void>(remember(std::move(tensor), true)), type};
  }

  // (P|1, C|1, height, width), complex as pairs of floats.
  template <class T>
  cuda::Planes<T> planes(const py::handle& object, const std::string& name, std::int64_t height,
                         std::int64_t width, std::int64_t channels) {
    Tensor tensor = tensor_of(object, name);
    check_type(tensor, sizeof(T) == 8 ? "complex64" : "float32");
    if (tensor.sizes.size() != 4) {
      refuse(name, "four axes", text_of(tensor.sizes), "add leading axes");
    }
    const bool one_pair = tensor.size(0) == 1, one_channel = tensor.size(1) == 1;
    check_sizes(tensor, {one_pair ? 1 : shape_.pairs, one_channel ? 1 : channels, height, width});
    const std::int64_t plane = height * width, stride = tensor.size(1) * plane;
    return {pointer<T>(remember(std::move(tensor), false)), one_pair ? 0 : stride,
            one_channel ? 0 : plane};
  }

  // (rows, counter, position): the table, its counter, and where the host believes it stands.
  cuda::Steps steps(const py::tuple& table) {
    if (table.size() != 3) refuse("steps", "(rows, counter, position)", "another tuple", "fix it");
    Tensor rows = tensor_of(table[0], "rows"), counter = tensor_of(table[1], "counter");
    check_type(rows, "int32");
    check_type(counter, "int32");
    check_sizes(counter, {3});
    const bool shaped = rows.sizes.size() == 3 && rows.size(0) >= 1 &&
                        (rows.size(1) == 1 || rows.size(1) == shape_.pairs) && rows.size(2) == 4;
    if (!shaped) {
      refuse("rows", "(steps, 1|" + std::to_string(shape_.pairs) + ", 4)", text_of(rows.sizes),
             "make it with StepTable");
    }
    if (rows.address % 16 != 0) refuse("rows", "16-byte alignment", "less", "copy the table");
    const auto position = table[2].cast<std::int64_t>();
    if (position < 0 || position >= rows.size(0)) {
      refuse("step", "0 <= step < " + std::to_string(rows.size(0)), std::to_string(position),
             "rewind the table or lengthen it");
    }
    const int num_steps = static_cast<int>(rows.size(0));
    const int num_pairs = static_cast<int>(rows.size(1));
    return {pointer<void>(remember(std::move(rows), false)),
            pointer<std::uint32_t>(remember(std::move(counter), false)), num_steps, num_pairs};
  }

  // (seed, image_ids, sample_ids); their ranges are checked where they are made, in ops. The seed
  // is a number, or an int64 tensor (1,) on the device with the same 64 bits.
  cuda::Noise noise(const py::tuple& identity) {
    if (identity.size() != 3) refuse("noise", "(seed, image_ids, sample_ids)", "another", "fix it");
    Tensor images = tensor_of(identity[1], "image_ids");
    Tensor samples = tensor_of(identity[2], "sample_ids");
    for (const Tensor* ids : {&images, &samples}) {
      check_type(*ids, "int64");
      check_sizes(*ids, {shape_.pairs});
    }
    PhiloxKey key{};
    const PhiloxKey* key_at = nullptr;
    if (py::isinstance<py::int_>(identity[0])) {
      const auto seed = identity[0].cast<std::uint64_t>();
      key = {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)};
    } else {
      Tensor seed = tensor_of(identity[0], "seed");
      check_type(seed, "int64");
      check_sizes(seed, {1});
      key_at = pointer<PhiloxKey>(remember(std::move(seed), false));  // low word first
    }
    return {key, key_at, pointer<std::int64_t>(remember(std::move(images), false)),
            pointer<std::int64_t>(remember(std::move(samples), false))};
  }

  // The output, and with the spectrum that is worked on in place; asked for last.
  cuda::Output output(const py::handle& object) {
    Tensor tensor = tensor_of(object, "out");
    check_sizes(tensor, main_.sizes);
    const int type = image_type(tensor);
    return {pointer<void>(written(std::move(tensor), true)), type};
  }

  // complex64 (P, C, H, columns), private to the call.
  float2* spectrum(const py::handle& object, std::int64_t channels, std::int64_t columns) {
    Tensor tensor = tensor_of(object, "spectrum");
    check_type(tensor, "complex64");
    check_sizes(tensor, {shape_.pairs, channels, shape_.height, columns});
    return pointer<float2>(written(std::move(tensor), false));
  }

 private:
  struct Input {
    Tensor tensor;
    bool may_be_output;
  };

  template <class T>
  static T* pointer(const Tensor& tensor) {
    return reinterpret_cast<T*>(tensor.address);
  }
  const Tensor& remember(Tensor tensor, bool may_be_output) {
    check_device(tensor, main_);
    inputs_.push_back({std::move(tensor), may_be_output});
    return inputs_.back().tensor;
  }
  const Tensor& written(Tensor tensor, bool may_be_input) {
    check_device(tensor, main_);
    for (const Input& input : inputs_) {
      check_apart(tensor, input.tensor, may_be_input && input.may_be_output);
    }
    inputs_.push_back({std::move(tensor), false});
    return inputs_.back().tensor;
  }

  Tensor main_;
  cuda::Shape shape_;
  std::deque<Input> inputs_;  // references to its entries stay valid
};

}  // namespace latino::binding
