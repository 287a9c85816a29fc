#include <dlfcn.h>

#include <stdexcept>

#include "cuda/launch.h"

namespace {

using LaunchKernel = int (*)(void* function, unsigned, unsigned, unsigned, unsigned, unsigned,
                             unsigned, unsigned shared_bytes, void* stream, void** arguments,
                             void** extra);
using GetErrorString = int (*)(int status, const char** text);

// A symbol of the driver, which is opened at the first launch: the package imports without one.
void* driver_symbol(const char* name) {
  static void* driver = dlopen("libcuda.so.1", RTLD_NOW);
  void* symbol = driver == nullptr ? nullptr : dlsym(driver, name);
  if (symbol == nullptr) {
    throw std::runtime_error(std::string("the CUDA driver (libcuda.so.1) lacks ") + name);
  }
  return symbol;
}

}  // namespace

const char* cudaGetErrorString(cudaError_t status) {
  const char* text = nullptr;
  const auto get = reinterpret_cast<GetErrorString>(driver_symbol("cuGetErrorString"));
  return get(status, &text) == 0 && text != nullptr ? text : "unknown error of the CUDA driver";
}

namespace latino::cuda {

std::function<std::uintptr_t(const std::string&)>& function_loader() {
  static std::function<std::uintptr_t(const std::string&)> loader;
  return loader;
}

cudaError_t launch_by_name(const std::string& name, const LaunchShape& shape, void** arguments,
                           cudaStream_t stream) {
  if (!function_loader()) throw std::logic_error("no loader of kernels is set");
  const std::uintptr_t function = function_loader()(name);
  const auto launch = reinterpret_cast<LaunchKernel>(driver_symbol("cuLaunchKernel"));
  const dim3 grid = shape.grid, block = shape.block;
  return launch(reinterpret_cast<void*>(function), grid.x, grid.y, grid.z, block.x, block.y,
                block.z, static_cast<unsigned>(shape.shared_bytes), stream, arguments, nullptr);
}

}  // namespace latino::cuda
