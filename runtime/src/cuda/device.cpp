#include <algorithm>

#include "deepseek/cuda_device.h"
#include "deepseek/cuda_memory.h"

namespace deepseek::cuda {
namespace {

constexpr int kMaxDevices = 64;

std::mutex devices_mutex;
std::array<std::atomic<Device*>, kMaxDevices> devices;  // never destroyed: buffers may outlive all

// Of this thread: its stream on each device, where that is not the default.
thread_local std::array<Stream*, kMaxDevices> current{};

void require(Result result, const char* function) {
  if (result != kSuccess) {
    throw Error(result, std::string(function) + " failed: " + describe(result));
  }
}

std::string hex(const Uuid& uuid) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (size_t i = 0; i < sizeof uuid.bytes; ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) {
      text += '-';
    }
    const auto byte = static_cast<unsigned char>(uuid.bytes[i]);
    text += kDigits[byte >> 4];
    text += kDigits[byte & 15];
  }
  return text;
}

std::string remedy(Result code) {
  switch (code) {
    case kInvalidImage:
    case kNoBinaryForGpu:
    case kInvalidPtx:
    case kUnsupportedPtxVersion:
      return "\n  help: the code is for another architecture, or made by a newer CUDA than the "
             "driver's; `deepseek cache clear` has it compiled again";
    case kLaunchOutOfResources:
      return "\n  help: the kernel wants more registers or shared memory than the device has";
    default:
      return {};
  }
}

}  // namespace

// ---- devices -----------------------------------------------------------------------------------

int Device::count() {
  static const int count = [] {
    int found = 0;
    require(driver().device_count(&found), "cuDeviceGetCount");
    return std::min(found, kMaxDevices);
  }();
  return count;
}

Device& Device::get(int index) {
  if (index >= 0 && index < kMaxDevices) {
    if (Device* found = devices[static_cast<size_t>(index)].load(std::memory_order_acquire)) {
      driver();  // throws in a child of the process that made the device
      return *found;
    }
  }
  const int count = Device::count();
  if (index < 0 || index >= count) {
    throw Error(0, "there is no device cuda:" + std::to_string(index) + "; " +
                       (count == 1 ? "the only one is cuda:0"
                                   : "there are cuda:0 to cuda:" + std::to_string(count - 1)));
  }
  std::lock_guard lock(devices_mutex);
  auto& slot = devices[static_cast<size_t>(index)];
  if (slot.load(std::memory_order_relaxed) == nullptr) {
    slot.store(new Device(index), std::memory_order_release);
  }
  return *slot.load(std::memory_order_relaxed);
}

Properties Device::properties_of(int index) {
  const Driver& api = driver();
  int device = 0;
  require(api.device_get(&device, index), "cuDeviceGet");
  const auto attribute = [&](int which) {
    int value = 0;
    require(api.device_attribute(&value, which, device), "cuDeviceGetAttribute");
    return value;
  };
  Properties found;
  char name[256] = {};
  require(api.device_name(name, sizeof name, device), "cuDeviceGetName");
  found.name = name;
  require(api.device_total_memory(&found.total_memory, device), "cuDeviceTotalMem");
  Uuid uuid{};
  require(api.device_uuid(&uuid, device), "cuDeviceGetUuid");
  found.uuid = hex(uuid);
  found.major = attribute(kCapabilityMajor);
  found.minor = attribute(kCapabilityMinor);
  found.multiprocessors = attribute(kMultiprocessors);
  found.warp_size = attribute(kWarpSize);
  found.max_threads_per_block = attribute(kMaxThreadsPerBlock);
  found.max_threads_per_multiprocessor = attribute(kMaxThreadsPerMultiprocessor);
  found.shared_per_block = attribute(kSharedMemoryPerBlock);
  found.shared_per_block_opt_in = attribute(kSharedMemoryPerBlockOptIn);
  found.shared_per_multiprocessor = attribute(kSharedMemoryPerMultiprocessor);
  found.registers_per_multiprocessor = attribute(kRegistersPerMultiprocessor);
  found.l2_bytes = attribute(kL2Bytes);
  found.integrated = attribute(kIntegrated) != 0;
  return found;
}

Device::Device(int index) : index_(index), properties_(properties_of(index)) {
  const Driver& api = driver();
  int device = 0;
  require(api.device_get(&device, index), "cuDeviceGet");
  const Result made = api.primary_context_retain(&context_, device);
  if (made != kSuccess) {
    throw Error(made, name() + " cannot be used: " + describe(made) +
                          "\n  help: see with `nvidia-smi` whether other processes fill it, or "
                          "choose another with CUDA_VISIBLE_DEVICES");
  }
  default_ = std::make_unique<Stream>(*this, 0);
  memory_ = std::make_unique<StreamPool>(*this, StreamPool::Kind::kDevice);
  pinned_ = std::make_unique<StreamPool>(*this, StreamPool::Kind::kPinned);
}

Device::~Device() = default;

void Device::activate() {
  if (lost()) {
    throw Error(lost_code_, lost_text_);
  }
  check(driver().context_set_current(context_), "cuCtxSetCurrent");
}

bool Device::try_activate() noexcept {
  try {
    activate();
  } catch (const std::exception&) {
    return false;
  }
  return true;
}

