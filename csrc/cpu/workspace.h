// Scratch memory that outlives a call: after the first call of a size nothing is allocated.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <new>
#include <vector>

namespace latino::cpu {

// Thread-safe. Idle buffers are kept, together at most kKeptBytes and kKeptBuffers of them.
class Workspace {
 public:
  static constexpr std::size_t kKeptBytes = std::size_t{1} << 28, kKeptBuffers = 8;
  static constexpr std::align_val_t kAlignment{64};

  struct Buffer {
    float* data;
    std::size_t count;
  };

  static Workspace& shared() {
    static Workspace* const workspace = new Workspace;  // outlives every thread
    return *workspace;
  }

  Buffer take(std::size_t count) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      std::size_t best = idle_.size();
      for (std::size_t i = 0; i < idle_.size(); ++i) {
        const bool fits = idle_[i].count >= count;
        if (fits && (best == idle_.size() || idle_[i].count < idle_[best].count)) best = i;
      }
      if (best < idle_.size()) {
        const Buffer found = idle_[best];
        idle_.erase(idle_.begin() + static_cast<std::ptrdiff_t>(best));
        return found;
      }
      ++allocations_;
      idle_.reserve(kKeptBuffers + 1);  // so that giving back cannot fail
    }
    return {static_cast<float*>(::operator new(count * sizeof(float), kAlignment)), count};
  }

  void give_back(Buffer buffer) noexcept {
    const std::lock_guard<std::mutex> lock(mutex_);
    idle_.push_back(buffer);
    std::size_t bytes = 0;
    for (const Buffer& kept : idle_) bytes += kept.count * sizeof(float);
    while (!idle_.empty() && (bytes > kKeptBytes || idle_.size() > kKeptBuffers)) {
      bytes -= idle_.front().count * sizeof(float);
      ::operator delete(idle_.front().data, kAlignment);  // the longest unused
      idle_.erase(idle_.begin());
    }
  }

  // How often memory was asked of the system so far.
  std::uint64_t allocations() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return allocations_;
  }

 private:
  mutable std::mutex mutex_;
  std::vector<Buffer> idle_;
  std::uint64_t allocations_ = 0;
};

// Memory for `count` floats until the end of its scope.
class Scratch {
 public:
  explicit Scratch(std::size_t count) : buffer_(Workspace::shared().take(count)) {}
  ~Scratch() { Workspace::shared().give_back(buffer_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  float* data() const { return buffer_.data; }

 private:
  Workspace::Buffer buffer_;
};

}  // namespace latino::cpu
