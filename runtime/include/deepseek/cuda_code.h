// Code of a device: cubins as the driver's modules, and the kernels in them.
#pragma once

#include <array>
#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "deepseek/cuda_device.h"

namespace deepseek::cuda {

// A cubin on one device, loaded while somebody has it.
class Module {
 public:
  Module(Device& device, const std::string& image);
  ~Module();
  Module(const Module&) = delete;
  Module& operator=(const Module&) = delete;

  FunctionHandle function(const std::string& symbol) const;
  Device& device() const { return device_; }

 private:
  Device& device_;
  ModuleHandle handle_ = nullptr;
};

// A cubin, of which each device that wants it has a Module.
class Image {
 public:
  explicit Image(std::string bytes) : bytes_(std::move(bytes)) {}
  std::shared_ptr<const Module> on(Device& device);
  const std::string& bytes() const { return bytes_; }

 private:
  const std::string bytes_;
  std::mutex mutex_;
  std::map<int, std::weak_ptr<const Module>> modules_;
};

// Threads of a block, along x and along y.
using Threads = std::array<unsigned, 2>;

// What a launch runs, over a grid of blocks. Its arguments are pointers to buffers, int64 sizes,
// and a pointer to scratch memory where it wants any.
struct Kernel {
  Kernel(Image& image, Device& device, std::string symbol, Threads block, std::string where);

  // Lets the kernel have so much dynamic shared memory.
  void allow_shared(int nbytes) const;

  std::shared_ptr<const Module> module;
  FunctionHandle function;
  std::string symbol;
  Threads block;
  std::string where;  // the user's lines, for errors

 private:
  mutable std::atomic<int> allowed_shared_{kAlwaysAllowed};
  static constexpr int kAlwaysAllowed = 48 << 10;
};

}  // namespace deepseek::cuda
