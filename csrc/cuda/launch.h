// Launching a kernel: errors are exceptions, and a log tells what ran and what it moved.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <vector>

// Built by a plain C++ compiler (csrc/driver), the launchers know a kernel by its name alone.
#if defined(LATINO_DRIVER_LAUNCH)
#define LATINO_KERNEL(...) nullptr
#else
#define LATINO_KERNEL(...) &__VA_ARGS__
#endif

#define LATINO_CUDA_CHECK(expression) \
  ::latino::cuda::check(expression, #expression, __FILE__, __LINE__)

namespace latino::cuda {

inline void check(cudaError_t status, const char* expression, const char* file, int line) {
  if (status == cudaSuccess) return;
  throw std::runtime_error(std::string(file) + ":" + std::to_string(line) + ": " + expression +
                           ": " + cudaGetErrorString(status));
}

struct LaunchShape {
  dim3 grid, block;
  std::size_t shared_bytes;
};

// Bytes of device memory that a launch reads and writes: images and spectra, and the constants of
// the operator, which all samples of an image share.
struct Traffic {
  std::int64_t images, constants;
};

struct LaunchRecord {
  std::string kernel;
  LaunchShape shape;
  Traffic traffic;
};

struct LaunchLog {
  bool recording = false;
  std::vector<LaunchRecord> records;
};

LaunchLog& launch_log();  // one for each host thread

inline std::string kernel_name(const char* name, std::initializer_list<int> arguments) {
  std::string text = name, separator = "<";
  for (const int argument : arguments) {
    text += separator + std::to_string(argument);
    separator = ", ";
  }
  return arguments.size() == 0 ? text : text + ">";
}

#if defined(LATINO_DRIVER_LAUNCH)
// Name of a kernel -> CUfunction on the current device; the binding sets it.
std::function<std::uintptr_t(const std::string&)>& function_loader();
cudaError_t launch_by_name(const std::string& name, const LaunchShape& shape, void** arguments,
                           cudaStream_t stream);
#endif

template <class T>
struct Identity {
  using type = T;
};

// `kernel` may be null where it is launched by name, so Parameters is deduced from the others.
template <class Parameters>
void launch(const std::string& name, typename Identity<void (*)(Parameters)>::type kernel,
            const LaunchShape& shape, const Parameters& parameters, Traffic traffic,
            cudaStream_t stream) {
  Parameters copy = parameters;
  void* arguments[] = {&copy};
#if defined(LATINO_DRIVER_LAUNCH)
  static_cast<void>(kernel);
  LATINO_CUDA_CHECK(launch_by_name(name, shape, arguments, stream));
#else
  LATINO_CUDA_CHECK(cudaLaunchKernel(kernel, shape.grid, shape.block, arguments,
                                     shape.shared_bytes, stream));
  LATINO_CUDA_CHECK(cudaGetLastError());
#endif
  LaunchLog& log = launch_log();
  if (log.recording) log.records.push_back({name, shape, traffic});
}

// Blocks of `size` that cover `count`.
inline unsigned blocks_for(std::int64_t count, int size) {
  return static_cast<unsigned>((count + size - 1) / size);
}

}  // namespace latino::cuda
