#include <dlfcn.h>
#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <optional>

#include "deepseek/cuda_driver.h"

namespace deepseek::cuda {
namespace {

constexpr const char* kDefaultPath = "libcuda.so.1";

struct Opened {
  Driver driver;
  std::optional<Error> failure;
};

std::mutex mutex;
std::string wanted_path;         // empty: the default
std::unique_ptr<Opened> opened;  // kept for the life of the process
std::atomic<Opened*> ready{nullptr};
std::atomic<bool> forked{false};  // this process is the child of one that had opened the driver

std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

// The text that a call of the driver gives for an error, which a broken driver may not know.
std::string text_of(Result (*ask)(Result, const char**), Result code) {
  const char* text = nullptr;
  return ask != nullptr && ask(code, &text) == kSuccess && text != nullptr ? text : "";
}

std::string describe_with(const Driver& driver, Result code) {
  const std::string name = text_of(driver.error_name, code);
  const std::string meaning = text_of(driver.error_string, code);
  return (name.empty() ? "error" : name) + " (" + std::to_string(code) + ")" +
         (meaning.empty() ? "" : ": " + meaning);
}

void initialise(Driver& driver) {
  const Result result = driver.init(0);
  if (result == kNoDevice) {
    throw Error(result,
                "the CUDA driver finds no device\n  help: check `nvidia-smi` and "
                "CUDA_VISIBLE_DEVICES, or use device=\"cpu\"");
  }
  if (result == kStubLibrary) {
    throw Error(result, driver.path +
                            " is a stub of the CUDA toolkit, not a driver\n  help: take the "
                            "toolkit's stubs folder out of LD_LIBRARY_PATH");
  }
  if (result == kSystemDriverMismatch) {
    throw Error(result,
                "the CUDA driver's library and the kernel's driver are of different versions\n"
                "  help: reboot, or load the kernel module of the installed version");
  }
  if (result != kSuccess) {
    throw Error(result, "the CUDA driver does not start: " + describe_with(driver, result) +
                            "\n  help: check `nvidia-smi`, or use device=\"cpu\"");
  }
}

void open_into(Driver& driver, const std::string& path) {
  driver.path = path.empty() ? kDefaultPath : path;
  void* library = dlopen(driver.path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* reason = dlerror();
    throw Error(0, "there is no CUDA driver: " + std::string(reason ? reason : driver.path) +
                       "\n  help: install NVIDIA's driver (CUDA 12.0 or newer), set "
                       "DS_CUDA_DRIVER to its libcuda.so.1, or use device=\"cpu\"");
  }
  std::string missing;
#define DEEPSEEK_CUDA_FIND(member, name, parameters)                               \
  driver.member = reinterpret_cast<decltype(driver.member)>(dlsym(library, name)); \
  if (driver.member == nullptr) {                                                  \
    missing += (missing.empty() ? "" : ", ") + std::string(name);                  \
  }
  DEEPSEEK_CUDA_DRIVER(DEEPSEEK_CUDA_FIND)
#undef DEEPSEEK_CUDA_FIND
  // The version is asked first: that a function is missing is mostly a matter of age.
  if (driver.driver_version != nullptr) {
    driver.driver_version(&driver.version);
  }
  if (driver.version > 0 && driver.version < kOldestDriver) {
    throw Error(0, "the CUDA driver is too old: it supports CUDA " + version_text(driver.version) +
                       ", wanted " + version_text(kOldestDriver) +
                       " or newer\n  help: update NVIDIA's driver, or use device=\"cpu\"");
  }
  if (!missing.empty()) {
    throw Error(0, driver.path + " is no CUDA driver that we can use: it lacks " + missing +
                       "\n  help: update NVIDIA's driver, or use device=\"cpu\"");
  }
  initialise(driver);
}

Opened& open() {
  if (Opened* found = ready.load(std::memory_order_acquire)) {
    return *found;
  }
  std::lock_guard lock(mutex);
  if (!opened) {
    opened = std::make_unique<Opened>();
    try {
      open_into(opened->driver, wanted_path);
      pthread_atfork(nullptr, nullptr, [] { forked.store(true, std::memory_order_relaxed); });
    } catch (const Error& error) {
      opened->failure = error;
    }
    ready.store(opened.get(), std::memory_order_release);
  }
  return *opened;
}

}  // namespace

const Driver& driver() {
  const Opened& found = open();
  if (found.failure) {
    throw *found.failure;
  }
  if (forked.load(std::memory_order_relaxed)) {
    throw Error(0,
                "CUDA was used before this process was forked, and does not survive a fork\n"
                "  help: start processes by multiprocessing's method \"spawn\", or use CUDA in the "
                "children only");
  }
  return found.driver;
}

std::string why_unavailable() {
  try {
    driver();
  } catch (const Error& error) {
    return error.what();
  }
  return {};
}

void set_driver_path(const std::string& path) {
  std::lock_guard lock(mutex);
  if (opened && path != wanted_path) {
    throw Error(0, "the CUDA driver is open already: " + opened->driver.path +
                       "\n  help: set DS_CUDA_DRIVER before the process starts");
  }
  wanted_path = path;
}

std::string describe(Result code) {
  const Opened* found = ready.load(std::memory_order_acquire);
  return describe_with(found == nullptr ? Driver{} : found->driver, code);
}

bool is_fatal(Result code) {
  constexpr Result kFatal[] = {kEccUncorrectable,
                               kNvlinkUncorrectable,
                               kContained,
                               kIllegalAddress,
                               kLaunchTimeout,
                               kContextIsDestroyed,
                               kAssert,
                               kHardwareStackError,
                               kIllegalInstruction,
                               kMisalignedAddress,
                               kInvalidAddressSpace,
                               kInvalidPc,
                               kLaunchFailed,
                               kUnknown};
  return std::find(std::begin(kFatal), std::end(kFatal), code) != std::end(kFatal);
}

}  // namespace deepseek::cuda
