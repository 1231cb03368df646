#include "deepseek/cuda_code.h"

namespace deepseek::cuda {

Module::Module(Device& device, const std::string& image) : device_(device) {
  device_.activate();
  device_.check(driver().module_load(&handle_, image.c_str()), "cuModuleLoadData",
                "loading code for " + device.properties().name + " (sm_" +
                    std::to_string(device.properties().major) +
                    std::to_string(device.properties().minor) + ")");
}

Module::~Module() {
  // Its kernels may still be running.
  if (device_.try_activate() && driver().context_synchronize() == kSuccess) {
    driver().module_unload(handle_);
  }
}

FunctionHandle Module::function(const std::string& symbol) const {
  device_.activate();
  FunctionHandle found = nullptr;
  device_.check(driver().module_function(&found, handle_, symbol.c_str()), "cuModuleGetFunction",
                "looking up the kernel '" + symbol + "'");
  return found;
}

std::shared_ptr<const Module> Image::on(Device& device) {
  std::lock_guard lock(mutex_);
  auto& known = modules_[device.index()];
  auto module = known.lock();
  if (!module) {
    module = std::make_shared<const Module>(device, bytes_);
    known = module;
  }
  return module;
}

Kernel::Kernel(Image& image, Device& device, std::string symbol, Threads block, std::string where)
    : module(image.on(device)),
      function(module->function(symbol)),
      symbol(std::move(symbol)),
      block(block),
      where(std::move(where)) {
  const int most = device.properties().max_threads_per_block;
  const uint64_t threads = uint64_t{block[0]} * block[1];
  if (threads < 1 || threads > static_cast<uint64_t>(most)) {
    throw std::invalid_argument("kernel '" + this->symbol + "': got blocks of " +
                                std::to_string(threads) + " threads; wanted 1 to " +
                                std::to_string(most));
  }
}

void Kernel::allow_shared(int nbytes) const {
  if (nbytes <= allowed_shared_.load(std::memory_order_relaxed)) {
    return;
  }
  Device& device = module->device();
  const int most = device.properties().shared_per_block_opt_in;
  if (nbytes > most) {
    throw std::invalid_argument("kernel '" + symbol + "': wants " + std::to_string(nbytes) +
                                " bytes of shared memory, " + device.name() + " has " +
                                std::to_string(most) + " for a block");
  }
  device.check(driver().function_set_attribute(function, kFunctionMaxDynamicShared, nbytes),
               "cuFuncSetAttribute");
  allowed_shared_.store(nbytes, std::memory_order_relaxed);
}

}  // namespace deepseek::cuda
