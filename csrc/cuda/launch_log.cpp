#include "cuda/launch.h"

namespace latino::cuda {

LaunchLog& launch_log() {
  thread_local LaunchLog log;
  return log;
}

}  // namespace latino::cuda