void Device::fail(Result result, const char* function, const std::string& doing) {
  std::string text = name() + ": " + (doing.empty() ? function : doing) +
                     " failed: " + describe(result) + remedy(result);
  if (!is_fatal(result)) {
    throw Error(result, text);
  }
  std::lock_guard lock(errors_mutex_);
  if (!lost()) {
    if (doing.empty()) {  // found late: the work that failed was queued before
      std::string programs;
      for (const auto& program : latest_) {
        programs += program ? (programs.empty() ? "" : ", ") + *program : "";
      }
      if (!programs.empty()) {
        text += "\n  launched last: " + programs +
                "\n  help: DS_CUDA_SYNC=1 waits for each step, and names the one that fails";
      }
    }
    lost_code_ = result;
    lost_text_ = name() + " is lost to this process, with all that it held\n  since: " + text +
                 "\n  help: start a new process";
    lost_.store(true, std::memory_order_release);
  }
  throw Error(result, text);
}

size_t Device::free_memory() {
  activate();
  size_t free = 0;
  size_t total = 0;
  check(driver().memory_info(&free, &total), "cuMemGetInfo");
  return free;
}

Stream& Device::current_stream() {
  Stream* chosen = current[static_cast<size_t>(index_)];
  return chosen == nullptr ? *default_ : *chosen;
}

void Device::set_current_stream(Stream* stream) {
  current[static_cast<size_t>(index_)] = stream;
}

std::shared_ptr<Stream> Device::new_stream(int priority) {
  std::lock_guard lock(mutex_);
  auto found = std::find_if(idle_.begin(), idle_.end(),
                            [&](const Stream* s) { return s->priority() == priority; });
  Stream* stream = nullptr;
  if (found != idle_.end()) {
    stream = *found;
    idle_.erase(found);
  } else {
    streams_.push_back(std::make_unique<Stream>(*this, priority));
    idle_.reserve(streams_.size());  // so that letting go cannot fail
    stream = streams_.back().get();
  }
  return {stream, [this](Stream* released) {
            std::lock_guard lock(mutex_);
            idle_.push_back(released);
          }};
}

void Device::synchronize() {
  activate();
  check(driver().context_synchronize(), "cuCtxSynchronize");
}

bool Device::can_access(Device& other) {
  std::lock_guard lock(peers_mutex_);
  if (std::find(peers_.begin(), peers_.end(), other.index_) != peers_.end()) {
    return true;
  }
  int can = 0;
  check(driver().device_can_access_peer(&can, index_, other.index_), "cuDeviceCanAccessPeer");
  if (can == 0) {
    return false;
  }
  activate();
  const Result result = driver().context_enable_peer_access(other.context_, 0);
  if (result != kPeerAccessAlreadyEnabled) {
    check(result, "cuCtxEnablePeerAccess");
  }
  peers_.push_back(other.index_);
  return true;
}

void Device::note_program(const std::shared_ptr<const std::string>& name) {
  std::lock_guard lock(errors_mutex_);
  if (latest_[0] != name) {
    std::rotate(latest_.begin(), latest_.end() - 1, latest_.end());
    latest_[0] = name;
  }
}

// ---- streams and events ------------------------------------------------------------------------

Stream::Stream(Device& device, int priority) : device_(device), priority_(priority) {
  device_.activate();
  device_.check(driver().stream_create(&handle_, kStreamNonBlocking, priority),
                "cuStreamCreateWithPriority");
}

void Stream::synchronize() const {
  device_.activate();
  device_.check(driver().stream_synchronize(handle_), "cuStreamSynchronize");
}

bool Stream::done() const {
  device_.activate();
  const Result result = driver().stream_query(handle_);
  if (result == kNotReady) {
    return false;
  }
  device_.check(result, "cuStreamQuery");
  return true;
}

void Stream::wait(const Stream& other) const {
  if (&other == this) {
    return;
  }
  Event event(other.device_, false);
  event.record(other);
  event.wait_on(*this);
}

Event::Event(Device& device, bool timing) : device_(device), timing_(timing) {
  device_.activate();
  device_.check(driver().event_create(&handle_, timing ? 0 : kEventDisableTiming), "cuEventCreate");
}

Event::~Event() {
  if (device_.try_activate()) {
    driver().event_destroy(handle_);  // the driver lets it live until it has happened
  }
}

void Event::record(const Stream& stream) {
  device_.activate();
  device_.check(driver().event_record(handle_, stream.handle()), "cuEventRecord");
  recorded_ = true;
}

void Event::wait_on(const Stream& stream) const {
  Device& waiting = stream.device();
  waiting.activate();
  waiting.check(driver().stream_wait_event(stream.handle(), handle_, 0), "cuStreamWaitEvent");
}

void Event::synchronize() const {
  device_.activate();
  device_.check(driver().event_synchronize(handle_), "cuEventSynchronize");
}

bool Event::done() const {
  device_.activate();
  const Result result = driver().event_query(handle_);
  if (result == kNotReady) {
    return false;
  }
  device_.check(result, "cuEventQuery");
  return true;
}

float Event::milliseconds_until(const Event& end) const {
  if (!timing_ || !end.timing_ || !recorded_ || !end.recorded_) {
    throw Error(0, "elapsed_time: both events must be made with enable_timing=True, and recorded");
  }
  device_.activate();
  float milliseconds = 0;
  const Result result = driver().event_elapsed_time(&milliseconds, handle_, end.handle_);
  if (result == kNotReady) {
    throw Error(result, "elapsed_time: the events have not happened yet\n  help: synchronize");
  }
  device_.check(result, "cuEventElapsedTime");
  return milliseconds;
}

}  // namespace deepseek::cuda
